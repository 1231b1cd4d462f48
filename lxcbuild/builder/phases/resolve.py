"""Phase resolve (host): which release is meant, and whether the distribution ships the project already."""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from lxcbuild.builder.facts import OfficialVersion, Resolved
from lxcbuild.builder.work import Work
from lxcbuild.pypi.index.client import parse_requirement


def run(work: Work) -> Resolved | OfficialVersion:
    """Choose image, recipe and release, or find that there is nothing to build."""
    request, context = work.request, work.context
    recipe = context.recipe_for(request.target)
    if request.path is not None:
        return Resolved(recipe=recipe, image=context.images.get(request.target), origin=request.path)
    requirement = parse_requirement(request.requirement)
    image, shipped = context.images.get(request.target), None if request.force else _official(work, requirement)
    if shipped is not None:
        work.identify("", shipped)
        return OfficialVersion(version=shipped)
    release = context.index.resolve(requirement, python_version=image.python_version)
    work.identify(release.name, release.version)
    for text in release.notes:
        work.note(text)
    return Resolved(recipe=recipe, image=image, origin=release)


def _official(work: Work, asked: Requirement) -> str | None:
    """The full version that the suite ships, or None; a version that the requirement excludes is not an answer to it."""
    shipped = work.contents.find_distribution(asked.name)
    if shipped is None:
        return None
    try:
        fits = asked.specifier.contains(Version(shipped.version), prereleases=True)
    except InvalidVersion:
        fits = True  # nobody can tell; not competing with the distribution is the safe answer
    if not fits:
        has = f"{work.request.target} ships {asked.name} {shipped.version} as {shipped.package}"
        work.note(f"{has}, which does not satisfy {asked.specifier}")
        return None
    return work.archive.candidate(shipped.package) or shipped.version
