"""Measures how long a recorded workload waits for its build dependencies, by several ways to keep layers. Needs root, the network.

    .venv/bin/python tests/workload/layers.py --state-dir DIR [--builds N] [--json FILE]

``builds.json`` has the Build-Depends of 30 real projects in the order in which they were built. Every way has a state directory of
its own below DIR, with the same image and all packages downloaded before anything is timed; the ways take turns, build by build, so
that what disturbs the machine disturbs all. Nothing is compiled: provisioning is what is timed.

    none       every build installs everything that it needs on the image
    exact      what one build installed serves later ones with just the same set
    nearest    what is missing is installed on the nearest known subset
    planned    the same, after the common subsets that plan/layers.py found were made (their time counts)
    toolchain  as lxcbuild builds: the toolchain as one layer, then nearest subsets on it
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lxcbuild.build.layering import nearest_stack
from lxcbuild.config.paths import StateDirs
from lxcbuild.config.recipes import load_recipe
from lxcbuild.debian.apt import AptArchive, ResolvedSet
from lxcbuild.images.image import Image
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.shelf import package_id
from lxcbuild.images.store import ImageStore
from lxcbuild.model import Target
from lxcbuild.plan.layers import PackageSet, plan_layers
from lxcbuild.sandbox.lxc import LxcBackend

WAYS = ("none", "exact", "nearest", "planned", "toolchain")


class Room:
    """One way's state directory."""

    def __init__(self, root: Path, way: str, seed: StateDirs, target: Target, stack: contextlib.ExitStack) -> None:
        self.way, self.seconds = way, 0.0
        self.dirs = StateDirs.choose(root / way)
        for name in ("images", "archives"):
            source = seed.cache / name
            if source.exists() and not (self.dirs.cache / name).exists():
                shutil.copytree(source, self.dirs.cache / name, symlinks=True, copy_function=_link)
        shutil.rmtree(self.dirs.images / "layers", ignore_errors=True)
        backend = stack.enter_context(LxcBackend(self.dirs))
        images = ImageStore(self.dirs)
        stack.callback(images.close)
        self.image: Image = images.ensure(target)
        self.archive: AptArchive = images.archive(self.image)
        choose = None if way in {"none", "exact"} else nearest_stack
        self.store = LayerStore(self.dirs, backend, choose=choose)
        stack.callback(self._away)
        self.toolchain = load_recipe(target).toolchain

    def _away(self) -> None:
        self.store.close()
        for digest in self.store.hot.digests():
            self.store.hot.drop(digest)

    def timed(self, work: Callable[[], None]) -> float:
        """Add the time of one piece of work."""
        begun = time.monotonic()
        work()
        taken = time.monotonic() - begun
        self.seconds += taken
        return taken

    def build(self, resolved: ResolvedSet, relations: list[str]) -> None:
        """Provide one build's layers."""
        if self.way == "toolchain":
            self.store.provide(self.image, self.archive, self.toolchain, relations)
            return
        layer = self.store.ensure(self.image, self.archive, resolved)
        if self.way == "none":
            self.store.remove(layer.key)


def _link(source: str, target: str) -> str:
    os.link(source, target)
    return target


def main() -> int:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--builds", type=int, default=30)
    parser.add_argument("--way", action="append", choices=WAYS)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    recorded = json.loads((Path(__file__).parent / "builds.json").read_text())
    target = Target(*recorded["target"].split("/"))
    builds = dict(list(recorded["builds"].items())[: asked.builds])
    seed = StateDirs.choose(asked.state_dir / "seed")
    with contextlib.ExitStack() as stack:
        resolved = _resolve(seed, target, builds)
        rooms = [Room(asked.state_dir, way, seed, target, stack) for way in asked.way or WAYS]
        _measure(rooms, resolved, builds)
        _print(rooms, resolved, asked.json)
    return 0


def _resolve(seed: StateDirs, target: Target, builds: Mapping[str, list[str]]) -> dict[str, ResolvedSet]:
    """What each build installs on the image, with all of it downloaded."""
    images = ImageStore(seed)
    image = images.ensure(target)
    archive = images.archive(image)
    archive.refresh()
    found = {name: archive.resolve(relations, status=image.status) for name, relations in builds.items()}
    for resolved in (*found.values(), archive.resolve(load_recipe(target).toolchain, status=image.status)):
        archive.fetch(resolved)
    images.close()
    return found


def _sets(resolved: Mapping[str, ResolvedSet]) -> tuple[dict[str, PackageSet], dict[str, int]]:
    sets = {name: frozenset(package_id(asdict(p)) for p in each.packages) for name, each in resolved.items()}
    sizes = {package_id(asdict(p)): p.size_bytes for each in resolved.values() for p in each.packages}
    return sets, sizes


def _measure(rooms: list[Room], resolved: Mapping[str, ResolvedSet], builds: Mapping[str, list[str]]) -> None:
    packages = {package_id(asdict(p)): p for each in resolved.values() for p in each.packages}
    for room in rooms:
        if room.way == "planned":
            for step in plan_layers(*_sets(resolved)).steps:
                chosen = sorted((packages[identity] for identity in step.packages), key=lambda p: p.name)
                taken = room.timed(
                    lambda r=room, c=chosen: r.store.ensure(r.image, r.archive, ResolvedSet(packages=tuple(c)))
                )  # type: ignore[misc]
                sys.stderr.write(f"planned step of {len(chosen)} packages {taken:.1f} s\n")
    for name, each in resolved.items():
        told = [f"{room.way} {room.timed(lambda r=room: r.build(each, builds[name])):.1f}" for room in rooms]  # type: ignore[misc]  # noqa: B023
        sys.stderr.write(f"{name} ({len(each.packages)} packages): {', '.join(told)} s\n")


def _print(rooms: list[Room], resolved: Mapping[str, ResolvedSet], place: Path | None) -> None:
    exact = next((room.seconds for room in rooms if room.way == "exact"), 0.0)
    sets, _ = _sets(resolved)
    rows: list[dict[str, Any]] = []
    sys.stdout.write("| way | seconds | of exact | layers | bytes on disk |\n|---|---|---|---|---|\n")
    for room in rooms:
        layers = room.store.shelf.layers().values()
        size = sum(layer.archive_bytes for layer in layers)
        rows.append({"way": room.way, "seconds": room.seconds, "layers": len(layers), "archive_bytes": size})
        ratio = f"{room.seconds / exact:.2f}" if exact else "-"
        sys.stdout.write(f"| {room.way} | {room.seconds:.1f} | {ratio} | {len(layers)} | {size >> 20} MiB |\n")
    sys.stdout.write(f"{len(sets)} builds, {len(set(sets.values()))} different sets\n")
    if place is not None:
        place.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
