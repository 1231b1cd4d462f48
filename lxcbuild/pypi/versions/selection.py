"""Chooses the one release that a requirement means. Pure: files in, release or error out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from msgspec import Struct, field
from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from lxcbuild.errors import NoSdistError, UnknownProjectError, UnknownVersionError, YankedReleaseError
from lxcbuild.pypi.files.identity import SDIST_SUFFIXES, canonical, sdist_suffix, sdist_version, wheel_version
from lxcbuild.pypi.index.model import IndexFile, Release

_STRONG = ("sha256", "sha512", "sha384", "sha3_256", "sha3_512", "blake2b")


class ReleaseFiles(Struct):
    """The files of one version."""

    version: Version
    sdists: list[IndexFile] = field(default_factory=list)
    wheels: list[IndexFile] = field(default_factory=list)

    @property
    def files(self) -> list[IndexFile]:
        """All of them."""
        return self.sdists + self.wheels

    @property
    def yanked(self) -> str | None:
        """The reason when every file was taken back (PEP 592 marks files, indexes mark whole releases)."""
        reasons = [file.yanked for file in self.files]
        return None if any(reason is None for reason in reasons) else next((r for r in reasons if r), "")

    def admits(self, python: Version) -> bool:
        """Whether any file is meant for that Python."""
        return any(admits_python(file.requires_python, python) for file in self.files)


def unknown_project(name: str) -> UnknownProjectError:
    """The error for a project that no configured place lists."""
    return UnknownProjectError(
        f"the package index knows no project {name}",
        resolution="check the spelling, and where pip looks for packages: pip config list",
    )


def choose_release(
    requirement: Requirement, files: Iterable[IndexFile], *, python_version: str, allow_pre: bool | None
) -> Release:
    """The newest release that satisfies; errors as :meth:`IndexClient.resolve`."""
    name = canonical(requirement.name)
    listed = list(files)
    candidates = releases_by_version(name, listed)
    if not candidates:
        raise _nothing_usable(name, listed)
    python = Version(python_version)
    matching = _matching(requirement.specifier, candidates, allow_pre=allow_pre)
    fitting = [candidate for candidate in matching if candidate.admits(python)]
    if not fitting:
        raise _unknown_version(requirement, candidates, matching, python_version)
    unyanked = [candidate for candidate in fitting if candidate.yanked is None]
    if not unyanked and not is_pinned(requirement.specifier):
        raise _yanked(requirement, fitting)
    chosen = (unyanked or fitting)[-1]
    sdist = best_sdist(chosen, python)
    if sdist is None:
        raise _no_sdist(name, chosen, candidates)
    notes = []
    if chosen.yanked is not None:
        why = f": {chosen.yanked}" if chosen.yanked else ""
        notes.append(
            f"{name} {chosen.version} was yanked by its authors{why}; it is used because it was asked for by version"
        )
    return Release(
        name=name,
        version=str(chosen.version),
        sdist=sdist,
        requires_python=sdist.requires_python,
        yanked=chosen.yanked,
        uploaded_at=sdist.uploaded_at,
        has_wheels=bool(chosen.wheels),
        notes=tuple(notes),
    )


def releases_by_version(name: str, files: Iterable[IndexFile]) -> list[ReleaseFiles]:
    """By ascending version."""
    found: dict[Version, ReleaseFiles] = {}
    for file in files:
        if (version := sdist_version(file.filename, name)) is not None:
            found.setdefault(version, ReleaseFiles(version)).sdists.append(file)
        elif (version := wheel_version(file.filename, name)) is not None:
            found.setdefault(version, ReleaseFiles(version)).wheels.append(file)
    return [found[version] for version in sorted(found)]


def _matching(
    specifier: SpecifierSet, candidates: Sequence[ReleaseFiles], *, allow_pre: bool | None
) -> list[ReleaseFiles]:
    """PEP 440's rule: pre-releases only when the specifier names one, when asked, or when nothing else exists.

    Yanked releases do not count as something else, unless they are all there is.
    """
    for pool in ([c for c in candidates if c.yanked is None], list(candidates)):
        admitted = set(specifier.filter((c.version for c in pool), prereleases=allow_pre))
        if admitted:
            return [c for c in pool if c.version in admitted]
    return []


def admits_python(requires_python: str | None, python: Version) -> bool:
    """Whether a ``Requires-Python`` admits a Python."""
    if not requires_python:
        return True
    try:
        return SpecifierSet(requires_python).contains(python, prereleases=True)
    except InvalidSpecifier:
        # As pip does: a field that cannot be read rules nothing out.
        return True


def is_pinned(specifier: SpecifierSet) -> bool:
    """Whether a specifier names one version."""
    return any(
        part.operator == "===" or (part.operator == "==" and not part.version.endswith(".*")) for part in specifier
    )


def best_sdist(candidate: ReleaseFiles, python: Version) -> IndexFile | None:
    """The source archive of a release that is used, if it has any."""
    usable = [file for file in candidate.sdists if admits_python(file.requires_python, python)] or candidate.sdists
    if candidate.yanked is None:
        usable = [file for file in usable if file.yanked is None]

    def rank(file: IndexFile) -> tuple[bool, int]:
        return not any(file.hashes.get(kind) for kind in _STRONG), SDIST_SUFFIXES.index(
            sdist_suffix(file.filename) or ".tar"
        )

    return min(usable, key=rank, default=None)


def _nothing_usable(name: str, listed: Sequence[IndexFile]) -> UnknownVersionError | NoSdistError:
    if not listed:
        return UnknownVersionError(f"the package index knows {name}, but no release of it")
    return NoSdistError(
        f"{name} has neither source archives nor wheels, only files of other kinds",
        details="\n".join(file.filename for file in listed[:8]),
        resolution="build from a checkout of its sources",
    )


def _unknown_version(
    requirement: Requirement, candidates: Sequence[ReleaseFiles], matching: Sequence[ReleaseFiles], python_version: str
) -> UnknownVersionError:
    name = canonical(requirement.name)
    versions = [str(candidate.version) for candidate in candidates]
    if matching:
        newest = matching[-1]
        needs = next((file.requires_python for file in newest.files if file.requires_python), "another Python")
        return UnknownVersionError(
            f"no release of {name} that satisfies {str(requirement)!r} runs on Python {python_version}",
            details=f"{name} {newest.version} needs Python {needs}",
            resolution="choose another target, or another version",
        )
    near = _nearest(requirement.specifier, versions)
    return UnknownVersionError(
        f"{name} has no release that satisfies {str(requirement.specifier) or 'the requirement'!r}",
        details=f"nearest versions: {', '.join(near)} (of {len(versions)})",
        resolution=f"for example: {name}=={near[-1]}",
    )


def _nearest(specifier: SpecifierSet, versions: Sequence[str]) -> list[str]:
    """Up to five versions that look like the one asked for, else the newest; ascending."""
    asked = next((part.version.removesuffix(".*") for part in specifier), "")
    near = difflib.get_close_matches(asked, versions, n=5, cutoff=0.5) if asked else []
    return sorted(near or versions[-5:], key=Version)


def _yanked(requirement: Requirement, fitting: Sequence[ReleaseFiles]) -> YankedReleaseError:
    name, newest = canonical(requirement.name), fitting[-1]
    return YankedReleaseError(
        f"all releases that satisfy {str(requirement)!r} were yanked by their authors",
        details=f"{name} {newest.version}: {newest.yanked or 'no reason given'}",
        resolution=f"if it must be this one: {name}=={newest.version}",
    )


def _no_sdist(name: str, chosen: ReleaseFiles, candidates: Sequence[ReleaseFiles]) -> NoSdistError:
    wheels = sorted(file.filename for file in chosen.wheels)
    shown = wheels[:8] + ([f"... and {len(wheels) - 8} more"] if len(wheels) > 8 else [])
    older = [c.version for c in candidates if c.version < chosen.version and c.sdists and c.yanked is None]
    return NoSdistError(
        f"{name} {chosen.version} has no source archive, only {len(wheels)} wheel{'s' if len(wheels) != 1 else ''}",
        details="\n".join(shown),
        resolution=f"the newest version that has one: {name}=={older[-1]}"
        if older
        else "build from a checkout of its sources",
    )
