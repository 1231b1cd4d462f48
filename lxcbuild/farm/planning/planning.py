"""Makes a plan: which release of everything, what the suites ship already, who needs whom, what needs each other.

All pages and metadata are fetched in waves, many at once: first those of what was asked for, then those of what that needs, and so
on. Then versions are chosen for one project after the other, each keeping to what was chosen before wherever that does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct, field
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from lxcbuild.builder.failures import failure_of
from lxcbuild.builder.request import BuildRequest
from lxcbuild.config.policies import load_policy
from lxcbuild.debian.names import Distribution
from lxcbuild.debian.relations import TargetPython
from lxcbuild.errors import DependencyError, LxcbuildError, NetworkError
from lxcbuild.farm.jobs import estimate_for, options_text
from lxcbuild.ledger.costs import Cost
from lxcbuild.model import FailureClass, Phase, Target
from lxcbuild.plan.document import Member, Official, Plan, PlannedJob, PlannedTarget, Refused, merge_cycles
from lxcbuild.pypi.index.client import parse_requirement
from lxcbuild.pypi.index.concurrent import CrowdClient
from lxcbuild.pypi.index.model import Release
from lxcbuild.pypi.versions.required import read_requirements
from lxcbuild.pypi.versions.runtimeset import Known, Root, RuntimeRules, RuntimeSet, Shipped, resolve_runtime_set
from lxcbuild.pypi.versions.selection import ReleaseFiles, choose_release, releases_by_version
from lxcbuild.pypi.versions.version_caps import Ceilings


class PlannedSuite(Struct, frozen=True):
    """A target as plans need to know it. ``find``: who ships a project there; ``caps``: what cannot be built there."""

    target: Target
    python: str  # complete: 3.11.2
    image: str  # digest
    find: Callable[[str], Distribution | None]
    caps: Ceilings = field(default_factory=dict)


class PlanRequest(Struct, frozen=True, kw_only=True):
    """What was asked for: requirements for every target, and what all builds have in common."""

    requests: Sequence[BuildRequest]
    policy: str


Costs = Callable[[Iterable[str]], Mapping[tuple[str, str], Cost]]


def make_plan(
    wanted: PlanRequest, suites: Sequence[PlannedSuite], *, index: CrowdClient, costs: Costs, cpus: float
) -> Plan:
    """The plan. What cannot be planned is in it as refused; raises NetworkError when the index cannot be asked at all."""
    known = Known()
    makers = [_Maker(wanted=wanted, suite=suite, index=index, known=known) for suite in suites]
    for maker in makers:
        maker.prefetch()
        maker.choose()
    names = {name for maker in makers for name, _ in maker.nodes.values()}
    spent = costs(names)
    like = wanted.requests[0] if wanted.requests else BuildRequest(requirement="", target=suites[0].target)
    return Plan(
        targets={str(s.target): PlannedTarget(python=s.python, image=s.image) for s in suites},
        options=options_text(like.options),
        official=tuple(item for maker in makers for item in maker.official),
        refused=tuple(item for maker in makers for item in maker.refused),
        jobs={key: job for maker in makers for key, job in maker.jobs(spent, cpus=cpus).items()},
    )


class _Maker(Struct, kw_only=True):
    """The part of a plan that is one target's. Nodes are ``name==version``."""

    wanted: PlanRequest
    suite: PlannedSuite
    index: CrowdClient
    known: Known
    official: list[Official] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    roots: dict[str, Release] = field(default_factory=dict)
    nodes: dict[str, tuple[str, str]] = field(default_factory=dict)
    needs: dict[str, set[str]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    pins: dict[str, str] = field(default_factory=dict)
    _shipped: dict[str, Shipped | None] = field(default_factory=dict)

    # -- waves ------------------------------------------------------------------------------------------------------

    def prefetch(self) -> None:
        """Settle what was asked for, and have everything fetched that choosing versions will probably ask for."""
        asked = [request for request in self.wanted.requests if self._is_meant(request)]
        found = self.index.each(self._root, asked)
        frontier: list[tuple[str, Version]] = []
        for request, release in zip(asked, found, strict=True):
            if isinstance(release, Release):
                self.roots[release.name] = release
                frontier.append((release.name, Version(release.version)))
            elif isinstance(release, LxcbuildError):
                self._refuse(request.requirement, release)
        seen = set(frontier)
        while frontier:
            required = self.index.each(self._requires, frontier)
            asks = [text for item in required if not isinstance(item, LxcbuildError) for text in item]
            guessed = self.index.each(self._guess, list(dict.fromkeys(asks)))
            frontier = []
            for guess in guessed:
                if isinstance(guess, NetworkError):
                    raise guess
                if isinstance(guess, tuple) and guess not in seen:
                    seen.add(guess)
                    frontier.append(guess)

    def _is_meant(self, request: BuildRequest) -> bool:
        """Whether its marker holds here, and the suite does not ship it."""
        requirement = parse_requirement(request.requirement)
        if not self._python.applies(requirement):
            return False
        if request.force:
            return True
        shipped = self.suite.find(requirement.name)
        if shipped is None or not _fits(requirement.specifier, shipped.version):
            return True
        name = canonicalize_name(requirement.name)
        self.official.append(Official(target=str(self.suite.target), name=name, version=shipped.version))
        return False

    def _root(self, request: BuildRequest) -> Release:
        requirement = parse_requirement(request.requirement)
        files = self.index.files(requirement.name)
        release = choose_release(requirement, files, python_version=self.suite.python, allow_pre=None)
        self._listed(release.name)
        return release

    def _listed(self, name: str) -> list[ReleaseFiles]:
        if name not in self.known.listed:
            self.known.listed[name] = releases_by_version(name, self.index.files(name))
        return self.known.listed[name]

    def _requires(self, node: tuple[str, Version]) -> tuple[str, ...]:
        name, version = node
        if (name, version) not in self.known.requires:
            same = next((item for item in self._listed(name) if item.version == version), None)
            found = read_requirements(self.index, same, read_sdist=lambda _: None) if same is not None else None
            self.known.requires[name, version] = found or ()
        return self.known.requires[name, version]

    def _guess(self, text: str) -> tuple[str, Version] | None:
        """The release that will probably be chosen for a requirement; None when the suite has one, or there is none."""
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            return None
        if requirement.url is not None or not self._python.applies(requirement):
            return None
        name = canonicalize_name(requirement.name)
        shipped = self._shipped_of(name)
        if shipped is not None and _fits(requirement.specifier, str(shipped.version) if shipped.version else None):
            return None
        if name in self.roots and _fits(requirement.specifier, self.roots[name].version):
            return None
        python = Version(self.suite.python)
        fitting = [r for r in self._listed(name) if r.sdists and r.admits(python) and r.yanked is None]
        versions = set(requirement.specifier.filter(r.version for r in fitting))
        return max(((name, r.version) for r in fitting if r.version in versions), default=None)

    # -- choices ----------------------------------------------------------------------------------------------------

    def choose(self) -> None:
        """Choose versions for everything that was asked for and what that needs."""
        self.pins.update({name: release.version for name, release in self.roots.items()})
        for name, release in sorted(self.roots.items()):
            version = Version(release.version)
            try:
                requires = self._requires((name, version))
                chosen = resolve_runtime_set(
                    [Root(name=name, version=version, requires=requires)],
                    index=self.index,
                    rules=self._rules(),
                    known=self.known,
                )
            except NetworkError:
                raise
            except LxcbuildError as error:
                self._refuse(f"{name}=={release.version}", error)
                continue
            self._add(release, chosen)

    def _rules(self) -> RuntimeRules:
        request = self.wanted.requests[0]
        return RuntimeRules(
            markers=self._python.environment(),
            shipped=self._shipped_of,
            read_sdist=lambda _: None,
            distribution=str(self.suite.target),
            allow_newer=request.newer_than_official,
            preferred=self.pins,
            caps=self.suite.caps,
        )

    def _add(self, root: Release, chosen: RuntimeSet) -> None:
        version = {root.name: root.version, **{name: pinned.version for name, pinned in chosen.pinned.items()}}
        for name, needs in chosen.needs.items():
            node = f"{name}=={version[name]}"
            if node not in self.nodes:
                self.nodes[node] = (name, version[name])
                self.needs[node] = {f"{other}=={version[other]}" for other in needs}
                sdist = root.sdist if name == root.name else chosen.pinned[name].sdist
                self.hashes[node] = sdist.hashes.get("sha256", "")
                self.pins.setdefault(name, version[name])

    # -- result -----------------------------------------------------------------------------------------------------

    def jobs(self, costs: Mapping[tuple[str, str], Cost], *, cpus: float) -> dict[str, PlannedJob]:
        """All jobs, cycles as one."""
        target = str(self.suite.target)
        made = {}
        for key, (nodes, needs) in merge_cycles(self.needs, self.nodes, target).items():
            members = tuple(sorted((self._member(node) for node in nodes), key=lambda member: member.name))
            policy = load_policy(self.wanted.policy, package=members[0].name)
            spent = [costs[m.name, target] for m in members if (m.name, target) in costs]
            made[key] = PlannedJob(
                target=target,
                members=members,
                needs=tuple(sorted(needs)),
                policy=self.wanted.policy,
                backend=policy.backend.value,
                estimate=estimate_for(
                    [(cost.seconds, cost.cpu_s, cost.peak_memory_bytes) for cost in spent],
                    members=len(members),
                    limit_bytes=policy.memory.max_bytes,
                    cpus=cpus,
                ),
            )
        return made

    def _member(self, node: str) -> Member:
        name, version = self.nodes[node]
        listed = next((r for r in self.known.listed.get(name, ()) if str(r.version) == version), None)
        asked = name in self.roots and self.roots[name].version == version
        return Member(
            name=name,
            version=version,
            requirement=node,
            sha256=self.hashes[node],
            asked=asked,
            requirements_known=bool(listed is not None and listed.wheels),
            has_older=self._has_older(name, Version(version)),
        )

    def _has_older(self, name: str, version: Version) -> bool:
        python = Version(self.suite.python)
        return any(r.version < version and r.sdists and r.admits(python) for r in self.known.listed.get(name, ()))

    @property
    def _python(self) -> TargetPython:
        return TargetPython(self.suite.python, self.suite.target.architecture)

    def _shipped_of(self, name: str) -> Shipped | None:
        if name not in self._shipped:
            found = self.suite.find(name)
            self._shipped[name] = (
                Shipped(version=_version(found.version), text=f"{found.version} ({found.package})") if found else None
            )
        return self._shipped[name]

    def _refuse(self, requirement: str, error: LxcbuildError) -> None:
        if isinstance(error, NetworkError):
            raise error
        failure = failure_of(error, Phase.RESOLVE)
        kind = FailureClass.DEP_MISSING if isinstance(error, DependencyError) else failure.failure_class
        self.refused.append(
            Refused(
                target=str(self.suite.target), requirement=requirement, failure=kind.value, brief=error.brief[:1000]
            )
        )


def _fits(specifier: SpecifierSet, version: str | None) -> bool:
    found = _version(version)
    return found is None or specifier.contains(found, prereleases=True)


def _version(text: str | None) -> Version | None:
    try:
        return Version(text) if text else None
    except InvalidVersion:
        return None
