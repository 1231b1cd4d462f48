"""Rust crates of a project: what its manifests ask for, which of Debian's packages have them, which Rust compiles them.

Debian keeps crates as sources below ``/usr/share/cargo/registry``, one package each (``librust-<name>-dev``; older branches beside
it as ``librust-<name>-<branch>-dev``). Version requirements follow cargo's reference, "Specifying Dependencies".
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from lxcbuild.config.overrides import Patch
from lxcbuild.debian.documents import Reader
from lxcbuild.debian.inside.crates.cargo_cfg import applies

#: Where Debian's crates lie, and where those lie that were fetched for one build.
SUITE_REGISTRY = "/usr/share/cargo/registry"
FETCHED_REGISTRY = "/usr/lib/lxcbuild/crates"
#: Rust as Debian packages it: the suite's own, and newer ones that browsers made necessary in stable suites.
TOOLCHAINS = (("rustc", "cargo"), ("rustc-web", "cargo-web"), ("rustc-mozilla", "cargo-mozilla"))
#: The first Rust that reads an edition (release notes of Rust and cargo).
_EDITIONS = {"2018": (1, 31), "2021": (1, 56), "2024": (1, 85)}
_RUST_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "i386": "i686", "armhf": "armv7", "riscv64": "riscv64gc"}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PATH = re.compile(r"(?!/)(?!(?:.*/)?\.\.(?:/|$))[A-Za-z0-9_./@+ -]{1,400}")
_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"(\d{1,9})(?:\.(\d{1,9}|\*))?(?:\.(\d{1,9}|\*))?(-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?")
_COMPARATOR = re.compile(r"\s*(\^|~|=|>=|<=|>|<)?\s*([0-9][0-9A-Za-z.*+-]{0,100})\s*")

Numbers = tuple[int, int, int]


class Dependency(Struct, frozen=True, kw_only=True):
    """One line of a table of dependencies. ``place``: ``registry``, ``git`` or ``path``; ``kind``: normal, build or dev."""

    name: str
    requirement: str
    kind: str
    target: str
    optional: bool
    features: tuple[str, ...]
    place: str


class LockedCrate(Struct, frozen=True, kw_only=True, order=True):
    """One crate of Cargo.lock that does not come from the project itself; without a checksum it is not from a registry."""

    name: str
    version: str
    checksum: str | None


class Crates(Struct, frozen=True, kw_only=True):
    """What the project says of its Rust parts; paths are below its tree. Everything here is upstream's word."""

    manifests: tuple[str, ...]
    roots: tuple[str, ...]  # those of them that the build names
    lock_path: str | None
    locked: tuple[LockedCrate, ...]
    rust_versions: tuple[str, ...]
    editions: tuple[str, ...]
    dependencies: tuple[Dependency, ...]
    vendored: str | None  # the archive brings all crates in this directory
    optional: bool  # the build does without its Rust parts where they cannot be compiled

    @property
    def needed_rust(self) -> tuple[int, int]:
        """The oldest Rust that can be enough, from rust-version and edition."""
        stated = [numbers[:2] for text in self.rust_versions if (numbers := parse_version(text)) is not None]
        implied = [_EDITIONS[edition] for edition in self.editions if edition in _EDITIONS]
        return max([(1, 0), *stated, *implied])


class Supply(enum.StrEnum):
    """Where a build's crates come from."""

    NONE = "none"  # nothing is asked of a registry, or Rust is optional and cannot be had
    VENDORED = "vendored"  # the source archive has them
    SUITE = "suite"  # Debian's packages
    FETCHED = "fetched"  # the administrator's registry


class CrateSupply(Struct, frozen=True, kw_only=True):
    """How one build gets its crates. ``relations`` go into Build-Depends; ``patch`` makes the manifests ask for what there is."""

    supply: Supply
    relations: tuple[str, ...] = ()
    relaxed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # crate -> requirement -> instead
    patch: Patch | None = None
    dropped_lock: str | None = None
    tried: bool = False  # cargo has resolved it on the build layer

    @property
    def registry(self) -> str | None:
        """The directory that cargo takes crates from instead of a registry."""
        return {Supply.SUITE: SUITE_REGISTRY, Supply.FETCHED: FETCHED_REGISTRY}.get(self.supply)


class MissingCrate(Struct, frozen=True):
    """A crate that the suite lacks, or has in versions that do not satisfy."""

    name: str
    requirement: str
    available: str | None

    def __str__(self) -> str:
        if self.available is None:
            return f"{self.name} {self.requirement} (no package)"
        return f"{self.name} {self.requirement} (the suite has {self.available})"


class SuiteMatch(Struct, frozen=True, kw_only=True):
    """Debian's packages for the direct requirements, requirements to lower, and what is not there."""

    relations: tuple[str, ...]
    relaxed: Mapping[str, Mapping[str, str]]
    missing: tuple[MissingCrate, ...]


