"""What is done about a build that failed: nothing, more room once, or once more alone on a machine. Pure.

Workers that refuse jobs rest for a while.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from lxcbuild.model import FailureClass
from lxcbuild.plan.capacity import Room

#: A worker may die under a job that has nothing to do with it; a job that kills every worker has.
MAX_LOST = 2
#: Twice what the build's own second attempt had (``disk.retry_factor`` of the shipped policies is 2).
_MORE_DISK = 4.0
_MORE = 2.0
#: After its n-th refusal in a row, a worker gets nothing until 2 ** n jobs have ended elsewhere, and never more than this.
MAX_REST = 64


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
_FLAKY = (FailureClass.TIMEOUT, FailureClass.SILENT, FailureClass.SANDBOX_FAILED, FailureClass.HOST_REFUSED)


def after_failure(attempt: Attempt, failure: FailureClass) -> Attempt | None:
    """The next attempt, or None: this is how it ends. Each remedy is used once."""
    again = replace(attempt, number=attempt.number + 1, alone=False)
    if failure is FailureClass.OOM and attempt.memory == 1.0:
        return replace(again, memory=_MORE)
    if failure is FailureClass.DISK_FULL and attempt.disk == 1.0:
        # The writable layer is memory, so the memory limit grows as well.
        return replace(again, memory=_MORE_DISK, disk=_MORE_DISK)
    if failure is FailureClass.PIDS_EXHAUSTED and attempt.pids == 1.0:
        return replace(again, pids=_MORE)
    if failure in _FLAKY and not attempt.alone:
        return replace(again, alone=True)
    return None


def after_loss(attempt: Attempt) -> Attempt | None:
    """The next attempt of a job whose worker died, or None when it has outlived too many."""
    if attempt.lost >= MAX_LOST:
        return None
    lost = attempt.lost + 1
    return replace(attempt, number=attempt.number + 1, alone=attempt.alone or lost == MAX_LOST, lost=lost)


class Resting:
    """Which workers are left alone for a while because they refuse jobs: a full disk, say.

    A worker that cannot build is the one that is always free: without this, it would get most of the jobs and refuse them all.
    The clock is the number of jobs that workers have ended.
    """

    def __init__(self) -> None:
        self._ended = 0
        self._refusals: dict[str, int] = {}  # in a row, by worker
        self._until: dict[str, int] = {}  # the count of ends at which a worker is tried again

    def refused(self, worker: str) -> None:
        """A job ended on that worker because it cannot build."""
        self._ended += 1
        self._refusals[worker] = self._refusals.get(worker, 0) + 1
        self._until[worker] = self._ended + min(2 ** self._refusals[worker], MAX_REST)

    def worked(self, worker: str) -> None:
        """A job ended there in another way."""
        self._ended += 1
        self._refusals.pop(worker, None)
        self._until.pop(worker, None)

    def without(self, rooms: Mapping[str, Room]) -> Mapping[str, Room]:
        """Those that do not rest; all of them when everybody would."""
        if not self._until:
            return rooms
        rested = {name: room for name, room in rooms.items() if self._until.get(name, 0) <= self._ended}
        return rested or rooms
