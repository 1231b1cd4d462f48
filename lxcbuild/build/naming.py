"""How this build's project and its requirements are called in the target: one place that puts the name map together."""

from __future__ import annotations

from lxcbuild.build.work import Work
from lxcbuild.debian.names import NameMap, load_fallback
from lxcbuild.debian.relations import TargetPython


def names(work: Work) -> NameMap:
    """The name map of the target: the archive first, then the table of the dh-python in the build layer, if it has one."""
    contents = work.facilities.contents_for(work.request.target)
    fallback = {}
    for lower in work.layer.lowers if work.layer is not None else ():
        fallback = load_fallback(lower)
        if fallback:
            break
    return NameMap(archive=contents.find_distribution, fallback=fallback)


def target_python(work: Work) -> TargetPython:
    """The Python that the target's packages run on."""
    assert work.image is not None
    return TargetPython(work.image.python_version, work.request.target.architecture)
