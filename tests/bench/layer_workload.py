"""Provisioning of a recorded workload, measured by really installing: no layers, exact match, nearest subset, planned.

``record`` resolves what the projects of the corpus build with, against the index and the suite as they are, and writes
``layer_workload.json``. ``run`` provisions all of it once per strategy and prints seconds; it removes all layers of packages but
the toolchain's, so give it a state directory of its own. ``options`` installs one set with options of the installation changed.
All three need root, a network and minutes. ``model`` answers what ``run`` does from the recorded packages and the cost model.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import sys
import time
import unittest.mock
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from lxcbuild.build.layering import nearest_stack
from lxcbuild.config.paths import StateDirs
from lxcbuild.config.recipes import load_recipe
from lxcbuild.debian.apt import AptArchive, ResolvedPackage, ResolvedSet
from lxcbuild.errors import LxcbuildError
from lxcbuild.events import NullMonitor
from lxcbuild.images import install as installing
from lxcbuild.images.install import OPTIONS
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.shelf import package_id
from lxcbuild.images.store import ImageStore
from lxcbuild.model import Phase, Target
from lxcbuild.plan.layers import COSTS, Costs, LayerPlan, plan_layers
from lxcbuild.sandbox.lxc import LxcBackend

RECORDED = Path(__file__).with_name("layer_workload.json")
CORPUS = Path(__file__).parents[1] / "corpus" / "corpus.yaml"
TARGET = Target("debian", "trixie")

#: Projects that are recorded: the first of the corpus that have a source archive and can be resolved.
COUNT = 30

STRATEGIES = ("none", "exact", "nearest", "planned")


# -- the recorded workload ------------------------------------------------------------------------------------


def workload() -> dict[str, Any]:
    """The recorded document: target, packages (identity to size in bytes), toolchain and projects by name."""
    found: dict[str, Any] = json.loads(RECORDED.read_text())
    return found


def wishes(document: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Packages above the toolchain, by project, in the order of the corpus."""
    return {name: frozenset(project["packages"]) for name, project in document["projects"].items()}


def record(dirs: StateDirs) -> dict[str, Any]:
    """Inspect the projects in their sandboxes, as a build does, and resolve what they build with."""
    from lxcbuild.build.driver import Course
    from lxcbuild.build.failures import PhaseFailedError
    from lxcbuild.build.request import BuildRequest
    from lxcbuild.build.work import Work
    from lxcbuild.cli.workshop import workshop

    corpus = yaml.safe_load(CORPUS.read_text())
    names = [each["name"] for group in ("fast", "full") for each in corpus[group] if each.get("expect") is None]
    sizes: dict[str, int] = {}
    projects: dict[str, Any] = {}
    with workshop(dirs, NullMonitor(), policy="default") as facilities:
        facilities.images.ensure(TARGET)
        for name in names:
            if len(projects) == COUNT:
                break
            work = Work(
                request=BuildRequest(requirement=name, target=TARGET, force=True, rebuild=True, with_deps=False),
                facilities=facilities,
            )
            course = Course(work)
            if not course.until(Phase.PROVISION):
                _say(f"{name}: {course.outcome}"[:300])
                continue
            try:
                relations, resolved = _build_set(work)
            except (LxcbuildError, PhaseFailedError) as error:
                _say(f"{name}: cannot be built for {TARGET}: {error}")
                continue
            finally:
                course.cancel()
            sizes |= {package_id(asdict(package)): package.size_bytes for package in resolved.packages}
            assert work.source is not None
            projects[name] = {
                "version": work.source.version,
                "relations": list(relations),
                "packages": sorted(package_id(asdict(package)) for package in resolved.packages),
            }
            _say(f"{name} {work.source.version}: {len(resolved.packages)} packages")
        image = facilities.images.get(TARGET)
        toolchain = facilities.layers.resolve(
            image, facilities.layers.base(image), facilities.archive_for(TARGET), load_recipe(TARGET).toolchain
        )
    return {
        "target": str(TARGET),
        "toolchain": {package_id(asdict(package)): package.size_bytes for package in toolchain.packages},
        "sizes": dict(sorted(sizes.items())),
        "projects": projects,
    }


def _build_set(work: Any) -> tuple[tuple[str, ...], ResolvedSet]:
    """What the phase provision asks the suite for, and which packages these are above the toolchain."""
    from lxcbuild.build.provision import _needed

    facilities = work.facilities
    archive = facilities.archive_for(TARGET)
    below = facilities.layers.provide(work.image, archive, work.recipe.toolchain)
    work.layer = below
    needed = _needed(work, keep_outdated=False)
    relations = tuple(sorted({*needed.relations, *needed.implicit}))
    return relations, facilities.layers.resolve(work.image, below, archive, relations)


