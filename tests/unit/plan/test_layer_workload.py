"""The recorded workload of thirty projects under the cost model: what nearest subsets and a plan save."""

from __future__ import annotations

import itertools
import json

import pytest

from lxcbuild.plan.layers import COSTS, MAX_DEPTH, Costs, KnownLayer, nearest, plan_layers
from tests import ROOT
from tests.bench.layer_workload import fitted

RECORDED = json.loads((ROOT / "tests/bench/layer_workload.json").read_text())
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


def test_a_plan_is_no_worse_than_nearest_subsets_or_exact_matches() -> None:
    exact = sum(COSTS.of(packages, SIZES) for packages in set(WISHES.values()) if packages)
    plan = plan_layers(WISHES, SIZES)
    assert plan.seconds <= nearest_seconds() < exact
    assert {packages for packages in WISHES.values() if packages} <= {layer.packages for layer in plan.layers}
    assert max(layer.depth for layer in plan.layers) <= MAX_DEPTH


def test_no_layers_at_all_cost_many_times_more() -> None:
    sizes = {**SIZES, **RECORDED["toolchain"]}
    none = sum(COSTS.of({*packages, *RECORDED["toolchain"]}, sizes) for packages in WISHES.values())
    assert none > 5 * nearest_seconds()


@pytest.mark.parametrize(
    "true", [Costs(per_layer_s=2.0, per_package_s=0.1, per_mib_s=0.3), Costs(per_layer_s=1.0, per_mib_s=0.0)]
)
def test_the_fit_finds_the_constants_behind_what_was_measured(true: Costs) -> None:
    installs = [
        {"packages": count, "bytes": mib << 20, "seconds": true.of([str(n) for n in range(count)], {"0": mib << 20})}
        for count, mib in itertools.product((1, 4, 30), (1, 2, 50))
    ]
    costs, explained = fitted(installs)
    assert costs.per_layer_s == pytest.approx(true.per_layer_s)
    assert costs.per_package_s == pytest.approx(true.per_package_s)
    assert costs.per_mib_s == pytest.approx(true.per_mib_s, abs=1e-9)
    assert explained == pytest.approx(1.0)


def test_no_constant_of_the_fit_is_below_zero() -> None:
    measured = ((1, 3), (10, 1), (20, 7), (39, 2), (5, 5))
    installs = [{"packages": count, "bytes": mib << 20, "seconds": 10.0 - 0.1 * count} for count, mib in measured]
    costs, _ = fitted(installs)
    assert costs.per_package_s == 0.0
    assert min(costs.per_layer_s, costs.per_package_s, costs.per_mib_s) >= 0
