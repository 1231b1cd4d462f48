"""Which layers a plan of many builds wants first."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcbuild.errors import InputError
from lxcbuild.farm.planning.layerplan import worth_making
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import LayerUse, Outcome, Status, Target
from lxcbuild.plan.document import Plan, PlannedLayer, PlannedTarget, dump_plan, parse_plan
from lxcbuild.plan.layers import MAX_DEPTH
from lxcbuild.state.paths import StateDirs
from tests.unit.ledger.test_ledger import started

BOOKWORM = Target("debian", "bookworm")
IDS = [f"python3-p{number}=1.{number}-1={number:064x}" for number in range(9)]


def test_only_a_set_that_two_builds_need_is_made_first() -> None:
    found = worth_making("debian/bookworm", {frozenset(IDS[:2]): 2, frozenset(IDS[4:6]): 1}, dict.fromkeys(IDS, 2**20))
    assert [(layer.packages, layer.builds, layer.parent) for layer in found] == [(tuple(IDS[:2]), 2, None)]
    assert found[0].seconds_saved > 0


def test_what_different_sets_have_in_common_is_a_layer_of_its_own() -> None:
    sizes = dict.fromkeys(IDS, 50 * 2**20)
    found = worth_making("debian/bookworm", {frozenset({*IDS[:4], IDS[4]}): 1, frozenset({*IDS[:4], IDS[5]}): 1}, sizes)
    assert [(layer.packages, layer.builds) for layer in found] == [(tuple(IDS[:4]), 2)]


@given(
    st.dictionaries(st.frozensets(st.sampled_from(IDS), min_size=1), st.integers(1, 5), min_size=1, max_size=12),
    st.integers(0, 3),
)
def test_parents_come_before_what_stands_on_them_and_every_layer_serves_two(
    sets: dict[frozenset[str], int], after: int
) -> None:
    found = worth_making("debian/bookworm", sets, dict.fromkeys(IDS, 2**22), after=after)
    depth = {}
    for number, layer in enumerate(found, after):
        assert layer.builds >= 2
        assert layer.parent is None or after <= layer.parent < number
        below = set() if layer.parent is None else set(found[layer.parent - after].packages)
        assert below < set(layer.packages)
        depth[number] = 1 + (0 if layer.parent is None else depth[layer.parent])
        users = sum(count for packages, count in sets.items() if set(layer.packages) <= packages)
        assert layer.builds <= users
    assert max(depth.values(), default=0) <= MAX_DEPTH
    again = worth_making("debian/bookworm", dict(reversed(list(sets.items()))), dict.fromkeys(IDS, 2**22), after=after)
    assert again == found


def test_the_ledger_tells_what_the_newest_good_build_was_given(fresh_state: StateDirs) -> None:
    with Ledger.open(fresh_state) as ledger:
        for number, (status, relations) in enumerate(
            [(Status.BUILT, ("old",)), (Status.BUILT, ("cython3", "libssl-dev (>= 3)")), (Status.FAILED, ("wrong",))]
        ):
            build_id = f"20260101-00000{number}-abcd"
            ledger.begin(started(build_id, name="a-b", at=f"2026-01-01T00:00:0{number}.000000+00:00"))
            layers = LayerUse(relations=relations)
            ended = Outcome(build_id=build_id, name="a-b", version="1", target=BOOKWORM, status=status, layers=layers)
            ledger.finish(ended)
        assert ledger.layer_relations(["a-b", "unknown"]) == {
            ("a-b", "debian/bookworm"): ("cython3", "libssl-dev (>= 3)")
        }


def test_layers_survive_the_file_and_a_parent_that_comes_later_is_refused() -> None:
    layers = (
        PlannedLayer(target="debian/bookworm", packages=(IDS[0],), builds=3, seconds_saved=2.5),
        PlannedLayer(target="debian/bookworm", packages=(IDS[0], IDS[1]), parent=0, builds=2),
    )
    made = Plan(targets={"debian/bookworm": PlannedTarget(python="3.11.2")}, layers=layers)
    assert parse_plan(dump_plan(made)).layers == layers
    table = json.loads(dump_plan(made))
    table["layers"][0]["parent"] = 1
    with pytest.raises(InputError, match=r"layers\.0"):
        parse_plan(json.dumps(table))
