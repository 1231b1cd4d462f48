"""Simulates a run over a whole index: the true planner and schedule, invented projects, measured builds, and a clock that jumps.

What is true: cycles become jobs by :func:`lxcbuild.plan.document.merge_cycles`, what a build is taken to need is
:mod:`lxcbuild.plan.capacity`'s, what happens after a failure is :mod:`lxcbuild.plan.retries`', and every decision is
:class:`lxcbuild.plan.schedule.Schedule`'s, asked after every single end of a build as a head does. What is drawn: for each project
one build of a real ledger (seconds, CPU, memory, how it ended, bytes), and how many others it needs; whom it needs is drawn so that
few projects are needed by very many (Barabasi and Albert's model, Science 286, 1999, which fits indexes of packages).
"""

from __future__ import annotations

import heapq
import json
import random
import resource
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field

from lxcbuild.ledger.records import BuildRecord
from lxcbuild.model import FailureClass, Status
from lxcbuild.plan.capacity import Need, Room, cpu_need, memory_need, reserve_bytes
from lxcbuild.plan.document import merge_cycles
from lxcbuild.plan.retries import Attempt
from lxcbuild.plan.schedule import Schedule, Start, State, Task

#: Of the policy ``default``, of which a build's need is at most all.
_LIMIT_BYTES = 4 << 30
_LEAST_S = 0.1
#: The share of projects with needs of which one needs them, too.
_IN_CYCLES = 1 / 2000
_TARGET = "debian/bookworm"


class MeasuredBuild(Struct, frozen=True):
    """One build as a ledger has it: seconds and CPU seconds of its phases, their highest memory, how it ended, bytes of results."""

    wall_s: float
    cpu_s: float
    memory_bytes: int
    failure: FailureClass | None
    result_bytes: int


class Measured(Struct, frozen=True, kw_only=True):
    """What is drawn from; ``needs``: how many projects that the suite lacks each build needed."""

    builds: tuple[MeasuredBuild, ...]
    needs: tuple[int, ...]

    @classmethod
    def shipped(cls) -> Measured:
        """The file that comes with lxcbuild (``measured.json`` beside this one; ``docs/reference/scale.md`` says of what)."""
        table = json.loads(Path(__file__).with_name("measured.json").read_text())
        builds = (
            MeasuredBuild(wall, cpu, memory, FailureClass(failure) if failure else None, size)
            for wall, cpu, memory, failure, size in table["builds"]
        )
        return cls(builds=tuple(builds), needs=tuple(table["needs"]))

    @classmethod
    def of(cls, records: Iterable[BuildRecord]) -> Measured:
        """Of a ledger's builds, with details; those that were cancelled or only looked up say nothing."""
        builds, needs = [], []
        for record in records:
            failure = record.failure.failure_class if record.failure else None
            ended = record.status in (Status.BUILT.value, Status.FAILED.value)
            if not ended or not record.phases or failure is FailureClass.CANCELLED:
                continue
            builds.append(
                MeasuredBuild(
                    wall_s=round(sum(phase.usage.wall_s for phase in record.phases), 3),
                    cpu_s=round(sum(phase.usage.cpu_s for phase in record.phases), 3),
                    memory_bytes=max(phase.usage.peak_memory_bytes for phase in record.phases),
                    failure=failure,
                    result_bytes=sum(artifact.size_bytes for artifact in record.artifacts),
                )
            )
            known = record.request.get("dependencies")
            if isinstance(known, Mapping):
                needs.append(len(known))
        return cls(builds=tuple(builds), needs=tuple(needs))

    def dump(self) -> str:
        """As :meth:`shipped` reads it, one build per line."""
        lines = ",\n".join(
            f"  {json.dumps([b.wall_s, b.cpu_s, b.memory_bytes, b.failure and b.failure.value, b.result_bytes])}"
            for b in sorted(self.builds, key=lambda build: (build.wall_s, build.cpu_s))
        )
        return f'{{\n "needs": {json.dumps(sorted(self.needs))},\n "builds": [\n{lines}\n ]\n}}\n'


# -- a synthetic index -------------------------------------------------------------------------------------------------


class Index(Struct, frozen=True, kw_only=True):
    """An invented index: what each project needs, and the measured build that stands for its own."""

    needs: Mapping[str, frozenset[str]]
    builds: Mapping[str, MeasuredBuild]


def invent_index(count: int, measured: Measured, *, seed: int = 0, more_needs: float = 1.0) -> Index:
    """``count`` projects. ``more_needs`` multiplies how many others each needs; some are in a cycle with one that needs them."""
    draw = random.Random(seed)  # noqa: S311 - a simulation repeats itself
    names = [f"p{number:06}" for number in range(count)]
    needs: dict[str, set[str]] = {}
    ends: list[int] = []  # every project once, and once more for each that needs it
    for number, name in enumerate(names):
        wanted = draw.choice(measured.needs) * more_needs
        rounded = int(wanted) + (draw.random() < wanted - int(wanted))
        chosen = sorted({ends[draw.randrange(len(ends))] for _ in range(rounded)}) if ends else []
        needs[name] = {names[other] for other in chosen}
        ends += [number, *chosen]
        if chosen and draw.random() < _IN_CYCLES:
            needs[names[chosen[0]]].add(name)
    return Index(
        needs={name: frozenset(others) for name, others in needs.items()},
        builds={name: draw.choice(measured.builds) for name in names},
    )


