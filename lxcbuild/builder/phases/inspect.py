"""Phase inspect (sandbox): what kind of project the archive holds, read without running it; once for equal archives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from lxcbuild.builder.facts import Inspected, Resolved
from lxcbuild.builder.failures import fail
from lxcbuild.builder.jobs import raise_failure, result_bytes, run_job, take_output
from lxcbuild.builder.needs import readings
from lxcbuild.builder.work import Work
from lxcbuild.config.overrides import Patch
from lxcbuild.debian.source import inspection as inspecting
from lxcbuild.debian.source.inspection import Inspection
from lxcbuild.debian.steps import SOURCE, InsideJob, StepFailure
from lxcbuild.model import FailureClass, Phase, Source
from lxcbuild.sandbox.base import Bind


def run(work: Work, resolved: Resolved, source: Source) -> Inspected:
    """Look inside; name and version of the source come from there, where only the archive knows them."""
    patches = work.override.patches
    job = inspecting.inspect_job(source.path.name, patches)
    key = readings.key_of(job, archive_sha256=source.sha256, image_digest=resolved.image.digest)
    found = _read_before(work, key) if not patches else None
    if found is None:
        found = _read(work, _lowers(work, resolved, patches), source, job, patches=patches, key=key)
    source = _identified(work, source, found)
    work.identify(source.name, source.version)
    override = work.override
    if override.patches != patches:
        # Only now it is known whose override it is: the sources are looked at with its patches.
        return run(work, resolved, source)
    if override.sources:
        work.note(override.describe())
    return Inspected(resolved=resolved, source=source, inspection=found)


def _read_before(work: Work, key: str) -> Inspection | None:
    data = readings.recall(work.context.dirs, key)
    found = None if data is None else inspecting.parse_inspection(data)
    return found if isinstance(found, Inspection) else None


def _read(
    work: Work, lowers: Sequence[Path], source: Source, job: InsideJob, *, patches: Sequence[Patch], key: str
) -> Inspection:
    """Let a sandbox read it."""
    bind = Bind(host=source.path, inside=f"{SOURCE}/{source.path.name}")
    instance = work.open_sandbox(lowers, binds=(bind,))
    run_job(work, instance, job)
    data = result_bytes(take_output(work, instance, work.workspace / f"inspect-{len(patches)}"), inspecting.RESULT)
    found = inspecting.parse_inspection(data)
    if isinstance(found, StepFailure):
        ours = patches and found.failure_class is FailureClass.CONVERT_FAILED
        mend = f"fix it beside {work.override.sources[-1]}: lxcbuild shell --failed shows what it met" if ours else None
        raise_failure(work, found, resolution=mend)  # with the sandbox still there, so that its state can be kept
    work.finish_sandbox()
    if not patches:
        try:
            readings.keep(work.context.dirs, key, data)
        except OSError as error:
            work.note(f"what was read of the archive cannot be kept for the next time: {error}", warning=True)
    return found


def _lowers(work: Work, resolved: Resolved, patches: Sequence[Patch]) -> tuple[Path, ...]:
    """The base image is enough to read sources; only the toolchain has patch(1)."""
    if not patches:
        return (resolved.image.path,)
    return work.using(work.provide(resolved.image, resolved.recipe.toolchain)).lowers


def _identified(work: Work, source: Source, found: Inspection) -> Source:
    """The archive must be what was asked for; a local one may say who it is."""
    if work.request.path is not None:
        # The name of a local file or directory is only its owner's habit; what it holds knows better.
        source = replace(source, name=found.name or source.name, version=found.version or source.version)
    if source.name and found.name and canonicalize_name(found.name) != canonicalize_name(source.name):
        raise fail(
            FailureClass.BROKEN_SDIST,
            Phase.INSPECT,
            f"the archive says that it is {found.name}, not {source.name}",
        )
    if source.version and found.version and not _same_version(source.version, found.version):
        raise fail(
            FailureClass.BROKEN_SDIST,
            Phase.INSPECT,
            f"the archive says that it is version {found.version}, not {source.version}",
        )
    name, version = source.name or found.name, source.version or found.version
    if not name or not version:
        missing = "name" if not name else "version"
        raise fail(
            FailureClass.BROKEN_SDIST,
            Phase.INSPECT,
            f"nothing in the archive tells the project's {missing}",
            resolution="build an sdist first (python3 -m build --sdist) and give its path",
        )
    return replace(source, name=canonicalize_name(name), version=version)


def _same_version(first: str, second: str) -> bool:
    try:
        return Version(first) == Version(second)
    except InvalidVersion:
        return first == second
