"""Which job of a plan runs next, and where: the longest remaining path first, packed by memory and CPUs. Pure, no clock.

A job waits for what it needs; of those that wait for nothing, the one whose dependents will take longest goes first. Where it does
not fit beside what runs, smaller ones behind it may go first, for a bounded number of times: then everybody waits for it, so that
big builds are never starved. What failed takes along what depends on it, and nothing else. Every step costs logarithmic time in
the number of jobs, for plans of a whole archive.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import StrEnum

from msgspec import Struct, field

from lxcbuild.model import FailureClass
from lxcbuild.plan.capacity import Need, Room
from lxcbuild.plan.retries import Attempt, Resting, after_failure, after_loss

#: How many ready jobs are looked at for one that fits beside what runs.
LOOK_AHEAD = 64
#: How often a job is passed by smaller ones before everybody waits for it.
PATIENCE = 32


class State(StrEnum):
    """Where a job is. The last four are ends."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    BUILT = "built"  # or official: what depends on it can be built
    FAILED = "failed"
    PRUNED = "pruned"  # something that it needs has failed
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self in (State.BUILT, State.FAILED, State.PRUNED, State.CANCELLED)


class Task(Struct, frozen=True, kw_only=True):
    """A job as the schedule sees it. ``need_of`` gives what an attempt is expected to use."""

    key: str
    needs: frozenset[str]
    seconds: float
    need_of: Callable[[Attempt], Need]


class Start(Struct, frozen=True, kw_only=True):
    """The decision to run a job on a worker now."""

    key: str
    worker: str
    attempt: Attempt
    need: Need


class _Entry(Struct, kw_only=True):
    task: Task
    path_s: float = 0.0  # seconds of the longest chain from this job to an end, itself included
    missing: set[str] = field(default_factory=set)
    dependents: set[str] = field(default_factory=set)
    state: State = State.WAITING
    attempt: Attempt = field(default_factory=Attempt)
    need: Need | None = None  # of that attempt, once it was asked for
    start: Start | None = None
    passed: int = 0
    avoided: set[str] = field(default_factory=set)  # workers that refused it, or were lost with it
    culprit: str = ""  # for PRUNED: what has failed


