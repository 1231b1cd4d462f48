"""From names to a plan, with what the command line has: images, archives, index, ledger."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from lxcbuild.builder.request import BuildRequest
from lxcbuild.cli.requests import read_requests
from lxcbuild.config.recipes import load_recipe
from lxcbuild.debian.archive.contents import ContentsIndex
from lxcbuild.errors import InputError
from lxcbuild.events import Monitor
from lxcbuild.farm.jobs import remembered
from lxcbuild.farm.planning.layerplan import Ground, layers_of
from lxcbuild.farm.planning.planning import PlannedSuite, PlanRequest, make_plan
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.store import ImageStore
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Target
from lxcbuild.plan.document import Plan, PlannedLayer
from lxcbuild.pypi.index.concurrent import CrowdClient
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.state.paths import StateDirs


def plan_for(
    words: Sequence[str],
    files: Sequence[Path],
    targets: Sequence[Target],
    *,
    like: BuildRequest,
    policy: str,
    dirs: StateDirs,
    monitor: Monitor,
    ledger: Ledger,
    anew: bool = False,
) -> Plan:
    """Resolve everything; ``anew``: whatever the ledger knows of failures.

    Raises InputError for what is no project of the index, and NetworkError.
    """
    asked = list(dict.fromkeys(read_requests(words, files, like=replace(like, target=targets[0]))))
    for request in asked:
        if request.path is not None:
            raise InputError(
                f"{request.requirement} is a path, and plans are of projects of the index",
                resolution="build it with: lxcbuild build",
            )
    images = ImageStore(dirs, monitor)
    opened: list[ContentsIndex] = []
    try:
        suites = []
        for target in targets:
            image = images.get(target)
            contents = ContentsIndex.of_archive(dirs, target, images.archive(image), monitor=monitor)
            opened.append(contents)
            known = {} if anew else remembered(ledger, target, policy=policy, image=image.digest)
            suites.append(
                PlannedSuite(target, image.python_version, image.digest, find=contents.find_distribution, caps=known)
            )
        with CrowdClient(dirs) as index:
            made = make_plan(
                PlanRequest(requests=asked, policy=policy),
                suites,
                index=index,
                costs=ledger.costs,
                cpus=float(len(os.sched_getaffinity(0))),
            )
        return _with_layers(made, targets, images, dirs=dirs, monitor=monitor, ledger=ledger)
    finally:
        for contents in opened:
            contents.close()
        images.close()


def _with_layers(
    made: Plan, targets: Sequence[Target], images: ImageStore, *, dirs: StateDirs, monitor: Monitor, ledger: Ledger
) -> Plan:
    recorded = ledger.layer_relations(member.name for job in made.jobs.values() for member in job.members)
    if not recorded:
        return made
    store = LayerStore(dirs, LxcBackend(dirs), monitor)
    try:
        layers: list[PlannedLayer] = []
        for target in targets:
            layers += layers_of(made, str(target), recorded, ground_of(target, images), store, after=len(layers))
    finally:
        store.close()
    return replace(made, layers=tuple(layers))


def ground_of(target: Target, images: ImageStore) -> Ground:
    """What layers of a target stand on here."""
    image = images.get(target)
    return Ground(image=image, archive=images.archive(image), toolchain=load_recipe(target).toolchain)
