"""Layers of a whole plan: which sets of packages several of its builds will ask for, and making those before the first build.

What a build will ask for is only known where the same project was built for the same target before: the ledger has the relations of
its build layer. They are resolved anew against today's package lists, on the toolchain, which is the ground of all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import asdict

from lxcbuild.debian.archive.apt import AptArchive, ResolvedPackage, ResolvedSet
from lxcbuild.errors import BadNameError, DependencyError, LxcbuildError, NetworkError
from lxcbuild.images.image import Image
from lxcbuild.images.layer import Layer, layer_key
from lxcbuild.images.layer_records import package_id
from lxcbuild.images.layers import LayerStore
from lxcbuild.plan.document import Plan, PlannedLayer
from lxcbuild.plan.layers import COSTS, LayerPlan, PackageSet, plan_layers

#: Different sets of packages of one target that are looked at, the most frequent ones: bounds runs of apt, and the time to plan.
MAX_SETS = 100

#: Relations of build layers by (project, target), as the ledger has them.
Recorded = Mapping[tuple[str, str], tuple[str, ...]]


class Ground(Struct, frozen=True, kw_only=True):
    """What the layers of one target stand on."""

    image: Image
    archive: AptArchive
    toolchain: Sequence[str]


def layers_of(
    plan: Plan, target: str, recorded: Recorded, ground: Ground, store: LayerStore, *, after: int = 0
) -> list[PlannedLayer]:
    """The layers to make first for one target of a plan, parents before children; nothing is installed. ``after``: how many come
    before them in the plan's list.

    Raises what apt's lists raise; relations that do not hold any more are passed over.
    """
    asked: Counter[tuple[str, ...]] = Counter()
    for job in plan.jobs.values():
        if job.target == target:
            asked.update(recorded[m.name, target] for m in job.members if recorded.get((m.name, target)))
    if not asked:
        return []
    try:
        ground.archive.refresh()
    except NetworkError:
        if not ground.archive.has_lists:
            raise
    resolve = _resolver(ground, store)
    sets: dict[PackageSet, int] = {}
    sizes: dict[str, int] = {}
    for relations, count in sorted(asked.items(), key=lambda item: (-item[1], item[0]))[:MAX_SETS]:
        try:
            packages = resolve(relations)
        except (DependencyError, BadNameError):
            continue
        found = {package_id(asdict(package)): package.size_bytes for package in packages}
        sizes.update(found)
        if found:
            sets[frozenset(found)] = sets.get(frozenset(found), 0) + count
    return worth_making(target, sets, sizes, after=after)


def _resolver(ground: Ground, store: LayerStore) -> Callable[[Sequence[str]], Sequence[ResolvedPackage]]:
    """From relations to packages above the toolchain; where that is installed, the builds' own memory of it serves."""
    image, archive = ground.image, ground.archive
    base = store.base(image)
    toolchain = store.resolve(image, base, archive, ground.toolchain)
    if store.layer_records.way(layer_key(base.key, toolchain, architecture=image.target.architecture)) is not None:
        layer = store.extend(image, base, archive, toolchain)
        return lambda relations: store.resolve(image, layer, archive, relations).packages
    below = set(toolchain.packages)

    def beside(relations: Sequence[str]) -> Sequence[ResolvedPackage]:
        found = store.resolve(image, base, archive, (*ground.toolchain, *relations))
        return [package for package in found.packages if package not in below]

    return beside


def worth_making(
    target: str, sets: Mapping[PackageSet, int], sizes: Mapping[str, int], *, after: int = 0
) -> list[PlannedLayer]:
    """Of the planned tree of layers, those that more than one build stands on. ``sets`` counts the builds that ask for each.

    ``seconds_saved`` is by the cost model, against every build's installing that layer's packages itself.
    """
    made = plan_layers({f"{number:06}": packages for number, packages in enumerate(_ordered(sets))}, sizes)
    uses = _uses(made, sets)
    place: dict[PackageSet, int] = {}
    found: list[PlannedLayer] = []
    for layer in made.layers:
        if uses[layer.packages] < 2:
            continue
        place[layer.packages] = after + len(found)
        saved = (uses[layer.packages] - 1) * COSTS.of(layer.packages - layer.parent, sizes)
        found.append(
            PlannedLayer(
                target=target,
                packages=tuple(sorted(layer.packages)),
                parent=place.get(layer.parent),
                builds=uses[layer.packages],
                seconds_saved=round(float(saved), 1),
            )
        )
    return found


def _ordered(sets: Iterable[PackageSet]) -> list[PackageSet]:
    return sorted(sets, key=sorted)


def _uses(made: LayerPlan, sets: Mapping[PackageSet, int]) -> dict[PackageSet, int]:
    """How many builds stand on each layer, directly or not."""
    uses: dict[PackageSet, int] = {}
    for layer in reversed(made.layers):  # children come after their parents
        uses[layer.packages] = uses.get(layer.packages, 0) + sets.get(layer.packages, 0)
        uses[layer.parent] = uses.get(layer.parent, 0) + uses[layer.packages]
    return uses


# -- making them ----------------------------------------------------------------------------------------------------


class MadeFirst(Struct, frozen=True, kw_only=True):
    """What became of a plan's layers; ``left_out`` says why, in words, for each that was not made."""

    made: int
    known: int
    left_out: tuple[str, ...]


def make_first(plan: Plan, grounds: Callable[[str], Ground], store: LayerStore) -> MadeFirst:
    """Install the plan's layers that are not there yet. What cannot be made is left to the builds, with the reason."""
    made = known = 0
    left_out = []
    layers: dict[str, Layer] = {}
    for planned in plan.layers:
        try:
            ground = grounds(planned.target)
            if ground.image.digest != plan.targets[planned.target].image:
                raise DependencyError(f"the image of {planned.target} is another one than when the plan was made")
            if planned.target not in layers:
                layers[planned.target] = store.provide(ground.image, ground.archive, ground.toolchain)
            below = layers[planned.target]
            layer = store.extend(ground.image, below, ground.archive, _resolved(planned, ground, below, store))
        except LxcbuildError as error:
            left_out.append(f"{planned.target}, {_told(planned)}: {error.brief}")
            continue
        known += layer.hit
        made += not layer.hit
    return MadeFirst(made=made, known=known, left_out=tuple(left_out))


def _resolved(planned: PlannedLayer, ground: Ground, below: Layer, store: LayerStore) -> ResolvedSet:
    exact = [f"{name} (= {version})" for name, version, _ in (each.split("=", 2) for each in planned.packages)]
    found = store.resolve(ground.image, below, ground.archive, exact)
    if {package_id(asdict(package)) for package in found.packages} != set(planned.packages):
        raise DependencyError("the archive has other packages than when the plan was made")
    return found


def _told(planned: PlannedLayer) -> str:
    """A set of packages in a few words."""
    names = [each.partition("=")[0] for each in planned.packages]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
