"""Phase provision: from build requirements to a stack of layers; a stack that is known costs no apt run.

What the suite has goes first. What it lacks, or has too old, comes from the package index as a layer of wheels on top, for this
build's sandboxes only. Where the backend can want more than is written down, it is asked, until it wants nothing new.
"""

from __future__ import annotations

from dataclasses import replace

from packaging.requirements import InvalidRequirement, Requirement

from lxcbuild.build import backends, crates, learning
from lxcbuild.build.failures import PhaseFailedError, fail
from lxcbuild.build.naming import build_names, target_python
from lxcbuild.build.work import Work
from lxcbuild.config.overrides import changed
from lxcbuild.debian.buildrelations import BuildRelations, build_relations
from lxcbuild.debian.relations import Unmapped
from lxcbuild.errors import DependencyError
from lxcbuild.images.layers import Layer
from lxcbuild.images.wheels import describe
from lxcbuild.model import Converter, FailureClass, Phase

#: How often a backend may come up with something new.
_MAX_HOOK_ROUNDS = 4


def run(work: Work) -> None:
    """Set ``work.layer``, ``work.build_relations`` (what Build-Depends will say) and what the index provided."""
    assert work.inspection is not None
    for _ in range(_MAX_HOOK_ROUNDS):
        _provide(work)
        if crates.settle(work):
            _provide(work)  # without what did not help
            crates.settle(work)
        if not (work.inspection.dynamic_build_requires and _backend_wants_more(work)):
            return


def _provide(work: Work) -> None:
    assert work.recipe is not None
    assert work.image is not None
    facilities = work.facilities
    archive = facilities.archive_for(work.request.target)
    work.layer = facilities.layers.provide(work.image, archive, work.recipe.toolchain)
    work.index_wheels, work.program_paths, work.outdated_backend = {}, (), False
    # The way of stdeb calls "setup.py install --install-layout=deb", which only the distribution's own setuptools knows.
    keep = work.request.strict_debian or work.converter is Converter.STDEB
    needed = _needed(work, keep_outdated=keep)
    if not work.request.strict_debian and (needed.unmet or (needed.outdated and not keep)):
        if _provide_from_index(work, needed):
            return
        needed = _needed(work, keep_outdated=True)
    for item in needed.outdated:
        work.note(f"{item.requirement} is asked for and {item.package} has {item.available}: tried all the same")
    if needed.unmet:
        raise _unmet(work, needed.unmet)
    work.outdated_backend = bool(needed.outdated)
    work.layer = _debian_layer(work, needed)


def _needed(work: Work, *, keep_outdated: bool) -> BuildRelations:
    assert work.inspection is not None
    needed = build_relations(
        work.inspection,
        python=target_python(work),
        names=build_names(work),
        converter=work.converter,
        asked=tuple(work.asked_requirements),
        keep_outdated=keep_outdated,
        distrusted=work.suite_backend_unfit and not keep_outdated,
    )
    for text in needed.notes:
        work.note(text)
    chosen = crates.relations(work, needed.relations)
    return replace(needed, relations=changed(chosen, work.override.build_depends))


def _debian_layer(work: Work, needed: BuildRelations) -> Layer:
    """The suite's part. What only logs and experience suggest must not be what a build fails of."""
    assert work.recipe is not None
    assert work.image is not None
    archive = work.facilities.archive_for(work.request.target)
    suggested = learning.suggested_packages(work)
    learned = sorted(work.learned_packages)
    for extra in ((*learned, *suggested), learned, ()):
        relations = changed((*needed.relations, *extra), work.override.build_depends)
        wanted = tuple(sorted({*relations, *needed.implicit}))
        try:
            layer = work.facilities.layers.provide(work.image, archive, work.recipe.toolchain, wanted)
        except DependencyError as error:
            if not extra:
                raise
            work.note(f"{', '.join(extra)} cannot be installed as well: {error.details or error.brief}"[:500])
            continue
        work.build_relations = relations
        return layer
    raise AssertionError("the last relations either resolve or raise")


def _provide_from_index(work: Work, needed: BuildRelations) -> bool:
    """Put newer or missing requirements on top, as wheels; False when the suite's older packages have to do."""
    assert work.inspection is not None
    assert work.image is not None
    hopeless = [item for item in needed.unmet if not _can_be_asked_for(item)]
    if hopeless:
        raise _unmet(work, tuple(hopeless))
    newer = () if work.converter is Converter.STDEB else needed.outdated
    roots = [*(item.requirement for item in newer), *(item.requirement for item in needed.unmet)]
    below = _debian_layer(work, needed)
    stated = (*work.inspection.build_requires, *work.asked_requirements)
    try:
        sets = backends.choose(work, below, roots, constraints=stated)
    except DependencyError as error:
        if needed.unmet:
            raise _unmet(work, needed.unmet, more=f"{error.brief}\n{error.details or ''}".strip()) from None
        work.note(f"nothing newer than the suite's build requirements can be had: {error.brief}")
        return False
    made = work.facilities.wheels.provide(work.image, below, sets)
    work.layer, work.program_paths, work.index_wheels = made.layer, made.program_paths, dict(sets)
    told = {chosen.file.filename: describe(chosen) for chosen_set in sets.values() for chosen in chosen_set}
    for item in told.values():
        work.note(f"build requirement from the index: {item['name']} {item['version']} sha256:{item['sha256']}")
    return True


def _can_be_asked_for(item: Unmapped) -> bool:
    try:
        return Requirement(item.requirement).url is None
    except InvalidRequirement:
        return False


def _backend_wants_more(work: Work) -> bool:
    """Ask the backend; whether provisioning has something new to do."""
    answer = backends.ask(work)
    fresh = [item for item in answer.requires if item not in work.asked_requirements and not _is_stated(work, item)]
    work.asked_requirements.update(dict.fromkeys(fresh))
    if answer.error is None:
        return bool(fresh)
    work.note(f"the build backend cannot say what it needs: {answer.error[:300]}")
    return learning.learn(work, learning.missing_in(answer.error)) or bool(fresh)


def _is_stated(work: Work, text: str) -> bool:
    assert work.inspection is not None
    return text in work.inspection.build_requires


def _unmet(work: Work, unmet: tuple[Unmapped, ...], *, more: str = "") -> PhaseFailedError:
    missing = ", ".join(item.requirement for item in unmet)
    details = "\n".join(f"{item.requirement}: {item.reason}" for item in unmet)
    strict = work.request.strict_debian
    return fail(
        FailureClass.BUILD_DEP_MISSING,
        Phase.PROVISION,
        f"{work.request.target} has no package of the build requirement {missing}",
        details=f"{details}\n{more}".strip(),
        resolution="build without --strict-debian: the package index may have it" if strict else None,
    )
