"""Phase provision: from build requirements to a stack of layers; a stack that is known costs no apt run.

What the suite has goes first. What it lacks, or has too old, comes from the package index as a layer of wheels on top, for this
build's sandboxes only. Where the backend can want more than is written down, it is asked, until it wants nothing new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace
from packaging.requirements import InvalidRequirement, Requirement

from lxcbuild.builder.facts import Inspected, Provisioned
from lxcbuild.builder.failures import PhaseFailedError, fail
from lxcbuild.builder.machine import Lessons
from lxcbuild.builder.needs import backends, crates, learning
from lxcbuild.builder.needs.naming import build_names, target_python
from lxcbuild.builder.work import Work
from lxcbuild.config.overrides import changed
from lxcbuild.debian.relations import Unmapped
from lxcbuild.debian.source.buildrelations import BuildRelations, Outdated, build_relations, without_upper_bounds
from lxcbuild.errors import DependencyError
from lxcbuild.images.image import Image
from lxcbuild.images.layer import Layer
from lxcbuild.images.wheels import describe
from lxcbuild.model import Converter, FailureClass, Phase
from lxcbuild.pypi.versions.buildset import Chosen

#: How often a backend may come up with something new.
_MAX_HOOK_ROUNDS = 4
#: Make and install a wheel without any plugin of pybuild's.
_PLAIN_TOOLS = ("build", "installer")


def run(work: Work, project: Inspected, lessons: Lessons) -> Provisioned:
    """The layers of the build, Build-Depends, and what the index provided; the lessons grow by what the backend asks for."""
    for _ in range(_MAX_HOOK_ROUNDS):
        provided = _with_crates(work, project, lessons)
        asked = _asked_by_backend(work, project, provided) if project.inspection.dynamic_build_requires else None
        if asked is None:
            return provided
        lessons = asked
    return replace(provided, lessons=lessons)


def _with_crates(work: Work, project: Inspected, lessons: Lessons) -> Provisioned:
    provided = _provide(work, project, lessons)
    settled = crates.ensure_crates(work, project, provided)
    if crates.is_same_supply(settled.lessons.crates, provided.lessons.crates):
        return settled
    return crates.ensure_crates(work, project, _provide(work, project, settled.lessons))  # without what did not help


def _provide(work: Work, project: Inspected, lessons: Lessons) -> Provisioned:
    strict = work.request.strict_debian
    toolchain = work.using(work.provide(project.resolved.image, project.resolved.recipe.toolchain))
    keep = strict or work.converter is Converter.STDEB
    needed, lessons = _needed(work, project, toolchain, lessons, keep_outdated=keep)
    if lessons.suggested is None:
        lessons = replace(lessons, suggested=learning.suggested_packages(work, project, toolchain))
    if not strict and (needed.unmet or _to_be_newer(work, needed)):
        found = _provide_from_index(work, project, lessons, needed)
        if found is not None:
            return found
        needed, lessons = _needed(work, project, toolchain, lessons, keep_outdated=True)
    for item in needed.outdated:
        work.note(f"{item.requirement} is asked for and {item.package} has {item.available}: tried all the same")
    if needed.unmet:
        raise _unmet(work, needed.unmet)
    return replace(_provide_from_suite(work, project, lessons, needed), outdated_backend=bool(needed.outdated))


def _to_be_newer(work: Work, needed: BuildRelations) -> tuple[Outdated, ...]:
    """What the suite has too old and the index provides. stdeb calls ``setup.py install --install-layout=deb``, which only the
    distribution's own setuptools knows: there, only what the project's own words rule out is worth leaving that way."""
    if work.request.strict_debian:
        return ()
    return tuple(item for item in needed.outdated if item.binding or work.converter is not Converter.STDEB)


def _needed(
    work: Work, project: Inspected, toolchain: Layer, lessons: Lessons, *, keep_outdated: bool
) -> tuple[BuildRelations, Lessons]:
    """What it is built with; and the lessons, with how it gets its crates."""
    needed = build_relations(
        project.inspection,
        python=target_python(project.resolved.image),
        names=build_names(work, toolchain),
        converter=work.converter,
        asked=lessons.requirements,
        keep_outdated=keep_outdated,
        distrusted=lessons.suite_backend_unfit and not keep_outdated,
    )
    for text in needed.notes:
        work.note(text)
    chosen, supply = crates.relations(work, project, lessons.crates, needed.relations)
    return replace(needed, relations=changed(chosen, work.override.build_depends)), replace(lessons, crates=supply)


def _provide_from_suite(work: Work, project: Inspected, lessons: Lessons, needed: BuildRelations) -> Provisioned:
    """The suite's part. What only logs and experience suggest must not be what a build fails of."""
    learned = sorted(lessons.packages)
    for extra in ((*learned, *(lessons.suggested or ())), learned, ()):
        relations = changed((*needed.relations, *extra), work.override.build_depends)
        wanted = tuple(sorted({*relations, *needed.implicit}))
        try:
            layer = work.provide(project.resolved.image, project.resolved.recipe.toolchain, wanted)
        except DependencyError as error:
            if not extra:
                raise
            work.note(f"{', '.join(extra)} cannot be installed as well: {error.details or error.brief}"[:500])
            continue
        return Provisioned(layer=work.using(layer, relations=wanted), build_relations=relations, lessons=lessons)
    raise AssertionError("the last relations either resolve or raise")


