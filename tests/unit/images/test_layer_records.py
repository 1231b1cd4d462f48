"""Records of layers: stacks on a ground, counted uses, and what goes first when there is too much."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcbuild.config.sharing import load_sharing
from lxcbuild.errors import ConfigError
from lxcbuild.images.eviction import doomed
from lxcbuild.images.layer_records import LayerRecords, Shelved


def put(shelf_directory: Path, key: str, parent: str, *names: str, made_in_s: float = 1.0, size: int = 100) -> str:
    shelf_directory.mkdir(parents=True, exist_ok=True)
    installed = [{"name": name, "version": "1", "sha256": name * 2, "size_bytes": 10} for name in names]
    record = {
        "key": key,
        "parent": parent,
        "digest": "d",
        "created_at": "2026-01-01T00:00:00+00:00",
        "unpacked_bytes": size * 3,
        "archive_bytes": size,
        "made_in_s": made_in_s,
        "installed": installed,
        "packages": [],
    }
    if not names:
        record["wheels"] = {"3.11": [{"name": "flit-core"}], "3.12": [{"name": "flit-core"}]}
    (shelf_directory / f"{key[:16]}.json").write_text(json.dumps(record))
    return key


def key(letter: str) -> str:
    return letter * 64


def test_stacks_are_what_stands_on_a_ground_by_steps_of_packages(tmp_path: Path) -> None:
    put(tmp_path, key("a"), "image", "x")
    put(tmp_path, key("b"), key("a"), "y")
    put(tmp_path, key("c"), "other image", "x")
    put(tmp_path, key("d"), key("e"), "z")  # its parent was evicted
    put(tmp_path, key("f"), "image")  # wheels: no packages of the suite
    stacks = LayerRecords(tmp_path).stacks("image")
    assert {each: stack.way for each, stack in stacks.items()} == {
        key("a"): (key("a"),),
        key("b"): (key("a"), key("b")),
    }
    assert set(stacks[key("b")].packages) == {"x=1=xx", "y=1=yy"}
    assert LayerRecords(tmp_path).layers()[key("f")].names == ("flit-core",)


def test_a_way_holds_as_long_as_all_its_layers_do(tmp_path: Path) -> None:
    layer_records = LayerRecords(tmp_path)
    put(tmp_path, key("a"), "image", "x")
    put(tmp_path, key("b"), key("a"), "y")
    assert layer_records.way(key("a")) == (key("a"),)
    assert layer_records.way(key("c")) is None
    layer_records.keep_way(key("c"), (key("a"), key("b")))
    assert layer_records.way(key("c")) == (key("a"), key("b"))
    assert layer_records.grounds() == {key("c"): key("b")}
    layer_records.forget(key("a"))
    assert layer_records.way(key("c")) is None


def test_uses_are_counted_by_many_at_once(tmp_path: Path) -> None:
    layer_records = LayerRecords(tmp_path)
    put(tmp_path, key("a"), "image", "x", made_in_s=2.0)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: layer_records.used(key("a")), range(200)))
    layer = layer_records.layers()[key("a")]
    assert (layer.hits, layer.seconds_saved) == (200, 400.0)
    assert layer.last_hit is not None


def test_what_saves_least_per_byte_goes_first_and_never_below_another(tmp_path: Path) -> None:
    put(tmp_path, key("a"), "image", "x", made_in_s=0.1)  # the least valuable, but others stand on it
    put(tmp_path, key("b"), key("a"), "y", made_in_s=9.0)
    put(tmp_path, key("c"), "image", "z", made_in_s=5.0)
    layers = LayerRecords(tmp_path).layers()

    def gone(budget: int) -> list[str]:
        return [each.key[0] for each in doomed(layers, budget_bytes=budget, size=lambda layer: layer.archive_bytes)]

    assert gone(300) == []
    assert gone(200) == ["c"]
    assert gone(100) == ["c", "b"]
    assert gone(0) == ["c", "b", "a"]


def shelved(number: int, parent: int | None, hits: int, size: int) -> Shelved:
    return Shelved(
        key=f"{number:064}",
        parent="image" if parent is None else f"{parent:064}",
        kind="packages",
        digest="",
        packages={},
        names=(),
        created_at="",
        made_in_s=1.0,
        unpacked_bytes=size,
        archive_bytes=size,
        hits=hits,
        last_hit=None,
    )


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50), st.booleans()), max_size=8), st.integers(0, 200))
def test_eviction_fits_the_budget_and_leaves_no_orphan(described, budget: int) -> None:
    layers = {}
    for number, (hits, size, on_another) in enumerate(described):
        layer = shelved(number, number - 1 if on_another and number else None, hits, size)
        layers[layer.key] = layer
    gone = doomed(layers, budget_bytes=budget, size=lambda layer: layer.archive_bytes)
    left = {each: layer for each, layer in layers.items() if layer not in gone}
    assert sum(layer.archive_bytes for layer in left.values()) <= budget
    assert all(layer.parent == "image" or layer.parent in left for layer in left.values())
    if gone:  # not more than needed: with the last one it would not have fitted
        assert sum(layer.archive_bytes for layer in left.values()) + gone[-1].archive_bytes > budget


def test_a_key_is_published_for_others_only_in_full(tmp_path: Path) -> None:
    file = tmp_path / "layers.yaml"
    for text, said in (
        ("store: /srv/layers\ntrusted: [c2hvcnQ=]\n", r"layers.yaml:2: trusted\[0\]: 'c2hvcnQ=' is not a key"),
        ("store: layers\n", "layers.yaml:1: store: 'layers' is no store"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=said):
            load_sharing(tmp_path)
