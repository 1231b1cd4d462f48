"""Phase resolve (host): which release is meant, and whether the distribution ships the project already."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from lxcbuild.builder.work import Work
from lxcbuild.pypi.index.client import parse_requirement


def run(work: Work) -> None:
    """Settle image, recipe and release; sets ``work.official`` when there is nothing to build."""
    request, context = work.request, work.context
    work.recipe = context.recipe_for(request.target)
    if request.path is not None:
        work.image = context.images.get(request.target)
        return
    requirement = parse_requirement(request.requirement)
    work.image = context.images.get(request.target)
    if not request.force:
        work.official = _official(work, requirement.name, requirement.specifier)
        if work.official is not None:
            return
    work.release = context.index.resolve(requirement, python_version=work.image.python_version)
    for text in work.release.notes:
        work.note(text)


def _official(work: Work, name: str, specifier: SpecifierSet) -> str | None:
    """The full version that the suite ships, or None; a version that the requirement excludes is not an answer to it."""
    target = work.request.target
    shipped = work.context.contents_for(target).find_distribution(name)
    if shipped is None:
        return None
    try:
        fits = specifier.contains(Version(shipped.version), prereleases=True)
    except InvalidVersion:
        fits = True  # nobody can tell; not competing with the distribution is the safe answer
    if not fits:
        work.note(f"{target} ships {name} {shipped.version} as {shipped.package}, which does not satisfy {specifier}")
        return None
    return work.context.archive_for(target).candidate(shipped.package) or shipped.version
