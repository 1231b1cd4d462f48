"""Plain values to structs: all mistakes with their places, and the same verdict as msgspec's own."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct, field

from lxcbuild.config.structs import convert, dotted_path
from lxcbuild.plan.document import Plan


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    count: Annotated[int, Meta(ge=1, lt=10)]
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0

    def __post_init__(self) -> None:
        if self.count == 7:
            raise ValueError("seven is taken")


class Outer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    word: Annotated[str, Meta(pattern=r"^[a-z]+\Z", max_length=5)]
    inner: tuple[Inner, ...] = ()
    table: dict[Annotated[str, Meta(min_length=2)], str | int | None] = field(default_factory=dict)
    colour: Colour = Colour.RED
    size: Literal["s", "m", "l"] | None = None
    flag: bool = False
    some: Annotated[frozenset[str], Meta(min_length=1, max_length=2)] = frozenset({"x"})
    dashed: int = field(default=0, name="da-shed")


def problems(value: object) -> list[str]:
    found, mistakes = convert(value, Outer)
    assert (found is None) == bool(mistakes)
    return [f"{dotted_path(each.at)}: {each.problem}" for each in mistakes]


def test_values_become_what_the_types_say() -> None:
    value = {
        "word": "abc",
        "inner": [{"count": 1, "share": 1}],
        "table": {"ab": None},
        "colour": "blue",
        "some": ["y"],
        "da-shed": 3,
    }
    found, mistakes = convert(value, Outer)
    assert mistakes == []
    assert found == msgspec.convert(value, Outer)
    assert found is not None
    assert type(found.inner[0].share) is float


def test_every_mistake_is_told_with_its_place() -> None:
    value = {
        "word": "abc\n", "inner": [{"count": 0}, {"share": 0.5}, {"count": 7}, {"count": True, "share": "x"}, 5], "flag": 1,
        "table": {"a": 1.5}, "colour": "bleu", "size": "x", "some": ["a", "b", "c"], "dashed": 1, "wurd": "x",
    }  # fmt: skip
    assert problems(value) == [
        "dashed: there is no such key. Perhaps you meant 'da-shed'.",
        "wurd: there is no such key. Perhaps you meant 'word'.",
        "word: 'abc\\n' does not match ^[a-z]+",
        "inner[0].count: must be at least 1, not 0",
        "inner[1].count: is missing",
        "inner[2]: seven is taken",
        "inner[3].count: must be a whole number, not True",
        "inner[3].share: must be a number, not 'x'",
        "inner[4]: must be keys and values, not 5",
        "table.a: must have at least 2 characters, not 1",
        "table.a: must be a text or a whole number, not 1.5",
        "colour: must be 'red' or 'blue', not 'bleu'. Perhaps you meant 'blue'.",
        "size: must be 'l', 'm' or 's', not 'x'.",
        "flag: must be true or false, not 1",
        "some: must have at most 2 entries, not 3",
    ]


@pytest.mark.parametrize("value", [None, 5, "x", [1]])
def test_what_is_no_mapping_is_one_mistake(value: object) -> None:
    assert len(problems(value)) == 1


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 20)
    | st.floats(-1, 2)
    | st.sampled_from(["", "a", "abc", "red", "s", "toolong"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["count", "share", "ab", "a", "word"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["word", "inner", "table", "colour", "size", "flag", "some", "da-shed"]), JSON))
def test_it_takes_what_msgspec_takes_and_nothing_else(value: dict[str, Any]) -> None:
    found, mistakes = convert(value, Outer)
    try:
        assert found == msgspec.convert(value, Outer)
    except msgspec.ValidationError:
        assert mistakes


@given(st.dictionaries(st.sampled_from(["format", "lxcbuild", "options", "layers", "jobs", "targets"]), JSON))
def test_a_plan_that_the_decoder_refuses_has_a_mistake_to_tell(value: dict[str, Any]) -> None:
    try:
        msgspec.convert(value, Plan)
    except msgspec.ValidationError:
        assert convert(value, Plan)[1]
