"""Phase verify: the output gate on the host, then a fresh sandbox that holds nothing but the base, what the package
declares, and the package itself: install it, import it, look for what it forgot.

What it needs of other projects that are built here is handed in beside it and installed by the same command; no layer ever holds
what untrusted code has made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace
from packaging.utils import canonicalize_name

from lxcbuild.builder.facts import Compiled, Laid, Verified
from lxcbuild.builder.failures import fail
from lxcbuild.builder.installed import hand_in, open_installed
from lxcbuild.builder.jobs import JobEnd, raise_failure, result_bytes, run_job, take_output
from lxcbuild.builder.machine import Lessons
from lxcbuild.builder.needs import natives
from lxcbuild.builder.work import Work
from lxcbuild.debian.checks import verification
from lxcbuild.debian.gate import gate
from lxcbuild.debian.gate.gate import GateReport, GateRequest, RuleSet
from lxcbuild.debian.gate.ownership import project_owners
from lxcbuild.debian.sourcepackage import first_names, names_provided, relations_on_others
from lxcbuild.debian.steps import StepFailure
from lxcbuild.model import FailureClass, Phase
from lxcbuild.sandbox.base import ExtractedFile


def run(work: Work, laid: Laid, compiled: Compiled) -> Verified:
    """Raises for a package that the gate refuses, or that does not install, import or declare enough."""
    report = _pass_gate(work, laid, compiled)
    companions = work.closure.companions(report.stanzas.values())
    declared = _declared([*report.stanzas.values(), *(deb.stanza for deb in companions)])
    layer = work.using(work.provide(laid.project.resolved.image, declared))
    shown = hand_in(work, compiled.debs, name="debs")
    for deb in companions:
        deb.copy_to(shown)
    instance = open_installed(work, layer.lowers, shown)
    others = tuple(deb.package for deb in companions)
    end = run_job(work, instance, verification.check_job(tuple(report.relations), companions=others))
    seen = read_verification(work, end, take_output(work, instance, work.workspace / "verify"))
    problem = verification.judge(
        seen,
        distribution=laid.plan.distribution,
        version=laid.plan.version,
        modules=laid.project.inspection.modules,
    )
    if problem is not None:
        raise_failure(work, problem, lessons=_promoted(work, laid, problem) or _given_natives(work, laid, problem))
    for text in (*verification.optional_parts(seen), *verification.strained(seen)):
        work.note(text, warning=True)
    work.finish_sandbox()  # not before: a failure's state is kept
    return Verified(compiled=compiled)


def read_verification(work: Work, end: JobEnd, files: Mapping[str, ExtractedFile]) -> verification.Verification:
    """What was seen of installed packages. Their code ran beside the step that looks, which must have come to its own end."""
    seen = verification.parse_verification(result_bytes(files, verification.RESULT))
    if isinstance(seen, StepFailure):
        raise_failure(work, seen)
    if not end.ok:
        raise fail(FailureClass.INSTALL_FAILED, work.phase, "the check of the installed package did not end by itself")
    return seen


def _promoted(work: Work, laid: Laid, problem: StepFailure) -> Lessons | None:
    """Where an import wants a module that only one of the project's extras brings, the package is to depend on it.

    Plugins do that: who installs them has what they plug into, and their metadata names it under an extra only
    (sphinxcontrib-applehelp: Sphinx, "standalone"). What no extra names stays a failure: it may be anything.
    """
    known = laid.provided.lessons
    offered = {relation.split(" ")[0] for relation in laid.plan.suggests} - known.promoted
    for item in problem.missing:
        owners = set(work.contents.modules(item.name.partition(".")[0]))
        # With Sphinx comes docutils, which a plugin imports as well and nobody names.
        found = offered & owners or {
            package
            for package, fields in work.archive.show_all(offered).items()
            if owners.intersection(first_names(fields.get("Depends", "")))
        }
        if item.kind == "module" and found:
            package = min(found)
            wanted = f"without the module {item.name}, which only an extra names, nothing works"
            work.note(f"{package} becomes a dependency: {wanted}")
            return replace(known, promoted=known.promoted | {package})
    return None


def _given_natives(work: Work, laid: Laid, problem: StepFailure) -> Lessons | None:
    """The same for shared libraries and programs, which metadata has no words for, and for modules that Debian knows of."""
    found, known = natives.lacking(work, laid, problem), laid.provided.lessons
    if not found:
        return None
    work.note(f"it will depend on {', '.join(found)}: {problem.brief[:200]}")
    return replace(known, natives=known.natives.union(found))


def _declared(stanzas: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """The suite's part of what packages that are installed together declare: all that they do not bring themselves."""
    own = names_provided(stanzas)
    return tuple(sorted({clause for item in stanzas for clause in relations_on_others(item.get("Depends", ""), own)}))


