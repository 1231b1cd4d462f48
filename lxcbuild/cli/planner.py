"""From names to a plan, with what the command line has: images, archives, index, ledger."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lxcbuild.build.request import BuildRequest
from lxcbuild.cli.wishes import wishes
from lxcbuild.config.paths import StateDirs
from lxcbuild.debian.contents import ContentsIndex
from lxcbuild.errors import InputError
from lxcbuild.events import Monitor
from lxcbuild.farm.planning import Suite, Wanted, make_plan
from lxcbuild.images.store import ImageStore
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Target
from lxcbuild.plan.document import Plan
from lxcbuild.pypi.crowd import CrowdClient


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
) -> Plan:
    """Resolve everything. Raises InputError for what is no project of the index, and NetworkError."""
    asked = list(dict.fromkeys(wishes(words, files, like=replace(like, target=targets[0]))))
    for wish in asked:
        if wish.path is not None:
            raise InputError(
                f"{wish.requirement} is a path, and plans are of projects of the index",
                resolution="build it with: lxcbuild build",
            )
    images = ImageStore(dirs, monitor)
    opened: list[ContentsIndex] = []
    try:
        suites = []
        for target in targets:
            image = images.get(target)
            archive = images.archive(image)
            contents = ContentsIndex.open(dirs, target, archive.contents_files, monitor=monitor)
            opened.append(contents)
            suites.append(
                Suite(target=target, python=image.python_version, image=image.digest, find=contents.find_distribution)
            )
        with CrowdClient(dirs) as index:
            return make_plan(
                Wanted(requests=asked, policy=policy),
                suites,
                index=index,
                costs=ledger.costs,
                cpus=float(len(os.sched_getaffinity(0))),
            )
    finally:
        for contents in opened:
            contents.close()
        images.close()