def _provide_from_index(work: Work, project: Inspected, lessons: Lessons, needed: BuildRelations) -> Provisioned | None:
    """Put newer or missing requirements on top, as wheels; None when the suite's older packages have to do."""
    hopeless = [item for item in needed.unmet if not _can_be_asked_for(item)]
    if hopeless:
        raise _unmet(work, tuple(hopeless))
    newer = _to_be_newer(work, needed)
    plainly = bool(newer) and work.converter is Converter.STDEB
    roots = [*(item.requirement for item in newer), *(item.requirement for item in needed.unmet)]
    roots += _PLAIN_TOOLS if plainly else ()
    must = [*(item.requirement for item in newer if item.binding), *(item.requirement for item in needed.unmet)]
    below = _provide_from_suite(work, project, lessons, needed)
    try:
        sets = _choose(work, project, below, roots, relaxing=bool(must))
    except DependencyError as error:
        if must and (lacking := _lacking(work, project, below, must)):
            raise _impossible(work, project.resolved.image, lacking, error) from None
        work.note(f"nothing newer than the suite's build requirements is available: {error.brief}")
        return None
    made = work.context.wheels.provide(project.resolved.image, below.layer, sets)
    told = {chosen.file.filename: describe(chosen) for chosen_set in sets.values() for chosen in chosen_set}
    for item in told.values():
        work.note(f"build requirement from the index: {item['name']} {item['version']} sha256:{item['sha256']}")
    return replace(
        below,
        layer=work.using(made.layer),
        newer_than_stdeb=plainly,
        program_paths=made.program_paths,
        index_wheels=dict(sets),
    )


def _choose(
    work: Work, project: Inspected, below: Provisioned, roots: Sequence[str], *, relaxing: bool = True
) -> Mapping[str, tuple[Chosen, ...]]:
    """Releases of the index that satisfy every bound; failing that, with ``relaxing``, every lower one, and a note of it."""
    stated = (*project.inspection.build_requires, *below.lessons.requirements)
    try:
        return backends.choose(work, project, below.layer, roots, constraints=stated)
    except DependencyError:
        relaxed, bounds = ([without_upper_bounds(text) for text in texts] for texts in (roots, stated))
        if not relaxing or (relaxed, bounds) == (list(roots), list(stated)):
            raise
        found = backends.choose(work, project, below.layer, relaxed, constraints=bounds)
    work.note("no releases of the index satisfy all bounds of the build requirements: upper ones are not enforced")
    return found


def _lacking(work: Work, project: Inspected, below: Provisioned, must: Sequence[str]) -> list[str]:
    """Which of them the index cannot provide: none where it can provide all together, all where only together it cannot."""

    def can_be_had(roots: Sequence[str]) -> bool:
        try:
            _choose(work, project, below, roots)
        except DependencyError:
            return False
        return True

    if can_be_had(must):
        return []
    return [text for text in must if not can_be_had([text])] or list(must)


def _impossible(work: Work, image: Image, lacking: Sequence[str], error: DependencyError) -> PhaseFailedError:
    return fail(
        FailureClass.BUILD_DEP_MISSING,
        Phase.PROVISION,
        f"build requirements not available in {work.request.target} or on the index: {', '.join(lacking)[:300]}",
        details=f"{error.brief}\n{error.details or ''}".strip(),
        resolution=f"they may exist for another Python than {image.python_version}: try another --target or version",
    )


def _can_be_asked_for(item: Unmapped) -> bool:
    try:
        return Requirement(item.requirement).url is None
    except InvalidRequirement:
        return False


def _asked_by_backend(work: Work, project: Inspected, provided: Provisioned) -> Lessons | None:
    """Ask the backend; None where provisioning has nothing new to do."""
    answer, known = backends.ask(work, project, provided), provided.lessons
    stated = {*known.requirements, *project.inspection.build_requires}
    fresh = tuple(dict.fromkeys(item for item in answer.requires if item not in stated))
    asked = replace(known, requirements=(*known.requirements, *fresh)) if fresh else None
    if answer.error is None:
        return asked
    work.note(f"the build backend cannot say what it needs: {answer.error[:300]}")
    missing = learning.missing_in(answer.error)
    return learning.learn(work, project, provided.layer, asked or known, missing) or asked


def _unmet(work: Work, unmet: tuple[Unmapped, ...]) -> PhaseFailedError:
    missing = ", ".join(item.requirement for item in unmet)
    details = "\n".join(f"{item.requirement}: {item.reason}" for item in unmet)
    strict = work.request.strict_debian
    return fail(
        FailureClass.BUILD_DEP_MISSING,
        Phase.PROVISION,
        f"{work.request.target} has no package of the build requirement {missing}",
        details=details,
        resolution="build without --strict-debian: the package index may have it" if strict else None,
    )
