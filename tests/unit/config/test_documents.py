"""YAML within bounds, and errors that point at the line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcbuild.config.documents import MAX_BYTES, MAX_DEPTH, parse_document, read_document
from lxcbuild.errors import ConfigError

FILE = Path("/somewhere/cgroups/lab.yaml")


def parse(text: str | bytes) -> dict[str, object]:
    return dict(parse_document(text.encode() if isinstance(text, str) else text, path=FILE).value)


def brief(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.brief


def test_values_and_lines() -> None:
    document = parse_document(b"# comment\na: 1\nb:\n  c: [x, 2.5, true, null]\n", path=FILE)
    assert document.value == {"a": 1, "b": {"c": ["x", 2.5, True, None]}}
    assert document.lines["a",] == 2
    assert document.lines["b", "c"] == 4
    assert document.error(("b", "c", 1), "is wrong").brief == "cgroups/lab.yaml:4: b.c[1]: is wrong"
    assert document.error(("b", "new"), "is missing").brief == "cgroups/lab.yaml:3: b.new: is missing"


def test_nothing_is_an_empty_document() -> None:
    assert parse("") == {}
    assert parse("# only a comment\n") == {}


def test_duplicate_keys_are_refused() -> None:
    assert brief("a: 1\nb: 2\na: 3\n") == "cgroups/lab.yaml:3: a: appears twice (first in line 1)"
    assert "x.y: appears twice" in brief("x:\n  y: 1\n  y: 1\n")


@pytest.mark.attack(number=48)
def test_a_billion_laughs_end_early() -> None:
    levels = ['l0: &l0 ["lol", "lol", "lol", "lol", "lol", "lol", "lol", "lol", "lol"]']
    levels += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert "more than 5000 values" in brief("\n".join(levels))


def test_an_alias_that_contains_itself_ends() -> None:
    assert "aliases that contain themselves" in brief("a: &a\n  b: *a\n")
    assert "aliases that contain themselves" in brief("a: &a [*a, *a]\n")


def test_aliases_within_bounds_are_fine() -> None:
    assert parse("a: &x {b: 1}\nc: *x\n") == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "{b: " * 5000, "\n".join(" " * n + "a:" for n in range(400))])
def test_depth_is_bounded(text: str) -> None:
    assert f"nested deeper than {MAX_DEPTH}" in brief(text)


def test_size_is_bounded(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_bytes(b"a: " + b"x" * MAX_BYTES)
    with pytest.raises(ConfigError, match="larger than 256 KiB"):
        read_document(big)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: !!python/object/apply:os.system [true]", "os.system"),
        ("- a\n", "must hold keys and values"),
        ("a: [1, 2", "is not YAML"),
        ("a: 'x", "is not YAML"),
        ("? [1, 2]\n: x\n", "keys must be words"),
        ("<<: {a: 1}\n", "keys must be words"),
        ("a: 2026-11-21\n", "timestamp"),
        ("a: !!binary aGVsbG8=\n", "binary"),
        (b"a: \xff\xfe", "not UTF-8"),
        (b"a: \x00", "is not YAML"),
    ],
)
def test_what_is_not_plain_is_refused(text: str | bytes, says: str) -> None:
    assert says in brief(text)


def test_a_file_that_never_ends_is_no_hang(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.yaml"
    os.mkfifo(fifo)
    assert read_document(fifo).value == {}
    with pytest.raises(ConfigError, match="larger than"):
        read_document(Path("/dev/zero"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        read_document(tmp_path / "absent.yaml")


@given(st.text(alphabet="ab: -[]{}&*!|>'\"#%\n\t?,<~0é", max_size=200))
def test_any_text_is_a_mapping_or_a_config_error(text: str) -> None:
    try:
        found: object = parse(text)
    except ConfigError as error:
        found = error.brief
    assert isinstance(found, dict) or str(found).startswith("cgroups/lab.yaml")
