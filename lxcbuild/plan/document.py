"""The plan of many builds, as a file: sorted and one job per block, so that it can be read, edited and compared by line.

A job is one build, or several of a cycle that are built as one; ``needs`` names the jobs that come before it. What is not in the
file follows from it: the order, and which versions a job is pinned to (those of all that it needs).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import fields

from lxcbuild import __version__
from lxcbuild.config.structs import convert, dotted_path, nearest
from lxcbuild.errors import InputError
from lxcbuild.plan.dependencies import components, reachable

FORMAT = 1

Text = Annotated[str, Meta(max_length=4096)]
Key = Annotated[str, Meta(min_length=1, max_length=1000)]
PackageText = Annotated[str, Meta(max_length=400, pattern=r"^[a-z0-9][a-z0-9+.-]*=[A-Za-z0-9.+:~-]+=[0-9a-f]{64}\Z")]
TargetText = Annotated[str, Meta(pattern=r"^[a-z0-9.+-]+/[a-z0-9.+-]+(/[a-z0-9-]+)?\Z")]
Count = Annotated[int, Meta(ge=0)]


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Estimate(_Table, frozen=True):
    """What a job is expected to cost. ``measured``: by earlier builds of the same project; else by the policy's rule."""

    seconds: Annotated[float, Meta(ge=0)] = 30.0
    cpus: Annotated[float, Meta(gt=0)] = 1.0
    memory_bytes: Count = 1 << 30
    measured: bool = False


class Member(_Table, frozen=True):
    """One build of a job. ``requirement`` is what is asked for; ``sha256`` its source archive's, "" if unknown."""

    name: Text
    version: Text
    requirement: Text
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    asked: bool = True  # by the user, not only by other projects
    requirements_known: bool = True  # False: the index does not tell; they are found out when it is built
    has_older: bool = False  # there may be older releases, for others that need it where this one cannot be built


class PlannedJob(_Table, frozen=True):
    """One job; see the top."""

    target: TargetText
    members: Annotated[tuple[Member, ...], Meta(min_length=1)]
    needs: tuple[Key, ...] = ()
    policy: Text = "default"
    backend: Text = "auto"
    estimate: Estimate = Estimate()

    @property
    def key(self) -> str:
        """Its name in the plan."""
        return job_key(self.target, {member.name: member.version for member in self.members})


class PlannedTarget(_Table, frozen=True):
    """What the plan was resolved for."""

    python: Text
    image: Text = ""  # digest


class Official(_Table, frozen=True):
    """A project that the target ships, which is why it is not built."""

    target: TargetText
    name: Text
    version: Text


class Refused(_Table, frozen=True):
    """A project that cannot be planned, and why: ``failure`` is one of the failure classes."""

    target: TargetText
    requirement: Text
    failure: Text
    brief: Text


class PlannedLayer(_Table, frozen=True):
    """A set of packages (name=version=sha256) above the toolchain that several builds have in common, made before them.

    ``parent`` is a position in the list, or None; ``builds`` is how many stand on it.
    """

    target: TargetText
    packages: Annotated[tuple[PackageText, ...], Meta(min_length=1)]
    parent: Count | None = None
    builds: Count = 0
    seconds_saved: float = 0.0


class _Needs(Mapping[str, tuple[str, ...]]):
    """Jobs, seen as what they need."""

    def __init__(self, jobs: Mapping[str, PlannedJob]) -> None:
        self._jobs = jobs

    def __getitem__(self, key: str) -> tuple[str, ...]:
        return self._jobs[key].needs

    def __iter__(self) -> Iterator[str]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)


class Plan(_Table, frozen=True):
    """The whole file. ``jobs`` are by key."""

    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)] = FORMAT
    lxcbuild: Text = __version__
    targets: dict[TargetText, PlannedTarget] = field(default_factory=dict)
    options: dict[str, str | bool | None] = field(default_factory=dict)
    layers: tuple[PlannedLayer, ...] = ()
    official: tuple[Official, ...] = ()
    refused: tuple[Refused, ...] = ()
    jobs: dict[Key, PlannedJob] = field(default_factory=dict)

    def needs(self) -> Mapping[str, tuple[str, ...]]:
        """Who needs whom, by key: a view, because it is asked for with every job of a plan that may have half a million."""
        return _Needs(self.jobs)

    def pins(self, key: str) -> dict[str, str]:
        """The versions that a job is pinned to: its own and those of all that it needs, by project."""
        below = reachable(self.needs(), [key])
        return {m.name: m.version for other in sorted(below) for m in self.jobs[other].members}

    def order(self) -> tuple[str, ...]:
        """All keys, each after all that it needs."""
        return tuple(key for component in components(self.needs()) for key in component)


