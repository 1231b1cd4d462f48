"""Provisioning of a recorded workload, measured by really installing: no layers, exact match, nearest subset, planned.

``record`` resolves what the projects of the corpus build with, against the index and the suite as they are, and writes
``layer_workload.json``. ``run`` provisions all of it once per strategy, interleaved, and writes ``layer_measured.json``.
``options`` installs one set with options of the installation changed. All three need root, a network and minutes. ``model``
answers what ``run`` does from the recorded packages and the cost model; ``fit`` gives the model's constants for what was measured.
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
from contextlib import ExitStack, contextmanager
from dataclasses import asdict as costs_as_dict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from msgspec.structs import asdict

from lxcbuild.bench.cold import layerless
from lxcbuild.builder.layering import nearest_stack
from lxcbuild.config.recipes import load_recipe
from lxcbuild.debian.archive.apt import AptArchive, ResolvedPackage, ResolvedSet
from lxcbuild.errors import LxcbuildError
from lxcbuild.events import NullMonitor
from lxcbuild.images import install as installing
from lxcbuild.images.image import Image
from lxcbuild.images.install import OPTIONS
from lxcbuild.images.layer import Layer
from lxcbuild.images.layer_records import package_id
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.store import ImageStore
from lxcbuild.model import Phase, Target
from lxcbuild.plan.layers import COSTS, Costs, LayerPlan, plan_layers
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.state.paths import StateDirs

RECORDED = Path(__file__).with_name("layer_workload.json")
MEASURED = Path(__file__).with_name("layer_measured.json")
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


def read_requests(document: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Packages above the toolchain, by project, in the order of the corpus."""
    return {name: frozenset(project["packages"]) for name, project in document["projects"].items()}


def record(dirs: StateDirs) -> dict[str, Any]:
    """Inspect the projects in their sandboxes, as a build does, and resolve what they build with."""
    from lxcbuild.builder.driver import Build
    from lxcbuild.builder.failures import PhaseFailedError
    from lxcbuild.builder.request import BuildRequest
    from lxcbuild.builder.work import Work
    from lxcbuild.cli.build_context import build_context

    corpus = yaml.safe_load(CORPUS.read_text())
    names = [each["name"] for group in ("fast", "full") for each in corpus[group] if each.get("expect") is None]
    sizes: dict[str, int] = {}
    projects: dict[str, Any] = {}
    with build_context(dirs, NullMonitor(), policy="default") as context:
        context.images.ensure(TARGET)
        for name in names:
            if len(projects) == COUNT:
                break
            work = Work(
                request=BuildRequest(requirement=name, target=TARGET, force=True, rebuild=True, with_deps=False),
                context=context,
            )
            build = Build(work)
            if not build.until(Phase.PROVISION):
                _say(f"{name}: {build.outcome}"[:300])
                continue
            try:
                relations, resolved = _build_set(build)
            except (LxcbuildError, PhaseFailedError) as error:
                _say(f"{name}: cannot be built for {TARGET}: {error}")
                continue
            finally:
                build.cancel()
            sizes |= {package_id(asdict(package)): package.size_bytes for package in resolved.packages}
            projects[name] = {
                "version": work.version,
                "relations": list(relations),
                "packages": sorted(package_id(asdict(package)) for package in resolved.packages),
            }
            _say(f"{name} {work.version}: {len(resolved.packages)} packages")
        image = context.images.get(TARGET)
        toolchain = context.layers.resolve(
            image, context.layers.base(image), context.archive_for(TARGET), load_recipe(TARGET).toolchain
        )
    return {
        "target": str(TARGET),
        "toolchain": {package_id(asdict(package)): package.size_bytes for package in toolchain.packages},
        "sizes": dict(sorted(sizes.items())),
        "projects": projects,
    }


def _build_set(build: Any) -> tuple[tuple[str, ...], ResolvedSet]:
    """What the phase provision asks the suite for, and which packages these are above the toolchain."""
    from lxcbuild.builder.facts import Inspected
    from lxcbuild.builder.machine import Lessons
    from lxcbuild.builder.phases.provision import _needed

    work, project = build.work, build.facts[Inspected]
    image = project.resolved.image
    below = work.provide(image, project.resolved.recipe.toolchain)
    needed, _ = _needed(work, project, below, Lessons(), keep_outdated=False)
    relations = tuple(sorted({*needed.relations, *needed.implicit}))
    return relations, work.context.layers.resolve(image, below, work.archive, relations)


