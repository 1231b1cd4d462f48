"""Chooses, for a target's Python, the releases of the index that build requirements mean, their own requirements included.

Wheels are preferred: a source archive is chosen only where no wheel that satisfies fits the target. What a release requires is
read from its metadata alone where the index offers that, else out of the wheel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import resolvelib
from msgspec import Struct, field
from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from lxcbuild.errors import BadNameError, DependencyError, InputError, UnknownProjectError
from lxcbuild.pypi.files.identity import canonical, sdist_version, wheel_version
from lxcbuild.pypi.files.wheels import (
    MAX_METADATA_BYTES,
    WheelMetadata,
    best_wheel,
    parse_metadata,
    read_wheel_metadata,
)
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.pypi.index.model import IndexFile

_MAX_ROUNDS = 2000
#: How many versions of one project are worth trying before the requirement counts as unsatisfiable.
_MAX_CANDIDATES = 60

#: Projects that carry copies of what they need, which lose against an older one that the suite has: they get the real one, new.
_OWN_COPIES = {"setuptools": "packaging"}

#: Makes a wheel from a source archive (in a sandbox; not this room's business) and returns the path of the wheel.
WheelMaker = Callable[[IndexFile], Path]


class TargetEnvironment(Struct, frozen=True, kw_only=True):
    """The Python that the build runs on: marker variables of PEP 508, and the tags of wheels that fit, best first."""

    markers: Mapping[str, str]
    tags: tuple[Tag, ...]

    @property
    def python_version(self) -> Version:
        """Its full version."""
        return Version(self.markers["python_full_version"])


class Chosen(Struct, frozen=True, kw_only=True):
    """One release that takes part: a wheel, or a source archive from which ``wheel`` was made."""

    name: str
    version: str
    file: IndexFile
    wheel: Path

    @property
    def sha256(self) -> str:
        """The hash of what the index gave; the cache files everything below its SHA-256."""
        return self.file.hashes.get("sha256") or self.wheel.parent.name

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.file.filename}, sha256 {self.sha256})"


class _Candidate(Struct, frozen=True, kw_only=True):
    name: NormalizedName
    version: Version
    file: IndexFile
    is_wheel: bool
    extras: frozenset[str] = frozenset()


def resolve_build_set(
    requirements: Iterable[str],
    *,
    index: IndexClient,
    target: TargetEnvironment,
    make_wheel: WheelMaker,
    constraints: Iterable[str] = (),
) -> tuple[Chosen, ...]:
    """The releases that satisfy ``requirements`` and each other, sorted by name, their wheels in the cache.

    ``constraints`` bound the versions of projects that take part, and make none take part. Raises
    :class:`DependencyError` when nothing does, and what fetching raises.
    """
    provider = _Provider(index=index, target=target, make_wheel=make_wheel)
    for item in filter(lambda item: provider.applies(item, frozenset()), map(_parse, constraints)):
        name = canonicalize_name(item.name)
        provider.constraints[name] = provider.constraints.get(name, SpecifierSet()) & item.specifier
    wanted = [item for item in map(_parse, requirements) if provider.applies(item, frozenset())]
    try:
        result = resolvelib.Resolver(provider, resolvelib.BaseReporter()).resolve(wanted, max_rounds=_MAX_ROUNDS)
    except resolvelib.ResolutionImpossible as error:
        causes = [f"{c.requirement} (asked for by {_parent(c.parent)})" for c in error.causes]
        raise DependencyError(
            "the package index has no set of releases that satisfies the build requirements",
            details="\n".join(dict.fromkeys(causes))[:4000],
        ) from None
    except resolvelib.ResolutionTooDeep:
        raise DependencyError("the build requirements are too entangled to choose versions") from None
    chosen = {candidate.name: candidate for candidate in result.mapping.values()}
    return tuple(
        Chosen(name=name, version=str(c.version), file=c.file, wheel=provider.wheel(c))
        for name, c in sorted(chosen.items())
    )


def _parse(text: str) -> Requirement:
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        raise BadNameError(f"{text[:80]!r} is not a requirement") from None
    if requirement.url is not None:
        raise InputError(f"{requirement.name} is asked for by URL, which is not supported")
    return requirement


def _parent(candidate: _Candidate | None) -> str:
    return "the project" if candidate is None else f"{candidate.name} {candidate.version}"


_Key = tuple[NormalizedName, frozenset[str]]


class _Provider(Struct, resolvelib.AbstractProvider[Requirement, _Candidate, _Key], kw_only=True):
    """A project with extras is a candidate of its own, which requires the very same version of the project without them."""

    index: IndexClient
    target: TargetEnvironment
    make_wheel: WheelMaker
    constraints: dict[NormalizedName, SpecifierSet] = field(default_factory=dict)
    _metadata: dict[str, WheelMetadata] = field(default_factory=dict)
    _wheels: dict[str, Path] = field(default_factory=dict)
    _listed: dict[str, list[_Candidate]] = field(default_factory=dict)

    def identify(self, requirement_or_candidate: Requirement | _Candidate) -> _Key:
        """Normalised name and extras."""
        item = requirement_or_candidate
        return canonicalize_name(item.name), frozenset(canonical(extra) for extra in item.extras)

    def get_preference(
        self, identifier: _Key, resolutions: Any, candidates: Any, information: Any, backtrack_causes: Any
    ) -> Any:
        """Pinned requirements first, then by name: the same inputs take the same way."""
        del resolutions, candidates, backtrack_causes
        pinned = any(
            part.operator in ("==", "===") for item in information[identifier] for part in item.requirement.specifier
        )
        return not pinned, identifier[0], sorted(identifier[1])

    def find_matches(
        self,
        identifier: _Key,
        requirements: Mapping[_Key, Iterator[Requirement]],
        incompatibilities: Mapping[_Key, Iterator[_Candidate]],
    ) -> Sequence[_Candidate]:
        """Newest first, wheels before source archives, pre-releases only where asked for or nothing else exists."""
        name, extras = identifier
        wanted = list(requirements[identifier])
        bad = {candidate.version for candidate in incompatibilities[identifier]}
        specifier = self.constraints.get(name, SpecifierSet())
        for item in wanted:
            specifier &= item.specifier
        every = self._candidates(name)
        versions = set(specifier.filter({c.version for c in every if c.version not in bad}))
        pinned = any(part.operator in ("==", "===") for part in specifier)
        found = [c for c in every if c.version in versions and (c.file.yanked is None or pinned)]
        found.sort(key=lambda c: (c.is_wheel, c.version), reverse=True)
        return [
            _Candidate(name=c.name, version=c.version, file=c.file, is_wheel=c.is_wheel, extras=extras)
            for c in found[:_MAX_CANDIDATES]
        ]

    def is_satisfied_by(self, requirement: Requirement, candidate: _Candidate) -> bool:
        """Whether the version fits; pre-releases were sorted out before."""
        return requirement.specifier.contains(candidate.version, prereleases=True)

    def get_dependencies(self, candidate: _Candidate) -> list[Requirement]:
        """What the candidate's metadata requires, for its extras, on the target."""
        found = []
        for text in self._metadata_of(candidate).requires_dist:
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue  # as pip does with metadata of old releases
            if requirement.url is None and self.applies(requirement, candidate.extras):
                found.append(requirement)
        if candidate.name in _OWN_COPIES:
            found.append(Requirement(_OWN_COPIES[candidate.name]))
        if candidate.extras:
            found.append(Requirement(f"{candidate.name}=={candidate.version}"))
        return found

    def applies(self, requirement: Requirement, extras: frozenset[str]) -> bool:
        """Whether the marker holds on the target, for any of the extras or for none."""
        if requirement.marker is None:
            return True
        try:
            return any(
                requirement.marker.evaluate({**self.target.markers, "extra": extra}) for extra in ("", *sorted(extras))
            )
        except (UndefinedComparison, UndefinedEnvironmentName):
            return False

    # -- what the index has -----------------------------------------------------------------------------------

    def _candidates(self, name: NormalizedName) -> list[_Candidate]:
        if name not in self._listed:
            try:
                files = self.index.files(name)
            except (UnknownProjectError, BadNameError):
                files = ()
            self._listed[name] = list(self._fitting(name, files))
        return self._listed[name]

    def _fitting(self, name: NormalizedName, files: Iterable[IndexFile]) -> Iterator[_Candidate]:
        wheels: dict[Version, list[IndexFile]] = {}
        sdists: dict[Version, list[IndexFile]] = {}
        for file in files:
            if not _admits(file.requires_python, self.target.python_version):
                continue
            if (version := wheel_version(file.filename, name)) is not None:
                wheels.setdefault(version, []).append(file)
            elif (version := sdist_version(file.filename, name)) is not None:
                sdists.setdefault(version, []).append(file)
        for version in wheels.keys() | sdists.keys():
            wheel = best_wheel(wheels.get(version, ()), self.target.tags)
            if wheel is not None:
                yield _Candidate(name=name, version=version, file=wheel, is_wheel=True)
            elif version in sdists:
                yield _Candidate(name=name, version=version, file=sdists[version][0], is_wheel=False)

    def _metadata_of(self, candidate: _Candidate) -> WheelMetadata:
        key = candidate.file.url
        if key not in self._metadata:
            self._metadata[key] = self._read(candidate)
        found = self._metadata[key]
        if found.name != candidate.name or found.version != candidate.version:
            raise DependencyError(
                f"{candidate.file.filename} says that it is {found.name} {found.version}",
                resolution="tell the project: its file name and its metadata differ",
            )
        return found

    def _read(self, candidate: _Candidate) -> WheelMetadata:
        file = candidate.file
        # Without a hash of its own it would be less trustworthy than the wheel.
        if candidate.is_wheel and file.metadata_hashes.get("sha256"):
            alone = IndexFile(
                filename=f"{file.filename}.metadata", url=f"{file.url}.metadata", hashes=file.metadata_hashes
            )
            path = self.index.fetch(alone, max_bytes=MAX_METADATA_BYTES)
            return parse_metadata(path.read_bytes(), where=alone.filename)
        return read_wheel_metadata(self.wheel(candidate))

    def wheel(self, candidate: _Candidate) -> Path:
        """The wheel in the cache."""
        key = candidate.file.url
        if key not in self._wheels:
            fetch = self.index.fetch if candidate.is_wheel else self.make_wheel
            self._wheels[key] = fetch(candidate.file)
        return self._wheels[key]


def _admits(requires_python: str | None, python: Version) -> bool:
    if not requires_python:
        return True
    try:
        return SpecifierSet(requires_python).contains(python, prereleases=True)
    except InvalidSpecifier:
        return True
