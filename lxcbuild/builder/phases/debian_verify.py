"""Phase verify for a Debian source package: the output gate, then all its binary packages installed in fresh sandboxes, together
where they can be; what is a Python package is imported too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lxcbuild.builder.installed import hand_in, open_installed
from lxcbuild.builder.jobs import raise_failure, run_job, take_output
from lxcbuild.builder.phases.verify import pass_gate, read_verification
from lxcbuild.builder.work import Work
from lxcbuild.debian.checks import verification
from lxcbuild.debian.checks.installsets import install_sets, python_packages
from lxcbuild.debian.gate.gate import GateRequest, RuleSet
from lxcbuild.debian.gate.ownership import suite_owners
from lxcbuild.debian.sourcepackage import names_provided, relations_on_others
from lxcbuild.model import Phase
from lxcbuild.sandbox.base import ExtractedFile

Stanzas = Mapping[str, Mapping[str, str]]


def run(work: Work) -> None:
    """Judge ``work.sealed``; raises for what the gate refuses, or what does not install or import."""
    assert work.phase is Phase.VERIFY
    stanzas = _pass_gate(work)
    debs = {item.name: item for item in work.sealed if item.name.endswith(".deb")}
    sets = install_sets(stanzas)
    if len(sets) > 1:
        work.note(f"the packages exclude each other: installed in {len(sets)} sets")
    for number, names in enumerate(sets, start=1):
        _try_set(work, {name: stanzas[name] for name in names}, [debs[name] for name in names], number=number)


def _pass_gate(work: Work) -> Stanzas:
    package, target = work.source_package, work.request.target
    assert package is not None
    report = pass_gate(
        work,
        GateRequest(
            rules=RuleSet.ANY,
            source=package.source,
            version=package.version,
            suite=package.distribution,
            architecture=target.architecture,
            owners=suite_owners(work.context.contents_for(target)),
            sources=work.context.archive_for(target).sources_of,
        ),
    )
    return {name: stanza for name, stanza in report.stanzas.items() if name.endswith(".deb")}


def _try_set(work: Work, stanzas: Stanzas, debs: Sequence[ExtractedFile], *, number: int) -> None:
    """Below the packages lies exactly what they declare and do not bring themselves."""
    assert work.image is not None
    own = names_provided(stanzas.values())
    fields = [stanza.get(field, "") for stanza in stanzas.values() for field in ("Pre-Depends", "Depends")]
    declared = tuple(sorted({clause for field in fields for clause in relations_on_others(field, own)}))
    archive = work.context.archive_for(work.request.target)
    layer = work.using(work.context.layers.provide(work.image, archive, declared))
    shown = hand_in(work, debs, name=f"debs-{number}")
    instance = open_installed(work, layer.lowers, shown, reinstall=True)
    packages = python_packages(stanzas.values())
    if packages:
        end = run_job(work, instance, verification.check_job(packages))
        seen = read_verification(work, end, take_output(work, instance, work.workspace / f"verify-{number}"))
        problem = verification.judge_debian(seen)
        if problem is not None:
            raise_failure(work, problem)
    work.finish_sandbox()