# -- strategies, measured -------------------------------------------------------------------------------------


def run(base: StateDirs, where: Path, strategies: Sequence[str], *, every: int = 6) -> dict[str, Any]:
    """Seconds per strategy and project, interleaved: each project is provided in all ways, beginning with another one each time.

    Each strategy has a state directory of its own with the package files and the toolchain's layer, and no other layer. ``none``
    installs the toolchain and the rest on the plain image, for each ``every``-th project only, and throws it away. ``installs``
    has what was installed: layers of that many packages and bytes.
    """
    document = workload()
    names = list(document["projects"])
    relations = {name: document["projects"][name]["relations"] for name in names}
    ways = [name for name in strategies if name != "none"]
    seconds: dict[str, dict[str, float]] = {name: {} for name in strategies}
    installs: list[dict[str, Any]] = []
    with ExitStack() as stack:
        grounds = {way: stack.enter_context(_ground(base, way)) for way in ways}
        first = next(iter(grounds.values()))
        sets = {name: first.resolve(relations[name]) for name in names}
        for resolved in (first.toolset, *sets.values()):
            first.archive.fetch(resolved)
        if "planned" in grounds:
            for number, packages in enumerate(_steps(sets, asked=False)):
                seconds["planned"][f"(common subset {number + 1})"] = grounds["planned"].provide(packages, installs)
        for position, name in enumerate(names):
            turn = position % max(len(ways), 1)
            for way in (*ways[turn:], *ways[:turn]):
                seconds[way][name] = grounds[way].provide(sets[name], installs)
                _say(f"{way} {name} {seconds[way][name]:.2f} s")
            if "none" in strategies and position % every == 0:
                both = ResolvedSet(packages=tuple(sorted({*first.toolset.packages, *sets[name].packages})))
                lowers = (first.image.path,)
                took = _one_install(first.backend, lowers, first.archive, both, where)
                seconds["none"][name] = took
                installs.append({"way": "none", **_size(both.packages), "seconds": round(took, 3)})
                _say(f"none {name} {took:.2f} s")
    return {
        "target": document["target"],
        "projects": len(names),
        "strategies": {name: _summary(each) for name, each in seconds.items()},
        "installs": installs,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """A state directory of one strategy with the toolchain's layer in it."""

    way: str
    backend: LxcBackend
    store: LayerStore
    image: Image
    archive: AptArchive
    tools: Layer
    toolset: ResolvedSet

    def resolve(self, relations: Sequence[str]) -> ResolvedSet:
        return self.store.resolve(self.image, self.tools, self.archive, relations)

    def provide(self, resolved: ResolvedSet, installs: list[dict[str, Any]]) -> float:
        """Seconds until the layers are there; what was installed goes to ``installs``."""
        before = set(self.store.layer_records.layers())
        begun = time.monotonic()
        self.store.extend(self.image, self.tools, self.archive, resolved)
        took = time.monotonic() - begun
        for key in set(self.store.layer_records.layers()) - before:
            made = self.store.layer_records.document(key)
            assert made is not None
            own = {package_id(package) for package in made["installed"]}
            new = [package for package in resolved.packages if package_id(asdict(package)) in own]
            installs.append({"way": self.way, **_size(new), "seconds": round(took, 3)})
        return took


@contextmanager
def _ground(base: StateDirs, way: str) -> Iterator[_Ground]:
    with layerless(base, TARGET) as dirs, LxcBackend(dirs) as backend:
        images = ImageStore(dirs)
        store = LayerStore(dirs, backend, choose=None if way == "exact" else nearest_stack)
        try:
            image = images.ensure(TARGET)
            archive = images.archive(image)
            if (base.images / "layers").is_dir():  # with the toolchain's, if it is there: it is not what is measured
                shutil.copytree(base.images / "layers", dirs.images / "layers", copy_function=_copy)
            toolset = store.resolve(image, store.base(image), archive, load_recipe(TARGET).toolchain)
            tools = store.extend(image, store.base(image), archive, toolset)
            _forget_all_above(store, tools.key)
            yield _Ground(
                way=way, backend=backend, store=store, image=image, archive=archive, tools=tools, toolset=toolset
            )
        finally:
            store.close()
            images.close()


def _forget_all_above(store: LayerStore, ground: str) -> None:
    """What earlier builds left would be found by any strategy."""
    for key, layer in store.layer_records.layers().items():
        if key != ground and layer.kind == "packages" and not store.remove(key):
            raise RuntimeError(f"the layer {key[:16]} is in use")


def _copy(source: str, destination: str) -> None:
    """Archives are only ever replaced as a whole: those may be shared by a link."""
    if source.endswith(".tar.zst"):
        Path(destination).hardlink_to(source)
    else:
        shutil.copy2(source, destination)


def _size(packages: Sequence[ResolvedPackage]) -> dict[str, int]:
    return {"packages": len(packages), "bytes": sum(package.size_bytes for package in packages)}


def fitted(installs: Sequence[Mapping[str, Any]]) -> tuple[Costs, float]:
    """The constants that say the measured seconds with the least squares of relative errors, none below zero; and the share of
    the variance of seconds that they explain."""
    rows = [(1.0, float(each["packages"]), each["bytes"] / 2**20) for each in installs]
    took = [float(each["seconds"]) for each in installs]
    weights = [1 / seconds**2 for seconds in took]
    kept = [0, 1, 2]
    while True:
        found = _least_squares([[row[i] for i in kept] for row in rows], took, weights)
        if min(found) >= 0:
            break
        kept.remove(kept[found.index(min(found))])
    values = [0.0, 0.0, 0.0]
    for place, value in zip(kept, found, strict=True):
        values[place] = value
    mean = sum(took) / len(took)
    said = [sum(v * x for v, x in zip(values, row, strict=True)) for row in rows]
    rest = sum((a - b) ** 2 for a, b in zip(said, took, strict=True))
    return Costs(per_layer_s=values[0], per_package_s=values[1], per_mib_s=values[2]), 1 - rest / sum(
        (t - mean) ** 2 for t in took
    )


def _least_squares(rows: Sequence[Sequence[float]], wanted: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The normal equations, solved by elimination; at most three unknowns."""
    size = len(rows[0])
    left = [
        [sum(w * row[i] * row[j] for row, w in zip(rows, weights, strict=True)) for j in range(size)]
        + [sum(w * row[i] * y for row, w, y in zip(rows, weights, wanted, strict=True))]
        for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(left[r][i]))
        left[i], left[pivot] = left[pivot], left[i]
        left[i] = [value / left[i][i] for value in left[i]]
        for other in range(size):
            if other != i:
                left[other] = [a - left[other][i] * b for a, b in zip(left[other], left[i], strict=True)]
    return [row[-1] for row in left]


def _steps(sets: Mapping[str, ResolvedSet], *, asked: bool = True) -> Iterator[ResolvedSet]:
    """All planned layers, parents first: what the head of a bulk run makes before the builds. ``asked``: also those that are
    asked for themselves, not only what they share."""
    by_id = {package_id(asdict(package)): package for each in sets.values() for package in each.packages}
    wanted = {name: frozenset(package_id(asdict(package)) for package in each.packages) for name, each in sets.items()}
    plan = plan_layers(wanted, {identity: package.size_bytes for identity, package in by_id.items()})
    for layer in plan.layers:
        if asked or layer.packages not in wanted.values():
            yield ResolvedSet(packages=tuple(sorted(by_id[identity] for identity in layer.packages)))


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
    asked = read_requests(document)
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
    parser.add_argument("what", choices=("record", "run", "model", "fit", "options"))
    parser.add_argument("--state-dir", type=Path)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--every", type=int, default=6, help="of which projects 'none' is measured")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.what == "model":
        sys.stdout.write(json.dumps(modelled(workload()), indent=1) + "\n")
        return
    if given.what == "fit":
        costs, explained = fitted(json.loads(MEASURED.read_text())["installs"])
        sys.stdout.write(json.dumps({**costs_as_dict(costs), "explained": explained}, indent=1) + "\n")
        return
    dirs = StateDirs.choose(given.state_dir)
    if given.what == "record":
        RECORDED.write_text(json.dumps(record(dirs), indent=1) + "\n")
        return
    where = dirs.cache / "archives" / "bench"
    if given.what == "options":
        sys.stdout.write(json.dumps(variants(dirs, where, rounds=given.rounds), indent=1) + "\n")
        return
    found = run(dirs, where, given.strategies.split(","), every=given.every)
    MEASURED.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(json.dumps({name: each["total_s"] for name, each in found["strategies"].items()}) + "\n")


if __name__ == "__main__":
    main()
