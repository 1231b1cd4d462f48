"""What can happen in a build, and the protocol of those who watch. The command line chooses the monitor."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from lxcbuild.model import Outcome, Phase, PhaseRecord, Target


class BuildStarted(Struct, frozen=True, kw_only=True):
    """A build has an id and a log."""

    build_id: str
    name: str
    target: Target


class PhaseStarted(Struct, frozen=True, kw_only=True):
    """A phase begins."""

    build_id: str
    phase: Phase


class PhaseEnded(Struct, frozen=True, kw_only=True):
    """A phase is over, well or badly."""

    build_id: str
    record: PhaseRecord
    failed: bool


class Output(Struct, frozen=True, kw_only=True):
    """Bytes that a step printed, as they came: hostile, show them only through a filter."""

    build_id: str
    phase: Phase
    data: bytes


class Note(Struct, frozen=True, kw_only=True):
    """A sentence for people: something was assumed, dropped, or is old. ``build_id`` is None outside a build."""

    text: str
    build_id: str | None = None
    warning: bool = False


class Progress(Struct, frozen=True, kw_only=True):
    """A long host-side task moves on (a download, an image). ``total`` is None while unknown; the unit is ``unit``."""

    task: str
    done: float
    total: float | None = None
    unit: str = "bytes"


class BuildEnded(Struct, frozen=True, kw_only=True):
    """A build is over."""

    outcome: Outcome


class BuildPutAside(Struct, frozen=True, kw_only=True):
    """A build has stopped without an end of its own: it begins anew, under another id, when what it needs is there."""

    build_id: str


Event = BuildStarted | PhaseStarted | PhaseEnded | Output | Note | Progress | BuildEnded | BuildPutAside


class Monitor(Protocol):
    """Anything that wants to see events. Must not raise, must not block for long."""

    def emit(self, event: Event) -> None:
        """Take one event."""


class NullMonitor:
    """Sees everything, says nothing."""

    def emit(self, event: Event) -> None:
        """Drop the event."""


class FanOut:
    """Passes each event on to several monitors in turn."""

    def __init__(self, *monitors: Monitor) -> None:
        self._monitors = monitors

    def emit(self, event: Event) -> None:
        """Pass the event on."""
        for monitor in self._monitors:
            monitor.emit(event)
