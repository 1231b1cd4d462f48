"""Which layers a plan makes: properties of the nearest subset and of the common ones."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcbuild.plan.layers import COSTS, MAX_DEPTH, Costs, KnownLayer, nearest, plan_layers
from tests.support.timing import within

PACKAGES = [f"p{number}" for number in range(12)]
SETS = st.frozensets(st.sampled_from(PACKAGES), max_size=9)
SIZES = st.fixed_dictionaries({package: st.integers(0, 50 * 2**20) for package in PACKAGES})
WISHES = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), SETS, max_size=9)


def as_they_come(requests, sizes, max_depth=MAX_DEPTH) -> float:
    """What taking the nearest known subset costs, written down a second time and simply."""
    known: dict[frozenset[str], int] = {}
    seconds = 0.0
    for packages in requests.values():
        if packages and packages not in known:
            below = {frozenset(): 0} | {
                one: depth for one, depth in known.items() if one <= packages and depth < max_depth
            }
            cost, parent = min(
                ((COSTS.of(packages - one, sizes), depth, sorted(one)), one) for one, depth in below.items()
            )
            seconds += cost[0]
            known[packages] = below[parent] + 1
    return seconds


@given(WISHES, SIZES)
@settings(max_examples=150, deadline=None)
def test_parents_precede_sets_and_no_plan_is_worse_than_nearest_subsets(requests, sizes) -> None:
    plan = plan_layers(requests, sizes)
    made = {frozenset(): 0}
    seconds = 0.0
    for layer in plan.layers:
        assert layer.parent in made
        assert layer.parent < layer.packages
        made[layer.packages] = made[layer.parent] + 1
        assert layer.depth == made[layer.packages] <= MAX_DEPTH
        seconds += COSTS.of(layer.packages - layer.parent, sizes)
    assert {packages for packages in requests.values() if packages} <= set(made)
    assert abs(plan.seconds - seconds) < 1e-6
    assert plan.seconds <= as_they_come(requests, sizes) + 1e-6
    assert sorted(name for layer in plan.layers for name in layer.requests) == sorted(
        n for n, p in requests.items() if p
    )


@given(WISHES, SIZES, st.randoms())
@settings(max_examples=50, deadline=None)
def test_a_plan_is_the_same_each_time(requests, sizes, random) -> None:
    assert plan_layers(requests, sizes) == plan_layers(dict(requests), dict(sizes))


@given(SETS, st.lists(SETS, max_size=6), SIZES, st.integers(1, 4))
def test_the_nearest_layer_is_a_subset_that_leaves_least(wanted, others, sizes, depth) -> None:
    known = [KnownLayer(key=str(n), packages=packages, depth=n % 4 + 1) for n, packages in enumerate(others)]
    found = nearest(wanted, known, sizes, max_depth=depth)
    fitting = [layer for layer in known if layer.packages <= wanted and layer.depth < depth]
    left = COSTS.of(wanted - (found.packages if found else frozenset()), sizes)
    assert found is None or found in fitting
    assert all(left <= COSTS.of(wanted - layer.packages, sizes) for layer in fitting)


def test_what_several_builds_share_is_installed_once() -> None:
    sizes = {"compiler": 60 * 2**20, "headers": 10 * 2**20, "a": 100, "b": 100, "c": 100}
    common = frozenset({"compiler", "headers"})
    plan = plan_layers({name: common | {name} for name in "abc"}, sizes)
    assert [layer.packages for layer in plan.steps] == [common]
    assert [layer.parent for layer in plan.layers[1:]] == [common] * 3


def test_a_layer_that_saves_less_than_it_costs_is_not_made() -> None:
    plan = plan_layers({"one": frozenset({"x", "a"}), "two": frozenset({"x", "b"})}, {"x": 100, "a": 100, "b": 100})
    assert plan.steps == ()


def test_at_the_depth_limit_stacks_are_squashed() -> None:
    chain = {str(n): frozenset(PACKAGES[: n + 1]) for n in range(10)}
    plan = plan_layers(chain, dict.fromkeys(PACKAGES, 2**20), max_depth=3)
    assert max(layer.depth for layer in plan.layers) == 3
    assert plan.seconds < sum(Costs().of(packages, dict.fromkeys(PACKAGES, 2**20)) for packages in chain.values())


def planned(count: int) -> tuple[float, float]:
    """What a plan for so many sets costs, and what they cost as they come."""
    source = random.Random(4)
    names = [f"lib{number}" for number in range(300)]
    groups = [frozenset(source.sample(names, 12)) for _ in range(25)]
    requests = {str(n): source.choice(groups) | frozenset(source.sample(names, 2)) for n in range(count)}
    sizes = {name: source.randrange(2**22) for name in names}
    return plan_layers(requests, sizes).seconds, as_they_come(requests, sizes)


def test_a_plan_for_many_sets_saves_a_third() -> None:
    seconds, unplanned = planned(300)
    assert seconds < 0.7 * unplanned


@pytest.mark.bench
def test_a_thousand_sets_are_planned_within_seconds() -> None:
    with within(20):
        seconds, unplanned = planned(1000)
    assert seconds < 0.7 * unplanned
