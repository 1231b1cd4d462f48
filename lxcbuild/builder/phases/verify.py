"""Phase verify: the output gate on the host, then a fresh sandbox that holds nothing but the base, what the package
declares, and the package itself: install it, import it, look for what it forgot.

What it needs of other projects that are built here is handed in beside it and installed by the same command; no layer ever holds
what untrusted code has made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace
from packaging.utils import canonicalize_name

from lxcbuild.builder.failures import PhaseFailedError, fail
from lxcbuild.builder.installed import hand_in, open_installed
from lxcbuild.builder.jobs import JobEnd, raise_failure, result_bytes, run_job, take_output
from lxcbuild.builder.needs import natives
from lxcbuild.builder.work import Work
from lxcbuild.debian.checks import verification
from lxcbuild.debian.gate import gate
from lxcbuild.debian.gate.gate import GateReport, GateRequest, RuleSet
from lxcbuild.debian.gate.ownership import project_owners
from lxcbuild.debian.sourcepackage import first_names, names_provided, relations_on_others
from lxcbuild.debian.steps import StepFailure
from lxcbuild.model import Failure, FailureClass, Phase
from lxcbuild.sandbox.base import ExtractedFile


def run(work: Work) -> None:
    """Judge ``work.sealed``; raises for a package that the gate refuses, or that does not install, import or declare enough."""
    assert work.image is not None
    report = _pass_gate(work)
    debs = [item for item in work.sealed if item.name.endswith(".deb")]
    archive = work.context.archive_for(work.request.target)
    companions = work.closure.companions(report.stanzas.values())
    declared = _declared([*report.stanzas.values(), *(deb.stanza for deb in companions)])
    layer = work.using(work.context.layers.provide(work.image, archive, declared))
    shown = hand_in(work, debs, name="debs")
    for deb in companions:
        deb.copy_to(shown)
    instance = open_installed(work, layer.lowers, shown)
    others = tuple(deb.package for deb in companions)
    end = run_job(work, instance, verification.check_job(tuple(report.relations), companions=others))
    seen = read_verification(work, end, take_output(work, instance, work.workspace / "verify"))
    assert work.conversion is not None
    assert work.inspection is not None
    problem = verification.judge(
        seen,
        distribution=work.conversion.distribution,
        version=work.conversion.version,
        modules=work.inspection.modules,
    )
    if problem is not None:
        raise_failure(work, problem, mendable=_promoted(work, problem) or _given_natives(work, problem))
    for text in (*verification.optional_parts(seen), *verification.strained(seen)):
        work.note(text, warning=True)
    work.finish_sandbox()  # not before: a failure's state is kept


def read_verification(work: Work, end: JobEnd, files: Mapping[str, ExtractedFile]) -> verification.Verification:
    """What was seen of installed packages. Their code ran beside the step that looks, which must have come to its own end."""
    seen = verification.parse_verification(result_bytes(files, verification.RESULT))
    if isinstance(seen, StepFailure):
        raise_failure(work, seen)
    if not end.ok:
        raise fail(FailureClass.INSTALL_FAILED, work.phase, "the check of the installed package did not end by itself")
    return seen


def _promoted(work: Work, problem: StepFailure) -> bool:
    """Where an import wants a module that only one of the project's extras brings, the package is to depend on it.

    Plugins do that: who installs them has what they plug into, and their metadata names it under an extra only
    (sphinxcontrib-applehelp: Sphinx, "standalone"). What no extra names stays a failure: it may be anything.
    """
    assert work.conversion is not None
    contents = work.context.contents_for(work.request.target)
    archive = work.context.archive_for(work.request.target)
    offered = {relation.split(" ")[0] for relation in work.conversion.suggests} - work.promoted
    for item in problem.missing:
        owners = set(contents.modules(item.name.partition(".")[0]))
        # With Sphinx comes docutils, which a plugin imports as well and nobody names.
        found = offered & owners or {
            package
            for package, fields in archive.show_all(offered).items()
            if owners.intersection(first_names(fields.get("Depends", "")))
        }
        if item.kind == "module" and found:
            package = min(found)
            work.promoted.add(package)
            wanted = f"without the module {item.name}, which only an extra names, nothing works"
            work.note(f"{package} becomes a dependency: {wanted}")
            return True
    return False


def _given_natives(work: Work, problem: StepFailure) -> bool:
    """The same for shared libraries and programs, which metadata has no words for, and for modules that Debian knows of."""
    found = natives.learn(work, problem)
    if found:
        work.note(f"it will depend on {', '.join(found)}: {problem.brief[:200]}")
    return bool(found)


def _declared(stanzas: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """The suite's part of what packages that are installed together declare: all that they do not bring themselves."""
    own = names_provided(stanzas)
    return tuple(sorted({clause for item in stanzas for clause in relations_on_others(item.get("Depends", ""), own)}))


