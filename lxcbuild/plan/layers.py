"""Which layers: from which known one a dependency set starts, and which common subsets of a whole plan are worth a layer first.

A *configuration* is a set of packages (by name, version and content) on top of one ground, the image with its toolchain. Layers
are the edges of a tree whose root is the ground: each adds packages to its parent. The time to install packages is taken as
linear, ``Costs``; with it, the cost of a tree is the sum over its edges. Finding the cheapest tree over given sets, where nodes
in between may be added, is the minimum Steiner arborescence problem in the lattice of subsets, NP-hard already for sets of two
(vertex cover reduces to it); what is done here is a greedy heuristic that is never worse than taking the nearest known subset,
because the better of both plans is returned. ``docs/concepts/layers.md`` has the model and figures.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations

from msgspec import Struct

#: Layers of one stack above its ground. Each costs every build on it two system calls and a little of each path lookup.
MAX_DEPTH = 4

#: Pairs of sets whose intersections are looked at in one round of planning: bounds the time for a whole archive.
_MAX_PAIRS = 20_000

PackageSet = frozenset[str]


class Costs(Struct, frozen=True, kw_only=True):
    """Seconds to make a layer: ``per_layer_s`` for the sandbox, apt's start and the archive; then per package and per MiB.

    The defaults come from the records of some sixty layers on a busy machine with two cores; a plan's order of choices depends on
    their ratios only.
    """

    per_layer_s: float = 1.5
    per_package_s: float = 0.06
    per_mib_s: float = 0.12

    def of(self, packages: Collection[str], sizes: Mapping[str, int]) -> float:
        """Seconds to install these packages as one layer; ``sizes`` has the compressed bytes of each."""
        mib = sum(sizes.get(package, 0) for package in packages) / 2**20
        return self.per_layer_s + self.per_package_s * len(packages) + self.per_mib_s * mib


COSTS = Costs()


class KnownLayer(Struct, frozen=True, kw_only=True):
    """A layer that exists: everything that is installed above the ground at its top, and how many layers that took."""

    key: str
    packages: PackageSet
    depth: int


def nearest(
    wanted: PackageSet,
    known: Iterable[KnownLayer],
    sizes: Mapping[str, int],
    *,
    costs: Costs = COSTS,
    max_depth: int = MAX_DEPTH,
) -> KnownLayer | None:
    """The known layer that leaves least to install for ``wanted``; None where the ground itself is as good.

    Only subsets qualify: what else is installed would change the build. At the depth limit a shallower subset is taken, so that
    the new layer holds again what deeper ones held: stacks are squashed as they grow.
    """
    best: KnownLayer | None = None
    best_rank: tuple[float, int, str] = (costs.of(wanted, sizes), 0, "")
    for layer in known:
        if layer.packages and layer.packages <= wanted and layer.depth < max_depth:
            rank = (costs.of(wanted - layer.packages, sizes), layer.depth, layer.key)
            if rank < best_rank:
                best, best_rank = layer, rank
    return best


class LayerStep(Struct, frozen=True, kw_only=True):
    """A set of packages to be made as a layer, on top of the ``parent`` set (empty: the ground).

    ``requests`` names the planned builds that it is for by itself; none for a common subset that is only a step.
    """

    packages: PackageSet
    parent: PackageSet
    depth: int
    requests: tuple[str, ...] = ()


class LayerPlan(Struct, frozen=True, kw_only=True):
    """Layers in an order in which every parent comes before what stands on it, with the estimated seconds to make all."""

    layers: tuple[LayerStep, ...]
    seconds: float

    @property
    def steps(self) -> tuple[LayerStep, ...]:
        """Those that no build asks for by itself."""
        return tuple(layer for layer in self.layers if not layer.requests)


def plan_layers(
    requests: Mapping[str, PackageSet],
    sizes: Mapping[str, int],
    *,
    costs: Costs = COSTS,
    max_depth: int = MAX_DEPTH,
) -> LayerPlan:
    """The layers to make for planned builds and in which order: common subsets first where they save time.

    ``requests`` maps each build to its resolved packages above the ground. Every non-empty set gets its layer; the result depends
    on the arguments alone. Under the cost model it never takes longer than making the sets as they come,
    each from its nearest subset.
    """
    sets = {frozenset(packages) for packages in requests.values() if packages}
    plain = _tree(sets, sizes, costs, max_depth)
    chosen, best = set(sets), plain
    while (step := _best_step(chosen, best, sizes, costs, max_depth)) is not None:
        chosen.add(step[0])
        best = step[1]
    as_they_come = _in_order(list(dict.fromkeys(frozenset(p) for p in requests.values() if p)), sizes, costs, max_depth)
    if _seconds(as_they_come, sizes, costs) < _seconds(best, sizes, costs):
        best = as_they_come
    return _plan(best, requests, sizes, costs)


# A tree maps each set to its parent set; the ground is the empty set.
_Tree = dict[PackageSet, PackageSet]


def _order(sets: Iterable[PackageSet]) -> list[PackageSet]:
    """Subsets before supersets, and always the same order."""
    return sorted(sets, key=lambda packages: (len(packages), sorted(packages)))


def _tree(sets: Collection[PackageSet], sizes: Mapping[str, int], costs: Costs, max_depth: int) -> _Tree:
    """Each set on its nearest subset among the others: made in the order of size, so that this is the best parent of all."""
    return _in_order(_order(sets), sizes, costs, max_depth)


def _in_order(sets: Sequence[PackageSet], sizes: Mapping[str, int], costs: Costs, max_depth: int) -> _Tree:
    tree: _Tree = {}
    known: list[KnownLayer] = []
    for packages in sets:
        found = nearest(packages, known, sizes, costs=costs, max_depth=max_depth)
        tree[packages] = found.packages if found else frozenset()
        known.append(KnownLayer(key=f"{len(known):08}", packages=packages, depth=(found.depth if found else 0) + 1))
    return tree


def _seconds(tree: _Tree, sizes: Mapping[str, int], costs: Costs) -> float:
    return sum(costs.of(packages - parent, sizes) for packages, parent in tree.items())


def _best_step(
    sets: Collection[PackageSet], tree: _Tree, sizes: Mapping[str, int], costs: Costs, max_depth: int
) -> tuple[PackageSet, _Tree] | None:
    """The common subset that saves most as a layer of its own, with the tree that has it; None when none saves anything."""
    before = _seconds(tree, sizes, costs)
    ranked = sorted(
        ((-gain, sorted(packages), packages) for packages, gain in _gains(tree, sizes, costs).items() if gain > 0),
        key=lambda each: each[:2],
    )
    for _, _, packages in ranked[:8]:
        if packages in sets:
            continue
        found = _tree({*sets, packages}, sizes, costs, max_depth)
        if _seconds(found, sizes, costs) < before - 1e-9:
            return packages, found
    return None


def _gains(tree: _Tree, sizes: Mapping[str, int], costs: Costs) -> dict[PackageSet, float]:
    """What each intersection of two siblings would save: installed once instead of once per sibling that holds it."""
    children: dict[PackageSet, list[PackageSet]] = {}
    for packages in _order(tree):
        children.setdefault(tree[packages], []).append(packages)
    gains: dict[PackageSet, float] = {}
    pairs = 0
    for parent, siblings in children.items():
        for one, other in combinations(siblings, 2):
            pairs += 1
            if pairs > _MAX_PAIRS:
                return gains
            common = one & other
            if len(common) > len(parent) and common not in gains:
                users = sum(1 for sibling in siblings if common <= sibling)
                rest = common - parent
                gains[common] = (users - 1) * (costs.of(rest, sizes) - costs.per_layer_s) - costs.per_layer_s
    return gains


def _plan(tree: _Tree, requests: Mapping[str, PackageSet], sizes: Mapping[str, int], costs: Costs) -> LayerPlan:
    names: dict[PackageSet, list[str]] = {}
    for name, packages in requests.items():
        names.setdefault(frozenset(packages), []).append(name)
    depths: dict[PackageSet, int] = {frozenset(): 0}
    layers = []
    for packages in _order(tree):
        parent = tree[packages]
        depths[packages] = depths[parent] + 1
        layers.append(
            LayerStep(
                packages=packages,
                parent=parent,
                depth=depths[packages],
                requests=tuple(sorted(names.get(packages, ()))),
            )
        )
    return LayerPlan(layers=tuple(layers), seconds=_seconds(tree, sizes, costs))
