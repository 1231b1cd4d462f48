"""What people see of a run: a live table on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lxcbuild.cli.render import Ui
from lxcbuild.config.ranges import seconds_text
from lxcbuild.farm.progress import Picture, RunProgress
from lxcbuild.model import Failure
from lxcbuild.plan.schedule import Start
from lxcbuild.text import for_terminal

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Seconds between two plain lines while nothing ends.
_EVERY_S = 30.0
_MAX_ROWS = 40
#: Lines of a terminal that are not for running jobs: heads, totals and failures, which may wrap.
_OTHER_LINES = 7
#: Where one build of a job ends and the next one begins; versions may have a plus as well.
_NEXT_MEMBER = re.compile(r"\+(?=[a-z0-9.-]+==)")


class View(RunProgress):
    """Counts, and says what ends as it ends. ``quiet``: successes are in the totals only."""

    def __init__(self, ui: Ui, *, quiet: bool) -> None:
        super().__init__()
        self._ui, self._quiet = ui, quiet
        self._console: Console | None = None

    def built(self, key: str, *, reused: bool) -> None:
        """Say so."""
        super().built(key, reused=reused)
        if not reused and not self._quiet:
            self._say(f"built   {key}", event="built", key=key)

    def started(self, start: Start, seconds: float) -> None:
        """Not worth a line: the picture shows it."""
        super().started(start, seconds)

    def failed(self, key: str, failure: Failure, *, earlier: bool) -> None:
        """Say so, if it was not said by the run that was interrupted."""
        super().failed(key, failure, earlier=earlier)
        if earlier:
            return
        why = f"{failure.failure_class} in {failure.phase}: {failure.brief}"
        self._say(f"failed  {key}  {why}", event="failed", key=key, failure=failure.failure_class.value)

    def pruned(self, key: str, *, earlier: bool) -> None:
        """As ``failed``."""
        super().pruned(key, earlier=earlier)
        if not earlier:
            self._say(f"pruned  {key}", event="pruned", key=key)

    def note(self, text: str) -> None:
        """Say it."""
        self._say(text, event="note")

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Draw, or print lines, for the length of the block."""
        if self._ui.log_format == "json" or not sys.stderr.isatty() or self._ui.plain:
            with self._lines():
                yield
            return
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False)
        with Live(
            console=self._console,
            get_renderable=self._drawn,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        ):
            yield
        self._console = None

    def _drawn(self) -> RenderableType:
        """As many rows as there is room for: what does not fit on the terminal would take the totals with it."""
        height = self._console.size.height if self._console is not None else 0
        return draw(self.picture(), rows=min(max(height - _OTHER_LINES, 3), _MAX_ROWS))

    @contextlib.contextmanager
    def _lines(self) -> Iterator[None]:
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(_EVERY_S):
                picture = self.picture()
                self._say(summary(picture), event="progress", **numbers(picture))

        thread = threading.Thread(target=tell, name="view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _say(self, text: str, **facts: object) -> None:
        if self._ui.log_format == "json":
            sys.stderr.write(json.dumps({**facts, "text": text}) + "\n")
        elif self._console is not None:
            from rich.text import Text

            self._console.print(Text(for_terminal(text)), soft_wrap=True)
            return
        else:
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {for_terminal(text)}\n")
        sys.stderr.flush()


def numbers(picture: Picture) -> dict[str, object]:
    """A picture as data."""
    return {
        "total": picture.total,
        "built": picture.built,
        "reused": picture.reused,
        "failed": picture.failed,
        "pruned": picture.pruned,
        "running": [activity.key for activity in picture.running],
        "elapsed_s": round(picture.elapsed_s, 1),
        "left_s": None if picture.left_s is None else round(picture.left_s, 1),
        "failures": dict(picture.failures),
    }


def summary(picture: Picture) -> str:
    """The totals in one line."""
    done = picture.built + picture.reused + picture.failed + picture.pruned
    parts = [f"{done} of {picture.total} done", f"{picture.built} built"]
    if picture.reused:
        parts.append(f"{picture.reused} built before")
    parts.append(f"{picture.failed} failed")
    if picture.pruned:
        parts.append(f"{picture.pruned} pruned")
    if picture.running:
        parts.append(f"{len(picture.running)} running")
    parts.append(f"{picture.per_hour:.0f} an hour")
    if picture.left_s is not None and done < picture.total:
        parts.append(f"about {seconds_text(picture.left_s)} left")
    if picture.draining:
        parts.append("draining: no more builds are started")
    return ", ".join(parts)


def short_key(key: str) -> str:
    """A job's name for a table, what tells most first: of several builds one, and how many more, then the target."""
    target, _, members = key.rpartition("/")
    first, *others = _NEXT_MEMBER.split(members)
    return f"{first} and {len(others)} more  {target}" if others else f"{first}  {target}"


def draw(picture: Picture, *, rows: int = _MAX_ROWS) -> RenderableType:
    """The whole picture: who builds what, for as many as ``rows``, and the totals. On narrow terminals only projects are cut."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    now = time.monotonic()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("worker", "project", "phase", "time", "expected"):
        right = column in ("time", "expected")
        # rich takes what is missing from columns that may wrap: from this one, whose texts are cut instead
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "project", max_width=14)
    table.columns[1].max_width = None
    for activity in sorted(picture.running, key=lambda item: item.since)[:rows]:
        again = f"again ({activity.attempt}): " if activity.attempt > 1 else ""
        project = Text(for_terminal(again + short_key(activity.key)), no_wrap=True, overflow="ellipsis")
        taken, expected = seconds_text(now - activity.since), Text(seconds_text(activity.expected_s), "dim")
        table.add_row(Text(for_terminal(activity.worker)), project, Text(activity.phase), Text(taken), expected)
    lines: list[RenderableType] = [table]
    if len(picture.running) > rows:
        lines.append(Text(f"and {len(picture.running) - rows} more", "dim"))
    lines.append(Text(summary(picture), "bold"))
    if picture.failures:
        shown = ", ".join(f"{name} {count}" for name, count in list(picture.failures.items())[:8])
        lines.append(Text(f"failures: {shown}", "red"))
    return Group(*lines)
