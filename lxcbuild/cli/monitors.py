"""Monitors: the same events as plain lines and as JSON lines; the live display is in live.py, because rich takes 50 ms to load."""

from __future__ import annotations

import json
import threading
import time
from typing import IO, Any

import msgspec

from lxcbuild.cli.documents import outcome_document
from lxcbuild.config.ranges import bytes_text, seconds_text
from lxcbuild.events import BuildEnded, BuildStarted, Event, Note, Output, PhaseEnded, Progress
from lxcbuild.model import Outcome, Status
from lxcbuild.text import for_log, for_terminal

_TAIL_BYTES = 4096  # of the unfinished last line; more is never looked at
_PROGRESS_EVERY_S = 5.0


class JsonLines:
    """One JSON object per event; output is left out, because the log holds it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def emit(self, event: Event) -> None:
        """Write the event."""
        if isinstance(event, Output):
            return
        body: dict[str, Any]
        if isinstance(event, BuildEnded):
            body = {"build": outcome_document(event.outcome)}
        else:
            body = msgspec.to_builtins(event, enc_hook=str)
            if isinstance(event, BuildStarted):
                body["target"] = str(event.target)
        self._stream.write(json.dumps({"event": type(event).__name__, **body}, default=str) + "\n")
        self._stream.flush()


class PlainLines:
    """One line per thing that happened, for pipes, files and terminals without colours."""

    def __init__(self, stream: IO[str], *, verbose: bool) -> None:
        self._stream = stream
        self._verbose = verbose
        self._names: dict[str, str] = {}
        self._tails: dict[str, LineTail] = {}
        self._reported_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Write what the event says, if it says anything to people."""
        with self._lock:
            for line in self._lines(event):
                self._stream.write(f"{line}\n")
            self._stream.flush()

    def _lines(self, event: Event) -> list[str]:
        if isinstance(event, BuildStarted):
            self._names[event.build_id] = for_terminal(event.name)
            return [f"{for_terminal(event.name)}: build {event.build_id} for {event.target}"]
        if isinstance(event, PhaseEnded):
            return [f"{self._name(event.build_id)}: {phase_text(event)}"]
        if isinstance(event, Note):
            return [note_text(event, self._names)]
        if isinstance(event, Progress):
            return self._progress(event)
        if isinstance(event, BuildEnded):
            self._tails.pop(event.outcome.build_id, None)
            return [outcome_text(event.outcome)]
        if isinstance(event, Output) and self._verbose:
            tail = self._tails.setdefault(event.build_id, LineTail())
            return [f"{self._name(event.build_id)} | {line}" for line in tail.feed(event.data)]
        return []

    def _progress(self, event: Progress) -> list[str]:
        now = time.monotonic()
        finished = event.total is not None and event.done >= event.total
        if not finished and now - self._reported_at.get(event.task, float("-inf")) < _PROGRESS_EVERY_S:
            return []
        self._reported_at[event.task] = now
        return [progress_text(event)]

    def _name(self, build_id: str) -> str:
        return self._names.get(build_id, build_id)


class LineTail:
    """Cuts hostile output into lines that are safe to show, keeping a bounded rest."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Take bytes as they came; give the lines that are now complete, filtered for a terminal."""

        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_TAIL_BYTES:]
        return [for_log(line[:_TAIL_BYTES]).rstrip() for line in lines]


def phase_text(event: PhaseEnded) -> str:
    """One finished phase with what it cost."""
    usage = event.record.usage
    cost = seconds_text(usage.wall_s)
    if usage.peak_memory_bytes:
        cost += f", {bytes_text(usage.peak_memory_bytes)}"
    return f"{event.record.phase.value} failed after {cost}" if event.failed else f"{event.record.phase.value}  {cost}"


def note_text(event: Note, names: dict[str, str]) -> str:
    """A note with the name of its build."""
    name = f"{names.get(event.build_id, event.build_id)}: " if event.build_id else ""
    return f"{name}{'warning: ' if event.warning else ''}{for_terminal(event.text)}"


def progress_text(event: Progress) -> str:
    """How far a long task is."""
    show = bytes_text if event.unit == "bytes" else lambda count: f"{count:g} {event.unit}"
    if event.total is None:
        return f"{for_terminal(event.task)}: {show(event.done)}"
    share = f" ({event.done / event.total:.0%})" if event.total else ""
    return f"{for_terminal(event.task)}: {show(event.done)} of {show(event.total)}{share}"


def outcome_text(outcome: Outcome) -> str:
    """How a build ended, in one line."""
    wall_s = sum(record.usage.wall_s for record in outcome.phases)
    what = for_terminal(f"{outcome.name} {outcome.version}".strip())
    if outcome.status is Status.BUILT:
        return f"{what} built for {outcome.target} in {seconds_text(wall_s)}"
    if outcome.status is Status.OFFICIAL:
        return f"{what} is official in {outcome.target}: nothing was built"
    failure = outcome.failure
    assert failure is not None, outcome
    where = f"{failure.failure_class.value} in {failure.phase.value}"
    return f"{what} failed for {outcome.target}: {where}: {for_terminal(failure.brief)}"
