"""Builds several projects and what they need of each other and of the index: one set, every project once, what is needed first.

All that was asked for is inspected; then one set of versions is chosen for all of it (:mod:`lxcbuild.build.dependencies`), and its
members are built in the order of :mod:`lxcbuild.plan.dependencies`, each in sandboxes of its own. Projects that need each other
are compiled first and verified together.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace

from lxcbuild.build import dependencies
from lxcbuild.build.closure import Closure
from lxcbuild.build.collect import hand_over
from lxcbuild.build.driver import Course
from lxcbuild.build.facilities import Facilities
from lxcbuild.build.failures import PhaseFailedError
from lxcbuild.build.machine import ConverterChoice
from lxcbuild.build.ready import Ready, Records, find_ready, recorded_request
from lxcbuild.build.request import BuildRequest
from lxcbuild.build.work import Work
from lxcbuild.debian.names import Distribution, NameMap
from lxcbuild.errors import LxcbuildError
from lxcbuild.ledger.records import NewBuild
from lxcbuild.model import (
    Artifact,
    BuiltPackages,
    Failure,
    FailureClass,
    Outcome,
    Phase,
    SourceKind,
    Status,
    Target,
)
from lxcbuild.plan.dependencies import components, reachable
from lxcbuild.pypi.runtimeset import Pinned, RuntimeSet
from lxcbuild.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyOutcome:
    """``asked`` has one outcome per wish, in their order; ``others`` those of what they needed, in the order of building.

    ``errors`` has what ended a build, by its id, where that was an error and not something that a phase found. ``lacking`` is what
    has to be built before, where only the wishes themselves may be built.
    """

    asked: tuple[Outcome, ...]
    others: tuple[Outcome, ...]
    errors: Mapping[str, LxcbuildError]
    lacking: tuple[Lacking, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """A release that has to be built first; ``needs`` are the projects of the same set that it needs directly."""

    name: str
    version: str
    needs: tuple[str, ...]


def build_family(
    wishes: Iterable[BuildRequest], *, facilities: Facilities, ledger: Records, policy: str, only_asked: bool = False
) -> FamilyOutcome:
    """Build everything that was asked for, recorded in the ledger under the policy's name.

    ``only_asked``: what else is needed must be there already, or the builds are cancelled and the outcome says what is lacking:
    somebody else builds that, and asks again. Never raises for what goes wrong with builds: that is in the outcomes. An
    interruption ends all of them and is raised again.
    """
    family = _Family(facilities=facilities, ledger=ledger, policy=policy, only_asked=only_asked)
    try:
        family.build(list(dict.fromkeys(wishes)))
    except BaseException:
        for course in (*family.asked, *family.others):
            course.cancel()
        raise
    return family.outcome()


@dataclass(slots=True, kw_only=True)
class _Set:
    """Projects that are built as one set. ``builds`` has the id of every build of it, by project, as soon as there is one."""

    roots: Mapping[str, Course]
    chosen: RuntimeSet
    closure: Closure = field(default_factory=Closure)
    builds: dict[str, str] = field(default_factory=dict)

    def below(self, name: str) -> list[str]:
        """What a member needs, directly or not, without itself."""
        return sorted(reachable(self.chosen.needs, [name]) - {name})

    def alive(self) -> frozenset[str]:
        """Members that a build which has not failed needs."""
        return reachable(self.chosen.needs, [name for name, course in self.roots.items() if course.outcome is None])

    def version(self, name: str) -> str:
        """The version of a member."""
        return self.roots[name].work.version if name in self.roots else self.chosen.pinned[name].version


@dataclass(slots=True, kw_only=True)
class _Family:
    facilities: Facilities
    ledger: Records
    policy: str
    only_asked: bool = False
    lacking: dict[str, Lacking] = field(default_factory=dict)
    asked: list[Course] = field(default_factory=list)
    others: list[Course] = field(default_factory=list)
    ready: list[Outcome] = field(default_factory=list)
    order: list[str] = field(default_factory=list)  # ids of what nobody asked for by name
    sets: list[_Set] = field(default_factory=list)

    def build(self, wishes: Sequence[BuildRequest]) -> None:
        inspected: dict[Target, list[Course]] = {}
        for wish in wishes:
            course = self._begin(wish)
            self.asked.append(course)
            if wish.kind is SourceKind.DSC:
                course.finish()
            elif self._inspect(course):
                inspected.setdefault(wish.target, []).append(course)
        for courses in inspected.values():
            for members in _without_namesakes(courses):
                for one in self._sets(members):
                    self.sets.append(one)
                    self._build_set(one)

    def _begin(self, wish: BuildRequest) -> Course:
        work = Work(request=wish, facilities=self.facilities)
        self.ledger.begin(
            NewBuild(
                build_id=work.build_id,
                name=wish.project_name,
                target=wish.target,
                policy=self.policy,
                backend=self.facilities.backend.name,
                log_path=work.log_path,
                request=recorded_request(wish),
            )
        )
        return Course(work)

    def _inspect(self, course: Course) -> bool:
        """Up to the point where it is known what the project needs; whether the build goes on."""
        if not course.until(Phase.PROVISION):
            return False
        work = course.work
        return not dependencies.is_incomplete(work) or course.aside(Phase.INSPECT, lambda: dependencies.complete(work))

    def _learn(self, work: Work, builds: Mapping[str, str]) -> None:
        """Record what a later build is compared with."""
        assert work.image is not None
        request = recorded_request(work.request, source=work.source, dependencies=builds, override=work.override.digest)
        self.ledger.learn(work.build_id, version=work.version, image_digest=work.image.digest, request=request)

    # -- sets -------------------------------------------------------------------------------------------------------

    def _sets(self, courses: Sequence[Course]) -> list[_Set]:
        """One set for all, or one for each where they exclude each other; none for those that have failed by it."""
        names = {course.work.name for course in courses}
        absent = {course.work.name: dependencies.missing(course.work, others=sorted(names)) for course in courses}
        if not any(absent.values()):
            return [_plain(course) for course in courses]
        for course in courses:
            lacks = absent[course.work.name]
            if lacks and not course.work.request.with_deps:
                course.fail(dependencies.refuse(course.work, lacks).failure)
        going = [course for course in courses if course.outcome is None]
        if not any(absent[course.work.name] for course in going):
            return [_plain(course) for course in going]
        if len(going) > 1:
            try:
                return [_resolved(going, dependencies.resolve([course.work for course in going]))]
            except (PhaseFailedError, LxcbuildError) as error:
                brief = error.failure.brief if isinstance(error, PhaseFailedError) else error.brief
                for course in going:
                    course.work.abandon_instance()
                    course.work.note(f"what was asked for does not fit together, and each is built for itself: {brief}")
        return [one for course in going if (one := self._alone(course, needs=bool(absent[course.work.name])))]

    @staticmethod
    def _alone(course: Course, *, needs: bool) -> _Set | None:
        if not needs:
            return _plain(course)
        found: list[RuntimeSet] = []
        well = course.aside(Phase.INSPECT, lambda: found.append(dependencies.resolve([course.work])))
        return _resolved([course], found[0]) if well else None

    def _build_set(self, one: _Set) -> None:
        if self.only_asked and (lacking := self._lacking(one)):
            self.lacking |= {item.name: item for item in lacking}
            for course in one.roots.values():
                course.cancel()
            return
        if len(one.chosen.needs) > 1:
            one.closure = Closure(chosen=self._names(one), extras=one.chosen.extras)
        elif one.chosen.extras:
            one.closure = Closure(extras=one.chosen.extras)
        for name, course in one.roots.items():
            course.work.closure = one.closure
            one.builds[name] = course.work.build_id
            for text in _notes(one, name):
                course.work.note(text)
        for members in components(one.chosen.needs):
            alive = one.alive()
            self._build_component(one, [name for name in members if name in alive])

    def _lacking(self, one: _Set) -> list[Lacking]:
        needs, alive = one.chosen.needs, one.alive()
        absent = [name for name in needs if name in alive - one.roots.keys() and self._find_ready(one, name) is None]
        return [Lacking(name=n, version=one.version(n), needs=tuple(sorted(needs[n]))) for n in sorted(absent)]

    def _names(self, one: _Set) -> dict[str, Distribution]:
        work = next(iter(one.roots.values())).work
        known = NameMap(archive=self.facilities.contents_for(work.request.target).find_distribution)
        found = {}
        for name in one.chosen.needs:
            by_hand = self.facilities.overrides.find(name, one.version(name), work.request.target)
            package = by_hand.package or known.binary_package(name)
            found[name] = Distribution(name, one.version(name), package)
        return found

    # -- members ----------------------------------------------------------------------------------------------------

    def _build_component(self, one: _Set, members: Sequence[str]) -> None:
        courses: dict[str, Course] = {}
        for name in members:
            if name in one.roots:
                courses[name] = one.roots[name]
            elif (ready := self._find_ready(one, name)) is not None:
                self._use_ready(one, name, ready)
            else:
                courses[name] = course = self._begin(_wish_for(one, name))
                self.others.append(course)
                self.order.append(course.work.build_id)
                one.builds[name] = course.work.build_id
                course.work.closure = one.closure
                if not self._inspect(course):
                    self._give_up(one, name, course, courses)
                    return
        self._build_together(one, courses)

    def _build_together(self, one: _Set, courses: Mapping[str, Course]) -> None:
        """Nobody's packages are published before all that need each other have been installed and tried."""
        for name, course in courses.items():
            self._learn(course.work, {other: one.builds[other] for other in one.below(name)})
        for phase in (Phase.VERIFY, Phase.COLLECT):
            for name, course in courses.items():
                well = course.until(phase)
                if well and phase is Phase.VERIFY and len(courses) > 1:
                    # Nothing has judged these packages yet: what cannot even be read ends its own build.
                    well = course.aside(Phase.VERIFY, functools.partial(one.closure.add, _sealed(course.work)))
                if not well:
                    self._give_up(one, name, course, courses)
                    return
        for name, course in courses.items():
            outcome = course.finish()
            if outcome.status is not Status.BUILT:
                self._give_up(one, name, course, courses)
                return
            store = self.facilities.dirs.artifacts / outcome.build_id
            one.closure.add(replace(item, path=store / item.path.name) for item in outcome.artifacts)

    @staticmethod
    def _give_up(one: _Set, name: str, culprit: Course, courses: Mapping[str, Course]) -> None:
        """End what cannot be built without a member whose build has failed."""
        assert culprit.outcome is not None
        for other, course in {**courses, **one.roots}.items():
            if course.outcome is None and name in reachable(one.chosen.needs, [other]):
                course.fail(_failure_by(culprit.outcome, one.chosen.pinned.get(name)))

    def _find_ready(self, one: _Set, name: str) -> Ready | None:
        pinned, wish = one.chosen.pinned[name], _wish_for(one, name)
        if wish.rebuild:
            return None
        return find_ready(
            self.ledger,
            self.facilities.dirs,
            name=name,
            version=pinned.version,
            target=wish.target,
            # Where the index tells no hash, the archive itself does: the cache files everything by content.
            sha256=pinned.sdist.hashes.get("sha256") or self.facilities.index.fetch(pinned.sdist).parent.name,
            # Who may use the suite's own packages only gets no others.
            like={"strict_debian": True} if wish.strict_debian else None,
            override=self.facilities.overrides.find(name, pinned.version, wish.target).digest,
        )

    def _use_ready(self, one: _Set, name: str, ready: Ready) -> None:
        outcome, output = ready.outcome(), _wish_for(one, name).output
        one.closure.add(ready.artifacts)
        one.builds[name] = outcome.build_id
        if outcome.build_id in self.order:
            return
        if output is not None:
            home = hand_over(self.facilities.dirs.artifacts / outcome.build_id, output)
            moved = tuple(replace(item, path=home / item.path.name) for item in outcome.artifacts)
            outcome = replace(outcome, artifacts=moved)
        self.order.append(outcome.build_id)
        self.ready.append(outcome)

    # -- the end ----------------------------------------------------------------------------------------------------

    def outcome(self) -> FamilyOutcome:
        """All outcomes; those of what was asked for name what has to be installed with them."""
        courses = [*self.asked, *self.others]
        outcomes = [course.outcome for course in courses if course.outcome is not None] + self.ready
        by_id = {outcome.build_id: outcome for outcome in outcomes}
        needed = {
            one.builds[name]: tuple(by_id[one.builds[other]] for other in one.below(name) if other in one.builds)
            for one in self.sets
            for name in one.chosen.needs
            if name in one.builds
        }
        told = {build_id: _with_dependencies(item, needed.get(build_id, ())) for build_id, item in by_id.items()}
        return FamilyOutcome(
            asked=tuple(told[course.work.build_id] for course in self.asked),
            others=tuple(told[build_id] for build_id in self.order),
            errors={course.work.build_id: course.work.error for course in courses if course.work.error is not None},
            lacking=tuple(self.lacking.values()),
        )


