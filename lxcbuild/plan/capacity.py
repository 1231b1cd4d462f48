"""How many builds fit at once: by measured need, not by hope. Pure arithmetic; bytes, CPUs, seconds.

A build's need is its highest measured peak of memory with a margin, at most what its policy allows (the kernel takes care of
that). Where nothing was measured, a share of the policy's limit is assumed: most builds stay far below it, and one that does not
dies alone of its own limit, not of its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

#: A build's peak differs from run to run: compilers run side by side in another order, the page cache holds more.
MARGIN = 1.3
#: What lxcbuild itself needs for one more build at the same time (launcher, PID 1, guard, worker process).
OVERHEAD_BYTES = 96 << 20
#: The share of its policy's limit that a build is believed to need before it was ever measured.
UNMEASURED_SHARE = 0.25
#: Never believed to need less: the peak of a trivial build.
LEAST_BYTES = 192 << 20
#: Left to the rest of the machine.
RESERVE_SHARE, LEAST_RESERVE_BYTES = 0.10, 512 << 20
#: A build that mostly waits (for disks, for its own sleep) counts as half a CPU, never as less.
LEAST_CPUS = 0.5


class Need(Struct, frozen=True, kw_only=True):
    """What one build is expected to use while it runs."""

    memory_bytes: int
    cpus: float = 1.0


class Room(Struct, frozen=True, kw_only=True):
    """What is there for builds."""

    memory_bytes: int
    cpus: float

    def holds(self, need: Need) -> bool:
        """Whether that fits as well. CPUs are counted to a thousandth, so that ten tenths make one."""
        return need.memory_bytes <= self.memory_bytes and need.cpus <= self.cpus + 1e-3

    def without(self, needs: Iterable[Need]) -> Room:
        """What is left beside these; possibly less than nothing."""
        taken = list(needs)
        return Room(
            memory_bytes=self.memory_bytes - sum(need.memory_bytes for need in taken),
            cpus=self.cpus - sum(need.cpus for need in taken),
        )


def memory_need(peaks: Iterable[int], *, limit_bytes: int, raised: float = 1.0) -> int:
    """Bytes to set aside for a build whose earlier peaks were these and whose policy allows ``limit_bytes``.

    ``raised``: by how much its limit is raised for a second attempt, after which nothing measured says enough.
    """
    limit = int(limit_bytes * raised)
    highest = max(peaks, default=0)
    if raised > 1.0:
        wanted = limit
    elif highest > 0:
        wanted = int(highest * MARGIN)
    else:
        wanted = int(limit * UNMEASURED_SHARE)
    return min(max(wanted, LEAST_BYTES), limit) + OVERHEAD_BYTES


def cpu_need(cpu_s: float, wall_s: float, *, cpus: float) -> float:
    """CPUs that a build keeps busy, from what it took before; one where that is not known."""
    if wall_s <= 0:
        return min(1.0, cpus)
    return min(max(round(cpu_s / wall_s, 3), LEAST_CPUS), cpus)


def reserve_bytes(memory_bytes: int) -> int:
    """What a machine of that size keeps for everything else."""
    return max(int(memory_bytes * RESERVE_SHARE), LEAST_RESERVE_BYTES)


def room_of(*, memory_bytes: int, available_bytes: int, cpus: float, ours: Iterable[Need] = ()) -> Room:
    """What a machine offers: what is available now and what our own running builds have of it, without the reserve.

    ``ours`` are the builds that already run, at their needs: they may not have taken all of it yet, so the smaller of "all memory"
    and "available and what they may have taken" counts.
    """
    promised = sum(need.memory_bytes for need in ours)
    return Room(
        memory_bytes=max(min(memory_bytes, available_bytes + promised) - reserve_bytes(memory_bytes), 0), cpus=cpus
    )


def at_once(need: Need, room: Room) -> int:
    """How many builds of that need fit; one always runs, for a machine that is too small would otherwise never build anything."""
    by_memory = room.memory_bytes // need.memory_bytes if need.memory_bytes > 0 else 1 << 30
    by_cpu = int((room.cpus + 1e-3) / need.cpus) if need.cpus > 0 else 1 << 30
    return max(1, min(by_memory, by_cpu))
