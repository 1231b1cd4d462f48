"""Writes what happens to builds into the ledger, as it happens."""

from __future__ import annotations

from lxcbuild.events import BuildEnded, Event, PhaseEnded
from lxcbuild.ledger.store import Ledger


class Recorder:
    """A monitor that keeps finished phases and builds."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def emit(self, event: Event) -> None:
        """Record it, if there is anything to record."""
        if isinstance(event, PhaseEnded):
            self._ledger.phase(event.build_id, event.record)
        elif isinstance(event, BuildEnded):
            self._ledger.finish(event.outcome)
