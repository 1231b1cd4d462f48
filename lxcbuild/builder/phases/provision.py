"""Phase provision: from build requirements to a stack of layers; a stack that is known costs no apt run.

What the suite has goes first. What it lacks, or has too old, comes from the package index as a layer of wheels on top, for this
build's sandboxes only. Where the backend can want more than is written down, it is asked, until it wants nothing new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace
from packaging.requirements import InvalidRequirement, Requirement

from lxcbuild.builder.failures import PhaseFailedError, fail
from lxcbuild.builder.needs import backends, crates, learning
from lxcbuild.builder.needs.naming import build_names, target_python
from lxcbuild.builder.work import Work
from lxcbuild.config.overrides import changed
from lxcbuild.debian.relations import Unmapped
from lxcbuild.debian.source.buildrelations import BuildRelations, Outdated, build_relations, without_upper_bounds
from lxcbuild.errors import DependencyError
from lxcbuild.images.layer import Layer
from lxcbuild.images.wheels import describe
from lxcbuild.model import Converter, FailureClass, Phase
from lxcbuild.pypi.versions.buildset import Chosen

#: How often a backend may come up with something new.
_MAX_HOOK_ROUNDS = 4
#: Make and install a wheel without any plugin of pybuild's.
_PLAIN_TOOLS = ("build", "installer")


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
    context = work.context
    archive = context.archive_for(work.request.target)
    work.layer = work.using(context.layers.provide(work.image, archive, work.recipe.toolchain))
    work.index_wheels, work.program_paths, work.outdated_backend, work.newer_than_stdeb = {}, (), False, False
    keep = work.request.strict_debian or work.converter is Converter.STDEB
    needed = _needed(work, keep_outdated=keep)
    if not work.request.strict_debian and (needed.unmet or _to_be_newer(work, needed)):
        if _provide_from_index(work, needed):
            return
        needed = _needed(work, keep_outdated=True)
    for item in needed.outdated:
        work.note(f"{item.requirement} is asked for and {item.package} has {item.available}: tried all the same")
    if needed.unmet:
        raise _unmet(work, needed.unmet)
    work.outdated_backend = bool(needed.outdated)
    work.layer = _debian_layer(work, needed)


def _to_be_newer(work: Work, needed: BuildRelations) -> tuple[Outdated, ...]:
    """What the suite has too old and the index provides. stdeb calls ``setup.py install --install-layout=deb``, which only the
    distribution's own setuptools knows: there, only what the project's own words rule out is worth leaving that way."""
    if work.request.strict_debian:
        return ()
    return tuple(item for item in needed.outdated if item.binding or work.converter is not Converter.STDEB)


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
    archive = work.context.archive_for(work.request.target)
    suggested = learning.suggested_packages(work)
    learned = sorted(work.learned_packages)
    for extra in ((*learned, *suggested), learned, ()):
        relations = changed((*needed.relations, *extra), work.override.build_depends)
        wanted = tuple(sorted({*relations, *needed.implicit}))
        try:
            layer = work.context.layers.provide(work.image, archive, work.recipe.toolchain, wanted)
        except DependencyError as error:
            if not extra:
                raise
            work.note(f"{', '.join(extra)} cannot be installed as well: {error.details or error.brief}"[:500])
            continue
        work.build_relations, work.layer_relations = relations, wanted
        return work.using(layer)
    raise AssertionError("the last relations either resolve or raise")


def _provide_from_index(work: Work, needed: BuildRelations) -> bool:
    """Put newer or missing requirements on top, as wheels; False when the suite's older packages have to do."""
    assert work.inspection is not None
    assert work.image is not None
    hopeless = [item for item in needed.unmet if not _can_be_asked_for(item)]
    if hopeless:
        raise _unmet(work, tuple(hopeless))
    newer = _to_be_newer(work, needed)
    plainly = bool(newer) and work.converter is Converter.STDEB
    roots = [*(item.requirement for item in newer), *(item.requirement for item in needed.unmet)]
    roots += _PLAIN_TOOLS if plainly else ()
    must = [*(item.requirement for item in newer if item.binding), *(item.requirement for item in needed.unmet)]
    below = _debian_layer(work, needed)
    try:
        sets = _choose(work, below, roots, relaxing=bool(must))
    except DependencyError as error:
        if must and (lacking := _lacking(work, below, must)):
            raise _impossible(work, lacking, error) from None
        work.note(f"nothing newer than the suite's build requirements can be had: {error.brief}")
        return False
    made = work.context.wheels.provide(work.image, below, sets)
    work.newer_than_stdeb = plainly
    work.layer, work.program_paths, work.index_wheels = work.using(made.layer), made.program_paths, dict(sets)
    told = {chosen.file.filename: describe(chosen) for chosen_set in sets.values() for chosen in chosen_set}
    for item in told.values():
        work.note(f"build requirement from the index: {item['name']} {item['version']} sha256:{item['sha256']}")
    return True


def _choose(
    work: Work, below: Layer, roots: Sequence[str], *, relaxing: bool = True
) -> Mapping[str, tuple[Chosen, ...]]:
    """Releases of the index that satisfy every bound; failing that, with ``relaxing``, every lower one, and a note of it."""
    assert work.inspection is not None
    stated = (*work.inspection.build_requires, *work.asked_requirements)
    try:
        return backends.choose(work, below, roots, constraints=stated)
    except DependencyError:
        relaxed, bounds = ([without_upper_bounds(text) for text in texts] for texts in (roots, stated))
        if not relaxing or (relaxed, bounds) == (list(roots), list(stated)):
            raise
        found = backends.choose(work, below, relaxed, constraints=bounds)
    work.note("no releases of the index satisfy all bounds of the build requirements: upper ones are not enforced")
    return found


def _lacking(work: Work, below: Layer, must: Sequence[str]) -> list[str]:
    """Which of them the index cannot provide: none where it can provide all together, all where only together it cannot."""

    def can_be_had(roots: Sequence[str]) -> bool:
        try:
            _choose(work, below, roots)
        except DependencyError:
            return False
        return True

    if can_be_had(must):
        return []
    return [text for text in must if not can_be_had([text])] or list(must)


def _impossible(work: Work, lacking: Sequence[str], error: DependencyError) -> PhaseFailedError:
    assert work.image is not None
    return fail(
        FailureClass.BUILD_DEP_MISSING,
        Phase.PROVISION,
        f"neither {work.request.target} nor the package index has what is needed to build: {', '.join(lacking)[:300]}",
        details=f"{error.brief}\n{error.details or ''}".strip(),
        resolution=f"it may exist for another Python than {work.image.python_version}: try another --target or version",
    )


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
