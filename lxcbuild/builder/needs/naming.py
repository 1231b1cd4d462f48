"""How this build's project and its requirements are called in the target: one place that puts the name map together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from packaging.utils import canonicalize_name

from lxcbuild.builder.context import BuildContext
from lxcbuild.builder.work import Work
from lxcbuild.debian.names import Distribution, NameMap, binary_package, load_fallback
from lxcbuild.debian.relations import TargetPython
from lxcbuild.debian.tables import requirement_table
from lxcbuild.debian.versions import upstream_of
from lxcbuild.images.image import Image
from lxcbuild.images.layer import Layer
from lxcbuild.model import Target


def names(work: Work, layer: Layer) -> NameMap:
    """The name map of the target: what is built together with this project, the archive, then the table of the dh-python in the
    layer, if it has one."""
    archive, contents, chosen = work.archive, work.contents, work.closure.chosen

    def find(name: str) -> Distribution | None:
        return None if name in chosen else contents.find_distribution(name)

    return NameMap(
        overrides=_by_hand(work),
        archive=find,
        built=chosen,
        fallback=next(filter(None, map(load_fallback, layer.lowers)), {}),
        taken=lambda package: archive.candidate(package) is not None,
    )


def future_names(context: BuildContext, target: Target, projects: Iterable[str]) -> NameMap:
    """What packages of these projects will be called, before anything of them is built."""
    contents = context.contents_for(target)
    unknown = [binary_package(name) for name in projects if contents.find_distribution(name) is None]
    taken = context.archive_for(target).candidates(unknown)
    return NameMap(archive=contents.find_distribution, taken=taken.__contains__)


def _by_hand(work: Work) -> Mapping[str, str]:
    override = work.override
    own: dict[str, str] = {canonicalize_name(work.name): override.package} if override.package is not None else {}
    return {**override.names, **own}


def build_names(work: Work, layer: Layer) -> NameMap:
    """The same for build requirements, where some projects are only carriers of a program that the suite has."""
    known = names(work, layer)
    archive = work.contents.find_distribution  # nothing built here is built with
    table = requirement_table().programs
    candidates = work.archive.candidates

    def find(name: str) -> Distribution | None:
        found = archive(name)
        if found is not None or name not in table:
            return found
        version = candidates([table[name]]).get(table[name])
        if version is None:
            return None
        return Distribution(name, upstream_of(version), table[name])

    return NameMap(overrides=known.overrides, archive=find, fallback=known.fallback)


def target_python(image: Image) -> TargetPython:
    """The Python that the target's packages run on."""
    return TargetPython(image.python_version, image.target.architecture)