# -- strategies, measured -------------------------------------------------------------------------------------


def run(base: StateDirs, where: Path, strategies: Sequence[str], *, limit: int | None = None) -> dict[str, Any]:
    """Seconds per strategy and project. Package files are downloaded, and the toolchain's layer is made, before."""
    document = workload()
    names = list(document["projects"])[:limit]
    relations = {name: document["projects"][name]["relations"] for name in names}
    found: dict[str, Any] = {"target": document["target"], "projects": len(names), "strategies": {}}
    images = ImageStore(base)
    with LxcBackend(base) as backend:
        image = images.ensure(TARGET)
        archive = images.archive(image)
        below = LayerStore(base, backend)
        tools = below.provide(image, archive, load_recipe(TARGET).toolchain)
        sets = {name: below.resolve(image, tools, archive, relations[name]) for name in names}
        toolset = below.resolve(image, below.base(image), archive, load_recipe(TARGET).toolchain)
        for resolved in (toolset, *sets.values()):
            archive.fetch(resolved)
        _forget_all_above(below, tools.key)
        for strategy in strategies:
            if strategy == "none":
                found["strategies"]["none"] = _summary(
                    _without_layers(backend, image.path, archive, toolset, sets, where)
                )
                continue
            with _shelf_of_its_own(below):
                store = LayerStore(base, backend, choose=None if strategy == "exact" else nearest_stack)
                seconds: dict[str, float] = {}
                if strategy == "planned":
                    begun = time.monotonic()
                    for packages in _steps(sets):
                        store.extend(image, tools, archive, packages)
                    seconds["(common subsets)"] = time.monotonic() - begun
                for name in names:
                    begun = time.monotonic()
                    store.provide(image, archive, load_recipe(TARGET).toolchain, relations[name])
                    seconds[name] = time.monotonic() - begun
                    _say(f"{strategy} {name} {seconds[name]:.2f} s")
                store.close()
                found["strategies"][strategy] = _summary(seconds)
        below.close()
    images.close()
    return found


def _steps(sets: Mapping[str, ResolvedSet]) -> Iterator[ResolvedSet]:
    """All planned layers, parents first: what the head of a bulk run makes before the builds."""
    by_id = {package_id(asdict(package)): package for each in sets.values() for package in each.packages}
    plan = plan_layers(
        {name: frozenset(package_id(asdict(package)) for package in each.packages) for name, each in sets.items()},
        {identity: package.size_bytes for identity, package in by_id.items()},
    )
    for layer in plan.layers:
        yield ResolvedSet(packages=tuple(sorted(by_id[identity] for identity in layer.packages)))


def _forget_all_above(store: LayerStore, ground: str) -> None:
    """What earlier runs or builds left would be found by any strategy."""
    for key, layer in store.shelf.layers().items():
        if key != ground and layer.kind == "packages" and not store.remove(key):
            raise RuntimeError(f"the layer {key[:16]} is in use")


@contextmanager
def _shelf_of_its_own(store: LayerStore) -> Iterator[None]:
    """Layers that are made meanwhile are removed; those of the toolchain were there before and stay."""
    before = set(store.shelf.layers())
    try:
        yield
    finally:
        for key in sorted(set(store.shelf.layers()) - before):
            if not store.remove(key):
                raise RuntimeError(f"the layer {key[:16]} is in use")


def _without_layers(
    backend: LxcBackend,
    image: Path,
    archive: AptArchive,
    tools: ResolvedSet,
    sets: Mapping[str, ResolvedSet],
    where: Path,
) -> dict[str, float]:
    """As a builder without layers: the toolchain and the rest onto the plain image, each time, and thrown away."""
    seconds = {}
    for name, resolved in sets.items():
        both = ResolvedSet(packages=tuple(sorted({*tools.packages, *resolved.packages})))
        seconds[name] = _one_install(backend, (image,), archive, both, where)
        _say(f"none {name} {seconds[name]:.2f} s")
    return seconds


#: What the installation could do otherwise; dpkg takes the last word on a path.
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "as it is": OPTIONS,
    "with fsync": tuple(option for option in OPTIONS if not option.endswith("force-unsafe-io")),
    "with documentation": (*OPTIONS, "Dpkg::Options::=--path-include=*"),
}


