"""The order in which projects that need each other are built."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lxcbuild.plan.dependencies import components, reachable

NODES = st.sampled_from("abcdefgh")
GRAPHS = st.dictionaries(NODES, st.frozensets(NODES, max_size=4), max_size=8)


def test_what_is_needed_comes_first() -> None:
    assert components({"app": {"lib", "base"}, "lib": {"base"}}) == (("base",), ("lib",), ("app",))


def test_projects_that_need_each_other_go_together() -> None:
    needs = {"app": {"a"}, "a": {"b"}, "b": {"a", "base"}}
    assert components(needs) == (("base",), ("a", "b"), ("app",))


def test_a_long_chain_is_no_recursion() -> None:
    needs = {f"n{i:05d}": {f"n{i + 1:05d}"} for i in range(20_000)}
    assert components(needs)[0] == ("n20000",)


@given(GRAPHS)
def test_every_node_is_in_exactly_one_component(needs: dict[str, frozenset[str]]) -> None:
    nodes = sorted({*needs, *(other for others in needs.values() for other in others)})
    assert sorted(node for members in components(needs) for node in members) == nodes


@given(GRAPHS)
def test_a_component_needs_only_itself_and_earlier_ones(needs: dict[str, frozenset[str]]) -> None:
    done: set[str] = set()
    for members in components(needs):
        done.update(members)
        assert all(set(needs.get(node, ())) <= done for node in members)


@given(GRAPHS)
def test_members_of_a_component_are_those_that_reach_each_other(needs: dict[str, frozenset[str]]) -> None:
    owner = {node: members for members in components(needs) for node in members}
    for one in owner:
        for other in owner:
            mutual = other in reachable(needs, [one]) and one in reachable(needs, [other])
            assert (owner[one] == owner[other]) == mutual


@given(GRAPHS, st.lists(NODES, max_size=3))
def test_what_is_reachable_is_closed(needs: dict[str, frozenset[str]], start: list[str]) -> None:
    found = reachable(needs, start)
    assert set(start) <= found
    assert all(set(needs.get(node, ())) <= found for node in found)
