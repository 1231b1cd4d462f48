"""Projects that are built as one set: every project once, in versions that fit each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from lxcbuild.builder.closure import Closure
from lxcbuild.builder.driver import Build
from lxcbuild.builder.machine import ConverterChoice
from lxcbuild.builder.ready import Ready
from lxcbuild.builder.request import BuildRequest
from lxcbuild.model import Failure, FailureClass, Outcome, Phase, SourceKind
from lxcbuild.plan.dependencies import reachable
from lxcbuild.pypi.versions.runtimeset import Pinned, RuntimeSet
from lxcbuild.pypi.versions.version_caps import Ceilings


class BuildSet(Struct, kw_only=True):
    """Projects that are built as one set. ``builds`` has the id of every build of it, by project, as soon as there is one."""

    roots: Mapping[str, Build]
    chosen: RuntimeSet
    closure: Closure = field(default_factory=Closure)
    builds: dict[str, str] = field(default_factory=dict)
    found: dict[str, Ready] = field(default_factory=dict)  # earlier builds of members

    def below(self, name: str) -> list[str]:
        """What a member needs, directly or not, without itself."""
        return sorted(reachable(self.chosen.needs, [name]) - {name})

    def alive(self) -> frozenset[str]:
        """Members that a build which has not failed needs."""
        return reachable(self.chosen.needs, [name for name, build in self.roots.items() if build.outcome is None])

    def version(self, name: str) -> str:
        """The version of a member."""
        return self.roots[name].work.version if name in self.roots else self.chosen.pinned[name].version


def without_namesakes(builds: Sequence[Build]) -> list[list[Build]]:
    """Two versions of one project are no set: the second one goes into another."""
    sets: list[list[Build]] = []
    for build in builds:
        place = next((s for s in sets if build.work.name not in {other.work.name for other in s}), None)
        if place is None:
            sets.append([build])
        else:
            place.append(build)
    return sets


def plain(build: Build) -> BuildSet:
    """A project that needs nothing which the suite has not."""
    return BuildSet(
        roots={build.work.name: build},
        chosen=RuntimeSet(pinned={}, needs={build.work.name: frozenset()}, extras={}),
    )


def resolved(builds: Sequence[Build], chosen: RuntimeSet) -> BuildSet:
    """Projects with what was chosen for them."""
    return BuildSet(roots={build.work.name: build for build in builds}, chosen=chosen)


def request_for(one: BuildSet, name: str) -> BuildRequest:
    """The request for a member that nobody asked for: as those who need it were asked for, in all that is not about themselves."""
    needs = one.chosen.needs
    owners = [c.work for n, c in one.roots.items() if name in reachable(needs, [n])]
    return replace(
        owners[0].request,
        requirement=f"{name}=={one.chosen.pinned[name].version}",
        path=None,
        kind=SourceKind.SDIST,
        converter=ConverterChoice.AUTO,
        force=True,
        hashes=(),
        needed_by=", ".join(f"{work.name} {work.version} ({work.build_id})" for work in owners),
    )


def notes(one: BuildSet, name: str, caps: Ceilings) -> Iterable[str]:
    """What people should know of what is built for a root."""
    for other in one.below(name):
        pinned = one.chosen.pinned.get(other)
        if pinned is not None:
            has = f"; {one.roots[name].work.request.target} has {pinned.shipped.text}" if pinned.shipped else ""
            yield f"{pinned.name} {pinned.version} is built as well: {', '.join(pinned.wanted[:3])}{has}"
            if other in caps:
                yield f"{pinned.name} {pinned.version} is tried because {caps[other]}"


def failure_by(culprit: Outcome, pinned: Pinned | None) -> Failure:
    """The failure of a build that needs another one, which has failed."""
    failure = culprit.failure
    assert failure is not None
    why = f"{failure.failure_class} in {failure.phase}: {failure.brief}"
    return Failure(
        failure_class=FailureClass.DEP_MISSING,
        phase=Phase.INSPECT,
        brief=f"{culprit.name} {culprit.version} is needed and cannot be built: {why}",
        details="\n".join([*(pinned.wanted if pinned else ()), f"build {culprit.build_id}"]),
        resolution=f"lxcbuild explain {culprit.build_id}",
    )
