"""What a sandbox tried on the network, as its guard writes it down (see sinkhole.py). Standard library only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lxcbuild.sandbox.network import attribution

#: Bounds of what is remembered between two drains; more is counted only.
MAX_ATTEMPTS = 200
_SEARCHES = 3


@dataclass
class SeenAttempt:
    """One thing that was tried, ``count`` times; ``protocol`` is ``dns`` for a name that was asked for and never used."""

    protocol: str
    name: str | None
    address: str | None
    port: int | None
    allowed: bool = False
    pid: int | None = None
    comm: str = ""
    argv: tuple[str, ...] = ()
    ancestors: tuple[tuple[str, ...], ...] = ()
    at: float = field(default_factory=time.time)
    count: int = 1


Key = tuple[str, str | None, str | None, int | None, bool]


class Attempts:
    """What was tried since the last drain. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: dict[Key, SeenAttempt] = {}
        self._lost = 0

    def add(self, attempt: SeenAttempt, who: Callable[[], attribution.Culprit | None]) -> None:
        """Count an attempt; ``who`` is asked for its process when it is a new one and there is room for it."""
        key = (attempt.protocol, attempt.name, attempt.address, attempt.port, attempt.allowed)
        with self._lock:
            known = self._attempts.get(key)
            if known is not None:
                known.count += 1
            # A process that could not be found is looked for again, but a flood does not buy searches without end.
            if known is not None and (known.pid is not None or known.count > _SEARCHES):
                return
            if known is None and len(self._attempts) >= MAX_ATTEMPTS:
                self._lost += 1
                return
        found = who()
        named = attempt
        if found is not None:
            named = replace(attempt, pid=found.pid, comm=found.comm, argv=found.argv, ancestors=found.ancestors)
        with self._lock:
            self._attempts[key] = named if known is None else replace(named, count=known.count, at=known.at)

    def take(self) -> tuple[list[SeenAttempt], int]:
        """All attempts and the number of those that were counted only; then forget them.

        A question for a name is left out when the name was used, because then that is said better.
        """
        with self._lock:
            attempts, lost = list(self._attempts.values()), self._lost
            self._attempts, self._lost = {}, 0
        used = {attempt.name for attempt in attempts if attempt.protocol != "dns"}
        return [attempt for attempt in attempts if attempt.protocol != "dns" or attempt.name not in used], lost