# -- reading what came out of the sandbox ---------------------------------------------------------------------------


def parse_crates(reader: Reader | None) -> Crates | None:
    """Check the part of an inspection that is about crates; entries with impossible names are left for cargo to refuse."""
    if reader is None:
        return None
    lock_path = reader.line("lock_path", limit=500)
    return Crates(
        manifests=tuple(path for path in reader.texts("manifests", count=200, limit=500) if _PATH.fullmatch(path)),
        roots=tuple(path for path in reader.texts("roots", count=200, limit=500) if _PATH.fullmatch(path)),
        lock_path=lock_path if lock_path is not None and _PATH.fullmatch(lock_path) else None,
        locked=parse_locked(reader.tables("locked", count=4000)),
        rust_versions=reader.texts("rust_versions", count=200, limit=40),
        editions=reader.texts("editions", count=200, limit=10),
        dependencies=tuple(_dependency(item) for item in reader.tables("dependencies", count=2000) if _named(item)),
        vendored=reader.line("vendored", limit=400),
        optional=bool(reader.flag("optional")),
    )


def parse_locked(readers: Sequence[Reader]) -> tuple[LockedCrate, ...]:
    """Crates of a lock file that come from somewhere else than the project's own tree."""
    found = set()
    for item in readers:
        name, version, checksum = item.line("name"), item.line("version"), item.line("checksum")
        if item.line("source") and name and version and _NAME.fullmatch(name) and _VERSION.fullmatch(version):
            known = checksum if checksum is not None and _CHECKSUM.fullmatch(checksum) else None
            found.add((name, version, known or ""))
    return tuple(LockedCrate(name=n, version=v, checksum=c or None) for n, v, c in sorted(found))


def _named(item: Reader) -> bool:
    return _NAME.fullmatch(item.line("name") or "") is not None


def _dependency(item: Reader) -> Dependency:
    return Dependency(
        name=item.line("name") or "",
        requirement=item.line("requirement") or "*",
        kind=item.line("kind") or "normal",
        target=item.line("target") or "",
        optional=bool(item.flag("optional")),
        features=tuple(text for text in item.texts("features", count=1000) if re.fullmatch(r"[\w+.-]{1,64}", text)),
        place=item.line("place") or "registry",
    )


# -- versions -------------------------------------------------------------------------------------------------------


def parse_version(text: str) -> Numbers | None:
    """``1.2.3`` (or ``1.2``, ``1``) as numbers; also of a Debian version, whose epoch and revision do not count."""
    match = re.match(r"(?:\d+:)?(\d{1,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?(?![\d])", text)
    return None if match is None else (int(match[1]), int(match[2] or 0), int(match[3] or 0))


class _Comparator(Struct, frozen=True):
    operator: str
    low: Numbers
    given: int  # how many of the numbers were written


def _comparators(requirement: str) -> list[_Comparator] | None:
    found = []
    for part in requirement.split(","):
        if part.strip() in ("", "*"):
            continue
        match = _COMPARATOR.fullmatch(part)
        version = _VERSION.fullmatch(match[2]) if match else None
        if match is None or version is None:
            return None
        numbers = [int(group) for group in version.groups()[:3] if group is not None and group != "*"]
        wild = "*" in match[2]
        operator = "~" if wild else match[1] or "^"
        padded = (*numbers, 0, 0)
        found.append(_Comparator(operator, (padded[0], padded[1], padded[2]), len(numbers)))
    return found


def satisfies(requirement: str, version: Numbers) -> bool:
    """Whether cargo would take the version. A requirement that cannot be read is satisfied by nothing."""
    comparators = _comparators(requirement)
    return comparators is not None and all(_holds(item, version) for item in comparators)


def _holds(item: _Comparator, version: Numbers) -> bool:
    low, given = item.low, item.given
    if item.operator == "^":
        return low <= version < _branch_end(low, given)
    if item.operator in ("~", "="):
        if item.operator == "=" and given == 3:
            return version == low
        end = (low[0] + 1, 0, 0) if given == 1 else (low[0], low[1] + 1, 0)
        return low <= version < end
    if item.operator == ">":
        end = (low[0] + 1, 0, 0) if given == 1 else (low[0], low[1] + 1, 0) if given == 2 else low
        return version >= end if given < 3 else version > low
    if item.operator == "<=":
        return version[:given] <= low[:given]
    return version >= low if item.operator == ">=" else version < low


def _branch_end(low: Numbers, given: int = 3) -> Numbers:
    """The first version that is not compatible: the leftmost number that is not zero may not change."""
    if low[0] > 0 or given == 1:
        return (low[0] + 1, 0, 0)
    if low[1] > 0 or given == 2:
        return (0, low[1] + 1, 0)
    return (0, 0, low[2] + 1)


