"""Phase verify for a Debian source package: the output gate, then all its binary packages installed in fresh sandboxes, together
where they can be; what is a Python package is imported too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lxcbuild.builder.facts import Compiled, LaidPackage, Verified
from lxcbuild.builder.installed import hand_in, open_installed
from lxcbuild.builder.jobs import raise_failure, run_job, take_output
from lxcbuild.builder.phases.verify import pass_gate, read_verification
from lxcbuild.builder.work import Work
from lxcbuild.debian.checks import verification
from lxcbuild.debian.checks.installsets import install_sets, python_packages
from lxcbuild.debian.gate.gate import GateRequest, RuleSet
from lxcbuild.debian.gate.ownership import suite_owners
from lxcbuild.debian.sourcepackage import SourcePackage, names_provided, relations_on_others
from lxcbuild.images.image import Image
from lxcbuild.images.layer import Layer
from lxcbuild.sandbox.base import ExtractedFile

Stanza = Mapping[str, str]
Stanzas = Mapping[str, Stanza]


def run(work: Work, laid: LaidPackage, compiled: Compiled) -> Verified:
    """Raises for what the gate refuses, or what does not install or import."""
    stanzas = _pass_gate(work, laid.project.package, compiled)
    debs = {item.name: item for item in compiled.debs}
    sets = install_sets(stanzas)
    if len(sets) > 1:
        work.note(f"the packages exclude each other: installed in {len(sets)} sets")
    for number, names in enumerate(sets, start=1):
        below = _declared_layer(work, laid.project.resolved.image, [stanzas[name] for name in names])
        _try_set(work, below, [stanzas[name] for name in names], [debs[name] for name in names], number=number)
    return Verified(compiled=compiled)


def _pass_gate(work: Work, package: SourcePackage, compiled: Compiled) -> Stanzas:
    request = GateRequest(
        rules=RuleSet.ANY,
        source=package.source,
        version=package.version,
        suite=package.distribution,
        architecture=work.request.target.architecture,
        owners=suite_owners(work.contents),
        sources=work.archive.sources_of,
    )
    report = pass_gate(work, request, compiled)
    return {name: stanza for name, stanza in report.stanzas.items() if name.endswith(".deb")}


def _declared_layer(work: Work, image: Image, stanzas: Sequence[Stanza]) -> Layer:
    """Exactly what the packages declare and do not bring themselves."""
    own = names_provided(stanzas)
    fields = [stanza.get(field, "") for stanza in stanzas for field in ("Pre-Depends", "Depends")]
    declared = tuple(sorted({clause for field in fields for clause in relations_on_others(field, own)}))
    return work.using(work.provide(image, declared))


def _try_set(
    work: Work, below: Layer, stanzas: Sequence[Stanza], debs: Sequence[ExtractedFile], *, number: int
) -> None:
    shown = hand_in(work, debs, name=f"debs-{number}")
    instance = open_installed(work, below.lowers, shown, reinstall=True)
    packages = python_packages(stanzas)
    if packages:
        end = run_job(work, instance, verification.check_job(packages))
        seen = read_verification(work, end, take_output(work, instance, work.workspace / f"verify-{number}"))
        problem = verification.judge_debian(seen)
        if problem is not None:
            raise_failure(work, problem)
    work.finish_sandbox()
