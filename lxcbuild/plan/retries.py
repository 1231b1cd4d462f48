"""What is done about a build that failed: nothing, more room once, or once more alone on a machine. Pure."""

from __future__ import annotations

from msgspec import Struct

from lxcbuild.model import FailureClass

#: A worker may die under a job that has nothing to do with it; a job that kills every worker has.
MAX_LOST = 2
#: Twice what the build's own second attempt had (``disk.retry_factor`` of the shipped policies is 2).
_MORE_DISK = 4.0
_MORE = 2.0


class Attempt(Struct, frozen=True, kw_only=True):
    """How a job is tried. The factors raise the policy's limits; ``alone``: with nothing else of ours on the machine."""

    number: int = 1
    memory: float = 1.0
    disk: float = 1.0
    pids: float = 1.0
    alone: bool = False
    lost: int = 0  # workers that died under it

    @property
    def is_raised(self) -> bool:
        """Whether any limit is raised."""
        return max(self.memory, self.disk, self.pids) > 1.0


#: Failures that depend on how busy the machine is, or on something that passes.
_FLAKY = frozenset(
    {
        FailureClass.TIMEOUT,
        FailureClass.SILENT,
        FailureClass.SANDBOX_FAILED,
        FailureClass.HOST_REFUSED,
    }
)


def after_failure(attempt: Attempt, failure: FailureClass) -> Attempt | None:
    """The next attempt, or None: this is how it ends. Each remedy is used once."""
    number = attempt.number + 1
    if failure is FailureClass.OOM and attempt.memory == 1.0:
        return Attempt(number=number, memory=_MORE, disk=attempt.disk, pids=attempt.pids, lost=attempt.lost)
    if failure is FailureClass.DISK_FULL and attempt.disk == 1.0:
        # The writable layer is memory, so the memory limit grows as well.
        return Attempt(number=number, memory=_MORE_DISK, disk=_MORE_DISK, pids=attempt.pids, lost=attempt.lost)
    if failure is FailureClass.PIDS_EXHAUSTED and attempt.pids == 1.0:
        return Attempt(number=number, memory=attempt.memory, disk=attempt.disk, pids=_MORE, lost=attempt.lost)
    if failure in _FLAKY and not attempt.alone:
        return Attempt(
            number=number,
            memory=attempt.memory,
            disk=attempt.disk,
            pids=attempt.pids,
            alone=True,
            lost=attempt.lost,
        )
    return None


def after_loss(attempt: Attempt) -> Attempt | None:
    """The next attempt of a job whose worker died, or None when it has outlived too many."""
    if attempt.lost >= MAX_LOST:
        return None
    return Attempt(
        number=attempt.number + 1,
        memory=attempt.memory,
        disk=attempt.disk,
        pids=attempt.pids,
        alone=attempt.alone or attempt.lost + 1 == MAX_LOST,
        lost=attempt.lost + 1,
    )
