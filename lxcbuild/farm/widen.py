"""A plan grows: a job turned out to need releases that the plan did not know of. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lxcbuild.farm.engine import Wanted
from lxcbuild.plan.dependencies import components
from lxcbuild.plan.document import Estimate, Member, Plan, PlannedJob, job_key
from lxcbuild.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Widened:
    """New jobs by key, and what the job that asked for them now needs (directly) in addition."""

    jobs: Mapping[str, PlannedJob]
    needs: tuple[str, ...]


def widened(plan: Plan, key: str, wanted: Sequence[Wanted]) -> Widened:
    """What a job wants as jobs of the plan: those that it has already, and new ones.

    Where something wanted needs the asking job in turn, all that need each other become one new job, and the asking one is done
    when that is.
    """
    asking, own = plan.jobs[key], {member.name for member in plan.jobs[key].members}
    known = {
        (m.name, m.version): other
        for other, job in plan.jobs.items()
        if job.target == asking.target
        for m in job.members
    }
    release = {item.name: (item.name, item.version) for item in wanted}
    nodes: dict[str, set[str]] = {key: set()}
    members: dict[str, tuple[Member, ...]] = {}
    place = {name: known.get(release[name]) or job_key(asking.target, dict([release[name]])) for name in release}
    for item in wanted:
        other = place[item.name]
        nodes[key].add(other)
        if other in plan.jobs:
            continue
        members[other] = (
            Member(name=item.name, version=item.version, requirement=f"{item.name}=={item.version}", asked=False),
        )
        nodes[other] = {place[need] for need in item.needs if need in place} | (
            {key} if own & set(item.needs) else set()
        )
    graph = {other: set(job.needs) for other, job in plan.jobs.items()}
    for node, others in nodes.items():
        graph.setdefault(node, set()).update(others)
    everything = {**{other: job.members for other, job in plan.jobs.items()}, **members}
    cycles = [component for component in components(graph) if len(component) > 1]
    merged = {component: _sorted_members(component, everything) for component in cycles}
    replaced = {
        node: job_key(asking.target, {member.name: member.version for member in its})
        for component, its in merged.items()
        for node in component
    }
    jobs: dict[str, PlannedJob] = {}
    for component, its in merged.items():
        needs = {replaced.get(other, other) for node in component for other in graph[node]}
        jobs[replaced[component[0]]] = _job(asking, its, needs - {replaced[component[0]]})
    for other, its in members.items():
        if other not in replaced:
            jobs[other] = _job(asking, its, {replaced.get(each, each) for each in graph[other]} - {other})
    direct = {replaced.get(each, each) for each in nodes[key]} | ({replaced[key]} if key in replaced else set())
    return Widened(jobs=jobs, needs=tuple(sorted(direct - {key})))


def _sorted_members(component: Sequence[str], everything: Mapping[str, tuple[Member, ...]]) -> tuple[Member, ...]:
    return tuple(sorted((member for node in component for member in everything[node]), key=lambda member: member.name))


def _job(like: PlannedJob, members: tuple[Member, ...], needs: set[str]) -> PlannedJob:
    estimate = Estimate(
        seconds=like.estimate.seconds * len(members), memory_bytes=like.estimate.memory_bytes, cpus=like.estimate.cpus
    )
    return PlannedJob(
        target=like.target,
        members=members,
        needs=tuple(sorted(needs)),
        policy=like.policy,
        backend=like.backend,
        estimate=estimate,
    )