def _pass_gate(work: Work, laid: Laid, compiled: Compiled) -> GateReport:
    plan, target = laid.plan, work.request.target
    request = GateRequest(
        rules=RuleSet.PYTHON,
        source=plan.source,
        version=plan.debian_version,
        suite=plan.suite,
        architecture=target.architecture,
        package=plan.package,
        compiled=plan.compiled,
        project=plan.distribution,
        project_version=plan.version,
        owners=project_owners(work.contents),
        supersedes=plan.supersedes,
    )
    return pass_gate(work, request, compiled, learn=lambda report: _learned_at_gate(work, laid, report))


def pass_gate(
    work: Work,
    request: GateRequest,
    compiled: Compiled,
    *,
    learn: Callable[[GateReport], Lessons | None] = lambda _: None,
) -> GateReport:
    """Judge what was compiled. What is refused and has taught nothing is kept aside, and the failure says where."""
    report = gate.check(request, [item.path for item in compiled.files])
    for finding in report.findings:
        if not finding.fatal:
            work.note(f"{finding.subject}: {finding.message}")
    if report.accepted:
        return report
    details = "\n".join(f"{item.rule}: {item.subject}: {item.message}" for item in report.findings if item.fatal)
    lessons, resolution = learn(report), None
    if lessons is None:
        kept = _keep_aside(work, compiled)
        resolution = f"nothing was published; the files are kept for inspection in {kept}"
        if any(item.rule == "project" and item.message.startswith("is another version") for item in report.findings):
            fixed = "make its build say the version of its metadata: a variable or a patch in an override (reference/overrides.md)"
            resolution = f"{fixed}; {resolution}"
    raise fail(
        FailureClass.GATE_REJECTED,
        Phase.VERIFY,
        report.summary(),
        details=details,
        resolution=resolution,
        lessons=lessons,
    )


def _learned_at_gate(work: Work, laid: Laid, report: GateReport) -> Lessons | None:
    known = laid.provided.lessons
    if siblings := _siblings(work, known, report):
        work.note(f"takes the place of {', '.join(sorted(siblings))}, which the suite makes of the same project")
        return replace(known, superseded=known.superseded | siblings)
    # All that is wrong is a compiled file where nothing said that there would be one: then it is built as what it is.
    if laid.plan.compiled or {finding.rule for finding in report.findings if finding.fatal} != {"compiled"}:
        return None
    work.note("it has compiled parts, though nothing in its sources said so: it is built for one architecture")
    return replace(known, compiled=True)


def _siblings(work: Work, known: Lessons, report: GateReport) -> set[str]:
    """The owners of contested paths, when nothing else is wrong and Debian makes all of them from the source package of this very
    project: a newer release may put into one package what Debian splits (a program of its own beside the library)."""
    fatal = [finding for finding in report.findings if finding.fatal]
    owners = {owner for finding in fatal for owner in finding.owners} - known.superseded
    official = work.contents.find_distribution(canonicalize_name(work.name))
    if not owners or official is None or any(not finding.owners for finding in fatal):
        return set()
    sources = work.archive.sources_of({*owners, official.package})
    own = sources.get(official.package, official.package)
    return owners if all(sources.get(name, name) == own for name in owners) else set()


def _keep_aside(work: Work, compiled: Compiled) -> Path:
    """Rejected files stay for whoever wants to know, in a place that nothing publishes from."""
    kept = work.context.dirs.lib / "rejected" / work.build_id
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return compiled.directory.rename(kept)