def lowered(requirement: str, version: Numbers) -> str | None:
    """The requirement that the version satisfies within the same compatible branch; None where that would leave it."""
    comparators = _comparators(requirement)
    if comparators is None or len(comparators) != 1 or comparators[0].operator not in ("^", "~", "="):
        return None
    low = comparators[0].low
    end = _branch_end(low)
    begin = (low[0], 0, 0) if low[0] else (0, low[1], 0)
    if low[:2] == (0, 0) or not begin <= version < end:
        return None
    return str(low[0]) if low[0] else f"0.{low[1]}"


# -- Debian's packages ----------------------------------------------------------------------------------------------


def rust_architecture(architecture: str) -> str:
    """What Rust calls an architecture of Debian."""
    return _RUST_ARCHITECTURES.get(architecture, architecture)


def wanted_from_registry(crates: Crates, architecture: str) -> tuple[Dependency, ...]:
    """The direct requirements that the build itself has on this machine and that no directory of the archive answers."""
    machine = rust_architecture(architecture)
    return tuple(
        item
        for item in crates.dependencies
        if item.kind != "dev" and item.place != "path" and (not item.target or applies(item.target, machine))
    )


def package_names(wanted: Sequence[Dependency]) -> tuple[str, ...]:
    """All names under which Debian may have packages of these crates: ask the archive for their candidates."""
    found: dict[str, None] = {}
    for item in wanted:
        for base in _bases(item):
            found[f"{base}-dev"] = None
            for feature in ("default", *item.features):
                found[f"{base}+{_debian(feature)}-dev"] = None
    return tuple(name for name in found if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name))


def _debian(name: str) -> str:
    return name.lower().replace("_", "-")


def _bases(item: Dependency) -> tuple[str, ...]:
    """Package name stems, the branch's own before the unversioned one (debcargo's "semver suffix")."""
    name = f"librust-{_debian(item.name)}"
    low = next((c.low for c in _comparators(item.requirement) or ()), None)
    if low is None:
        return (name,)
    branches = [f"{low[0]}.{low[1]}.{low[2]}"] if low[:2] == (0, 0) else []
    return (*(f"{name}-{branch}" for branch in (*branches, f"{low[0]}.{low[1]}", str(low[0]))), name)


def match_suite(wanted: Sequence[Dependency], candidates: Mapping[str, str]) -> SuiteMatch:
    """``candidates`` are the versions of those of :func:`package_names` that the suite has."""
    relations: dict[str, None] = {}
    relaxed: dict[str, dict[str, str]] = {}
    missing: dict[MissingCrate, None] = {}
    for item in wanted:
        if item.place != "registry":
            missing[MissingCrate(item.name, "from a repository", None)] = None
            continue
        there = [(base, candidates[f"{base}-dev"]) for base in _bases(item) if f"{base}-dev" in candidates]
        versions = [(base, numbers) for base, text in there if (numbers := parse_version(text)) is not None]
        chosen = next((base for base, numbers in versions if satisfies(item.requirement, numbers)), None)
        if chosen is None:
            fitting = ((base, lowered(item.requirement, numbers)) for base, numbers in versions)
            near = next(((base, text) for base, text in fitting if text is not None), None)
            if near is None:
                available = ", ".join(".".join(map(str, numbers)) for _base, numbers in versions) or None
                missing[MissingCrate(item.name, item.requirement, available)] = None
                continue
            chosen, text = near
            relaxed.setdefault(item.name, {})[item.requirement] = text or "*"
        relations[f"{chosen}-dev"] = None
        for feature in ("default", *item.features):
            if (package := f"{chosen}+{_debian(feature)}-dev") in candidates:
                relations[package] = None
    return SuiteMatch(relations=tuple(relations), relaxed=relaxed, missing=tuple(missing))


def choose_toolchain(
    candidates: Mapping[str, str], *, enough: tuple[int, int] | None = None
) -> tuple[tuple[str, str], tuple[int, int]] | None:
    """The packages of the newest Rust among the candidates, and its version; None where there is none.

    With ``enough``, the oldest that is not older, if there is one: Debian's crates are tried with the suite's own Rust, and newer
    ones do break older crates.
    """
    found = [
        (numbers[:2], pair)
        for pair in TOOLCHAINS
        if pair[1] in candidates and (numbers := parse_version(candidates.get(pair[0], ""))) is not None
    ]
    if not found:
        return None
    fitting = [item for item in found if enough is not None and item[0] >= enough]
    chosen = min(fitting, key=lambda item: item[0]) if fitting else max(found, key=lambda item: item[0])
    return chosen[1], chosen[0]
