"""When a step must end and why it ended: clocks and kernel counters in, a failure class out. No I/O, so that it is testable."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from lxcbuild.model import FailureClass, Usage
from lxcbuild.policy import Policy
from lxcbuild.sandbox.base import Step

#: How often the kernel's counters are read while a step runs.
SAMPLE_S = 0.25
#: A tmpfs counts as full below this share: what failed with ENOSPC rarely leaves exactly nothing.
_FULL_SHARE = 1 / 1000
_FULL_PAGES_BYTES = 64 * 1024
_FULL_INODES = 4
#: Forks that are refused in so many samples in a row are a bomb, or a build that has no hope: neighbours need not wait for its end.
_HOPELESS_SAMPLES = 6


class Reading(Struct, frozen=True, kw_only=True):
    """What the kernel says about a sandbox at one moment: counters since its start, and the room left in its tmpfs."""

    usage: Usage  # cumulative since the sandbox's start; wall_s is ignored
    disk_total_bytes: int = 0  # 0: unknown
    disk_free_bytes: int = 0
    disk_total_inodes: int = 0
    disk_free_inodes: int = 0

    @property
    def disk_full(self) -> bool:
        """Whether a write or a new file would (nearly) fail now."""
        few = max(self.disk_total_bytes * _FULL_SHARE, _FULL_PAGES_BYTES)
        no_bytes = self.disk_total_bytes > 0 and self.disk_free_bytes <= few
        return no_bytes or (self.disk_total_inodes > 0 and self.disk_free_inodes <= _FULL_INODES)


Probe = Callable[[], Reading]


class StepWatch:
    """The clocks and counters of one step. ``now`` is always :func:`time.monotonic`, in seconds."""

    def __init__(self, step: Step, *, policy: Policy, now: float, first: Reading) -> None:
        time = policy.time
        self._started = self._heard = now
        self._wall_s = time.wall_s if step.wall_s is None else step.wall_s
        self._silence_s = time.silence_s if step.silence_s is None else step.silence_s
        self._cpu_s = time.cpu_s
        self._first = self._last = first
        self._next_sample = now + SAMPLE_S
        self._disk_was_full = first.disk_full
        self._peak_disk = first.disk_total_bytes - first.disk_free_bytes
        self._samples_denied = 0

    def heard(self, now: float) -> None:
        """The step printed something."""
        self._heard = now

    def sample_due(self, now: float) -> bool:
        """Whether :meth:`measured` should be called."""
        return now >= self._next_sample

    def measured(self, now: float, reading: Reading) -> None:
        """Take one reading."""
        denied = reading.usage.pids_denied > self._last.usage.pids_denied
        self._samples_denied = self._samples_denied + 1 if denied else 0
        self._last = reading
        self._next_sample = now + SAMPLE_S
        self._disk_was_full = self._disk_was_full or reading.disk_full
        self._peak_disk = max(self._peak_disk, reading.disk_total_bytes - reading.disk_free_bytes)

    def wait_s(self, now: float) -> float:
        """Seconds until something is due."""
        due = [self._next_sample, self._started + self._wall_s]
        if self._silence_s is not None:
            due.append(self._heard + self._silence_s)
        return max(0.0, min(due) - now)

    def overdue(self, now: float) -> FailureClass | None:
        """The limit of time that is passed, if one is."""
        if now - self._started >= self._wall_s:
            return FailureClass.TIMEOUT
        if self._cpu_s is not None and self._last.usage.cpu_s - self._first.usage.cpu_s >= self._cpu_s:
            return FailureClass.TIMEOUT
        if self._silence_s is not None and now - self._heard >= self._silence_s:
            return FailureClass.SILENT
        return None

    def hopeless(self) -> FailureClass | None:
        """The limit of the kernel that the step has run into beyond recovery, if it has: it is ended at once.

        A process that the kernel killed for memory leaves a build that can only fail, or an attacker who tries again; cgroup v2
        calls that ``memory.oom.group``.
        """
        if self._last.usage.oom_kills > self._first.usage.oom_kills:
            return FailureClass.OOM
        if self._samples_denied >= _HOPELESS_SAMPLES:
            return FailureClass.PIDS_EXHAUSTED
        return None

    def verdict(self) -> FailureClass | None:
        """Which limit of the kernel a step that failed had run into, by the counters that rose while it ran."""
        usage, before = self._last.usage, self._first.usage
        if usage.oom_kills > before.oom_kills:
            return FailureClass.OOM
        if self._disk_was_full:
            return FailureClass.DISK_FULL
        if usage.pids_denied > before.pids_denied:
            return FailureClass.PIDS_EXHAUSTED
        return None

    def usage(self, now: float) -> Usage:
        """What the step cost. Peaks are the sandbox's so far: kernels keep one high-water mark per cgroup."""
        last, before = self._last.usage, self._first.usage
        return Usage(
            wall_s=now - self._started,
            cpu_s=max(0.0, last.cpu_s - before.cpu_s),
            peak_memory_bytes=last.peak_memory_bytes,
            read_bytes=max(0, last.read_bytes - before.read_bytes),
            written_bytes=max(0, last.written_bytes - before.written_bytes),
            peak_pids=last.peak_pids,
            throttled_s=max(0.0, last.throttled_s - before.throttled_s),
            oom_kills=max(0, last.oom_kills - before.oom_kills),
            pids_denied=max(0, last.pids_denied - before.pids_denied),
            peak_disk_bytes=max(self._peak_disk, last.peak_disk_bytes),
        )