def _pass_gate(work: Work) -> GateReport:
    assert work.conversion is not None
    plan, target = work.conversion, work.request.target
    return pass_gate(
        work,
        GateRequest(
            rules=RuleSet.PYTHON,
            source=plan.source,
            version=plan.debian_version,
            suite=plan.suite,
            architecture=target.architecture,
            package=plan.package,
            compiled=plan.compiled,
            project=plan.distribution,
            project_version=plan.version,
            owners=project_owners(work.context.contents_for(target)),
            supersedes=plan.supersedes,
        ),
    )


def pass_gate(work: Work, request: GateRequest) -> GateReport:
    """Judge ``work.sealed``; a package that is refused is kept aside, and the failure says where."""
    report = gate.check(request, [item.path for item in work.sealed])
    for finding in report.findings:
        if not finding.fatal:
            work.note(f"{finding.subject}: {finding.message}")
    if report.accepted:
        return report
    if work.source_package is None and (siblings := _siblings(work, report)):
        work.superseded |= siblings
        work.note(f"takes the place of {', '.join(sorted(siblings))}, which the suite makes of the same project")
        raise PhaseFailedError(_rejection(report), mendable=True)
    if work.source_package is None and _is_compiled_after_all(work, report):
        raise PhaseFailedError(_rejection(report), mendable=True)
    kept = _keep_aside(work)
    resolution = f"nothing was published; the files are kept for inspection in {kept}"
    if any(item.rule == "project" and item.message.startswith("is another version") for item in report.findings):
        fixed = "make its build say the version of its metadata: a variable or a patch in an override (reference/overrides.md)"
        resolution = f"{fixed}; {resolution}"
    raise PhaseFailedError(replace(_rejection(report), resolution=resolution))


def _rejection(report: GateReport) -> Failure:
    details = "\n".join(f"{item.rule}: {item.subject}: {item.message}" for item in report.findings if item.fatal)
    brief = report.summary()
    return Failure(failure_class=FailureClass.GATE_REJECTED, phase=Phase.VERIFY, brief=brief, details=details)


def _is_compiled_after_all(work: Work, report: GateReport) -> bool:
    """Whether all that is wrong is a compiled file where nothing said that there would be one: then it is built as what it is."""
    assert work.inspection is not None
    if work.inspection.compiled or {finding.rule for finding in report.findings if finding.fatal} != {"compiled"}:
        return False
    work.inspection = replace(work.inspection, compiled=True)
    work.note("it has compiled parts, though nothing in its sources said so: it is built for one architecture")
    return True


def _siblings(work: Work, report: GateReport) -> set[str]:
    """The owners of contested paths, when nothing else is wrong and Debian makes all of them from the source package of this very
    project: a newer release may put into one package what Debian splits (a program of its own beside the library)."""
    fatal = [finding for finding in report.findings if finding.fatal]
    owners = {owner for finding in fatal for owner in finding.owners} - work.superseded
    target = work.request.target
    official = work.context.contents_for(target).find_distribution(canonicalize_name(work.name))
    if not owners or official is None or any(not finding.owners for finding in fatal):
        return set()
    sources = work.context.archive_for(target).sources_of({*owners, official.package})
    own = sources.get(official.package, official.package)
    return owners if all(sources.get(name, name) == own for name in owners) else set()


def _keep_aside(work: Work) -> Path:
    """Rejected files stay for whoever wants to know, in a place that nothing publishes from."""
    assert work.built is not None
    kept = work.context.dirs.lib / "rejected" / work.build_id
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return work.built.rename(kept)