class Schedule:
    """The state of a run. Jobs come with ``add``, start with ``start``; ``built``, ``failed``, ``lost`` and ``cancel`` end them."""

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        self._entries: dict[str, _Entry] = {}
        self._ready: list[tuple[float, str]] = []
        self._running: dict[str, dict[str, Start]] = {}  # by worker and key
        self._taken: dict[str, Need] = {}  # by worker: the sum over what runs there, asked for at every step
        self._sealed: set[str] = set()  # workers on which something runs alone
        self._resting = Resting()
        self._open = 0
        self.add(tasks)

    # -- questions --------------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether every job has ended."""
        return self._open == 0

    def state(self, key: str) -> State:
        """Where a job is."""
        return self._entries[key].state

    def culprit(self, key: str) -> str:
        """For a pruned job: the job that failed."""
        return self._entries[key].culprit

    def attempt(self, key: str) -> Attempt:
        """The attempt that runs, or is next."""
        return self._entries[key].attempt

    def path_s(self, key: str) -> float:
        """Seconds of the longest chain of jobs that begins with this one."""
        return self._entries[key].path_s

    def running(self) -> tuple[Start, ...]:
        """All that runs."""
        return tuple(start for starts in self._running.values() for start in starts.values())

    def states(self) -> Mapping[str, State]:
        """All jobs."""
        return {key: entry.state for key, entry in self._entries.items()}

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    # -- jobs -------------------------------------------------------------------------------------------------------

    def add(self, tasks: Iterable[Task]) -> list[str]:
        """More jobs; what they need must be known, or among them. A cycle among them is a bug of the caller.

        Gives the keys of those that can never be built, because what they need has failed already.
        """
        new = [task for task in tasks if task.key not in self._entries]
        for task in new:
            self._entries[task.key] = _Entry(task=task)
        self._open += len(new)
        for task in new:
            for other in task.needs:
                self._link(task.key, other)
        self._raise_paths([task.key for task in new])
        return [key for task in new for key in self._settle(self._entries[task.key])]

    def hold(self, key: str, needs: Iterable[str]) -> list[str]:
        """A running job turned out to need others as well: it waits for them and then runs again, as the same attempt.

        Gives the keys of jobs that can never be built, as :meth:`add` does.
        """
        entry = self._entries[key]
        self._stop_running(entry)
        for other in needs:
            self._link(key, other)
        self._raise_paths(sorted(entry.missing))
        return self._settle(entry)

    def _link(self, key: str, other: str) -> None:
        below = self._entries[other]
        if below.state is not State.BUILT:
            self._entries[key].missing.add(other)
            below.dependents.add(key)

    def _raise_paths(self, keys: Iterable[str]) -> None:
        """Let the paths of these and of all below them count what depends on them, in one pass from the top."""
        below = {key: self._entries[key].missing for key in keys}
        waiting = list(below)
        while waiting:
            for other in below[waiting.pop()]:
                if other not in below:
                    below[other] = self._entries[other].missing
                    waiting.append(other)
        for key in _top_down(below):
            entry = self._entries[key]
            path = entry.task.seconds + max((self._entries[other].path_s for other in entry.dependents), default=0.0)
            if path > entry.path_s:
                entry.path_s = path
                if entry.state is State.READY:
                    heapq.heappush(self._ready, (-path, key))  # the older, lower entry is skipped later

    def _settle(self, entry: _Entry) -> list[str]:
        """Decide whether a job waits, is ready, or can never be built; gives the keys of those that cannot."""
        if entry.state.ended:
            return []
        failed = next((key for key in sorted(entry.missing) if self._entries[key].state.ended), None)
        if failed is not None:
            below = self._entries[failed]
            self._end(entry, State.PRUNED if below.state is not State.CANCELLED else State.CANCELLED)
            entry.culprit = below.culprit or failed
            return [entry.task.key, *self._prune(entry)]
        if entry.missing:
            entry.state = State.WAITING
        else:
            entry.state = State.READY
            heapq.heappush(self._ready, (-entry.path_s, entry.task.key))
        return []

    # -- decisions --------------------------------------------------------------------------------------------------

    def start(self, rooms: Mapping[str, Room], *, limit: int | None = None) -> list[Start]:
        """What to start now, best first. ``rooms`` is what each worker offers to all builds together, running ones included;
        ``limit`` bounds how many run at once in all.

        A worker on which nothing runs takes a job of any size: otherwise one that is bigger than every machine would wait forever.
        """
        rooms = self._resting.without(rooms)
        free = {name: room.without([self._taken[name]] if name in self._taken else []) for name, room in rooms.items()}
        left = (1 << 30 if limit is None else limit) - sum(map(len, self._running.values()))
        refused = _Refused()
        started: list[Start] = []
        put_back: list[tuple[float, str]] = []
        while self._ready and left > 0 and len(put_back) < LOOK_AHEAD:
            item = heapq.heappop(self._ready)
            entry = self._entries[item[1]]
            if entry.state is not State.READY or -item[0] != entry.path_s:
                continue  # an older entry of a job that has started, ended or moved up
            if entry.need is None:
                entry.need = entry.task.need_of(entry.attempt)
            need = entry.need
            chosen = None
            if not refused.covers(entry.attempt, need):
                chosen = self._place(entry, need, _allowed(entry, free))
                if chosen is None and not entry.avoided:
                    refused.add(entry.attempt, need)
            if chosen is None:
                put_back.append(item)
                if free and (entry.passed >= PATIENCE or entry.attempt.alone):
                    del free[self._emptiest(_allowed(entry, free))]  # nothing more starts there until this job has room
                continue
            for _, passed in put_back:
                self._entries[passed].passed += 1
            self._begin(entry, chosen)
            free[chosen.worker] = free[chosen.worker].without([chosen.need])
            left -= 1
            started.append(chosen)
        for item in put_back:
            heapq.heappush(self._ready, item)
        return started

    def _place(self, entry: _Entry, need: Need, free: Mapping[str, Room]) -> Start | None:
        """The worker on which it fits with most memory left, an idle one where it must be alone; None when it has to wait."""
        idle = [name for name in free if not self._running.get(name)]
        if entry.attempt.alone:
            candidates = idle
        else:
            fitting = [name for name, room in free.items() if room.holds(need) and name not in self._sealed]
            candidates = fitting or idle
        if not candidates:
            return None
        worker = min(candidates, key=lambda name: (-free[name].memory_bytes, -free[name].cpus, name))
        return Start(key=entry.task.key, worker=worker, attempt=entry.attempt, need=need)

    def _emptiest(self, free: Mapping[str, Room]) -> str:
        return min(sorted(free), key=lambda name: len(self._running.get(name, ())))

    def _begin(self, entry: _Entry, start: Start) -> None:
        entry.state, entry.start = State.RUNNING, start
        self._running.setdefault(start.worker, {})[entry.task.key] = start
        taken = self._taken.get(start.worker, Need(memory_bytes=0, cpus=0.0))
        self._taken[start.worker] = _sum(taken, start.need)
        if start.attempt.alone:
            self._sealed.add(start.worker)

    # -- ends -------------------------------------------------------------------------------------------------------

    def built(self, key: str) -> None:
        """A job has ended well: what waited for it only is ready."""
        entry = self._entries[key]
        if entry.start is not None:
            self._resting.worked(entry.start.worker)
        self._end(entry, State.BUILT)
        self._release(entry)

    def _release(self, entry: _Entry) -> None:
        for other in sorted(entry.dependents):
            above = self._entries[other]
            above.missing.discard(entry.task.key)
            if above.state is State.WAITING and not above.missing:
                self._settle(above)
        entry.dependents.clear()

    def failed(
        self, key: str, failure: FailureClass, *, final: bool = False, spare: bool = False
    ) -> tuple[Attempt | None, list[str]]:
        """A job has failed: its next attempt, if it gets one, and the jobs that can never be built now.

        ``final``: no further attempt, whatever the rules say. ``spare``: what waited for it may do without, and runs.
        """
        entry = self._entries[key]
        if entry.start is not None and failure is FailureClass.HOST_REFUSED:
            entry.avoided.add(entry.start.worker)
            self._resting.refused(entry.start.worker)
        elif entry.start is not None:
            self._resting.worked(entry.start.worker)
        return self._again(entry, None if final else after_failure(entry.attempt, failure), spare=spare)

    def lost(self, key: str) -> tuple[Attempt | None, list[str]]:
        """The worker of a job has died under it."""
        entry = self._entries[key]
        if entry.start is not None:
            entry.avoided.add(entry.start.worker)
        return self._again(entry, after_loss(entry.attempt))

    def put_back(self, key: str) -> None:
        """A running job was stopped by us and has not failed: it can start again, as the same attempt."""
        entry = self._entries[key]
        self._stop_running(entry)
        self._settle(entry)

    def _again(
        self, entry: _Entry, attempt: Attempt | None, *, spare: bool = False
    ) -> tuple[Attempt | None, list[str]]:
        if attempt is None:
            self._end(entry, State.FAILED)
            if spare:
                self._release(entry)
            return None, self._prune(entry)
        self._stop_running(entry)
        entry.attempt, entry.need, entry.passed = attempt, None, 0
        self._settle(entry)
        return attempt, []

    def _prune(self, entry: _Entry) -> list[str]:
        pruned: list[str] = []
        waiting = sorted(entry.dependents)
        while waiting:
            above = self._entries[waiting.pop()]
            if above.state.ended:
                continue
            self._end(above, State.PRUNED if entry.state is not State.CANCELLED else State.CANCELLED)
            above.culprit = entry.culprit or entry.task.key
            pruned.append(above.task.key)
            waiting.extend(sorted(above.dependents))
        return sorted(pruned)

    def cancel(self) -> list[str]:
        """Give up all that does not run; running jobs may still end. The keys of what was given up."""
        given_up = [key for key, e in self._entries.items() if not e.state.ended and e.state is not State.RUNNING]
        for key in given_up:
            self._end(self._entries[key], State.CANCELLED)
        return given_up

    def _end(self, entry: _Entry, state: State) -> None:
        assert not entry.state.ended, (entry.task.key, entry.state, state)
        self._stop_running(entry)
        entry.state = state
        self._open -= 1

    def _leave(self, start: Start) -> None:
        """Give back what a job had."""
        beside = self._running[start.worker]
        del beside[start.key]
        if start.attempt.alone:
            self._sealed.discard(start.worker)
        if beside:
            less = Need(memory_bytes=-start.need.memory_bytes, cpus=-start.need.cpus)
            self._taken[start.worker] = _sum(self._taken[start.worker], less)
        else:
            del self._running[start.worker], self._taken[start.worker]  # with what rounding left in the sum

    def _stop_running(self, entry: _Entry) -> None:
        if entry.start is not None:
            self._leave(entry.start)
            entry.start = None
            entry.state = State.WAITING


