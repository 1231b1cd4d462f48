"""Phase compile (sandbox, no network, unprivileged): ``dpkg-buildpackage``, in the sandbox that debianize left open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from lxcbuild.builder.facts import Compiled, Laid, LaidPackage
from lxcbuild.builder.failures import PhaseFailedError, fail
from lxcbuild.builder.jobs import JobEnd, raise_failure, result_bytes, run_job, take_output
from lxcbuild.builder.machine import Lessons
from lxcbuild.builder.needs import learning
from lxcbuild.builder.work import Work
from lxcbuild.debian import sourcepackage
from lxcbuild.debian.source import compilation, conversion
from lxcbuild.debian.steps import OUT, InsideJob, MissingInLog, StepFailure
from lxcbuild.model import FailureClass
from lxcbuild.policy import NetworkMode
from lxcbuild.sandbox.base import ExtractedFile, Instance
from lxcbuild.sandbox.limits.enforcement import cpus_allotted
from lxcbuild.text import one_line

#: Where a build may write: its own directories, and places that are scratch by definition.
_OWN_PREFIXES = ("/build", OUT, "/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/lxcbuild", "/in")  # noqa: S108 - paths inside
_NAMED_PATHS = 20
_RESULTS = (conversion.RESULT, sourcepackage.RESULT, compilation.OBSERVED)
_OWN_CONTROL = "name the package that has it in Build-Depends of debian/control"
_CRATES = "build from a source archive that carries its crates (cargo vendor)"


def run(work: Work, laid: Laid | LaidPackage) -> Compiled:
    """Compile, and take out what came of it."""
    instance = laid.instance
    try:
        end = run_job(work, instance, _job(work, laid))
    except PhaseFailedError as error:
        if isinstance(laid, Laid):
            error.lessons = _learned(work, laid, compilation.missing_in_tail(error.tail))
        raise
    if not end.ok:
        raise _explained(work, laid, end)
    destination = work.workspace / "built"
    files = take_output(work, instance, destination)
    _report_writes_outside(work, instance)
    work.finish_sandbox()
    if isinstance(laid, Laid):
        _note_conversion(work, files)
    _note_observed(work, files)
    compiled = Compiled(directory=destination, files=tuple(files[n] for n in sorted(files) if n not in _RESULTS))
    _check_sealed(work, laid, compiled)
    return compiled


def _check_sealed(work: Work, laid: Laid | LaidPackage, compiled: Compiled) -> None:
    """Packages lie side by side, and the published sources are those that were laid out: the build could have written others."""
    for item in compiled.files:
        if "/" in item.name:
            raise fail(
                FailureClass.GATE_REJECTED, work.phase, f"{one_line(item.name)} came out in a directory of its own"
            )
        if ".orig.tar." in item.name and isinstance(laid, Laid) and item.sha256 != laid.orig_sha256:
            why = f"{one_line(item.name)} is not the source archive that was built"
            raise fail(FailureClass.GATE_REJECTED, work.phase, why)


def _job(work: Work, laid: Laid | LaidPackage) -> InsideJob:
    parallel, offline = cpus_allotted(work.policy), work.policy.network is not NetworkMode.PROXY
    if isinstance(laid, LaidPackage):
        package = laid.project.package
        return compilation.compile_job(
            package.tree,
            timestamp_s=package.timestamp_s,
            parallel=parallel,
            binary_only=True,
            profiles=sourcepackage.PROFILES,
            offline=offline,
            fork_server=work.policy.fork_server,
        )
    return compilation.compile_job(
        laid.plan.tree,
        timestamp_s=laid.plan.timestamp_s,
        parallel=parallel,
        program_paths=laid.provided.program_paths,
        offline=offline,
        fork_server=work.policy.fork_server,
    )


def _note_conversion(work: Work, files: Mapping[str, ExtractedFile]) -> None:
    """What debianize had to say: it ran in this sandbox, whose output could not be read before."""
    found = conversion.parse_conversion(result_bytes(files, conversion.RESULT))
    if isinstance(found, StepFailure):
        raise_failure(work, found)
    for text in found.notes:
        work.note(text)


def _note_observed(work: Work, files: Mapping[str, ExtractedFile]) -> None:
    """What people should know of a build that went well."""
    found = compilation.parse_observed(result_bytes(files, compilation.OBSERVED))
    with work.log_path.open("rb") as log:
        # The log shows what the compiler was told, the objects what it made of that; builds may hide either.
        spoken = compilation.native_in_log(log) if not any(text.startswith("native-code") for text in found) else None
    for text in (*found, *((spoken,) if spoken else ())):
        work.note(text, warning=True)


def _explained(work: Work, laid: Laid | LaidPackage, end: JobEnd) -> PhaseFailedError:
    """The failure, and what it teaches; what a Debian source package needs is for its own debian/control to say."""
    status = f"exit status {end.result.exit_status}" if end.result.signal is None else f"signal {end.result.signal}"
    failure = compilation.classify_compile_failure(end.tail, status=status)
    if isinstance(laid, LaidPackage):
        lessons, resolution = None, _OWN_CONTROL if failure.failure_class is FailureClass.BUILD_DEP_MISSING else None
    else:
        lessons = _learned_of_failure(work, laid, failure, end)
        resolution = _CRATES if any(item.kind == "crate" for item in failure.missing) else None
    return fail(
        failure.failure_class,
        work.phase,
        failure.brief,
        details=failure.details,
        resolution=resolution,
        lessons=lessons,
    )


def _learned_of_failure(work: Work, laid: Laid, failure: StepFailure, end: JobEnd) -> Lessons | None:
    learned, known = _learned(work, laid, failure.missing), laid.provided.lessons
    may_be_newer = learned is None and not known.suite_backend_unfit and not work.request.strict_debian
    if may_be_newer and learning.suite_is_too_new(work, laid.project, laid.provided.layer, known):
        learned = replace(known, suite_backend_unfit=True)
    if not known.plugin_unfit and compilation.plugin_is_unfit(end.tail):
        work.note("pybuild's plugin cannot place what the wheel holds: build and installer are called directly")
        learned = replace(learned or known, plugin_unfit=True)
    return learned


def _learned(work: Work, laid: Laid, missing: Sequence[MissingInLog]) -> Lessons | None:
    return learning.learn(work, laid.project, laid.provided.layer, laid.provided.lessons, missing)


def _report_writes_outside(work: Work, instance: Instance) -> None:
    """Flag what the build changed outside its own directories: it cannot matter to the package, but tells of a bad build."""
    outside = [
        one_line(change.path)
        for change in instance.changes()
        if not any(_below(change.path, own) for own in _OWN_PREFIXES)
    ]
    if outside:
        shown = ", ".join(outside[:_NAMED_PATHS]) + (" ..." if len(outside) > _NAMED_PATHS else "")
        work.note(f"wrote-outside: the build changed {shown}", warning=True)


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")
