"""Builds what was asked for together, as one set of projects that fit each other.

All of it is inspected; then one set of versions is chosen (:mod:`lxcbuild.builder.needs.dependencies`). What else belongs to the
set has to be there: whoever calls builds that first, and then calls again. Each build has sandboxes of its own. Projects that need
each other are compiled first and verified together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace
from packaging.version import Version

from lxcbuild.builder.closure import Closure
from lxcbuild.builder.context import BuildContext
from lxcbuild.builder.driver import Build
from lxcbuild.builder.facts import Compiled, Inspected
from lxcbuild.builder.failures import PhaseFailedError
from lxcbuild.builder.needs import dependencies
from lxcbuild.builder.needs.naming import future_names
from lxcbuild.builder.phases.collect import hand_over
from lxcbuild.builder.ready import Ready, find_ready, recorded_request
from lxcbuild.builder.request import BuildRequest, MissingRelease
from lxcbuild.builder.sets import BuildSet, failure_by, notes, plain, request_for, resolved, without_namesakes
from lxcbuild.builder.work import Work
from lxcbuild.debian.names import Distribution
from lxcbuild.errors import LxcbuildError
from lxcbuild.ledger.records import NewBuild, Records
from lxcbuild.model import Artifact, BuiltPackages, Outcome, Phase, SourceKind, Status, Target
from lxcbuild.plan.dependencies import components, reachable
from lxcbuild.pypi.versions.runtimeset import RuntimeSet
from lxcbuild.pypi.versions.version_caps import Ceilings

#: Builds of releases that have failed, by project and version.
Failed = Mapping[tuple[str, str], Outcome]


class FamilyOutcome(Struct, frozen=True, kw_only=True):
    """How builds ended, or what has to be built before.

    ``asked`` has one outcome per request, in their order; ``others`` those of what they needed, each after all that it needs.
    ``errors`` has what ended a build, by its id, where that was an error and not something that a phase found. Where there is
    something ``lacking``, nothing has ended yet: it has to be built first. ``pins`` are the versions that were chosen with it.
    """

    asked: tuple[Outcome, ...] = ()
    others: tuple[Outcome, ...] = ()
    errors: Mapping[str, LxcbuildError] = field(default_factory=dict)
    lacking: tuple[MissingRelease, ...] = ()
    pins: Mapping[str, str] = field(default_factory=dict)


class Family(Struct, kw_only=True):
    """What was asked for together, each recorded in the ledger under the policy's name.

    Whatever else is needed must be there already, or :meth:`build` says what is lacking: somebody else builds that, and calls it
    again. Only what needs one of the requests in turn is built with it. ``caps`` are the version caps of a target; ``made`` knows
    the builds of this run, which count although everything is to be built again.
    """

    requests: Sequence[BuildRequest]
    context: BuildContext
    ledger: Records
    policy: str
    caps: Callable[[Target], Ceilings]
    asked: list[Build] = field(default_factory=list)
    others: list[Build] = field(default_factory=list)
    ready: list[Outcome] = field(default_factory=list)
    order: list[str] = field(default_factory=list)  # ids of what nobody asked for by name
    waiting: list[BuildSet] = field(default_factory=list)
    sets: list[BuildSet] = field(default_factory=list)
    finished: dict[tuple[Target, str, str], Outcome] = field(default_factory=dict)

    def build(self, *, made: Records, failed: Failed) -> FamilyOutcome:
        """Build everything, or as much as is possible before what is lacking; ``failed`` is what nobody can build.

        Never raises for what goes wrong with builds: that is in the outcomes. An interruption ends all of them and is raised again.
        """
        try:
            if not self.asked:
                self._begin_all()
            while self.waiting:
                one = self.waiting[0]
                absent = self._absent(one, made)
                hopeless = [name for name in absent if (name, one.version(name)) in failed]
                if hopeless:
                    self._do_without(one, hopeless[0], failed)
                elif absent:
                    versions = {name: one.version(name) for name in one.chosen.needs}
                    return FamilyOutcome(lacking=tuple(_missing(one, name) for name in absent), pins=versions)
                else:
                    self._build_set(one, made)
                    del self.waiting[0]
        except BaseException:
            self.cancel()
            raise
        return self._outcome()

    def cancel(self) -> None:
        """End what has not ended, because nobody waits for it any more."""
        for build in (*self.asked, *self.others):
            build.cancel()

    def put_aside(self) -> None:
        """End what has not ended without a trace: it begins anew elsewhere."""
        for build in (*self.asked, *self.others):
            build.put_aside()

    def _begin_all(self) -> None:
        inspected: dict[Target, list[Build]] = {}
        for request in dict.fromkeys(self.requests):
            build = self._begin(request)
            self.asked.append(build)
            if request.kind is SourceKind.DSC:
                build.finish()
            elif self._inspect(build):
                inspected.setdefault(request.target, []).append(build)
        for builds in inspected.values():
            for members in without_namesakes(builds):
                for one in self._sets(members):
                    self._wait_for(one)

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
                    build.work.note(f"the requested projects need different versions, so each is built alone: {brief}")
        return [one for build in going if (one := self._alone(build, needs=bool(absent[build.work.name])))]

    def _alone(self, build: Build, *, needs: bool) -> BuildSet | None:
        if not needs:
            return plain(build)
        well = build.aside(Phase.INSPECT, lambda: self._resolve([build]))
        return resolved([build], build.facts[RuntimeSet]) if well else None

    def _resolve(self, builds: Sequence[Build]) -> RuntimeSet:
        projects = [(build.work, build.facts[Inspected]) for build in builds]
        return dependencies.resolve(projects, self.caps(builds[0].work.request.target))

    def _wait_for(self, one: BuildSet) -> None:
        """Let a set be built: names and versions of all that belongs to it are known from here on."""
        self.waiting.append(one)
        self.sets.append(one)
        if len(one.chosen.needs) > 1:
            one.closure = Closure(chosen=self._names(one), extras=one.chosen.extras)
        elif one.chosen.extras:
            one.closure = Closure(extras=one.chosen.extras)
        for name, build in one.roots.items():
            build.work.closure = one.closure
            one.builds[name] = build.work.build_id
            if len(one.chosen.needs) > 1:
                for text in notes(one, name, self.caps(build.work.request.target)):
                    build.work.note(text)

    def _absent(self, one: BuildSet, made: Records) -> list[str]:
        """What has to be built before, each after all that it needs. What needs a root in turn is built with it."""
        found = []
        for members in components(one.chosen.needs):
            if one.roots.keys().isdisjoint(members):
                alive = one.alive()
                found += [name for name in members if name in alive and not self._is_there(one, name, made)]
        return found

    def _is_there(self, one: BuildSet, name: str, made: Records) -> bool:
        if name not in one.found and _key(one, name) not in self.finished:
            ready = self._find_ready(one, name, made)
            if ready is not None:
                one.found[name] = ready
        return name in one.found or _key(one, name) in self.finished

    def _do_without(self, one: BuildSet, name: str, failed: Failed) -> None:
        """Choose an older release of what cannot be built; where there is none, those that need it end with it."""
        going = [build for build in one.roots.values() if build.outcome is None]
        cap = self.caps(going[0].work.request.target).get(name)
        if cap is not None and cap.covers(one.version(name)):
            try:
                other = resolved(going, self._resolve(going))
            except (PhaseFailedError, LxcbuildError) as nothing:
                for build in going:
                    build.work.finish_sandbox()
                    if name in reachable(one.chosen.needs, [build.work.name]):
                        why = nothing.failure.brief if isinstance(nothing, PhaseFailedError) else nothing.brief
                        build.work.note(f"no older release does: {why}")
            else:
                del self.waiting[0]
                self._wait_for(other)
                self.waiting.insert(0, self.waiting.pop())
                return
        newest = max((version for project, version in failed if project == name), key=Version)
        for build in going:
            if name in reachable(one.chosen.needs, [build.work.name]):
                build.fail(failure_by(failed[name, newest], one.chosen.pinned.get(name)))

    def _build_set(self, one: BuildSet, made: Records) -> None:
        for members in components(one.chosen.needs):
            alive = one.alive()
            self._build_component(one, [name for name in members if name in alive], made)

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

    def _build_component(self, one: BuildSet, members: Sequence[str], made: Records) -> None:
        builds: dict[str, Build] = {}
        for name in members:
            if name in one.roots:
                builds[name] = one.roots[name]
            elif (before := self.finished.get(_key(one, name))) is not None:
                one.builds[name] = before.build_id
                one.closure.add(self._stored(before))
            elif self._is_there(one, name, made):
                self._use_ready(one, name, one.found[name])
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
        """End what cannot be built without a member whose build has failed."""
        means = failure_by(culprit.finish(), one.chosen.pinned.get(name))
        for other, build in {**builds, **one.roots}.items():
            if build.outcome is None and name in reachable(one.chosen.needs, [other]):
                build.fail(means)

    def _find_ready(self, one: BuildSet, name: str, made: Records) -> Ready | None:
        pinned, request = one.chosen.pinned[name], request_for(one, name)
        return find_ready(
            made if request.rebuild else self.ledger,
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

    def _outcome(self) -> FamilyOutcome:
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
        )


def _missing(one: BuildSet, name: str) -> MissingRelease:
    needs = tuple(sorted(one.chosen.needs[name]))
    return MissingRelease(name=name, version=one.version(name), needs=needs, request=request_for(one, name))


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