def job_key(target: str, versions: Mapping[str, str]) -> str:
    """The name of a job: target, and each project with its version."""
    return f"{target}/{'+'.join(f'{name}=={version}' for name, version in sorted(versions.items()))}"


def dump_plan(plan: Plan) -> str:
    """The plan as text that :func:`parse_plan` reads: the same plan gives the same bytes."""
    table = {name: msgspec.to_builtins(getattr(plan, name)) for name in plan.__struct_fields__ if name != "jobs"}
    for name in ("official", "refused"):
        table[name] = sorted(table[name], key=lambda item: json.dumps(item, sort_keys=True))
    jobs = {key: {**_sparse(plan.jobs[key]), "needs": sorted(plan.jobs[key].needs)} for key in sorted(plan.jobs)}
    return json.dumps({**table, "jobs": jobs}, indent=1, ensure_ascii=False) + "\n"


def _sparse(value: Any) -> Any:
    """Plain data without what is as it is by default."""
    if isinstance(value, Struct):
        defaults = _defaults(type(value))
        return {name: _sparse(own) for name, usual in defaults if (own := getattr(value, name)) != usual}
    return [_sparse(each) for each in value] if isinstance(value, tuple) else value


@functools.cache
def _defaults(kind: type[Struct]) -> tuple[tuple[str, object], ...]:
    return tuple((each.name, each.default) for each in fields(kind))


def parse_plan(text: bytes | str, *, name: str = "the plan") -> Plan:
    """Read a plan, also one that a person has edited; raises :class:`InputError` that names the place."""
    try:
        plan = msgspec.json.decode(text, type=Plan)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        told = _mistakes(text) or [f"the whole file: {error}"]
        raise InputError(
            f"{name}: {told[0]}",
            details="\n".join(told[:20]),
            resolution="fix it there, or make the plan again: lxcbuild plan -r FILE -o FILE",
        ) from None
    _check(plan, name)
    return plan


def _mistakes(text: bytes | str) -> list[str]:
    try:
        found = convert(msgspec.json.decode(text), Plan)[1]
    except (msgspec.DecodeError, UnicodeError, RecursionError):  # it is not JSON at all, and the reader has said so
        return []
    return [f"{dotted_path(each.at) or 'the whole file'}: {each.problem}" for each in found]


def _check(plan: Plan, name: str) -> None:
    for number, layer in enumerate(plan.layers):
        if layer.target not in plan.targets or (layer.parent is not None and layer.parent >= number):
            raise InputError(
                f"{name}: layers.{number}: its target is not among those of the plan, or its parent does not come before it",
                resolution="remove it: layers only save time",
            )
    for key, job in plan.jobs.items():
        if job.key != key:
            raise InputError(
                f"{name}: jobs.{key}: its members make it {job.key}", resolution="change the key or the members"
            )
    for key, job in plan.jobs.items():
        for other in job.needs:
            if other not in plan.jobs:
                raise InputError(
                    f"{name}: jobs.{key}.needs: there is no job {other}.{nearest(other, plan.jobs)}",
                    resolution="name a job of the plan, or remove the line",
                )
    for component in components(plan.needs()):
        if len(component) > 1 or component[0] in plan.jobs[component[0]].needs:
            raise InputError(
                f"{name}: these jobs need each other: {', '.join(component[:5])}",
                resolution="make them one job with several members: they are compiled first and verified together",
            )


def merge_cycles(
    needs: Mapping[str, Iterable[str]], versions: Mapping[str, tuple[str, str]], target: str
) -> dict[str, tuple[tuple[str, ...], frozenset[str]]]:
    """From projects to jobs: key to (nodes, keys needed), where nodes that need each other have become one job.

    ``needs`` is by node; ``versions`` gives each node's project and version.
    """
    graph = {node: frozenset(others) for node, others in needs.items()}
    found = components(graph)
    keys = {
        node: job_key(target, {versions[each][0]: versions[each][1] for each in component})
        for component in found
        for node in component
    }
    return {
        keys[component[0]]: (
            component,
            frozenset(keys[other] for node in component for other in graph.get(node, ())) - {keys[component[0]]},
        )
        for component in found
    }