def _sum(one: Need, other: Need) -> Need:
    return Need(memory_bytes=one.memory_bytes + other.memory_bytes, cpus=one.cpus + other.cpus)


def _allowed(entry: _Entry, free: Mapping[str, Room]) -> Mapping[str, Room]:
    """Workers that have not refused this job; all of them where all have."""
    if not entry.avoided:
        return free
    return {name: room for name, room in free.items() if name not in entry.avoided} or free


class _Refused:
    """Needs that found no room in this step: what needs as much finds none either, because rooms only shrink within a step."""

    def __init__(self) -> None:
        self._least: dict[bool, list[Need]] = {False: [], True: []}

    def covers(self, attempt: Attempt, need: Need) -> bool:
        """Whether it is known that there is no room."""
        if attempt.alone:
            return bool(self._least[True])  # it needs an idle worker, whatever its size
        for each in self._least[False]:  # noqa: SIM110 - asked for at every look, and a generator costs as much again
            if need.memory_bytes >= each.memory_bytes and need.cpus >= each.cpus:
                return True
        return False

    def add(self, attempt: Attempt, need: Need) -> None:
        """There was no room for that."""
        self._least[attempt.alone].append(need)


def _top_down(needs: Mapping[str, AbstractSet[str]]) -> list[str]:
    """The keys so that each comes before all that it needs."""
    above = dict.fromkeys(needs, 0)
    for others in needs.values():
        for other in others:
            above[other] += 1
    waiting = [key for key, count in above.items() if count == 0]
    order: list[str] = []
    while waiting:
        key = waiting.pop()
        order.append(key)
        for other in needs[key]:
            above[other] -= 1
            if above[other] == 0:
                waiting.append(other)
    assert len(order) == len(needs), "jobs that need each other are one job"
    return order
