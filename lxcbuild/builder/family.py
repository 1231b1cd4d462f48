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
from lxcbuild.builder.context import BuildContext
from lxcbuild.builder.driver import Build
from lxcbuild.builder.facts import Compiled, Inspected, Resolved
from lxcbuild.builder.failures import PhaseFailedError
from lxcbuild.builder.needs import dependencies
from lxcbuild.builder.needs.naming import future_names
from lxcbuild.builder.phases.collect import hand_over
from lxcbuild.builder.ready import Ready, find_ready, recorded_request
from lxcbuild.builder.remembered import remembered
from lxcbuild.builder.request import BuildRequest
from lxcbuild.builder.sets import BuildSet, failure_by, notes, plain, request_for, resolved, without_namesakes
from lxcbuild.builder.work import Work
from lxcbuild.debian.names import Distribution
from lxcbuild.errors import LxcbuildError
from lxcbuild.ledger.records import NewBuild, Records
from lxcbuild.model import Artifact, BuiltPackages, Failure, Outcome, Phase, SourceKind, Status, Target
from lxcbuild.plan.dependencies import components, reachable
from lxcbuild.pypi.versions.runtimeset import RuntimeSet
from lxcbuild.pypi.versions.version_caps import VersionCap, lowered


class FamilyOutcome(Struct, frozen=True, kw_only=True):
    """``asked`` has one outcome per request, in their order; ``others`` those of what they needed, in the order of building.

    ``errors`` has what ended a build, by its id, where that was an error and not something that a phase found. ``lacking`` is what
    has to be built before, where only the requests themselves may be built.
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
    requests: Iterable[BuildRequest], *, context: BuildContext, ledger: Records, policy: str, only_asked: bool = False
) -> FamilyOutcome:
    """Build everything that was asked for, recorded in the ledger under the policy's name.

    ``only_asked``: what else is needed must be there already, or the builds are cancelled and the outcome says what is lacking:
    somebody else builds that, and asks again. Never raises for what goes wrong with builds: that is in the outcomes. An
    interruption ends all of them and is raised again.
    """
    family = _Family(context=context, ledger=ledger, policy=policy, only_asked=only_asked)
    try:
        family.build(list(dict.fromkeys(requests)))
    except BaseException:
        for build in (*family.asked, *family.others):
            build.cancel()
        raise
    return family.outcome()


class _Family(Struct, kw_only=True):
    context: BuildContext
    ledger: Records
    policy: str
    only_asked: bool = False
    lacking: dict[str, Lacking] = field(default_factory=dict)
    asked: list[Build] = field(default_factory=list)
    others: list[Build] = field(default_factory=list)
    ready: list[Outcome] = field(default_factory=list)
    order: list[str] = field(default_factory=list)  # ids of what nobody asked for by name
    sets: list[BuildSet] = field(default_factory=list)
    caps: dict[Target, dict[str, VersionCap]] = field(default_factory=dict)
    culprits: dict[tuple[Target, str], Failure] = field(default_factory=dict)  # the first failure, to who needs it
    finished: dict[tuple[Target, str, str], Outcome] = field(default_factory=dict)

    def build(self, requests: Sequence[BuildRequest]) -> None:
        inspected: dict[Target, list[Build]] = {}
        for request in requests:
            build = self._begin(request)
            self.asked.append(build)
            if request.kind is SourceKind.DSC:
                build.finish()
            elif self._inspect(build):
                inspected.setdefault(request.target, []).append(build)
        for builds in inspected.values():
            for members in without_namesakes(builds):
                for one in self._sets(members):
                    self._settle(one)

    def _begin(self, request: BuildRequest) -> Build:
        work = Work(request=request, context=self.context)
        self.ledger.begin(
            NewBuild(
                build_id=work.build_id,
                name=request.project_name,
                target=request.target,
                policy=self.policy,
                backend=self.context.backend.name,
                log_path=work.log_path,
                request=recorded_request(request),
            )
        )
        return Build(work)

    def _inspect(self, build: Build) -> bool:
        """Up to the point where it is known what the project needs; whether the build goes on."""
        if not build.until(Phase.PROVISION):
            return False
        project = build.facts[Inspected]
        release = dependencies.incomplete(project)
        if release is None:
            return True
        return build.aside(Phase.INSPECT, lambda: dependencies.completed(build.work, project, release))

    def _learn(self, build: Build, needed: Mapping[str, str]) -> None:
        """Record what a later build is compared with."""
        work, project = build.work, build.facts[Inspected]
        override, image = work.override.digest, project.resolved.image
        request = recorded_request(work.request, source=project.source, dependencies=needed, override=override)
        self.ledger.learn(work.build_id, version=work.version, image_digest=image.digest, request=request)

    # -- sets -------------------------------------------------------------------------------------------------------

    def _sets(self, builds: Sequence[Build]) -> list[BuildSet]:
        """One set for all, or one for each where they exclude each other; none for those that have failed by it."""
        names = {build.work.name for build in builds}
        absent = {
            build.work.name: dependencies.missing(build.work, build.facts[Inspected], others=sorted(names))
            for build in builds
        }
        if not any(absent.values()):
            return [plain(build) for build in builds]
        for build in builds:
            lacks = absent[build.work.name]
            if lacks and not build.work.request.with_deps:
                build.fail(dependencies.refuse(build.work, lacks).failure)
        going = [build for build in builds if build.outcome is None]
        if not any(absent[build.work.name] for build in going):
            return [plain(build) for build in going]
        if len(going) > 1:
            try:
                return [resolved(going, self._resolve(going))]
            except (PhaseFailedError, LxcbuildError) as error:
                brief = error.failure.brief if isinstance(error, PhaseFailedError) else error.brief
                for build in going:
                    build.work.finish_sandbox()
                    build.work.note(f"what was asked for does not fit together, and each is built for itself: {brief}")
        return [one for build in going if (one := self._alone(build, needs=bool(absent[build.work.name])))]

    def _alone(self, build: Build, *, needs: bool) -> BuildSet | None:
        if not needs:
            return plain(build)
        well = build.aside(Phase.INSPECT, lambda: self._resolve([build]))
        return resolved([build], build.facts[RuntimeSet]) if well else None

    def _resolve(self, builds: Sequence[Build]) -> RuntimeSet:
        projects = [(build.work, build.facts[Inspected]) for build in builds]
        return dependencies.resolve(projects, self._caps(builds[0]))

    def _caps(self, build: Build) -> dict[str, VersionCap]:
        """By project; what is tried is the target's business."""
        work, target = build.work, build.work.request.target
        if target not in self.caps:
            resolved_on = build.facts.find(Resolved)
            image = resolved_on.image.digest if resolved_on is not None else None
            known = {} if work.request.rebuild else remembered(self.ledger, target, policy=self.policy, image=image)
            self.caps[target] = {**known, **self.context.caps}
        return self.caps[target]

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
        going = [build for build in one.roots.values() if build.outcome is None]
        try:
            return resolved(going, self._resolve(going))
        except (PhaseFailedError, LxcbuildError) as nothing:
            for build in going:
                build.work.finish_sandbox()
                if error.name in reachable(one.chosen.needs, [build.work.name]):
                    why = nothing.failure.brief if isinstance(nothing, PhaseFailedError) else nothing.brief
                    build.work.note(f"no older release does: {why}")
                    build.fail(self.culprits[build.work.request.target, error.name])
        rest = [build for build in going if build.outcome is None]
        return resolved(rest, one.chosen) if rest else None

    def _build_set(self, one: BuildSet) -> None:
        if self.only_asked and (lacking := self._lacking(one)):
            self.lacking |= {item.name: item for item in lacking}
            for build in one.roots.values():
                build.cancel()
            return
        if len(one.chosen.needs) > 1:
            one.closure = Closure(chosen=self._names(one), extras=one.chosen.extras)
        elif one.chosen.extras:
            one.closure = Closure(extras=one.chosen.extras)
        for name, build in one.roots.items():
            build.work.closure = one.closure
            one.builds[name] = build.work.build_id
            for text in notes(one, name, self._caps(build)):
                build.work.note(text)
        for members in components(one.chosen.needs):
            alive = one.alive()
            self._build_component(one, [name for name in members if name in alive])

    def _lacking(self, one: BuildSet) -> list[Lacking]:
        needs, alive = one.chosen.needs, one.alive()
        absent = [name for name in needs if name in alive - one.roots.keys() and self._find_ready(one, name) is None]
        return [Lacking(name=n, version=one.version(n), needs=tuple(sorted(needs[n]))) for n in sorted(absent)]

    def _names(self, one: BuildSet) -> dict[str, Distribution]:
        work = next(iter(one.roots.values())).work
        known = future_names(self.context, work.request.target, one.chosen.needs)
        found = {}
        for name in one.chosen.needs:
            by_hand = self.context.overrides.find(name, one.version(name), work.request.target)
            package = by_hand.package or known.binary_package(name)
            found[name] = Distribution(name, one.version(name), package)
        return found

    # -- members ----------------------------------------------------------------------------------------------------

    def _build_component(self, one: BuildSet, members: Sequence[str]) -> None:
        builds: dict[str, Build] = {}
        for name in members:
            if name in one.roots:
                builds[name] = one.roots[name]
            elif (made := self.finished.get(_key(one, name))) is not None:
                one.builds[name] = made.build_id
                one.closure.add(self._stored(made))
            elif (ready := self._find_ready(one, name)) is not None:
                self._use_ready(one, name, ready)
            else:
                builds[name] = build = self._begin(request_for(one, name))
                self.others.append(build)
                self.order.append(build.work.build_id)
                one.builds[name] = build.work.build_id
                build.work.closure = one.closure
                if not self._inspect(build):
                    self._give_up(one, name, build, builds)
                    return
        self._build_together(one, builds)

    def _build_together(self, one: BuildSet, builds: Mapping[str, Build]) -> None:
        """Nobody's packages are published before all that need each other have been installed and tried."""
        for name, build in builds.items():
            self._learn(build, {other: one.builds[other] for other in one.below(name)})
        for phase in (Phase.VERIFY, Phase.COLLECT):
            for name, build in builds.items():
                well = build.until(phase)
                if well and phase is Phase.VERIFY and len(builds) > 1:
                    # Nothing has judged these packages yet: what cannot even be read ends its own build.
                    well = build.aside(Phase.VERIFY, functools.partial(one.closure.add, _sealed(build.facts[Compiled])))
                if not well:
                    self._give_up(one, name, build, builds)
                    return
        for name, build in builds.items():
            outcome = build.finish()
            if outcome.status is not Status.BUILT:
                self._give_up(one, name, build, builds)
                return
            self.finished[_key(one, name)] = outcome
            one.closure.add(self._stored(outcome))

    def _stored(self, outcome: Outcome) -> list[Artifact]:
        store = self.context.dirs.artifacts / outcome.build_id
        return [replace(item, path=store / item.path.name) for item in outcome.artifacts]

    def _give_up(self, one: BuildSet, name: str, culprit: Build, builds: Mapping[str, Build]) -> None:
        """End what cannot be built without a member whose build has failed, or raise for an older release of that to be tried."""
        means = failure_by(culprit.finish(), one.chosen.pinned.get(name))
        if self._lower_cap(one, name, culprit, builds):
            for build in builds.values():
                build.fail(means)
            raise _TryOlderError(name)
        for other, build in {**builds, **one.roots}.items():
            if build.outcome is None and name in reachable(one.chosen.needs, [other]):
                build.fail(means)

    def _lower_cap(self, one: BuildSet, name: str, culprit: Build, builds: Mapping[str, Build]) -> bool:
        """Whether an older release of the member is to be tried: nobody asked for this one, and nothing asked for is half built."""
        if self.only_asked or not one.roots.keys().isdisjoint(builds):
            return False
        outcome, known = culprit.finish(), self._caps(culprit)
        failure, means = outcome.failure, failure_by(outcome, one.chosen.pinned.get(name))
        assert failure is not None, "it has failed"
        self.culprits.setdefault((culprit.work.request.target, name), means)
        why = f"{failure.failure_class} in {failure.phase}: {failure.brief[:120]}"
        lower = lowered(known.get(name), one.version(name), failure_class=failure.failure_class, why=why)
        if lower is not None:
            known[name] = lower
        return lower is not None

    def _find_ready(self, one: BuildSet, name: str) -> Ready | None:
        pinned, request = one.chosen.pinned[name], request_for(one, name)
        if request.rebuild:
            return None
        return find_ready(
            self.ledger,
            self.context.dirs,
            name=name,
            version=pinned.version,
            target=request.target,
            # Where the index tells no hash, the archive itself does: the cache files everything by content.
            sha256=pinned.sdist.hashes.get("sha256") or self.context.index.fetch(pinned.sdist).parent.name,
            # Who may use the suite's own packages only gets no others.
            like={"strict_debian": True} if request.strict_debian else None,
            override=self.context.overrides.find(name, pinned.version, request.target).digest,
            package=chosen.package if (chosen := one.closure.chosen.get(name)) is not None else None,
        )

    def _use_ready(self, one: BuildSet, name: str, ready: Ready) -> None:
        outcome, output = ready.outcome(), request_for(one, name).output
        one.closure.add(ready.artifacts)
        one.builds[name] = outcome.build_id
        if outcome.build_id in self.order:
            return
        if output is not None:
            home = hand_over(self.context.dirs.artifacts / outcome.build_id, output)
            moved = tuple(replace(item, path=home / item.path.name) for item in outcome.artifacts)
            outcome = replace(outcome, artifacts=moved)
        self.order.append(outcome.build_id)
        self.ready.append(outcome)

    # -- the end ----------------------------------------------------------------------------------------------------

    def outcome(self) -> FamilyOutcome:
        """All outcomes; those of what was asked for name what has to be installed with them."""
        builds = [*self.asked, *self.others]
        outcomes = [build.outcome for build in builds if build.outcome is not None] + self.ready
        by_id = {outcome.build_id: outcome for outcome in outcomes}
        needed = {
            one.builds[name]: tuple(by_id[one.builds[other]] for other in one.below(name) if other in one.builds)
            for one in self.sets
            for name in one.chosen.needs
            if name in one.builds
        }
        told = {build_id: _with_dependencies(item, needed.get(build_id, ())) for build_id, item in by_id.items()}
        return FamilyOutcome(
            asked=tuple(told[build.work.build_id] for build in self.asked),
            others=tuple(told[build_id] for build_id in self.order),
            errors={build.work.build_id: build.error for build in builds if build.error is not None},
            lacking=tuple(self.lacking.values()),
        )


class _TryOlderError(Exception):
    """A member that nobody asked for has failed, and an older release of it may do."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _key(one: BuildSet, name: str) -> tuple[Target, str, str]:
    return next(iter(one.roots.values())).work.request.target, name, one.version(name)


def _sealed(compiled: Compiled) -> list[Artifact]:
    return [Artifact(path=item.path, sha256=item.sha256, size_bytes=item.size_bytes) for item in compiled.files]


def _with_dependencies(outcome: Outcome, needed: Iterable[Outcome]) -> Outcome:
    if outcome.status is not Status.BUILT:
        return outcome
    return replace(
        outcome,
        dependencies=tuple(
            BuiltPackages(build_id=o.build_id, name=o.name, version=o.version, artifacts=o.artifacts) for o in needed
        ),
    )
