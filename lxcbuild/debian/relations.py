"""Python requirements as Debian relations, for the target's Python and never the host's.

How a PEP 440 clause is carried over:

==============  =========================================  ========================================================
``>=1.2``       ``(>= 1.2-0~)``                            1.2 itself, in any revision: see below
``>1.2``        ``(>> 1.2.0.~)``                           ``>> 1.2`` would admit 1.2-1, which is 1.2
``<2.0``        ``(<< 2~~)``                               also right for a package whose upstream says "2"
``<=1.2.3``     ``(<< 1.2.4~~)``                           ``<= 1.2.3`` would shut out 1.2.3-1
``==1.2.3``     ``(>= 1.2.3-0~), (<< 1.2.4~~)``
``==1.2.*``     ``(>= 1.2-0~), (<< 1.3~~)``
``~=1.4.2``     ``(>= 1.4.2-0~), (<< 1.5~~)``
``===1.2.3``    as ``==``                                  a text that is no version cannot be mapped
``!=1.5``       nothing; noted                             Debian has no such relation
==============  =========================================  ========================================================

A lower bound ends in ``-0~`` because packages made here have the revision ``0~lxcbuild1~deb12``, which sorts below a bare
``1.2``; pre-releases (``1.2~rc1``) stay out all the same. Two tildes sort before every pre-release, so ``<< 2~~`` shuts out
2.0rc1, as PEP 440 wants it. Upper bounds of build requirements are noted and not enforced: a suite has one version of everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from debian.debian_support import Version as DebianVersion
from msgspec import Struct, field
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import Specifier, SpecifierSet
from packaging.version import Version

from lxcbuild.debian.names import Mapped, NameMap, canonical_or_none, normalise
from lxcbuild.debian.versions import upstream_version
from lxcbuild.errors import BadNameError

_MACHINES = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "armhf": "armv7l",
    "armel": "armv5tel",
    "i386": "i686",
    "ppc64el": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
    "loong64": "loongarch64",
    "mips64el": "mips64",
}
#: Sorts below every revision that a version can have, those made here included.
_ANY_REVISION = "-0~"
#: Extras of extras of extras ...: more rounds than any real project needs.
_MAX_DEPTH = 16


class Relation(Struct, frozen=True):
    """One Debian relation; ``operator`` and ``version`` are both there or both None."""

    package: str
    operator: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        return self.package if self.operator is None else f"{self.package} ({self.operator} {self.version})"


class Unmapped(Struct, frozen=True):
    """A requirement for which no Debian package is known, and why."""

    requirement: str
    name: str
    reason: str


class Translation(Struct, frozen=True, kw_only=True):
    """Relations to write, sentences about what was dropped, and what could not be mapped (never dropped silently)."""

    relations: tuple[Relation, ...] = ()
    notes: tuple[str, ...] = ()
    unmapped: tuple[Unmapped, ...] = ()

    @property
    def field(self) -> str:
        """The relations as a control field."""
        return ", ".join(str(relation) for relation in self.relations)


class TargetPython(Struct, frozen=True):
    """The Python that packages are built for: full version (``3.11.2``) and Debian architecture."""

    version: str
    architecture: str = "amd64"

    def environment(self, *, extra: str = "") -> dict[str, str]:
        """PEP 508's marker variables there. Kernel release and version are not known beforehand: they are empty."""
        release = Version(self.version).release
        full = self.version if len(release) > 2 else f"{release[0]}.{release[1]}.0"
        return {
            "implementation_name": "cpython",
            "implementation_version": full,
            "os_name": "posix",
            "platform_machine": _MACHINES.get(self.architecture, self.architecture),
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": full,
            "python_version": f"{release[0]}.{release[1]}",
            "sys_platform": "linux",
            "extra": extra,
        }

    def applies(self, requirement: Requirement, *, extras: Iterable[str] = ()) -> bool:
        """Whether a requirement's marker holds there, with any one of the extras or with none."""
        if requirement.marker is None:
            return True
        return any(requirement.marker.evaluate(self.environment(extra=extra)) for extra in ("", *extras))


