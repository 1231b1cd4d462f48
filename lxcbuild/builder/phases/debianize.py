"""Phase debianize (sandbox): lay ``debian/`` around the sources. Its sandbox stays open: compile runs in it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from packaging.requirements import InvalidRequirement, Requirement

from lxcbuild.builder.facts import Inspected, Laid, Provisioned
from lxcbuild.builder.failures import fail
from lxcbuild.builder.jobs import raise_failure, result_bytes, run_job, take_output
from lxcbuild.builder.needs.naming import names, target_python
from lxcbuild.builder.work import Work
from lxcbuild.config.overrides import changed
from lxcbuild.debian.names import APART, NameMap, source_package
from lxcbuild.debian.relations import TargetPython, Translation, suggestions, translate
from lxcbuild.debian.source import conversion
from lxcbuild.debian.source.conversion import ConversionPlan
from lxcbuild.debian.steps import SOURCE, StepFailure
from lxcbuild.debian.versions import package_version
from lxcbuild.model import Converter, FailureClass, Phase
from lxcbuild.sandbox.base import Bind

#: 2020-01-01: what timestamps say when nobody knows when upstream published a release.
_NO_UPLOAD_TIME_S = 1_577_836_800


def run(work: Work, project: Inspected, provided: Provisioned) -> Laid:
    """Decide all about the source package, and leave a sandbox with the debianized tree."""
    plan = _plan(work, project, provided)
    archive = project.source.path
    bind = Bind(host=archive, inside=f"{SOURCE}/{archive.name}")
    instance = work.open_sandbox(provided.layer.lowers, binds=(bind,))
    end = run_job(work, instance, conversion.debianize_job(project.inspection, plan, archive_name=archive.name))
    if end.ok:  # its result is read when the sandbox is stopped, after compile
        orig = conversion.orig_digest(end.tail)
        return Laid(project=project, provided=provided, plan=plan, orig_sha256=orig, instance=instance)
    files = take_output(work, instance, work.workspace / f"debianize-{work.converter}")
    found = conversion.parse_conversion(result_bytes(files, conversion.RESULT))
    if isinstance(found, StepFailure):
        raise_failure(work, found)
    raise fail(FailureClass.CONVERT_FAILED, Phase.DEBIANIZE, f"the {work.converter} converter ended with an error")


def _plan(work: Work, project: Inspected, provided: Provisioned) -> ConversionPlan:
    source, inspection, target = project.source, project.inspection, work.request.target
    known, by_hand, lessons = names(work, provided.layer), work.override, provided.lessons
    python, requires = target_python(project.resolved.image), inspection.requires_dist or ()
    runtime = _runtime(work, requires, python, known)
    extras = suggestions(requires, python=python, names=known).relations
    package = known.binary_package(source.name)
    if package.endswith(APART):
        work.note(
            f"it is called {package}: {target} has {package.removesuffix(APART)}, which does not claim to be this project"
        )
    promoted = [relation for relation in extras if relation.package in lessons.promoted]
    return ConversionPlan(
        distribution=inspection.name or source.name,
        version=source.version,
        source=source_package(source.name, package),
        package=package,
        debian_version=package_version(source.version, target),
        suite=target.suite,
        compiled=inspection.compiled,
        timestamp_s=_timestamp_s(source.uploaded_at),
        build_depends=provided.build_relations,
        depends=changed([*map(str, (*runtime.relations, *promoted)), *sorted(lessons.natives)], by_hand.depends),
        suggests=tuple(str(relation) for relation in extras if relation not in promoted),
        overrides=_overrides(work, requires, python, known),
        maintainer=work.request.maintainer,
        converter=work.converter,
        lower_metadata=provided.outdated_backend,
        environment=by_hand.environment,
        patches=(*by_hand.patches, *((lessons.crates.patch,) if lessons.crates and lessons.crates.patch else ())),
        crates=lessons.crates,
        plain_install=provided.newer_than_stdeb if work.converter is Converter.STDEB else lessons.plugin_unfit,
        apart=work.converter is Converter.PYPROJECT and inspection.finds_packages,
        supersedes=tuple(sorted(lessons.superseded)),
    )


def _runtime(work: Work, requires: Sequence[str], python: TargetPython, known: NameMap) -> Translation:
    """Runtime requirements as relations; one that no package of the suite is, ends the build here, before any compiling."""
    found = translate(requires, python=python, names=known, extra_requirements=work.closure.extra_requirements)
    for text in found.notes:
        work.note(text)
    if found.unmapped:
        missing = ", ".join(item.requirement for item in found.unmapped)
        raise fail(
            FailureClass.DEP_MISSING,
            Phase.DEBIANIZE,
            f"{work.request.target} has no package of {missing}",
            details="\n".join(f"{item.requirement}: {item.reason}" for item in found.unmapped),
            resolution="omit --no-deps: missing packages are then built first"
            if not work.request.with_deps
            else "report it to the project: its metadata does not say so before it is built",
        )
    return found


def _overrides(work: Work, requires: Sequence[str], python: TargetPython, known: NameMap) -> dict[str, str]:
    """What dh_python3 is told, requirement by requirement, so that it neither guesses nor drops anything."""
    overrides: dict[str, str] = {}
    for text in requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        # Everything that applies is in Depends already, by our own mapping; dh_python3 must add nothing of its own.
        if python.applies(requirement) or requirement.name not in overrides:
            extras = work.closure.extra_requirements
            found = translate([text], python=python, names=known, extra_requirements=extras)
            overrides[requirement.name] = ", ".join(str(relation) for relation in found.relations)
    return overrides


def _timestamp_s(uploaded_at: str | None) -> int:
    if uploaded_at is None:
        return _NO_UPLOAD_TIME_S
    return int(datetime.fromisoformat(uploaded_at).timestamp())