def _sealed(work: Work) -> list[Artifact]:
    return [Artifact(path=item.path, sha256=item.sha256, size_bytes=item.size_bytes) for item in work.sealed]


def _with_dependencies(outcome: Outcome, needed: Iterable[Outcome]) -> Outcome:
    if outcome.status is not Status.BUILT:
        return outcome
    return replace(
        outcome,
        dependencies=tuple(
            BuiltPackages(build_id=o.build_id, name=o.name, version=o.version, artifacts=o.artifacts) for o in needed
        ),
    )


def _without_namesakes(courses: Sequence[Course]) -> list[list[Course]]:
    """Two versions of one project are no set: the second one goes into another."""
    sets: list[list[Course]] = []
    for course in courses:
        place = next((s for s in sets if course.work.name not in {other.work.name for other in s}), None)
        if place is None:
            sets.append([course])
        else:
            place.append(course)
    return sets


def _plain(course: Course) -> _Set:
    """A project that needs nothing which the suite has not."""
    return _Set(
        roots={course.work.name: course},
        chosen=RuntimeSet(pinned={}, needs={course.work.name: frozenset()}, extras={}),
    )


def _resolved(courses: Sequence[Course], chosen: RuntimeSet) -> _Set:
    return _Set(roots={course.work.name: course for course in courses}, chosen=chosen)


def _wish_for(one: _Set, name: str) -> BuildRequest:
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


def _notes(one: _Set, name: str) -> Iterable[str]:
    for other in one.below(name):
        pinned = one.chosen.pinned.get(other)
        if pinned is not None:
            has = f"; {one.roots[name].work.request.target} has {pinned.shipped.text}" if pinned.shipped else ""
            yield f"{pinned.name} {pinned.version} is built as well: {', '.join(pinned.wanted[:3])}{has}"


def _failure_by(culprit: Outcome, pinned: Pinned | None) -> Failure:
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
