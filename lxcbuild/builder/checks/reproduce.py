"""A second build of the same sealed inputs under other circumstances, compared byte for byte with the first.

What differs is explained by diffoscope, in a sandbox, because the files are hostile. The build stays built in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from lxcbuild.builder.facts import Compiled, Laid, LaidPackage
from lxcbuild.builder.failures import PhaseFailedError, fail
from lxcbuild.builder.jobs import result_bytes, run_job, take_output
from lxcbuild.builder.phases.debian_source import inside_name, source_binds
from lxcbuild.builder.work import Work
from lxcbuild.debian import sourcepackage
from lxcbuild.debian.checks import variation
from lxcbuild.debian.source import compilation, conversion
from lxcbuild.debian.steps import DEBS, SOURCE, InsideJob
from lxcbuild.errors import LxcbuildError
from lxcbuild.images.image import Image
from lxcbuild.policy import NetworkMode
from lxcbuild.sandbox.base import Bind, ExtractedFile, Instance
from lxcbuild.sandbox.limits.enforcement import cpus_allotted
from lxcbuild.text import for_documents

_DIFFOSCOPE = (
    "diffoscope-minimal",
    "xz-utils",
    "xxd",
    "binutils",
)  # it only recommends what opens packages and libraries


def run(work: Work, laid: Laid | LaidPackage, compiled: Compiled) -> None:
    """Set ``work.checks["reproducible"]`` and tell of it; never raises for what the second build does."""
    first = {item.name: item.sha256 for item in compiled.files}
    files, clock, reason = _second_build(work, laid)
    varied = (*variation.VARIED, *((variation.CLOCK,) if clock else ()))
    result: dict[str, object] = {
        "varied": list(varied),
        "not_varied": [*variation.NOT_VARIED, *(() if clock else (variation.CLOCK,))],
    }
    work.checks["reproducible"] = result
    if files is None:
        result |= {"verdict": "failed", "reason": reason}
        work.note(f"not reproducible: the second build failed: {reason}", warning=True)
        return
    names = variation.comparable([*first, *files])
    differing = [name for name in names if name not in files or files[name].sha256 != first.get(name)]
    result |= {"verdict": "differs" if differing else "identical", "compared": list(names), "differing": differing}
    if not differing:
        work.note(f"reproducible: a second build gave the same {len(names)} files; varied: {', '.join(varied)}")
        return
    result["explanation"] = explained = _explain(work, laid.project.resolved.image, compiled, files, differing)
    cause = ""
    only_time = result["only_time"] = clock and _is_same_at_this_time(work, laid, first, names)
    if only_time:
        cause = ", but only where the time is another one (a build on another day writes it down)"
    elif f"{variation.HOME}/" in explained:
        cause = " (the build writes its directory down, which is always the same outside this check)"
    head = "; ".join(variation.telling_lines(explained))
    work.note(f"not reproducible: {', '.join(differing)} differ{cause}: {head}"[:2000], warning=True)


def _is_same_at_this_time(work: Work, laid: Laid | LaidPackage, first: Mapping[str, str], names: Sequence[str]) -> bool:
    """Whether a third build, with the time of day and all else varied, is the same as the first."""
    try:
        files = _build(work, laid, (), number=3)
    except PhaseFailedError:
        work.finish_sandbox()
        return False
    return all(name in files and files[name].sha256 == first.get(name) for name in names)


def _second_build(work: Work, laid: Laid | LaidPackage) -> tuple[Mapping[str, ExtractedFile] | None, bool, str]:
    """The files, whether the clock was another, and why there are none."""
    try:
        debs = _clock_library(work, laid.project.resolved.image)
    except LxcbuildError as error:
        work.note(f"the second build keeps the time of day: {error.brief}")
        debs = ()
    reason = ""
    for clock in (True, False) if debs else (False,):
        try:
            files = _build(work, laid, debs if clock else (), number=1 + int(clock))
        except PhaseFailedError as error:
            reason = error.failure.brief
            work.finish_sandbox()
        else:
            return files, clock, ""
        if clock:
            work.note(f"the second build keeps the time of day: with another one it failed: {reason}")
    return None, False, reason


def _clock_library(work: Work, image: Image) -> tuple[Path, ...]:
    """The package with the library for another time of day; nothing that it depends on, which the base has."""
    layers, archive = work.context.layers, work.archive
    resolved = layers.resolve(image, layers.base(image), archive, (variation.CLOCK_PACKAGE,))
    wanted = replace(resolved, packages=tuple(p for p in resolved.packages if p.name == variation.CLOCK_PACKAGE))
    return archive.fetch(wanted)


def _build(work: Work, laid: Laid | LaidPackage, debs: Sequence[Path], *, number: int) -> Mapping[str, ExtractedFile]:
    jobs, tree = _jobs(work, laid)
    shown = tuple(Bind(host=path, inside=f"{DEBS}/{path.name}") for path in debs)
    binds = (*_source_binds(laid), *shown)
    instance = work.open_sandbox(laid.provided.layer.lowers, binds=binds, hostname=variation.HOSTNAME)
    _must(work, instance, InsideJob(files={}, steps=(variation.prepare_step(),)), what="its preparation")
    one_core = cpus_allotted(work.policy) > 1
    turn = InsideJob(files={}, steps=(variation.turn_step(tree),))
    for job, what in ((jobs[0], "unpacking"), (turn, "turning directories around"), (jobs[1], "dpkg-buildpackage")):
        _must(work, instance, variation.varied(job, clock=bool(debs), one_core=one_core), what=what)
    files = take_output(work, instance, work.workspace / f"second-{number}")
    work.finish_sandbox()
    return files


def _must(work: Work, instance: Instance, job: InsideJob, *, what: str) -> None:
    end = run_job(work, instance, job)
    if not end.ok:
        failure = compilation.classify_compile_failure(end.tail, status=f"exit status {end.result.exit_status}")
        raise fail(failure.failure_class, work.phase, f"{what}: {failure.brief}", details=failure.details)


def _jobs(work: Work, laid: Laid | LaidPackage) -> tuple[tuple[InsideJob, InsideJob], str]:
    """What lays the sources out and what compiles them, elsewhere and with another number of jobs; and the tree."""
    source = laid.project.source
    allotted = cpus_allotted(work.policy)
    parallel, offline = (1 if allotted > 1 else 2), work.policy.network is not NetworkMode.PROXY
    if isinstance(laid, LaidPackage):
        package = laid.project.package
        tree = f"{variation.HOME}/{package.tree.rsplit('/', 1)[-1]}"
        compiling = compilation.compile_job(
            tree,
            timestamp_s=package.timestamp_s,
            parallel=parallel,
            binary_only=True,
            profiles=sourcepackage.PROFILES,
            offline=offline,
        )
        return (sourcepackage.unpack_job(inside_name(source), tree=tree), compiling), tree
    plan = replace(laid.plan, home=variation.HOME)
    compiling = compilation.compile_job(
        plan.tree,
        timestamp_s=plan.timestamp_s,
        parallel=parallel,
        program_paths=laid.provided.program_paths,
        offline=offline,
    )
    laying = conversion.debianize_job(laid.project.inspection, plan, archive_name=source.path.name)
    return (laying, compiling), plan.tree


def _source_binds(laid: Laid | LaidPackage) -> tuple[Bind, ...]:
    source = laid.project.source
    if isinstance(laid, LaidPackage):
        return source_binds(source)
    return (Bind(host=source.path, inside=f"{SOURCE}/{source.path.name}"),)


def _explain(
    work: Work, image: Image, compiled: Compiled, files: Mapping[str, ExtractedFile], differing: Sequence[str]
) -> str:
    """What diffoscope says, bounded; where it cannot be had, why."""
    first = {item.name: item for item in compiled.files}
    both = [name for name in differing if name in first and name in files]
    alone = [f"{name} came out of only one of the two builds" for name in differing if name not in both]
    if not both:
        return "\n".join(alone)
    places = [work.workspace / "compared-1", work.workspace / "compared-2"]
    for place, found in zip(places, (first, files), strict=True):
        place.mkdir(mode=0o755)
        for name in both:
            (place / name).hardlink_to(found[name].path)
    try:
        layer = work.provide(image, _DIFFOSCOPE)
        binds = tuple(Bind(host=p, inside=i) for p, i in zip(places, variation.explain_binds(), strict=True))
        instance = work.open_sandbox(layer.lowers, binds=binds)
        run_job(work, instance, variation.explain_job(both))
        out = take_output(work, instance, work.workspace / "explained")
        work.finish_sandbox()
    except (PhaseFailedError, LxcbuildError) as error:
        work.finish_sandbox()
        brief = error.failure.brief if isinstance(error, PhaseFailedError) else error.brief
        return "\n".join([*alone, f"diffoscope could not compare them: {brief}"])
    text = for_documents(result_bytes(out, variation.EXPLANATION).decode("utf-8", "replace"))
    return "\n".join([*alone, text])[: 256 * 1024]
