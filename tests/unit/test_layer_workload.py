"""The recorded workload of thirty projects under the cost model: what nearest subsets and a plan save."""

from __future__ import annotations

import json
from pathlib import Path

from lxcbuild.plan.layers import COSTS, MAX_DEPTH, KnownLayer, nearest, plan_layers

RECORDED = json.loads((Path(__file__).parents[1] / "bench" / "layer_workload.json").read_text())
WISHES = {name: frozenset(project["packages"]) for name, project in RECORDED["projects"].items()}
SIZES = RECORDED["sizes"]


def nearest_seconds() -> float:
    """Each set in the recorded order, from the nearest subset among those before it."""
    known: dict[frozenset[str], KnownLayer] = {}
    seconds = 0.0
    for packages in WISHES.values():
        if packages and packages not in known:
            below = nearest(packages, known.values(), SIZES)
            seconds += COSTS.of(packages - (below.packages if below else frozenset()), SIZES)
            depth = 1 + (below.depth if below else 0)
            known[packages] = KnownLayer(key=f"{len(known):08}", packages=packages, depth=depth)
    return seconds


def test_the_workload_is_thirty_projects_of_known_packages() -> None:
    assert len(WISHES) == 30
    assert set().union(*WISHES.values()) == set(SIZES)
    assert not set(SIZES) & set(RECORDED["toolchain"])


def test_a_plan_does_not_lose_to_nearest_subsets_and_neither_to_exact_matches() -> None:
    exact = sum(COSTS.of(packages, SIZES) for packages in set(WISHES.values()) if packages)
    plan = plan_layers(WISHES, SIZES)
    assert plan.seconds <= nearest_seconds() < exact
    assert {packages for packages in WISHES.values() if packages} <= {layer.packages for layer in plan.layers}
    assert max(layer.depth for layer in plan.layers) <= MAX_DEPTH


def test_no_layers_at_all_cost_many_times_more() -> None:
    sizes = {**SIZES, **RECORDED["toolchain"]}
    none = sum(COSTS.of({*packages, *RECORDED["toolchain"]}, sizes) for packages in WISHES.values())
    assert none > 5 * nearest_seconds()