def variants(base: StateDirs, where: Path, *, rounds: int) -> dict[str, list[float]]:
    """Seconds to install the largest recorded set on the toolchain with one option changed; interleaved."""
    document = workload()
    largest = max(document["projects"].values(), key=lambda project: len(project["packages"]))
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    images = ImageStore(base)
    with LxcBackend(base) as backend:
        image = images.ensure(TARGET)
        archive = images.archive(image)
        store = LayerStore(base, backend)
        tools = store.provide(image, archive, load_recipe(TARGET).toolchain)
        resolved = store.resolve(image, tools, archive, largest["relations"])
        for number in range(rounds * len(VARIANTS)):
            name = list(VARIANTS)[number % len(VARIANTS)]
            with unittest.mock.patch.object(installing, "OPTIONS", VARIANTS[name]):
                seconds[name].append(round(_one_install(backend, tools.lowers, archive, resolved, where), 2))
        store.close()
    images.close()
    return seconds


def _one_install(
    backend: LxcBackend, lowers: tuple[Path, ...], archive: AptArchive, resolved: ResolvedSet, where: Path
) -> float:
    """Seconds of one installation that is thrown away."""
    debs = where / f"debs-{secrets.token_hex(3)}"
    debs.mkdir(parents=True)
    begun = time.monotonic()
    try:
        _link(resolved.packages, archive.fetch(resolved), debs)
        with installing.install(
            backend,
            instance_id=f"once-{secrets.token_hex(4)}",
            lowers=lowers,
            debs=debs,
            names=tuple(package.filename for package in resolved.packages),
            download_bytes=resolved.size_bytes,
        ):
            return time.monotonic() - begun
    finally:
        shutil.rmtree(debs)


def _link(packages: Sequence[ResolvedPackage], files: Sequence[Path], where: Path) -> None:
    for package, file in zip(packages, files, strict=True):
        (where / package.filename).hardlink_to(file)


def _summary(seconds: Mapping[str, float]) -> dict[str, Any]:
    return {"total_s": round(sum(seconds.values()), 2), "each_s": {name: round(s, 3) for name, s in seconds.items()}}


# -- strategies, modelled -------------------------------------------------------------------------------------


def modelled(document: Mapping[str, Any], costs: Costs = COSTS) -> dict[str, float]:
    """Seconds per strategy by the cost model; the toolchain's layer is there for all but ``none``."""
    asked = wishes(document)
    sizes = {**document["sizes"], **document["toolchain"]}
    tools = frozenset(document["toolchain"])
    distinct = {packages for packages in asked.values() if packages}
    plan: Callable[[Mapping[str, frozenset[str]]], LayerPlan] = lambda sets: plan_layers(sets, sizes, costs=costs)  # noqa: E731
    return {
        "none": sum(costs.of(tools | packages, sizes) for packages in asked.values()),
        "exact on the image": sum(costs.of(tools | packages, sizes) for packages in set(asked.values())),
        "exact": sum(costs.of(packages, sizes) for packages in distinct),
        "nearest": as_they_come(asked, sizes, costs),
        "planned": plan(asked).seconds,
    }


def as_they_come(asked: Mapping[str, frozenset[str]], sizes: Mapping[str, int], costs: Costs = COSTS) -> float:
    """Each set from the nearest subset among those before it."""
    from lxcbuild.plan.layers import KnownLayer, nearest

    known: dict[frozenset[str], KnownLayer] = {}
    seconds = 0.0
    for packages in asked.values():
        if packages and packages not in known:
            below = nearest(packages, known.values(), sizes, costs=costs)
            seconds += costs.of(packages - (below.packages if below else frozenset()), sizes)
            depth = 1 + (below.depth if below else 0)
            known[packages] = KnownLayer(key=f"{len(known):08}", packages=packages, depth=depth)
    return seconds


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("record", "run", "model", "options"))
    parser.add_argument("--state-dir", type=Path)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.what == "model":
        sys.stdout.write(json.dumps(modelled(workload()), indent=1) + "\n")
        return
    dirs = StateDirs.choose(given.state_dir)
    if given.what == "record":
        RECORDED.write_text(json.dumps(record(dirs), indent=1) + "\n")
        return
    where = dirs.cache / "archives" / "bench"
    if given.what == "options":
        sys.stdout.write(json.dumps(variants(dirs, where, rounds=given.rounds), indent=1) + "\n")
        return
    found = run(dirs, where, given.strategies.split(","), limit=given.limit)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
