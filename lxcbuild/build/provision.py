"""Phase provision: from build requirements to a stack of layers; a stack that is known costs no apt run."""

from __future__ import annotations

from lxcbuild.build.failures import fail
from lxcbuild.build.naming import names, target_python
from lxcbuild.build.work import Work
from lxcbuild.debian.buildrelations import build_relations
from lxcbuild.model import FailureClass, Phase


def run(work: Work) -> None:
    """Set ``work.layer`` and ``work.build_relations`` (what Build-Depends will say)."""
    assert work.recipe is not None
    assert work.image is not None
    assert work.inspection is not None
    facilities = work.facilities
    archive = facilities.archive_for(work.request.target)
    toolchain = facilities.layers.provide(work.image, archive, work.recipe.toolchain)
    work.layer = toolchain  # the name map reads dh-python's table in it
    needed = build_relations(work.inspection, python=target_python(work), names=names(work), converter=work.converter)
    for text in needed.notes:
        work.note(text)
    work.outdated_backend = bool(needed.outdated)
    for item in needed.outdated:
        work.note(f"{item.requirement} is asked for and {item.package} has {item.available}: tried all the same")
    if needed.unmet:
        missing = ", ".join(item.requirement for item in needed.unmet)
        raise fail(
            FailureClass.BUILD_DEP_MISSING,
            Phase.PROVISION,
            f"{work.request.target} has no package of the build requirement {missing}",
            details="\n".join(f"{item.requirement}: {item.reason}" for item in needed.unmet),
        )
    work.build_relations = (*needed.relations, *sorted(work.learned_packages))
    wanted = tuple(sorted({*work.build_relations, *needed.implicit}))
    work.layer = facilities.layers.provide(work.image, archive, work.recipe.toolchain, wanted)