class _Collected(Struct):
    relations: dict[Relation, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    unmapped: dict[Unmapped, None] = field(default_factory=dict)


class _Translator(Struct, frozen=True, kw_only=True):
    python: TargetPython
    names: NameMap
    extra_requirements: Callable[[str, str], Sequence[str] | None] | None
    build: bool
    out: _Collected = field(default_factory=_Collected)

    def add(self, item: str | Requirement, extras: tuple[str, ...], depth: int = 0) -> None:
        try:
            requirement = item if isinstance(item, Requirement) else Requirement(item)
        except InvalidRequirement:
            self.out.unmapped[Unmapped(str(item)[:200], "", "it is not a requirement of PEP 508")] = None
            return
        if not self.python.applies(requirement, extras=extras):
            return
        text = str(requirement)
        if canonical_or_none(requirement.name) is None:
            self.out.unmapped[Unmapped(text[:200], requirement.name[:200], "its name is not allowed")] = None
            return
        name = normalise(requirement.name)
        if requirement.url is not None:
            self.out.unmapped[Unmapped(text[:200], name, "it names a URL, not a version")] = None
            return
        found = self.names.find(name)
        if found is None:
            self.out.unmapped[Unmapped(text[:200], name, "no Debian package is known for it")] = None
        elif found.package:
            self._bounds(requirement, name, found)
        for extra in sorted(requirement.extras):
            self._extra(name, extra, depth)

    def _bounds(self, requirement: Requirement, name: str, found: Mapped) -> None:
        relations = []
        for part in sorted(requirement.specifier, key=str):
            bounds = clause(part, available=found.version)
            if bounds is None:
                reason = f"{part} is not a version that Debian can compare"
                self.out.unmapped[Unmapped(str(requirement)[:200], name, reason)] = None
                return
            if not bounds:
                self.out.notes[f"{name} {part}: Debian relations cannot say 'not this version'; left out"] = None
            for operator, version in bounds:
                if self.build and operator == "<<":
                    self.out.notes[f"{name} {part}: upper bound of a build requirement, not enforced"] = None
                else:
                    relations.append(Relation(found.package, operator, version))
        for relation in relations or [Relation(found.package)]:
            self.out.relations[relation] = None

    def _extra(self, name: str, extra: str, depth: int) -> None:
        more = self.extra_requirements(name, extra) if self.extra_requirements and depth < _MAX_DEPTH else None
        if more is None:
            self.out.notes[f"{name}[{extra}]: what this extra needs is not known; only {name} itself is required"] = (
                None
            )
            return
        for item in more:
            self.add(item, (extra,), depth + 1)


def translate(
    requirements: Iterable[str | Requirement],
    *,
    python: TargetPython,
    names: NameMap,
    extras: Iterable[str] = (),
    extra_requirements: Callable[[str, str], Sequence[str] | None] | None = None,
    build: bool = False,
) -> Translation:
    """Translate requirements (of a ``Requires-Dist`` or ``requires`` list) for a target.

    ``extras`` are the project's own extras that are wanted. ``extra_requirements(name, extra)`` gives what another project's
    extra needs (its whole ``Requires-Dist`` may be returned), or None when that is not known. ``build`` drops upper bounds.
    Never raises for what a package says: what cannot be mapped is in ``unmapped``.
    """
    translator = _Translator(python=python, names=names, extra_requirements=extra_requirements, build=build)
    for item in requirements:
        translator.add(item, tuple(extras))
    out = translator.out
    bounded = {relation.package for relation in out.relations if relation.operator is not None}
    relations = tuple(r for r in out.relations if r.operator is not None or r.package not in bounded)
    return Translation(
        relations=tuple(sorted(relations, key=lambda r: (r.package, r.operator or "", r.version or ""), reverse=False)),
        notes=tuple(out.notes),
        unmapped=tuple(out.unmapped),
    )


def own_extras(requirements: Iterable[str]) -> tuple[str, ...]:
    """The extras that a ``Requires-Dist`` list mentions in its markers: what becomes Suggests."""
    found: dict[str, None] = {}
    for item in requirements:
        try:
            marker = Requirement(item).marker
        except InvalidRequirement:
            continue
        for extra in _extras_of(str(marker)) if marker is not None else ():
            found[extra] = None
    return tuple(found)


def suggestions(requirements: Sequence[str], *, python: TargetPython, names: NameMap) -> Translation:
    """What the project's own extras need beyond its plain requirements; unmapped ones do not matter much here."""
    plain = {r.package for r in translate(requirements, python=python, names=names).relations}
    every = translate(
        [item for item in requirements if _parses(item)], python=python, names=names, extras=own_extras(requirements)
    )
    return Translation(
        relations=tuple(dict.fromkeys(Relation(r.package) for r in every.relations if r.package not in plain)),
        unmapped=every.unmapped,
    )


def clause(part: Specifier, *, available: str | None = None) -> list[tuple[str, str]] | None:
    """One PEP 440 clause as Debian bounds: none for ``!=``, None when it names no version at all.

    ``available`` is the PEP 440 version that the suite has: where PEP 440 lets it pass and dpkg would not, only because one
    writes 4.0 and the other 4.0.0, the lower bound is written with fewer numbers.
    """
    operator, text = part.operator, part.version
    if operator == "!=":
        return []
    prefix = text.endswith(".*")
    try:
        version = Version(text.removesuffix(".*"))
        lowest = _lower_bound(version, part, available)
    except (ValueError, BadNameError):
        return None
    if operator == ">=":
        return [(">=", lowest)]
    if operator == ">":
        return [(">>", f"{_padded(version)}.~")]
    if operator == "<":
        return [("<<", _below(version))]
    if operator == "<=":
        return [("<<", _after(version))]
    if operator == "~=":
        return [(">=", lowest), ("<<", _raised(version.release[:-1]))]
    assert operator in ("==", "==="), operator
    return [(">=", lowest), ("<<", _raised(version.release) if prefix else _after(version))]


def _lower_bound(version: Version, part: Specifier, available: str | None) -> str:
    bound = f"{upstream_version(version)}{_ANY_REVISION}"
    if available is None or _is_special(version):
        return bound
    try:
        there = Version(available)
    except ValueError:
        return bound
    passes = SpecifierSet(str(part)).contains(there, prereleases=True)
    release = list(version.release)
    while (
        passes
        and DebianVersion(f"{upstream_version(there)}-0") < DebianVersion(bound)
        and release[1:]
        and release[-1] == 0
    ):
        release.pop()
        bound = f"{_dotted(release)}{_ANY_REVISION}"
    return bound


def _below(version: Version) -> str:
    if _is_special(version):
        return f"{upstream_version(version)}{_ANY_REVISION}"
    release = list(version.release)
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    return f"{_dotted(release)}~~"


def _after(version: Version) -> str:
    """The end of what equals a version: of pre-releases the next one, else the next release of three numbers at least."""
    if version.dev is not None and version.pre is None and version.post is None:
        return f"{_dotted(version.release)}~~dev{version.dev + 1}~~"
    if version.pre is not None and version.post is None:
        return f"{_dotted(version.release)}~{version.pre[0]}{version.pre[1] + 1}~~"
    return _raised(_three(version.release))


def _padded(version: Version) -> str:
    return upstream_version(version) if _is_special(version) else _dotted(_three(version.release))


def _raised(release: Sequence[int]) -> str:
    return f"{_dotted([*release[:-1], release[-1] + 1])}~~"


def _three(release: Sequence[int]) -> list[int]:
    return [*release, *[0] * (3 - len(release))]


def _is_special(version: Version) -> bool:
    return version.pre is not None or version.post is not None or version.dev is not None


def _dotted(release: Sequence[int]) -> str:
    return ".".join(str(number) for number in release)


def _parses(item: str) -> bool:
    try:
        Requirement(item)
    except InvalidRequirement:
        return False
    return True


def _extras_of(marker: str) -> Iterator[str]:
    for match in re.finditer(r"extra\s*==\s*[\"']([^\"']+)[\"']|[\"']([^\"']+)[\"']\s*==\s*extra", marker):
        yield match[1] or match[2]
