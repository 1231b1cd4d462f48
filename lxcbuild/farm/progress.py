"""How far a run is, as numbers and words: what the live view and the plain lines show."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from msgspec import Struct, field

from lxcbuild.events import BuildStarted, Note, PhaseStarted
from lxcbuild.farm.engines.engine import JobEvent
from lxcbuild.model import Failure
from lxcbuild.plan.schedule import Start


class Activity(Struct, kw_only=True):
    """One running job. Times are those of the monotonic clock."""

    key: str
    worker: str
    expected_s: float
    attempt: int
    since: float = field(default_factory=time.monotonic)
    project: str = ""
    phase: str = ""


class Picture(Struct, frozen=True, kw_only=True):
    """A run at one moment. ``left_s`` is an estimate, None while there is nothing to estimate from."""

    running: tuple[Activity, ...]
    total: int
    built: int
    reused: int
    failed: int
    pruned: int
    elapsed_s: float
    per_hour: float
    left_s: float | None
    failures: Mapping[str, int]
    draining: bool


class RunProgress:
    """Collects; may be told from any thread. ``say_note`` tells people what they should know."""

    def __init__(self, say_note: Callable[[str], None] = lambda _: None) -> None:
        self._say_note = say_note
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._running: dict[str, Activity] = {}
        self._left: dict[str, float] = {}  # expected seconds of jobs that have not ended
        self._built = self._reused = self._failed = self._pruned = self._total = 0
        self._earlier = 0  # of those that have failed
        self._expected_done_s = self._real_done_s = 0.0
        self._failures: Counter[str] = Counter()
        self.draining = False

    def known(self, key: str, seconds: float) -> None:
        """A job belongs to the run."""
        with self._lock:
            if key not in self._left:
                self._total += 1
            self._left[key] = seconds

    def started(self, start: Start, seconds: float) -> None:
        """A job runs."""
        with self._lock:
            self._running[start.key] = Activity(
                key=start.key, worker=start.worker, expected_s=seconds, attempt=start.attempt.number
            )

    def heard(self, told: JobEvent) -> None:
        """A worker tells something."""
        with self._lock:
            activity = self._running.get(told.key)
            if activity is None or isinstance(told.event, Note):
                return
            if isinstance(told.event, BuildStarted):
                activity.project = told.event.name
            elif isinstance(told.event, PhaseStarted):
                activity.phase = told.event.phase.value

    def stopped(self, key: str) -> None:
        """A job does not run any more, and has not ended."""
        with self._lock:
            self._running.pop(key, None)

    def built(self, key: str, *, reused: bool) -> None:
        """A job has ended well; ``reused``: nothing had to be done."""
        with self._lock:
            activity, expected = self._running.pop(key, None), self._left.pop(key, 0.0)
            self._built += not reused
            self._reused += reused
            if activity is not None:
                self._expected_done_s += expected
                self._real_done_s += time.monotonic() - activity.since

    def failed(self, key: str, failure: Failure, *, earlier: bool) -> None:
        """A job has ended badly; ``earlier``: before this run was interrupted and resumed."""
        with self._lock:
            self._running.pop(key, None)
            self._left.pop(key, None)
            self._failed += 1
            self._earlier += earlier
            self._failures[failure.failure_class.value] += 1

    def pruned(self, key: str, *, earlier: bool) -> None:
        """A job can never be built; ``earlier`` as for ``failed``."""
        del earlier
        with self._lock:
            self._left.pop(key, None)
            self._pruned += 1

    def note(self, text: str) -> None:
        """Something that people should know."""
        self._say_note(text)

    def picture(self) -> Picture:
        """The run as it is now."""
        with self._lock:
            elapsed = time.monotonic() - self._began
            done = self._built + self._failed - self._earlier
            return Picture(
                running=tuple(self._running.values()),
                total=self._total,
                built=self._built,
                reused=self._reused,
                failed=self._failed,
                pruned=self._pruned,
                elapsed_s=elapsed,
                per_hour=done / elapsed * 3600 if elapsed > 0 else 0.0,
                left_s=self._estimate(elapsed),
                failures=dict(self._failures.most_common()),
                draining=self.draining,
            )

    def _estimate(self, elapsed: float) -> float | None:
        """What is left, at the speed at which work was done so far: expected seconds of work for each second of the run."""
        if self._expected_done_s <= 0 or elapsed <= 0:
            return None
        return sum(self._left.values()) / (self._expected_done_s / elapsed)
