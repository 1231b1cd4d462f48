"""What a build needs and no Python requirement names: C libraries, headers, programs.

In this order: what Debian's own source package of the project builds with, the curated table, and what a failed log says is
missing, looked up in what the suite ships.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec.structs import replace
from packaging.requirements import InvalidRequirement, Requirement

from lxcbuild.builder.facts import Inspected
from lxcbuild.builder.machine import Lessons
from lxcbuild.builder.needs.naming import build_names, target_python
from lxcbuild.builder.work import Work
from lxcbuild.debian.names import binary_package, canonical_or_none
from lxcbuild.debian.source import compilation
from lxcbuild.debian.source.backend import is_requirement
from lxcbuild.debian.steps import MissingInLog
from lxcbuild.debian.tables import requirement_table
from lxcbuild.errors import BadNameError, LxcbuildError
from lxcbuild.images.layer import Layer

#: One item of a Build-Depends field: name, version bound, architectures, profiles.
_ITEM = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]+)(?::\w+)?\s*(?:\([^)]*\))?\s*(?P<limits>(?:\[[^\]]*\]|<[^>]*>|\s)*)")


def missing_in(text: str) -> tuple[MissingInLog, ...]:
    """What the text of an error says is not there."""
    return compilation.missing_things(text)


def learn(
    work: Work, project: Inspected, layer: Layer, known: Lessons, missing: Iterable[MissingInLog]
) -> Lessons | None:
    """What is known, with what may mend the build. None where nothing of it is new, so that provisioning again makes no sense."""
    packages: set[str] = set()
    requirements: dict[str, None] = {}
    unfit = False
    for item in missing:
        if item.kind == "backend":
            unfit = True
        elif item.kind == "requirement":
            requirements[item.name] = None
        elif item.kind == "advice":
            requirements |= dict.fromkeys(_newer_than_the_suites(work, layer, item.name))
        else:
            found = _packages(work, item)
            packages |= set(found)
            if item.kind == "module" and not found:
                requirements |= dict.fromkeys(_own_requirements(project, item.name))
    packages -= {package.name for package in layer.packages} | known.packages
    fresh = tuple(text for text in requirements if text not in known.requirements and is_requirement(text))
    turned = unfit and not known.suite_backend_unfit and not work.request.strict_debian
    for package in sorted(packages):
        work.note(f"the log names something in {package}: the package is added")
    if not (packages or fresh or turned):
        return None
    return replace(
        known,
        packages=known.packages | packages,
        requirements=(*known.requirements, *fresh),
        suite_backend_unfit=known.suite_backend_unfit or turned,
    )


def suite_is_too_new(work: Work, project: Inspected, layer: Layer, lessons: Lessons) -> bool:
    """Whether an upper bound of a build requirement is broken by the suite's package: the index has what fits."""
    known = build_names(work, layer)
    for text in (*project.inspection.build_requires, *lessons.requirements):
        try:
            requirement = Requirement(text)
            mapped = known.find(requirement.name)
        except (InvalidRequirement, BadNameError):
            continue
        if mapped is None or mapped.version is None:
            continue
        if not requirement.specifier.contains(mapped.version, prereleases=True):
            return True
    return False


def _packages(work: Work, item: MissingInLog) -> tuple[str, ...]:
    table = requirement_table()
    contents = work.contents
    known: dict[str, tuple[dict[str, str], Callable[[str], Sequence[str]]]] = {
        "header": (dict(table.headers), contents.headers),
        "library": (dict(table.libraries), contents.libraries),
        "pkgconfig": (dict(table.pkgconfig), contents.pkgconfig),
        "program": (dict(table.commands), contents.executables),
        "module": ({}, contents.modules),
    }
    if item.kind == "phrase":
        return table.phrases[item.name]
    if item.kind not in known:
        return ()
    curated, look_up = known[item.kind]
    if item.name in curated:
        return (curated[item.name],)
    name = item.name.partition(".")[0] if item.kind == "module" else item.name
    if name.startswith("/") or not name:
        return ()
    found = look_up(name)
    preferred = {"module": r"python3-.*"}.get(item.kind, r".*-dev")
    fitting = [package for package in found if re.fullmatch(preferred, package)]
    if item.kind == "module":
        return tuple(fitting[:1])
    return tuple((fitting or list(found))[:1])


def _newer_than_the_suites(work: Work, layer: Layer, text: str) -> tuple[str, ...]:
    """A requirement that a message advises, if the suite has the project in another version: a log's word makes no name trusted."""
    try:
        requirement = Requirement(text)
        mapped = build_names(work, layer).find(requirement.name)
    except (InvalidRequirement, BadNameError):
        return ()
    if mapped is None or mapped.version is None or requirement.specifier.contains(mapped.version, prereleases=True):
        return ()
    return (str(requirement),)


def _own_requirements(project: Inspected, module: str) -> tuple[str, ...]:
    """What the project itself requires at run time under the module's name; a name that only a log says is never trusted."""
    wanted = canonical_or_none(module.partition(".")[0])
    found = []
    for text in project.inspection.requires_dist or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if canonical_or_none(requirement.name) == wanted and target_python(project.resolved.image).applies(requirement):
            requirement.marker = None
            found.append(str(requirement))
    return tuple(found)


# -- what Debian's own package builds with --------------------------------------------------------------------------


def suggested_packages(work: Work, project: Inspected, layer: Layer) -> tuple[str, ...]:
    """Libraries and programs in the Build-Depends of Debian's own package of a compiled project."""
    if not project.inspection.compiled:
        return ()
    mapped = build_names(work, layer).find(work.name)
    binary = mapped.package if mapped is not None and mapped.package else binary_package(work.name)
    own = work.archive
    for archive in (own, *work.context.images.other_archives(work.request.target)):
        try:
            sources = archive.source_packages(binary)
        except LxcbuildError as error:
            work.note(f"the source packages of {archive.name} cannot be read: {error.brief}")
            continue
        if sources:
            wanted = native_build_depends(sources[-1])
            available = own.candidates(wanted)
            found = tuple(package for package in wanted if package in available)
            if found:
                work.note(f"{archive.name} builds {binary} with {', '.join(found)}")
            return found
    return ()


def native_build_depends(source: Mapping[str, str]) -> tuple[str, ...]:
    """Development packages and known programs of a source package's Build-Depends, without versions; first alternatives."""
    text = ",".join(str(source.get(field, "")) for field in ("Build-Depends", "Build-Depends-Arch"))
    programs = set(requirement_table().commands.values())
    found = []
    for item in text.replace("\n", " ").split(","):
        match = _ITEM.match(item.partition("|")[0].strip())
        if match is None or match["limits"].strip():
            continue  # for some architecture, or for tests and documentation only
        name = match["name"]
        # Crates of Debian serve builds whose lock file Debian has patched away; these here are not.
        native = name.endswith("-dev") and not name.startswith(("python3-", "python-", "pypy", "librust-"))
        if native or name in programs:
            found.append(name)
    return tuple(dict.fromkeys(found))
