"""The live display of running builds, on terminals."""

from __future__ import annotations

import dataclasses
import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.spinner import Spinner
from rich.text import Text

from lxcbuild.cli.monitors import LineTail, note_text, outcome_text, phase_text, progress_text
from lxcbuild.config.ranges import seconds_text
from lxcbuild.events import (
    BuildEnded,
    BuildPutAside,
    BuildStarted,
    Event,
    Note,
    Output,
    PhaseEnded,
    PhaseStarted,
    Progress,
)
from lxcbuild.text import for_terminal


@dataclasses.dataclass(slots=True)
class _Activity:
    """What the live display knows of one running build."""

    name: str
    phase: str = ""
    since: float = dataclasses.field(default_factory=time.monotonic)
    tail: LineTail = dataclasses.field(default_factory=LineTail)
    last_line: str = ""
    spinner: Spinner = dataclasses.field(default_factory=lambda: Spinner("dots", style="cyan"))


class Live:
    """Finished phases scroll up; one line per running build stays below them: spinner, phase, time, last line of output."""

    def __init__(self, *, verbose: bool, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._verbose = verbose
        self._running: dict[str, _Activity] = {}
        self._names: dict[str, str] = {}
        self._progress: dict[str, Progress] = {}
        self._lock = threading.RLock()
        self._live = RichLive(
            console=self._console,
            get_renderable=self._picture,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def emit(self, event: Event) -> None:
        """Take the event in; printing happens here, drawing on rich's own thread."""
        with self._lock:
            for text in self._take(event):
                self._console.print(text, soft_wrap=True)

    def _take(self, event: Event) -> list[Text]:
        if isinstance(event, BuildStarted):
            self._running[event.build_id] = _Activity(for_terminal(event.name))
            self._names[event.build_id] = for_terminal(event.name)
            return [
                Text.assemble((for_terminal(event.name), "bold"), (f"  for {event.target}  ({event.build_id})", "dim"))
            ]
        if isinstance(event, Output):
            return self._output(event)
        if isinstance(event, PhaseStarted):
            if (activity := self._running.get(event.build_id)) is not None:
                activity.phase, activity.since, activity.last_line = event.phase.value, time.monotonic(), ""
            return []
        if isinstance(event, BuildPutAside):
            self._running.pop(event.build_id, None)
            return []
        if isinstance(event, Progress):
            self._progress[event.task] = event
            if event.total is not None and event.done >= event.total:
                del self._progress[event.task]
            return []
        return [self._finished(event)]

    def _finished(self, event: PhaseEnded | Note | BuildEnded) -> Text:
        if isinstance(event, PhaseEnded):
            sign = Text("  ✗ ", "red") if event.failed else Text("  ✓ ", "green")
            name = f"{self._names.get(event.build_id, '')}: " if len(self._running) > 1 else ""
            return sign.append(name + phase_text(event), "" if event.failed else "dim")
        if isinstance(event, Note):
            return Text("  " + note_text(event, self._names), "yellow" if event.warning else "dim")
        self._running.pop(event.outcome.build_id, None)
        return Text(outcome_text(event.outcome), "red bold" if event.outcome.failure else "green bold")

    def _output(self, event: Output) -> list[Text]:
        activity = self._running.get(event.build_id)
        if activity is None:
            return []
        lines = activity.tail.feed(event.data)
        activity.last_line = next((line for line in reversed(lines) if line.strip()), activity.last_line)
        return [Text(f"    {line}", "dim") for line in lines] if self._verbose else []

    def _picture(self) -> RenderableType:
        with self._lock:
            now = time.monotonic()
            rows: list[RenderableType] = []
            for activity in self._running.values():
                text = f" {activity.name}  {activity.phase}  {seconds_text(now - activity.since)}  "
                activity.spinner.update(text=_one_line(Text.assemble((text, ""), (activity.last_line, "dim"))))
                rows.append(activity.spinner)
            rows += [_one_line(Text(f"  {progress_text(p)}", "dim")) for p in self._progress.values()]
            return Group(*rows)


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
