"""What a generated source package Build-Depends on: the suite's packages for the build requirements that can be read statically."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, Specifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from lxcbuild.debian.names import NameMap, canonical_or_none
from lxcbuild.debian.relations import TargetPython, Unmapped, translate
from lxcbuild.debian.source.inspection import Inspection
from lxcbuild.debian.tables import requirement_table
from lxcbuild.errors import BadNameError
from lxcbuild.model import Converter

#: Installed wherever packages are built, and by Policy never listed in Build-Depends.
IMPLICIT = ("build-essential",)
#: Modules that setup.py files import and never declare, by the project that brings them.
_SETUP_IMPORTS = {
    "Cython": "cython", "numpy": "numpy", "pbr": "pbr", "cffi": "cffi", "setuptools_scm": "setuptools-scm",
    "setuptools_rust": "setuptools-rust", "pkgconfig": "pkgconfig", "pybind11": "pybind11", "skbuild": "scikit-build",
    "packaging": "packaging", "six": "six", "setuptools_git_versioning": "setuptools-git-versioning", "wheel": "wheel",
}  # fmt: skip
#: Programs that a backend starts and that no Python requirement names.
_BACKEND_PROGRAMS = {
    "mesonpy": ("meson", "ninja-build"), "scikit_build_core": ("cmake", "ninja-build"), "skbuild": ("cmake", "ninja-build"),
    "maturin": ("cargo", "rustc"), "setuptools_rust": ("cargo", "rustc"),
}  # fmt: skip


class Outdated(Struct, frozen=True):
    """A build requirement whose package the suite has in too old a version.

    ``requirement`` has the lower bound that fields of pyproject.toml mean, where the project itself states none. ``binding``:
    the project's own words rule the suite's version out; else only such a field or experience speaks against it.
    """

    requirement: str
    name: str
    package: str
    available: str
    binding: bool = True


class BuildRelations(Struct, frozen=True, kw_only=True):
    """Relations for Build-Depends (and, with ``implicit``, for the layer), and what stands against the build.

    ``unmet`` is class ``build-dep-missing``: no package of the suite is the project. ``outdated`` are tried anyway.
    """

    relations: tuple[str, ...]
    implicit: tuple[str, ...] = IMPLICIT
    unmet: tuple[Unmapped, ...] = ()
    outdated: tuple[Outdated, ...] = ()
    notes: tuple[str, ...] = ()


def build_relations(
    inspection: Inspection,
    *,
    python: TargetPython,
    names: NameMap,
    converter: Converter = Converter.PYPROJECT,
    asked: Sequence[str] = (),
    keep_outdated: bool = True,
    distrusted: bool = False,
) -> BuildRelations:
    """Map ``build-system.requires``, what the backend ``asked`` for, and what the kind of project needs.

    ``keep_outdated``: the suite's older packages are among the relations (nothing newer will be there instead).
    ``distrusted``: the suite's packages proved unfit, so that every requirement of a backend counts as outdated.
    Raises nothing for what a package says.
    """
    base = ["debhelper-compat (= 13)", "dh-python", "python3-all-dev" if inspection.compiled else "python3-all"]
    if converter is Converter.PYPROJECT:
        base.append("pybuild-plugin-pyproject")
    stated = (*inspection.build_requires, *asked)
    satisfied: list[str] = []
    outdated: list[Outdated] = []
    asked_for: dict[str, list[str]] = {}
    for text in stated:
        asked_for.setdefault(_with_floor(text, inspection), []).append(text)
    for text, own in asked_for.items():
        found = _outdated(text, python, names, always=distrusted)
        if found is None:
            satisfied.append(text)
        else:
            binding = any(_outdated(item, python, names) is not None for item in own)
            outdated.append(replace(found, binding=binding))
    satisfied += _implied(inspection, names)
    translation = translate(satisfied, python=python, names=names, build=True)
    relations = [
        *base,
        *(str(relation) for relation in translation.relations),
        *(item.package for item in outdated if keep_outdated),
        *_programs(inspection),
    ]
    return BuildRelations(
        relations=tuple(dict.fromkeys(relations)),
        unmet=translation.unmapped,
        outdated=tuple(outdated),
        notes=translation.notes,
    )


def _with_floor(text: str, inspection: Inspection) -> str:
    """The requirement with the lower bound that the fields of pyproject.toml mean for its backend."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return text
    name = canonical_or_none(requirement.name) or ""
    floors = [
        table[name] for field in inspection.newer_fields if name in (table := requirement_table().fields.get(field, {}))
    ]
    if not floors or requirement.url is not None:
        return text
    requirement.specifier &= SpecifierSet(f">={max(floors, key=Version)}")
    return str(requirement)


def without_upper_bounds(text: str) -> str:
    """A requirement with its lower bounds only (``==1.2`` and ``~=1.2`` are lower ones, too); other texts as they are."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return text
    kept = []
    for part in requirement.specifier:
        if part.operator in ("==", "===", "~="):
            kept.append(f">={part.version.removesuffix('.*')}")
        elif part.operator not in ("<", "<="):
            kept.append(str(part))
    try:
        requirement.specifier = SpecifierSet(",".join(sorted(kept)))
    except InvalidSpecifier:
        return text  # "===" of something that is no version
    return str(requirement)


def _implied(inspection: Inspection, names: NameMap) -> list[str]:
    """What setuptools and setup.py use without saying so, as far as the suite has it."""
    implied = []
    backend = inspection.build_backend
    if backend is None or backend.startswith("setuptools") or inspection.has_setup_py:
        implied += ["setuptools", "wheel"]
    implied += [project for module, project in _SETUP_IMPORTS.items() if module in inspection.setup_imports]
    known = []
    for name in implied:
        try:
            if names.find(name) is not None:
                known.append(name)
        except BadNameError:
            continue
    return known


def _outdated(text: str, python: TargetPython, names: NameMap, *, always: bool = False) -> Outdated | None:
    """Whether a lower bound is out of the suite's reach; upper bounds of build requirements are not enforced."""
    try:
        requirement = Requirement(text)
        if not python.applies(requirement):
            return None
        mapped = names.find(requirement.name)
        if mapped is None or not mapped.package:
            return None
        if always:
            return Outdated(text, requirement.name, mapped.package, mapped.version or "an unknown version")
        if mapped.version is None:
            return None
        version = Version(mapped.version)
    except (InvalidRequirement, InvalidVersion, BadNameError):
        return None
    bounds = [part for part in requirement.specifier if part.operator in (">=", ">", "~=", "==", "===")]
    # "== 1.2" and "~= 1.2" are also upper bounds; only being too old counts here.
    too_old = [part for part in bounds if not part.contains(version, prereleases=True) and _is_below(version, part)]
    if not too_old:
        return None
    return Outdated(text, requirement.name, mapped.package, mapped.version)


def _is_below(version: Version, part: Specifier) -> bool:
    floor = Version(part.version.removesuffix(".*"))
    return version <= floor if part.operator == ">" else version < floor


def _programs(inspection: Inspection) -> list[str]:
    wanted = [inspection.build_backend or "", *inspection.setup_imports]
    found = [
        program for name in wanted for program in _BACKEND_PROGRAMS.get(name.partition(".")[0].partition(":")[0], ())
    ]
    if inspection.rust:
        found += ["cargo", "rustc"]
    return list(dict.fromkeys(found))
