"""Phase compile (sandbox, no network, unprivileged): ``dpkg-buildpackage``, in the sandbox that debianize left open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lxcbuild.builder.failures import PhaseFailedError, fail
from lxcbuild.builder.jobs import JobEnd, raise_failure, result_bytes, run_job, take_output
from lxcbuild.builder.needs import learning
from lxcbuild.builder.work import Work
from lxcbuild.debian import sourcepackage
from lxcbuild.debian.source import compilation, conversion
from lxcbuild.debian.steps import OUT, Job, MissingInLog, StepFailure
from lxcbuild.model import Failure, FailureClass
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


def run(work: Work) -> None:
    """Set ``work.built``: a directory with what came out, sealed, everything inside being dead."""
    assert work.instance is not None, "debianize leaves its sandbox open"
    instance = work.instance
    try:
        end = run_job(work, instance, _job(work))
    except PhaseFailedError as error:
        error.mendable = error.mendable or _learned(work, compilation.missing_in_tail(error.tail))
        raise
    if not end.ok:
        _explain(work, end)
    destination = work.workspace / "built"
    files = take_output(work, instance, destination)
    _report_writes_outside(work, instance)
    work.finish_sandbox()
    if work.conversion is not None:
        _note_conversion(work, files)
    _note_observed(work, files)
    work.built = destination
    work.sealed = [files[name] for name in sorted(files) if name not in _RESULTS]
    _check_sealed(work)


def _check_sealed(work: Work) -> None:
    """Packages lie side by side, and the published sources are those that were laid out: the build could have written others."""
    for item in work.sealed:
        if "/" in item.name:
            raise fail(
                FailureClass.GATE_REJECTED, work.phase, f"{one_line(item.name)} came out in a directory of its own"
            )
        if ".orig.tar." in item.name and work.conversion is not None and item.sha256 != work.orig_sha256:
            why = f"{one_line(item.name)} is not the source archive that was built"
            raise fail(FailureClass.GATE_REJECTED, work.phase, why)


def _job(work: Work) -> Job:
    parallel, offline = cpus_allotted(work.policy), work.policy.network is not NetworkMode.PROXY
    if work.source_package is not None:
        package = work.source_package
        return compilation.compile_job(
            package.tree,
            timestamp_s=package.timestamp_s,
            parallel=parallel,
            binary_only=True,
            profiles=sourcepackage.PROFILES,
            offline=offline,
            fork_server=work.policy.fork_server,
        )
    assert work.conversion is not None
    return compilation.compile_job(
        work.conversion.tree,
        timestamp_s=work.conversion.timestamp_s,
        parallel=parallel,
        program_paths=work.program_paths,
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


def _explain(work: Work, end: JobEnd) -> None:
    status = f"exit status {end.result.exit_status}" if end.result.signal is None else f"signal {end.result.signal}"
    failure = compilation.classify_compile_failure(end.tail, status=status)
    known = _learned(work, failure.missing)
    if (
        not known
        and work.source_package is None
        and not work.suite_backend_unfit
        and not work.request.strict_debian
        and learning.suite_is_too_new(work)
    ):
        work.suite_backend_unfit = known = True
    if not work.plugin_unfit and work.conversion is not None and compilation.plugin_is_unfit(end.tail):
        work.plugin_unfit = known = True
        work.note("pybuild's plugin cannot place what the wheel holds: build and installer are called directly")
    raise PhaseFailedError(
        Failure(
            failure_class=failure.failure_class,
            phase=work.phase,
            brief=failure.brief,
            details=failure.details,
            resolution=_resolution(work, failure),
        ),
        mendable=known,
    )


def _resolution(work: Work, failure: StepFailure) -> str | None:
    if work.source_package is not None:
        return _OWN_CONTROL if failure.failure_class is FailureClass.BUILD_DEP_MISSING else None
    return _CRATES if any(item.kind == "crate" for item in failure.missing) else None


def _learned(work: Work, missing: Sequence[MissingInLog]) -> bool:
    """Whether provisioning can do better; what a Debian source package needs is for its own debian/control to say."""
    return work.source_package is None and learning.learn(work, missing)


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
