"""Our dataclass behaves as Python's own does, for everything that the code base uses of it."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import field
from typing import Any, ClassVar

import pytest
from pydantic import TypeAdapter, ValidationError

from lxcbuild import values

OPTIONS: list[dict[str, Any]] = [
    {"frozen": frozen, "slots": slots, "kw_only": kw_only}
    for frozen in (False, True)
    for slots in (False, True)
    for kw_only in (False, True)
]


def classes(make: Callable[..., Any], options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """A class with every kind of field, one that inherits from it, and an empty one, made by one of the decorators."""
    made = make(**options)

    @made
    class Base:
        """Doc."""

        count: ClassVar[int] = 7
        a: int
        b: str = "x"
        c: list[int] = field(default_factory=list)
        d: float = field(default=1.5, compare=False, repr=False)
        e: int = field(default=3, init=False)
        f: list[int] = field(default_factory=lambda: [9], init=False)

        @property
        def double(self) -> int:
            """Twice a."""
            return self.a * 2

    @made
    class Inner(Base):
        """Checks itself."""

        g: tuple[int, ...] = ()

        def __post_init__(self) -> None:
            if self.a < 0:
                raise ValueError("negative")

    @made
    class Empty:
        """Has nothing."""

    return Base, Inner, Empty


@pytest.mark.parametrize("options", OPTIONS)
def test_objects_are_the_same_as_pythons(options: dict[str, Any]) -> None:
    theirs, ours = classes(dataclasses.dataclass, options), classes(values.dataclass, options)
    for their, our in zip(theirs, ours, strict=True):
        assert [(f.name, f.default, f.kw_only) for f in dataclasses.fields(their)] == [
            (f.name, f.default, f.kw_only) for f in dataclasses.fields(our)
        ]
        assert their.__match_args__ == our.__match_args__
        assert (their.__doc__, their.__qualname__.split(".")[-1]) == (our.__doc__, our.__qualname__.split(".")[-1])
        assert hasattr(their, "__slots__") == hasattr(our, "__slots__")
        assert getattr(their, "__slots__", None) == getattr(our, "__slots__", None)
    for given in ({"a": 1}, {"a": 1, "b": "y", "c": [1], "d": 2.5}, {"a": 2, "c": [2, 3]}):
        for their, our in zip(theirs[:2], ours[:2], strict=True):
            one, other = their(**given), our(**given)
            assert dataclasses.asdict(one) == dataclasses.asdict(other)
            assert repr(one) == repr(other)
            assert other == our(**given)
            assert other != our(**{**given, "a": 99})
            assert other == our(**{**given, "d": 0.0})
            assert other != one
            assert dataclasses.asdict(dataclasses.replace(other, b="z")) == dataclasses.asdict(
                dataclasses.replace(one, b="z")
            )
            assert copy.deepcopy(other) == other
            assert other.double == given["a"] * 2  # type: ignore[operator]
    assert ours[2]() == ours[2]()
    assert ours[1](a=1) != ours[0](a=1)
    assert ours[0](a=1).c is not ours[0](a=1).c


@pytest.mark.parametrize("options", OPTIONS)
def test_refusals_are_the_same_as_pythons(options: dict[str, Any]) -> None:
    for make in (dataclasses.dataclass, values.dataclass):
        base, inner, _ = classes(make, options)
        for wrong in ({}, {"a": 1, "z": 2}, {"a": 1, "e": 2}):
            with pytest.raises(TypeError):
                base(**wrong)
        if options["kw_only"]:
            with pytest.raises(TypeError):
                base(1)
        else:
            assert base(1, "q").b == "q"
        with pytest.raises(ValueError, match="negative"):
            inner(a=-1)
        value = base(a=1)
        if options["frozen"]:
            with pytest.raises(dataclasses.FrozenInstanceError, match="'a'"):
                value.a = 2
            with pytest.raises(dataclasses.FrozenInstanceError, match="'a'"):
                del value.a
            with pytest.raises(TypeError, match="unhashable"):
                hash(value)  # of its list
        else:
            value.a = 2
            assert value.a == 2
            with pytest.raises(TypeError, match="unhashable"):
                hash(value)
        if options["slots"] and not options["frozen"]:
            with pytest.raises(AttributeError):
                value.other = 1
        with pytest.raises(TypeError, match="frozen"):
            make(frozen=not options["frozen"])(type("Mixed", (base,), {"__annotations__": {}}))


@values.dataclass(frozen=True, slots=True)
class Point:
    """Can be hashed and pickled."""

    x: int
    y: int = 0


@values.dataclass(frozen=True)
class Named:
    """Says itself what it is equal to."""

    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and other.name.lower() == self.name.lower()

    def __hash__(self) -> int:
        return hash(self.name.lower())

    def __repr__(self) -> str:
        return "own"


@values.dataclass(frozen=True, slots=True, order=True)
class Ordered:
    """Can be sorted."""

    x: int


def test_frozen_values_are_keys_and_travel() -> None:
    assert {Point(1): 1}[Point(1, 0)] == 1
    assert hash(Point(1, 2)) == hash(Point(1, 2))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(Point(1, 2), protocol)) == Point(1, 2)
    assert sorted([Ordered(2), Ordered(1)]) == [Ordered(1), Ordered(2)]
    match Point(3, 4):
        case Point(x, y):
            assert (x, y) == (3, 4)


def test_own_methods_stay() -> None:
    assert Named("A") == Named("a")
    assert len({Named("A"), Named("a")}) == 1
    assert repr(Named("A")) == "own"


def test_pydantic_reads_them_as_pythons() -> None:
    adapter = TypeAdapter(Point)
    assert adapter.validate_python({"x": "3"}) == Point(3)
    assert adapter.validate_json(adapter.dump_json(Point(1, 2))) == Point(1, 2)
    with pytest.raises(ValidationError):
        adapter.validate_python({"x": "no"})
