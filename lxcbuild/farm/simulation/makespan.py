"""How long a plan would take: the true schedule, run against estimates instead of a clock."""

from __future__ import annotations

import functools
import heapq
import os

from msgspec import Struct

from lxcbuild.config.policies import load_policy, machine_memory_bytes
from lxcbuild.farm.jobs import task_for
from lxcbuild.plan.capacity import Room, reserve_bytes
from lxcbuild.plan.document import Plan
from lxcbuild.plan.schedule import Schedule


class Makespan(Struct, frozen=True, kw_only=True):
    """Seconds from start to end, how many jobs ran at once at most, and the longest chain of jobs that need each other."""

    seconds: float
    at_once: int
    longest_s: float
    chain: tuple[str, ...]


def makespan_here(plan: Plan) -> Makespan:
    """On this machine, with nothing else on it."""
    memory = machine_memory_bytes()
    room = Room(memory_bytes=memory - reserve_bytes(memory), cpus=float(len(os.sched_getaffinity(0))))
    return makespan(plan, {"here": room})


def makespan(plan: Plan, rooms: dict[str, Room]) -> Makespan:
    """On machines that offer so much."""
    limits = {job.policy: load_policy(job.policy).memory.max_bytes for job in plan.jobs.values()}
    schedule = Schedule(
        task_for(key, job, limit_bytes=functools.partial(limits.__getitem__, job.policy))
        for key, job in plan.jobs.items()
    )
    paths = {key: schedule.path_s(key) for key in plan.jobs}
    now, at_once = 0.0, 0
    ends: list[tuple[float, str]] = []
    while not schedule.done:
        for start in schedule.start(rooms):
            heapq.heappush(ends, (now + plan.jobs[start.key].estimate.seconds, start.key))
        at_once = max(at_once, len(ends))
        now, ended = heapq.heappop(ends)
        schedule.built(ended)
    return Makespan(seconds=now, at_once=at_once, longest_s=max(paths.values(), default=0.0), chain=_chain(plan, paths))


def _chain(plan: Plan, paths: dict[str, float]) -> tuple[str, ...]:
    """From the first job of the longest chain to its last one."""
    dependents: dict[str, list[str]] = {}
    for key, job in plan.jobs.items():
        for other in job.needs:
            dependents.setdefault(other, []).append(key)
    found = []
    nexts = sorted(paths)
    while nexts:
        key = max(nexts, key=paths.__getitem__)
        found.append(key.rpartition("/")[2])
        nexts = sorted(dependents.get(key, ()))
    return tuple(found)
