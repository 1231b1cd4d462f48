"""What projects need at run time and the suite does not have: found out after their inspection, before anything is compiled."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from lxcbuild.builder.facts import Inspected, Resolved
from lxcbuild.builder.failures import PhaseFailedError, fail
from lxcbuild.builder.jobs import result_bytes, run_job, take_output
from lxcbuild.builder.needs.naming import names, target_python
from lxcbuild.builder.work import Work
from lxcbuild.debian.names import NameMap, Origin, canonical_or_none
from lxcbuild.debian.source import inspection as inspecting
from lxcbuild.debian.steps import SOURCE, StepFailure
from lxcbuild.debian.versions import upstream_of
from lxcbuild.errors import DependencyError, LxcbuildError, UnknownProjectError
from lxcbuild.images.image import Image
from lxcbuild.model import FailureClass, Phase
from lxcbuild.pypi.index.model import IndexFile, Release
from lxcbuild.pypi.versions.required import read_requirements
from lxcbuild.pypi.versions.runtimeset import Root, RuntimeRules, RuntimeSet, Shipped, resolve_runtime_set
from lxcbuild.pypi.versions.selection import releases_by_version
from lxcbuild.pypi.versions.version_caps import Ceilings
from lxcbuild.sandbox.base import Bind

#: Places that a build may overrule: a script, or a file that a script adds to.
_HEARSAY = ("setup.cfg", "setup.py", None)
_HINT_NO_DEPS = "omit --no-deps: missing packages are then built first"


class Missing(Struct, frozen=True):
    """A requirement that the suite does not satisfy."""

    requirement: str
    reason: str

    def __str__(self) -> str:
        return f"{self.requirement} ({self.reason})"


def incomplete(project: Inspected) -> Release | None:
    """The release of which the index may know what the sources do not tell for sure: what it requires."""
    origin = project.resolved.origin
    hearsay = project.inspection.requires_dist_from in _HEARSAY
    return origin if hearsay and isinstance(origin, Release) and origin.has_wheels else None


def completed(work: Work, project: Inspected, release: Release) -> Inspected:
    """The project with what a wheel of the same release says that it requires."""
    try:
        listed = releases_by_version(release.name, work.context.index.files(release.name))
    except UnknownProjectError:
        return project
    same = next((item for item in listed if str(item.version) == release.version), None)
    try:
        found = read_requirements(work.context.index, same, read_sdist=lambda _: None) if same is not None else None
    except LxcbuildError as error:
        work.note(f"what it requires is not certain before it is built: {error.brief}")
        return project
    if found is None:
        return project
    read = replace(project.inspection, requires_dist=found, requires_dist_from="a wheel of the release")
    return replace(project, inspection=read)


def missing(work: Work, project: Inspected, *, others: Sequence[str] = ()) -> list[Missing]:
    """Requirements of the project itself that the suite lacks or has too old. ``others`` are projects that are built anyway."""
    python, suite = target_python(project.resolved.image), SuiteFacts(work, project.resolved, work.override.names)
    found = []
    for text in project.inspection.requires_dist or ():
        try:
            requirement = Requirement(text)
            if not python.applies(requirement):
                continue
        except (InvalidRequirement, ValueError):
            continue  # it is refused when relations are made of it
        name = canonical_or_none(requirement.name)
        if name is None or name == project.source.name:
            continue
        plain = str(Requirement(f"{requirement.name}{requirement.specifier}")) if requirement.url is None else text
        shipped = suite.shipped(name)
        if requirement.url is not None:
            found.append(Missing(plain, "it names a URL, not a version"))
        elif shipped is None:
            found.append(Missing(plain, f"{work.request.target} has no package of it"))
        elif shipped.version is not None and not requirement.specifier.contains(shipped.version, prereleases=True):
            found.append(Missing(plain, f"{work.request.target} has {shipped.text}"))
        elif requirement.extras and work.request.with_deps:
            found.append(Missing(str(requirement), "what its extras add has to be looked up"))
        elif name in others:
            found.append(Missing(plain, "it is built as well"))
    return found


def refuse(work: Work, absent: Sequence[Missing]) -> PhaseFailedError:
    """The failure of a build that may not build others and needs them."""
    return fail(
        FailureClass.DEP_MISSING,
        Phase.INSPECT,
        f"{work.request.target} lacks {', '.join(item.requirement for item in absent)[:500]}",
        details="\n".join(map(str, absent)),
        resolution=_HINT_NO_DEPS,
    )


def resolve(projects: Sequence[tuple[Work, Inspected]], caps: Ceilings) -> RuntimeSet:
    """One set for all of them, with all that it needs; they are for one target.

    Raises :class:`PhaseFailedError` of class ``dep-missing``, and what the index raises.
    """
    first, resolved = projects[0][0], projects[0][1].resolved
    by_hand = {name: package for work, _ in projects for name, package in work.override.names.items()}
    rules = RuntimeRules(
        markers=target_python(resolved.image).environment(),
        shipped=SuiteFacts(first, resolved, by_hand).shipped,
        read_sdist=lambda file: _read_sdist(first, resolved.image, file),
        distribution=str(first.request.target),
        allow_newer=first.request.newer_than_official,
        preferred=first.context.pins,
        caps=caps,
    )
    try:
        roots = [_root(project) for _, project in projects]
        return resolve_runtime_set(roots, index=first.context.index, rules=rules)
    except DependencyError as error:
        raise _unresolved(first, error) from None


def _root(project: Inspected) -> Root:
    source = project.source
    try:
        version = Version(source.version)
    except InvalidVersion:
        raise fail(
            FailureClass.BROKEN_SDIST,
            Phase.INSPECT,
            f"{source.version[:80]!r} is not a version that others can ask for",
        ) from None
    return Root(name=source.name, version=version, requires=project.inspection.requires_dist or ())


def _unresolved(work: Work, error: DependencyError) -> PhaseFailedError:
    target, resolution = work.request.target, "build an older release, or for a newer suite"
    if "nothing newer than official" in f"{error.brief}{error.details}":
        resolution = "allow it: --newer-than-official"
    elif "without sources" in f"{error.brief}{error.details}":
        resolution = (
            "build it from a checkout of its repository and install that package first, or choose another release"
        )
    return fail(
        FailureClass.DEP_MISSING,
        Phase.INSPECT,
        error.brief if str(target) in error.brief else f"{error.brief} (for {target})",
        details=error.details,
        resolution=resolution,
    )


class SuiteFacts:
    """What a target ships of Python projects, with versions that can be compared with requirements.

    ``by_hand`` says of projects which packages they are, whatever the archive says: "" is none that is needed.
    """

    def __init__(self, work: Work, resolved: Resolved, by_hand: Mapping[str, str]) -> None:
        self._work = work
        self._resolved = resolved
        self._by_hand = by_hand
        self._fallback: NameMap | None = None

    def shipped(self, name: str) -> Shipped | None:
        """None when the suite has no package of the project; raises :class:`BadNameError`."""
        if name in self._by_hand:
            package = self._by_hand[name]
            return self._package(package) if package else Shipped(version=None, text="no need of it")
        found = self._work.contents.find_distribution(name)
        if found is not None:
            return Shipped(version=_version(found.version), text=f"{found.version} ({found.package})")
        return self._by_table(name)

    def _by_table(self, name: str) -> Shipped | None:
        """dh-python's table knows packages whose files do not tell their project; some of them are not in the suite."""
        if self._fallback is None:
            toolchain = self._work.provide(self._resolved.image, self._resolved.recipe.toolchain)
            self._fallback = names(self._work, self._work.using(toolchain))
        found = self._fallback.find(name)
        if found is None or found.origin is not Origin.FALLBACK:
            return None
        return self._package(found.package)

    def _package(self, package: str) -> Shipped | None:
        version = self._work.archive.candidate(package)
        if version is None:
            return None
        return Shipped(version=_version(upstream_of(version)), text=f"{version} ({package})")


def _version(text: str | None) -> Version | None:
    try:
        return Version(text) if text else None
    except InvalidVersion:
        return None


def _read_sdist(work: Work, image: Image, file: IndexFile) -> tuple[str, ...] | None:
    """Look into a source archive as into the project's own: in a sandbox."""
    archive = work.context.index.fetch(file)
    bind = Bind(host=archive, inside=f"{SOURCE}/{archive.name}")
    instance = work.open_sandbox((image.path,), binds=(bind,))
    try:
        run_job(work, instance, inspecting.inspect_job(archive.name))
        destination = work.workspace / "inspect-dependency"
        shutil.rmtree(destination, ignore_errors=True)
        files = take_output(work, instance, destination)
    except PhaseFailedError as error:
        raise DependencyError(f"{file.filename} cannot be used: {error.failure.brief}") from None
    finally:
        work.finish_sandbox()
    found = inspecting.parse_inspection(result_bytes(files, inspecting.RESULT))
    if isinstance(found, StepFailure):
        raise DependencyError(f"{file.filename} cannot be used: {found.brief}", details=found.details)
    return found.requires_dist
