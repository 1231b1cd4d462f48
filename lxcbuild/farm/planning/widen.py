"""A plan grows: a job turned out to need releases that the plan did not know of. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from lxcbuild.builder.request import MissingRelease
from lxcbuild.plan.dependencies import components
from lxcbuild.plan.document import Estimate, Member, Plan, PlannedJob, job_key


class Widened(Struct, frozen=True, kw_only=True):
    """New jobs by key, and what the job that asked for them now needs (directly) in addition."""

    jobs: Mapping[str, PlannedJob]
    needs: tuple[str, ...]


#: Which job has a release: by target, project and version.
Places = Mapping[tuple[str, str, str], str]


def places(jobs: Mapping[str, PlannedJob]) -> dict[tuple[str, str, str], str]:
    """The releases of these jobs; of several jobs with the same one (alone, and in a cycle that was found later) the last."""
    return {(job.target, m.name, m.version): key for key, job in jobs.items() for m in job.members}


def widened(plan: Plan, key: str, wanted: Sequence[MissingRelease], known: Places) -> Widened:
    """What a job wants as jobs of the plan: those that it has already (``known`` says which), and new ones.

    Only what is below the asking job is looked at, because a plan has no cycles and every new need is of that job or of a new one:
    growing costs no more in a large plan than in a small one. Where something wanted needs the asking job in turn, all that need
    each other become one new job, and the asking one is done when that is.
    """
    asking, own = plan.jobs[key], {member.name for member in plan.jobs[key].members}
    release = {item.name: (item.name, item.version) for item in wanted}
    nodes: dict[str, set[str]] = {key: set()}
    members: dict[str, tuple[Member, ...]] = {}
    place = {
        name: known.get((asking.target, *release[name])) or job_key(asking.target, dict([release[name]]))
        for name in release
    }
    for item in wanted:
        other = place[item.name]
        nodes[key].add(other)
        if other in plan.jobs:
            continue
        members[other] = (_member(item),)
        nodes[other] = {place[need] for need in item.needs if need in place} | (
            {key} if own & set(item.needs) else set()
        )
    graph = _below(plan.jobs, nodes)
    everything = {**{other: plan.jobs[other].members for other in graph if other in plan.jobs}, **members}
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


def _member(item: MissingRelease) -> Member:
    pinned = f"{item.name}=={item.version}"
    return Member(
        name=item.name, version=item.version, requirement=pinned, asked=False, has_older=True
    )  # for all we know


def _below(jobs: Mapping[str, PlannedJob], nodes: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Who needs whom among ``nodes``, which need more than the plan says, and all that is below them."""
    graph: dict[str, set[str]] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in graph:
            graph[node] = nodes.get(node, set()) | set(jobs[node].needs if node in jobs else ())
            waiting += graph[node]
    return graph


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
