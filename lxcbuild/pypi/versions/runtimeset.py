"""Chooses what projects need at run time: packages of the distribution where they satisfy, else releases that have sources.

The distribution's package is a candidate like any other and always the first one; what it needs itself is for the
distribution's own package manager. Releases of the index follow, newest first, if they have a source archive, admit the
target's Python and were not taken back. What a release requires is read from a wheel's metadata where there is one (alone,
where the index offers that), else by the caller from the source archive.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import resolvelib
from msgspec import Struct, field
from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from lxcbuild.errors import BadNameError, BrokenSdistError, DependencyError, UnknownProjectError
from lxcbuild.pypi.files.identity import canonical
from lxcbuild.pypi.index.asks import Ask as _Ask
from lxcbuild.pypi.index.asks import Candidate as _Candidate
from lxcbuild.pypi.index.client import Index
from lxcbuild.pypi.index.model import IndexFile
from lxcbuild.pypi.versions.required import read_requirements
from lxcbuild.pypi.versions.selection import ReleaseFiles, best_sdist, is_pinned, releases_by_version
from lxcbuild.pypi.versions.version_caps import Ceilings

_MAX_ROUNDS = 5000
#: How many versions of one project are worth trying before the requirement counts as unsatisfiable.
_MAX_CANDIDATES = 40
_MAX_REQUIREMENTS = 2000


class Shipped(Struct, frozen=True, kw_only=True):
    """What the distribution ships of a project. ``version`` is None when nobody can tell: then it satisfies everything."""

    version: Version | None
    text: str  # for people: version and package


class Root(Struct, frozen=True, kw_only=True):
    """A project that is to be built whatever else happens; ``requires`` is its ``Requires-Dist``."""

    name: str  # normalised
    version: Version
    requires: tuple[str, ...]


class Pinned(Struct, frozen=True, kw_only=True):
    """A release that has to be built. ``wanted`` are the requirements that it answers, each with who has it."""

    name: str
    version: str
    sdist: IndexFile
    wanted: tuple[str, ...]
    shipped: Shipped | None  # what the distribution has instead, and does not do


class RuntimeSet(Struct, frozen=True, kw_only=True):
    """The result: what to build, who of the roots and pinned releases needs whom of them, and what extras of others mean."""

    pinned: Mapping[str, Pinned]
    needs: Mapping[str, frozenset[str]]
    extras: Mapping[tuple[str, str], tuple[str, ...]]  # by project and extra: the requirements that the extra adds


class RuntimeRules(Struct, frozen=True, kw_only=True):
    """The target, as this room needs to know it.

    ``markers`` are PEP 508's variables there. ``shipped`` asks the distribution. ``read_sdist`` gives the ``Requires-Dist`` of a
    source archive (in a sandbox, so not this room's business), or None when that cannot be known without building it; it raises
    :class:`DependencyError`. ``allow_newer``: whether a release may take the place of a package that the distribution ships.
    ``preferred`` are versions of projects that are tried before newer ones, because others have chosen them already; ``caps``
    leave out what was tried and cannot be built.
    """

    markers: Mapping[str, str]
    shipped: Callable[[str], Shipped | None]
    read_sdist: Callable[[IndexFile], tuple[str, ...] | None]
    distribution: str  # for people
    allow_newer: bool = True
    preferred: Mapping[str, str] = field(default_factory=dict)
    caps: Ceilings = field(default_factory=dict)

    @property
    def python_version(self) -> Version:
        """The full version of the target's Python."""
        return Version(self.markers["python_full_version"])

    def applies(self, requirement: Requirement, extras: Iterable[str] = ()) -> bool:
        """Whether the marker holds on the target, for any of the extras or for none."""
        if requirement.marker is None:
            return True
        try:
            return any(requirement.marker.evaluate({**self.markers, "extra": extra}) for extra in ("", *sorted(extras)))
        except (UndefinedComparison, UndefinedEnvironmentName):
            return False


class Known(Struct, frozen=True):
    """What was found out of an index, for choices that follow: releases by project, requirements by project and version."""

    listed: dict[str, list[ReleaseFiles]] = field(default_factory=dict)
    requires: dict[tuple[str, Version | None], tuple[str, ...]] = field(default_factory=dict)


def resolve_runtime_set(
    roots: Sequence[Root], *, index: Index, rules: RuntimeRules, known: Known | None = None
) -> RuntimeSet:
    """Choose. Raises :class:`DependencyError`, whose brief and details are for people, and :class:`NetworkError`."""
    known = known or Known()
    provider = _Provider(
        index=index,
        rules=rules,
        roots={root.name: root for root in roots},
        _listed=known.listed,
        _requires=known.requires,
    )
    wanted = [_Ask(requirement=Requirement(root.name)) for root in roots]
    try:
        result = resolvelib.Resolver(provider, resolvelib.BaseReporter()).resolve(wanted, max_rounds=_MAX_ROUNDS)
    except resolvelib.ResolutionImpossible as error:
        raise provider.explain([cause.requirement for cause in error.causes]) from None
    except resolvelib.ResolutionTooDeep:
        raise DependencyError("the requirements are too entangled to choose versions") from None
    return provider.conclude(list(result.mapping.values()))


_Key = tuple[str, frozenset[str]]


class _Provider(Struct, resolvelib.AbstractProvider[_Ask, _Candidate, _Key], kw_only=True):
    """A project with extras is a candidate of its own, which requires the very same version of the project without them."""

    index: Index
    rules: RuntimeRules
    roots: Mapping[str, Root]
    _listed: dict[str, list[ReleaseFiles]] = field(default_factory=dict)
    _requires: dict[tuple[str, Version | None], tuple[str, ...]] = field(default_factory=dict)
    _broken: dict[tuple[str, Version | None], str] = field(default_factory=dict)
    _shipped: dict[str, Shipped | None] = field(default_factory=dict)

    def identify(self, requirement_or_candidate: _Ask | _Candidate) -> _Key:
        """Normalised name and extras; what is broken is asked for under a name that nothing has."""
        item = requirement_or_candidate
        if isinstance(item, _Candidate):
            return item.name, item.extras
        name = canonicalize_name(item.requirement.name)
        if item.broken is not None:
            return f"{name} (broken)", frozenset()
        return name, frozenset(canonical(extra) for extra in item.requirement.extras)

    def get_preference(
        self, identifier: _Key, resolutions: Any, candidates: Any, information: Any, backtrack_causes: Any
    ) -> Any:
        """Roots, then what made others impossible, then what is pinned, then by name: the same inputs take the same way."""
        del resolutions, candidates
        causes = {canonicalize_name(cause.requirement.requirement.name) for cause in backtrack_causes}
        pinned = any(is_pinned(item.requirement.requirement.specifier) for item in information[identifier])
        name = identifier[0]
        return name not in self.roots, name not in causes, not pinned, name, sorted(identifier[1])

    def find_matches(
        self,
        identifier: _Key,
        requirements: Mapping[_Key, Iterator[_Ask]],
        incompatibilities: Mapping[_Key, Iterator[_Candidate]],
    ) -> Callable[[], Iterator[_Candidate]]:
        """The root of that name alone; else what the distribution ships, and then the index's releases, newest first.

        The index is asked when somebody wants more than the first candidate.
        """
        name, extras = identifier
        asks = [ask for key in requirements if key[0] == name for ask in requirements[key]]
        impossible = any(ask.broken for ask in asks)
        specifier = SpecifierSet()
        for ask in asks:
            specifier &= ask.requirement.specifier
        excluded = {candidate.version for candidate in incompatibilities[identifier]}

        def matches() -> Iterator[_Candidate]:
            found = iter(()) if impossible else self._candidates(name, extras, specifier)
            return itertools.islice((c for c in found if c.version not in excluded), _MAX_CANDIDATES)

        return matches

    def is_satisfied_by(self, requirement: _Ask, candidate: _Candidate) -> bool:
        """Whether the version fits; pre-releases were sorted out before."""
        return _fits(requirement.requirement.specifier, candidate.version)

    def get_dependencies(self, candidate: _Candidate) -> list[_Ask]:
        """What the candidate requires on the target; of what the distribution ships, only what its extras add."""
        found = []
        if candidate.extras:
            pin = f"==={candidate.version}" if candidate.version is not None else ""
            found.append(_Ask(requirement=Requirement(f"{candidate.name}{pin}"), parent=candidate))
        try:
            requires = self._requirements_of(candidate)
        except (DependencyError, BrokenSdistError) as error:
            if candidate.sdist is None and not candidate.root:
                return found  # the distribution has it whatever the index says of its extras
            self._broken[candidate.name, candidate.version] = error.brief
            return [_Ask(requirement=Requirement(candidate.name), parent=candidate, broken=error.brief)]
        for text in requires:
            ask = self._ask(text, candidate)
            if ask is not None:
                found.append(ask)
        return found

    def _ask(self, text: str, candidate: _Candidate) -> _Ask | None:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            if not candidate.root:
                return None  # as pip does with metadata of old releases
            raise DependencyError(f"{text[:200]!r} is not a requirement") from None
        if not self.rules.applies(requirement, candidate.extras):
            return None
        if candidate.extras and self.rules.applies(requirement):
            return None  # the candidate without extras requires it already
        broken = None
        if requirement.url is not None:
            broken = f"{requirement.name} is asked for by URL, which no package can be"
        return _Ask(requirement=requirement, parent=candidate, broken=broken)

    # -- what there is --------------------------------------------------------------------------------------------

    def _candidates(self, name: str, extras: frozenset[str], specifier: SpecifierSet) -> Iterator[_Candidate]:
        if name in self.roots:
            root = self.roots[name]
            if _fits(specifier, root.version):
                yield _Candidate(name=name, version=root.version, extras=extras, root=True)
            return
        shipped = self.shipped(name)
        if shipped is not None and _fits(specifier, shipped.version):
            yield _Candidate(name=name, version=shipped.version, extras=extras)
        if shipped is not None and not self.rules.allow_newer:
            return
        liked = self.rules.preferred.get(name)
        for release in sorted(self._usable(name, specifier), key=lambda item: str(item.version) != liked):
            sdist = best_sdist(release, self.rules.python_version)
            if sdist is not None and (shipped is None or release.version != shipped.version):
                yield _Candidate(
                    name=name, version=release.version, extras=extras, sdist=sdist, wheels=tuple(release.wheels)
                )

    def _usable(self, name: str, specifier: SpecifierSet, *, sources: bool = True) -> list[ReleaseFiles]:
        """Releases that satisfy, newest first; PEP 440's rule for pre-releases looks at those that could be built."""
        pinned = is_pinned(specifier)
        could = [
            release
            for release in self.releases(name)
            if (release.sdists or not sources)
            and release.admits(self.rules.python_version)
            and (release.yanked is None or pinned)
        ]
        if name in self.rules.caps:
            could = self.rules.caps[name].leaves(could)
        versions = set(specifier.filter(release.version for release in could))
        return [release for release in reversed(could) if release.version in versions]

    def shipped(self, name: str) -> Shipped | None:
        """What the distribution ships of a project."""
        if name not in self._shipped:
            try:
                self._shipped[name] = self.rules.shipped(name)
            except BadNameError:
                self._shipped[name] = None
        return self._shipped[name]

    def releases(self, name: str) -> list[ReleaseFiles]:
        """What the index lists, oldest first; nothing for a project that it does not know."""
        if name not in self._listed:
            try:
                files = self.index.files(name)
            except (UnknownProjectError, BadNameError):
                files = ()
            self._listed[name] = releases_by_version(name, files)
        return self._listed[name]

    # -- what is required -----------------------------------------------------------------------------------------

    def _requirements_of(self, candidate: _Candidate) -> tuple[str, ...]:
        if candidate.root:
            return self.roots[candidate.name].requires
        if candidate.sdist is None and not candidate.extras:
            return ()
        key = candidate.name, candidate.version
        if key in self._broken:
            raise DependencyError(self._broken[key])
        if key not in self._requires:
            found = read_requirements(self.index, self._files_of(candidate), read_sdist=self.rules.read_sdist)
            self._requires[key] = (found or ())[:_MAX_REQUIREMENTS]
        return self._requires[key]

    def _files_of(self, candidate: _Candidate) -> ReleaseFiles:
        """The index's files of that version; for what the distribution ships, they say what its extras are."""
        same = [release for release in self.releases(candidate.name) if release.version == candidate.version]
        return same[0] if same else ReleaseFiles(candidate.version or Version("0"))

    # -- the end --------------------------------------------------------------------------------------------------

    def conclude(self, chosen: Sequence[_Candidate]) -> RuntimeSet:
        """The result as data."""
        built = {c.name: c for c in chosen if c.root or c.sdist is not None}
        wanted: dict[str, dict[str, None]] = {}
        extras: dict[tuple[str, str], tuple[str, ...]] = {}
        for candidate in chosen:
            for ask in self.get_dependencies(candidate):
                name = str(canonicalize_name(ask.requirement.name))
                if name != candidate.name:
                    wanted.setdefault(name, {})[str(ask)] = None
            for extra in candidate.extras:
                extras[candidate.name, extra] = self._added_by(candidate, extra)
        pinned = {
            c.name: Pinned(
                name=c.name,
                version=str(c.version),
                sdist=c.sdist,
                wanted=tuple(wanted.get(c.name, ())),
                shipped=self.shipped(c.name),
            )
            for c in built.values()
            if c.sdist is not None
        }
        return RuntimeSet(
            pinned=pinned, needs={name: self._needed(name, chosen, built) for name in built}, extras=extras
        )

    def _needed(self, name: str, chosen: Sequence[_Candidate], built: Collection[str]) -> frozenset[str]:
        """What of ``built`` a project needs directly, or by extras of others: ``foo[bar]`` is foo, and what bar adds."""
        by_key = {(c.name, c.extras): c for c in chosen}
        found: set[str] = set()
        waiting: list[_Key] = [(name, frozenset())]
        done: set[_Key] = set()
        while waiting:
            key = waiting.pop()
            if key in done or key not in by_key:
                continue
            done.add(key)
            for ask in self.get_dependencies(by_key[key]):
                other, extras = self.identify(ask)
                if other in built and other != name:
                    found.add(other)
                if extras:
                    waiting.append((other, extras))
        return frozenset(found)

    def _added_by(self, candidate: _Candidate, extra: str) -> tuple[str, ...]:
        alone = _Candidate(
            name=candidate.name,
            version=candidate.version,
            extras=frozenset({extra}),
            sdist=candidate.sdist,
            root=candidate.root,
        )
        return tuple(str(ask.requirement) for ask in self.get_dependencies(alone)[1:])

    def explain(self, asks: Sequence[_Ask]) -> DependencyError:
        """Why nothing can be chosen, by the requirements that exclude each other."""
        told = dict.fromkeys(str(ask) for ask in asks if ask.broken is None)
        broken = dict.fromkeys(f"{ask.parent}: {ask.broken}" for ask in asks if ask.broken is not None)
        names = dict.fromkeys(canonicalize_name(ask.requirement.name) for ask in asks if ask.broken is None)
        facts = [fact for name in names for fact in self._facts(name, [a for a in asks if not a.broken])]
        if broken and not told:
            brief = next(iter(broken))
        elif len(told) == 1:
            brief = f"nothing satisfies {next(iter(told))}: {'; '.join(facts)}"
        else:
            brief = f"no versions satisfy at once {', '.join(list(told)[:4])}"
        return DependencyError(brief[:1000], details="\n".join([*told, *broken, *facts])[:4000])

    def _facts(self, name: str, asks: Sequence[_Ask]) -> Iterator[str]:
        if name in self.roots:
            yield f"{name} {self.roots[name].version} is what is being built"
            return
        specifier = SpecifierSet()
        for ask in asks:
            if canonicalize_name(ask.requirement.name) == name:
                specifier &= ask.requirement.specifier
        shipped = self.shipped(name)
        where = self.rules.distribution
        if shipped is not None and not self.rules.allow_newer:
            yield f"{where} has {name} {shipped.text}, and nothing newer than official packages is allowed"
            return
        if shipped is not None:
            yield f"{where} has {name} {shipped.text}"
        if name in self.rules.caps:
            yield f"{name} {self.rules.caps[name]}, and the older releases that were tried neither"
            return
        releases = self.releases(name)
        if not releases:
            yield f"the package index knows no project {name}"
        elif self._usable(name, specifier, sources=False) and not self._usable(name, specifier):
            newest = self._usable(name, specifier, sources=False)[0]
            yield f"{name} {newest.version} is published as wheels only, without sources"
        else:
            fit = [str(r.version) for r in releases if r.sdists and r.admits(self.rules.python_version)]
            shown = ", ".join(fit[-5:]) or "none"
            yield f"the package index has {name} with sources for Python {self.rules.markers['python_version']}: {shown}"


def _fits(specifier: SpecifierSet, version: Version | None) -> bool:
    return version is None or specifier.contains(version, prereleases=True)
