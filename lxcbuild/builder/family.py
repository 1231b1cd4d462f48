"""Builds several projects and what they need of each other and of the index: one set, every project once, what is needed first.

All that was asked for is inspected; then one set of versions is chosen for all of it
(:mod:`lxcbuild.builder.needs.dependencies`), and its members are built in the order of :mod:`lxcbuild.plan.dependencies`, each
in sandboxes of its own. Projects that need each other are compiled first and verified together.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from lxcbuild.builder.closure import Closure
from lxcbuild.builder.context import Facilities
from lxcbuild.builder.driver import Course
from lxcbuild.builder.failures import PhaseFailedError
from lxcbuild.builder.needs import dependencies
from lxcbuild.builder.needs.naming import future_names
from lxcbuild.builder.phases.collect import hand_over
from lxcbuild.builder.ready import Ready, find_ready, recorded_request
from lxcbuild.builder.remembered import remembered
from lxcbuild.builder.request import BuildRequest
from lxcbuild.builder.sets import BuildSet, failure_by, notes, plain, resolved, wish_for, without_namesakes
from lxcbuild.builder.work import Work
from lxcbuild.debian.names import Distribution
from lxcbuild.errors import LxcbuildError
from lxcbuild.ledger.records import NewBuild, Records
from lxcbuild.model import Artifact, BuiltPackages, Failure, Outcome, Phase, SourceKind, Status, Target
from lxcbuild.plan.dependencies import components, reachable
from lxcbuild.pypi.versions.runtimeset import RuntimeSet
from lxcbuild.pypi.versions.version_caps import Ceiling, lowered


class FamilyOutcome(Struct, frozen=True, kw_only=True):
    """``asked`` has one outcome per wish, in their order; ``others`` those of what they needed, in the order of building.

    ``errors`` has what ended a build, by its id, where that was an error and not something that a phase found. ``lacking`` is what
    has to be built before, where only the wishes themselves may be built.
    """

    asked: tuple[Outcome, ...]
    others: tuple[Outcome, ...]
    errors: Mapping[str, LxcbuildError]
    lacking: tuple[Lacking, ...] = ()


class Lacking(Struct, frozen=True, kw_only=True):
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


class _Family(Struct, kw_only=True):
    facilities: Facilities
    ledger: Records
    policy: str
    only_asked: bool = False
    lacking: dict[str, Lacking] = field(default_factory=dict)
    asked: list[Course] = field(default_factory=list)
    others: list[Course] = field(default_factory=list)
    ready: list[Outcome] = field(default_factory=list)
    order: list[str] = field(default_factory=list)  # ids of what nobody asked for by name
    sets: list[BuildSet] = field(default_factory=list)
    ceilings: dict[Target, dict[str, Ceiling]] = field(default_factory=dict)
    culprits: dict[tuple[Target, str], Failure] = field(default_factory=dict)  # the first failure, to who needs it
    finished: dict[tuple[Target, str, str], Outcome] = field(default_factory=dict)

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
            for members in without_namesakes(courses):
                for one in self._sets(members):
                    self._settle(one)

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

    def _sets(self, courses: Sequence[Course]) -> list[BuildSet]:
        """One set for all, or one for each where they exclude each other; none for those that have failed by it."""
        names = {course.work.name for course in courses}
        absent = {course.work.name: dependencies.missing(course.work, others=sorted(names)) for course in courses}
        if not any(absent.values()):
            return [plain(course) for course in courses]
        for course in courses:
            lacks = absent[course.work.name]
            if lacks and not course.work.request.with_deps:
                course.fail(dependencies.refuse(course.work, lacks).failure)
        going = [course for course in courses if course.outcome is None]
        if not any(absent[course.work.name] for course in going):
            return [plain(course) for course in going]
        if len(going) > 1:
            try:
                return [
                    resolved(going, dependencies.resolve([course.work for course in going], self._ceilings(going[0])))
                ]
            except (PhaseFailedError, LxcbuildError) as error:
                brief = error.failure.brief if isinstance(error, PhaseFailedError) else error.brief
                for course in going:
                    course.work.abandon_instance()
                    course.work.note(f"what was asked for does not fit together, and each is built for itself: {brief}")
        return [one for course in going if (one := self._alone(course, needs=bool(absent[course.work.name])))]

    def _alone(self, course: Course, *, needs: bool) -> BuildSet | None:
        if not needs:
            return plain(course)
        found: list[RuntimeSet] = []
        well = course.aside(
            Phase.INSPECT, lambda: found.append(dependencies.resolve([course.work], self._ceilings(course)))
        )
        return resolved([course], found[0]) if well else None

    def _ceilings(self, course: Course) -> dict[str, Ceiling]:
        """By project; what is tried is the target's business."""
        work, target = course.work, course.work.request.target
        if target not in self.ceilings:
            image = work.image.digest if work.image else None
            known = {} if work.request.rebuild else remembered(self.ledger, target, policy=self.policy, image=image)
            self.ceilings[target] = {**known, **self.facilities.ceilings}
        return self.ceilings[target]

    def _settle(self, one: BuildSet | None) -> None:
        """Build a set, with older releases of what it needs where the newest cannot be built."""
        while one is not None:
            self.sets.append(one)
            try:
                self._build_set(one)
            except _TryOlderError as error:
                one = self._with_older(one, error)
            else:
                return

    def _with_older(self, one: BuildSet, error: _TryOlderError) -> BuildSet | None:
        """The same roots with another choice; where there is none, those that need what has failed end with it."""
        going = [course for course in one.roots.values() if course.outcome is None]
        try:
            return resolved(going, dependencies.resolve([c.work for c in going], self._ceilings(going[0])))
        except (PhaseFailedError, LxcbuildError) as nothing:
            for course in going:
                course.work.abandon_instance()
                if error.name in reachable(one.chosen.needs, [course.work.name]):
                    why = nothing.failure.brief if isinstance(nothing, PhaseFailedError) else nothing.brief
                    course.work.note(f"no older release does: {why}")
                    course.fail(self.culprits[course.work.request.target, error.name])
        rest = [course for course in going if course.outcome is None]
        return resolved(rest, one.chosen) if rest else None

    def _build_set(self, one: BuildSet) -> None:
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
            for text in notes(one, name, self._ceilings(course)):
                course.work.note(text)
        for members in components(one.chosen.needs):
            alive = one.alive()
            self._build_component(one, [name for name in members if name in alive])

    def _lacking(self, one: BuildSet) -> list[Lacking]:
        needs, alive = one.chosen.needs, one.alive()
        absent = [name for name in needs if name in alive - one.roots.keys() and self._find_ready(one, name) is None]
        return [Lacking(name=n, version=one.version(n), needs=tuple(sorted(needs[n]))) for n in sorted(absent)]

    def _names(self, one: BuildSet) -> dict[str, Distribution]:
        work = next(iter(one.roots.values())).work
        known = future_names(self.facilities, work.request.target, one.chosen.needs)
        found = {}
        for name in one.chosen.needs:
            by_hand = self.facilities.overrides.find(name, one.version(name), work.request.target)
            package = by_hand.package or known.binary_package(name)
            found[name] = Distribution(name, one.version(name), package)
        return found

    # -- members ----------------------------------------------------------------------------------------------------

    def _build_component(self, one: BuildSet, members: Sequence[str]) -> None:
        courses: dict[str, Course] = {}
        for name in members:
            if name in one.roots:
                courses[name] = one.roots[name]
            elif (made := self.finished.get(_key(one, name))) is not None:
                one.builds[name] = made.build_id
                one.closure.add(self._stored(made))
            elif (ready := self._find_ready(one, name)) is not None:
                self._use_ready(one, name, ready)
            else:
                courses[name] = course = self._begin(wish_for(one, name))
                self.others.append(course)
                self.order.append(course.work.build_id)
                one.builds[name] = course.work.build_id
                course.work.closure = one.closure
                if not self._inspect(course):
                    self._give_up(one, name, course, courses)
                    return
        self._build_together(one, courses)

    def _build_together(self, one: BuildSet, courses: Mapping[str, Course]) -> None:
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
            self.finished[_key(one, name)] = outcome
            one.closure.add(self._stored(outcome))

    def _stored(self, outcome: Outcome) -> list[Artifact]:
        store = self.facilities.dirs.artifacts / outcome.build_id
        return [replace(item, path=store / item.path.name) for item in outcome.artifacts]

    def _give_up(self, one: BuildSet, name: str, culprit: Course, courses: Mapping[str, Course]) -> None:
        """End what cannot be built without a member whose build has failed, or raise for an older release of that to be tried."""
        assert culprit.outcome is not None
        if self._lower_ceiling(one, name, culprit, courses):
            for course in courses.values():
                course.fail(failure_by(culprit.outcome, one.chosen.pinned.get(name)))
            raise _TryOlderError(name)
        for other, course in {**courses, **one.roots}.items():
            if course.outcome is None and name in reachable(one.chosen.needs, [other]):
                course.fail(failure_by(culprit.outcome, one.chosen.pinned.get(name)))

    def _lower_ceiling(self, one: BuildSet, name: str, culprit: Course, courses: Mapping[str, Course]) -> bool:
        """Whether an older release of the member is to be tried: nobody asked for this one, and nothing asked for is half built."""
        if self.only_asked or not one.roots.keys().isdisjoint(courses):
            return False
        assert culprit.outcome is not None
        failure, known = culprit.outcome.failure, self._ceilings(culprit)
        assert failure is not None
        means = failure_by(culprit.outcome, one.chosen.pinned.get(name))
        self.culprits.setdefault((culprit.work.request.target, name), means)
        why = f"{failure.failure_class} in {failure.phase}: {failure.brief[:120]}"
        lower = lowered(known.get(name), one.version(name), failure_class=failure.failure_class, why=why)
        if lower is not None:
            known[name] = lower
        return lower is not None

    def _find_ready(self, one: BuildSet, name: str) -> Ready | None:
        pinned, wish = one.chosen.pinned[name], wish_for(one, name)
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
            package=chosen.package if (chosen := one.closure.chosen.get(name)) is not None else None,
        )

    def _use_ready(self, one: BuildSet, name: str, ready: Ready) -> None:
        outcome, output = ready.outcome(), wish_for(one, name).output
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


class _TryOlderError(Exception):
    """A member that nobody asked for has failed, and an older release of it may do."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _key(one: BuildSet, name: str) -> tuple[Target, str, str]:
    return next(iter(one.roots.values())).work.request.target, name, one.version(name)


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