class _Expected(Struct, frozen=True):
    """What the schedule is told that a job needs: as a plan would from the ledger, for the attempt in question."""

    build: MeasuredBuild
    cpus: float

    def __call__(self, attempt: Attempt) -> Need:
        peaks = [self.build.memory_bytes] if self.build.memory_bytes else []
        memory = memory_need(peaks, limit_bytes=_LIMIT_BYTES, raised=attempt.memory)
        return Need(memory_bytes=memory, cpus=cpu_need(self.build.cpu_s, self.build.wall_s, cpus=self.cpus))


def plan_jobs(index: Index, *, cpus: float) -> tuple[list[Task], dict[str, MeasuredBuild]]:
    """The jobs of the plan for an index, and the build that stands for each (the longest one of a cycle)."""
    versions = {name: (name, "1") for name in index.needs}
    tasks, builds = [], {}
    for key, (members, below) in merge_cycles(index.needs, versions, _TARGET).items():
        build = max((index.builds[name] for name in members), key=lambda each: each.wall_s)
        builds[key] = build
        seconds = max(build.wall_s, _LEAST_S)
        tasks.append(Task(key=key, needs=below, seconds=seconds, need_of=_Expected(build, cpus)))
    return tasks, builds


# -- a run -------------------------------------------------------------------------------------------------------------


class Lab(Struct, frozen=True, kw_only=True):
    """Equal machines; ``speed``: how much faster than the machine of the measurements."""

    machines: int
    cpus: float = 16.0
    memory_bytes: int = 64 << 30
    speed: float = 1.0

    def rooms(self) -> dict[str, Room]:
        """What the schedule is offered."""
        free = self.memory_bytes - reserve_bytes(self.memory_bytes)
        return {f"m{number:04}": Room(memory_bytes=free, cpus=self.cpus) for number in range(self.machines)}


class Simulated(Struct, frozen=True, kw_only=True):
    """How a run went. Times in seconds of the simulated lab, except ``head_cpu_s`` and ``planning_s``, which this process took."""

    jobs: int
    makespan_s: float
    longest_chain_s: float
    work_s: float  # CPU seconds that were set aside for builds
    utilisation: float  # of the CPUs, over the whole makespan
    ended: Mapping[str, int]
    failures: Mapping[str, int]
    most_at_once: int
    starts: int
    head_cpu_s: float
    busiest_minute: int  # builds that ended in it
    result_bytes: int

    @property
    def builds_per_s(self) -> float:
        """On average."""
        return self.starts / self.makespan_s if self.makespan_s else 0.0


class _Run(Struct):
    """The loop around a schedule, as a head has it."""

    schedule: Schedule
    builds: Mapping[str, MeasuredBuild]
    lab: Lab
    clock_s: float = 0.0
    head_cpu_s: float = 0.0
    work_s: float = 0.0
    ends: list[tuple[float, int, Start]] = field(default_factory=list)
    starts: int = 0
    most_at_once: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    per_minute: Counter[int] = field(default_factory=Counter)
    result_bytes: int = 0

    def go(self) -> None:
        rooms = self.lab.rooms()
        while not self.schedule.done:
            begun = time.process_time()
            started = self.schedule.start(rooms)
            self.head_cpu_s += time.process_time() - begun
            for start in started:
                seconds = max(self.builds[start.key].wall_s, _LEAST_S) / self.lab.speed
                self.work_s += seconds * start.need.cpus
                self.starts += 1
                heapq.heappush(self.ends, (self.clock_s + seconds, self.starts, start))
            self.most_at_once = max(self.most_at_once, len(self.ends))
            assert self.ends, "nothing runs, and nothing can start"
            self.clock_s, _, start = heapq.heappop(self.ends)
            self.per_minute[int(self.clock_s // 60)] += 1
            self._end(start)

    def _end(self, start: Start) -> None:
        build = self.builds[start.key]
        begun = time.process_time()
        if build.failure is None:
            self.schedule.built(start.key)
            self.result_bytes += build.result_bytes
        else:
            again, _ = self.schedule.failed(start.key, build.failure)
            if again is None:
                self.failures[build.failure.value] += 1
        self.head_cpu_s += time.process_time() - begun


def simulate(tasks: Sequence[Task], builds: Mapping[str, MeasuredBuild], lab: Lab) -> Simulated:
    """Run the jobs of a plan on a lab."""
    begun = time.process_time()
    schedule = Schedule(tasks)
    run = _Run(schedule, builds, lab, head_cpu_s=time.process_time() - begun)
    longest = max((schedule.path_s(task.key) for task in tasks), default=0.0) / lab.speed
    run.go()
    states = Counter(state.value for state in schedule.states().values())
    return Simulated(
        jobs=len(tasks),
        makespan_s=run.clock_s,
        longest_chain_s=longest,
        work_s=run.work_s,
        utilisation=run.work_s / (lab.machines * lab.cpus * run.clock_s) if run.clock_s else 0.0,
        ended={state.value: states[state.value] for state in State if states[state.value]},
        failures=dict(run.failures.most_common()),
        most_at_once=run.most_at_once,
        starts=run.starts,
        head_cpu_s=run.head_cpu_s,
        busiest_minute=max(run.per_minute.values(), default=0),
        result_bytes=run.result_bytes,
    )


def peak_memory_bytes() -> int:
    """The most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
