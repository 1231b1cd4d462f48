"""The phases that read a Debian source package: fetch, inspect, provision and unpack. Nothing of it is converted."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from lxcbuild.builder.facts import InspectedPackage, LaidPackage, Provisioned, Resolved
from lxcbuild.builder.failures import fail
from lxcbuild.builder.jobs import JobEnd, raise_failure, result_bytes, run_job, take_output
from lxcbuild.builder.work import Work
from lxcbuild.debian import sourcepackage
from lxcbuild.debian.gate.artifacts import ArtifactError
from lxcbuild.debian.sourcepackage import MAX_DSC_BYTES, Dsc, SourcePackage
from lxcbuild.debian.steps import SOURCE, StepFailure
from lxcbuild.errors import BrokenSdistError, InputError
from lxcbuild.files import disk_full_or
from lxcbuild.model import FailureClass, Phase, Source, SourceKind
from lxcbuild.pypi.files.local import copy_into_cache, from_path
from lxcbuild.sandbox.base import Bind, ExtractedFile
from lxcbuild.text import for_documents

#: What dpkg-buildpackage needs beyond the toolchain: most source packages build their archives as a pretended root.
_BUILD_TOOLS = ("fakeroot",)


def fetch(work: Work, resolved: Resolved) -> Source:
    """The .dsc and the files that it names, hash-checked, or a packed directory, in the cache."""
    path, dirs = resolved.origin, work.context.dirs
    assert isinstance(path, Path), "no index has Debian source packages"
    if path.is_dir():
        if any((path / name).exists() for name in ("pyproject.toml", "setup.py")):
            work.note("the directory is built by its debian/; --converter pyproject sets that aside")
        packed = from_path(path, dirs=dirs, monitor=work.monitor)
        return replace(packed, kind=SourceKind.DSC, name="", version="")
    try:
        source = _fetch_dsc(work, path)
    except FileNotFoundError as error:
        raise InputError(
            f"{path.name} names {Path(error.filename).name}, which is not beside it",
            resolution="put all files of the source package into one directory",
        ) from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENAMETOOLONG):
            raise InputError(f"{error.filename or path} cannot be read: {error.strerror}") from error
        raise disk_full_or(error, dirs.downloads) from error
    work.identify(source.name, source.version)
    return source


def _fetch_dsc(work: Work, path: Path) -> Source:
    dirs = work.context.dirs
    name = path.name if sourcepackage.is_file_name(path.name) else "source.dsc"
    place, digest, size = copy_into_cache(path, dirs, name=name, max_bytes=MAX_DSC_BYTES)
    dsc = _read_dsc(place)
    extra = []
    for file, described in dsc.files.items():
        copied, _digest, _size = copy_into_cache(path.parent / file, dirs, name=file, expected=described)
        extra.append(copied)
    return Source(
        kind=SourceKind.DSC,
        name=dsc.source,
        version=dsc.version,
        path=place,
        sha256=digest,
        size_bytes=size,
        extra_files=tuple(extra),
    )


def _read_dsc(place: Path) -> Dsc:
    try:
        return sourcepackage.read_dsc(place.read_bytes(), what=place.name)
    except ArtifactError as error:
        raise BrokenSdistError(f"this is not a source package: {error}") from error


def inspect(work: Work, resolved: Resolved, source: Source) -> InspectedPackage:
    """What debian/ says, read in a sandbox."""
    toolchain = work.using(work.provide(resolved.image, resolved.recipe.toolchain))
    instance = work.open_sandbox(toolchain.lowers, binds=source_binds(source))
    end = run_job(work, instance, sourcepackage.inspect_job(inside_name(source)))
    found = _result(work, end, take_output(work, instance, work.workspace / "inspect"))
    work.finish_sandbox()  # not before: a failure's state is kept
    for what, claimed, said in (("", source.name, found.source), ("version ", source.version, found.version)):
        if claimed and claimed != said:
            raise fail(
                FailureClass.BROKEN_SDIST, Phase.INSPECT, f"the .dsc is of {what}{claimed}, debian/ of {what}{said}"
            )
    architecture = work.request.target.architecture
    if not found.made_for(architecture):
        raise fail(
            FailureClass.UNSATISFIABLE,
            Phase.INSPECT,
            f"{found.source} makes no package for {architecture}",
            details="\n".join(f"{item.name}: {' '.join(item.architectures)}" for item in found.binaries[:20]),
        )
    work.identify(found.source, found.version)
    return InspectedPackage(
        resolved=resolved, source=replace(source, name=found.source, version=found.version), package=found
    )


def _result(work: Work, end: JobEnd, files: Mapping[str, ExtractedFile]) -> SourcePackage:
    data = result_bytes(files, sourcepackage.RESULT)
    if not end.ok and not data:
        raise _unpacking_failed(work, end)
    found = sourcepackage.parse(data)
    if isinstance(found, StepFailure):
        raise_failure(work, found)
    return found


def _unpacking_failed(work: Work, end: JobEnd) -> Exception:
    lines = [line for line in for_documents(end.tail[-8192:].decode("utf-8", "replace")).splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line] or lines or ["no reason was given"]
    return fail(
        FailureClass.BROKEN_SDIST,
        work.phase,
        f"the sources cannot be unpacked: {errors[-1][:300]}",
        details="\n".join(lines[-10:]),
    )


def provision(work: Work, found: InspectedPackage) -> Provisioned:
    """The toolchain, and what Build-Depends asks for, from the suite alone."""
    needed = tuple(sorted({*found.package.build_depends, *_BUILD_TOOLS}))
    layer = work.provide(found.resolved.image, found.resolved.recipe.toolchain, needed)
    return Provisioned(layer=work.using(layer, relations=needed), build_relations=found.package.build_depends)


def unpack(work: Work, found: InspectedPackage, provided: Provisioned) -> LaidPackage:
    """Leave a sandbox with the unpacked sources, for compile to go on in."""
    instance = work.open_sandbox(provided.layer.lowers, binds=source_binds(found.source))
    end = run_job(work, instance, sourcepackage.unpack_job(inside_name(found.source), tree=found.package.tree))
    if not end.ok:
        raise _unpacking_failed(work, end)
    return LaidPackage(project=found, provided=provided, instance=instance)


def inside_name(source: Source) -> str:
    """What the main file of the sources is called in a sandbox."""
    return source.path.name if source.path.suffix == ".dsc" else "tree.tar"


def source_binds(source: Source) -> tuple[Bind, ...]:
    """All files of the sources, for a sandbox."""
    extra = tuple(Bind(host=path, inside=f"{SOURCE}/{path.name}") for path in source.extra_files)
    return (Bind(host=source.path, inside=f"{SOURCE}/{inside_name(source)}"), *extra)
