"""Which workers are left alone for a while because they refuse jobs: a full disk, say. Pure.

A worker that cannot build is the one that is always free: without this, it would get most of the jobs and refuse them all.
"""

from __future__ import annotations

from collections.abc import Mapping

from lxcbuild.plan.capacity import Room

#: After its n-th refusal in a row, a worker gets nothing until 2 ** n jobs have ended elsewhere, and never more than this.
MAX_REST = 64


class Resting:
    """Counts refusals; its clock is the number of jobs that workers have ended."""

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
