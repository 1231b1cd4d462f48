"""Plain values, as YAML and JSON have them, to structs: every mistake is found, each with its place.

The types of a struct's fields say what is allowed. ``msgspec.Meta`` adds bounds and patterns, and under ``extra``:

* ``parse``: makes the value from what people write (``2GiB``); its ValueError says what is wrong;
* ``no``: what a text is not that does not match its pattern (``"name of a project"``).

A struct that checks its fields together raises ValueError in ``__post_init__``. ``is_`` is the key ``is``, a word of Python's.
"""

from __future__ import annotations

import difflib
import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from msgspec import Struct, inspect

KeyPath = tuple[str | int, ...]
S = TypeVar("S", bound=Struct)
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Mistake(Struct, frozen=True):
    """What is wrong at one place."""

    at: KeyPath
    problem: str


class Table(Struct, frozen=True):
    """Keys that may all be absent or null, because other files say the rest. A plain dictionary comes of it."""

    keys: Mapping[str, Any]  # to types as ``msgspec.inspect`` has them
    required: frozenset[str] = frozenset()


def convert_table(value: object, table: Table) -> tuple[dict[str, Any], list[Mistake]]:
    """The keys that are there, as their types have them, and all that is wrong with them."""
    walk = _Walk()
    return walk.partial(table, value, ()) or {}, walk.mistakes


def convert(value: object, kind: type[S], *, given: Mapping[str, Any] = _NOTHING) -> tuple[S | None, list[Mistake]]:
    """The value as a struct, or None and all that is wrong with it. ``given`` are fields that are no keys of it."""
    walk = _Walk()
    found = walk.struct(_shape(kind), value, (), given)
    return (None if walk.mistakes else found), walk.mistakes


def dotted_path(at: KeyPath) -> str:
    """``io.devices[0].read``."""
    text = ""
    for step in at:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Perhaps you meant 'x'.`` when one of the known words is near, else nothing."""
    close = difflib.get_close_matches(word[:80], list(known), n=1, cutoff=0.6)
    return f" Perhaps you meant {close[0]!r}." if close else ""


_shape = functools.cache(inspect.type_info)


class _Walk:
    """One value beside its type; see https://jcristharif.com/msgspec/api.html#inspect for the types' types."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []

    def value(self, node: Any, value: object, at: KeyPath) -> Any:
        """The value as the type has it. After a mistake what is returned means nothing."""
        return _CHECKS[type(node)](self, node, value, at)

    def wrong(self, at: KeyPath, problem: str) -> None:
        self.mistakes.append(Mistake(at, problem))

    def struct(self, node: Any, value: object, at: KeyPath, given: Mapping[str, Any] = _NOTHING) -> Any:
        if isinstance(value, node.cls):
            return value  # its parser made it
        if not isinstance(value, Mapping):
            return self.wrong(at, f"must be keys and values, not {_shown(value)}")
        before = len(self.mistakes)
        keys = {field.encode_name.rstrip("_"): field for field in node.fields if field.name not in given}
        self._known(value, keys, at)
        found = dict(given)
        for key, field in keys.items():
            if key in value:
                found[field.name] = self.value(field.type, value[key], (*at, key))
            elif field.required:
                self.wrong((*at, key), "is missing")
        if len(self.mistakes) > before:
            return None
        try:
            return node.cls(**found)
        except ValueError as error:
            return self.wrong(at, str(error))

    def partial(self, node: Table, value: object, at: KeyPath) -> Any:
        if not isinstance(value, Mapping):
            return self.wrong(at, f"must be keys and values, not {_shown(value)}")
        self._known(value, node.keys, at)
        for key in sorted(node.required - value.keys()):
            self.wrong((*at, key), "is missing")
        return {
            key: None
            if value[key] is None and key not in node.required
            else self.value(node.keys[key], value[key], (*at, key))
            for key in value
            if key in node.keys
        }

    def _known(self, value: Mapping[str, Any], keys: Mapping[str, Any], at: KeyPath) -> None:
        for key in value:
            if key not in keys:
                hint = nearest(str(key), keys)
                known = f".{hint}" if hint else f"; known: {', '.join(sorted(keys))}"
                self.wrong((*at, key), f"there is no such key{known}")

    def annotated(self, node: Any, value: object, at: KeyPath) -> Any:
        extra = node.extra or _NOTHING
        if "parse" in extra and (value is not None or not _takes_none(node.type)):
            try:
                value = extra["parse"](value)
            except ValueError as error:
                return self.wrong(at, str(error))
        if "no" in extra and not (isinstance(value, str) and re.search(node.type.pattern, value)):
            return self.wrong(at, f"{_shown(value)} is no {extra['no']}")
        return self.value(node.type, value, at)

    def anything(self, node: Any, value: object, at: KeyPath) -> Any:  # noqa: ARG002 - like the others
        return value

    def number(self, node: Any, value: object, at: KeyPath) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float if type(node) is inspect.FloatType else int):
            return self.wrong(at, f"must be {_NAMES[type(node)]}, not {_shown(value)}")
        for name, holds, words in _BOUNDS:
            if (bound := getattr(node, name)) is not None and not holds(value, bound):
                return self.wrong(at, f"must be {words} {bound}, not {value}")
        return float(value) if type(node) is inspect.FloatType else value

    def text(self, node: Any, value: object, at: KeyPath) -> Any:
        if not isinstance(value, str):
            return self.wrong(at, f"must be a text, not {_shown(value)}")
        if node.pattern is not None and not re.search(node.pattern, value):
            return self.wrong(at, f"{_shown(value)} does not match {node.pattern.removesuffix(_END)}")
        return value if self._long_enough(node, value, at) else None

    def plain(self, node: Any, value: object, at: KeyPath) -> Any:
        if not isinstance(value, bool if type(node) is inspect.BoolType else type(None)):
            return self.wrong(at, f"must be {_NAMES[type(node)]}, not {_shown(value)}")
        return value

    def choice(self, node: Any, value: object, at: KeyPath) -> Any:
        enum = type(node) is inspect.EnumType
        choices = [each.value for each in node.cls] if enum else list(node.values)
        if value not in choices:
            *first, last = map(repr, choices)
            allowed = f"{', '.join(first)} or {last}" if first else last
            return self.wrong(at, f"must be {allowed}, not {_shown(value)}.{nearest(str(value), map(str, choices))}")
        return node.cls(value) if enum else value

    def items(self, node: Any, value: object, at: KeyPath) -> Any:
        if not isinstance(value, list | tuple):
            return self.wrong(at, f"must be a list, not {_shown(value)}")
        found = [self.value(node.item_type, each, (*at, place)) for place, each in enumerate(value)]
        if not self._long_enough(node, found, at):
            return None
        return _MADE[type(node)](found) if len(self.mistakes) == 0 else None

    def table(self, node: Any, value: object, at: KeyPath) -> Any:
        if not isinstance(value, Mapping):
            return self.wrong(at, f"must be keys and values, not {_shown(value)}")
        return {
            self.value(node.key_type, key, (*at, key)): self.value(node.value_type, each, (*at, key))
            for key, each in value.items()
        }

    def union(self, node: Any, value: object, at: KeyPath) -> Any:
        if value is None and _takes_none(node):
            return None
        kinds = [each for each in node.types if type(each) is not inspect.NoneType]
        if len(kinds) == 1:
            return self.value(kinds[0], value, at)
        for kind in kinds:
            attempt = _Walk()
            found = attempt.value(kind, value, at)
            if not attempt.mistakes:
                return found
        names = " or ".join(_NAMES.get(type(kind), "something else") for kind in kinds)
        return self.wrong(at, f"must be {names}, not {_shown(value)}")

    def _long_enough(self, node: Any, value: str | list[Any], at: KeyPath) -> bool:
        what = "characters" if isinstance(value, str) else "entries"
        if node.min_length is not None and len(value) < node.min_length:
            self.wrong(at, f"must have at least {node.min_length} {what}, not {len(value)}")
        elif node.max_length is not None and len(value) > node.max_length:
            self.wrong(at, f"must have at most {node.max_length} {what}, not {len(value)}")
        else:
            return True
        return False


def _takes_none(node: Any) -> bool:
    return type(node) is inspect.UnionType and any(type(each) is inspect.NoneType for each in node.types)


def _shown(value: object) -> str:
    return repr(value)[:80]


_END = r"\Z"  # of patterns: Python's $ also matches before a last line feed
_BOUNDS: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("ge", operator.ge, "at least"),
    ("gt", operator.gt, "more than"),
    ("le", operator.le, "at most"),
    ("lt", operator.lt, "less than"),
)
_NAMES: dict[type, str] = {
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "a text",
    inspect.BoolType: "true or false",
    inspect.NoneType: "null",
}
_MADE: dict[type, Callable[[list[Any]], Any]] = {
    inspect.VarTupleType: tuple,
    inspect.FrozenSetType: frozenset,
}
_CHECKS: dict[type, Callable[[_Walk, Any, object, KeyPath], Any]] = {
    inspect.Metadata: _Walk.annotated,
    inspect.StructType: _Walk.struct,
    Table: _Walk.partial,
    inspect.AnyType: _Walk.anything,
    inspect.IntType: _Walk.number,
    inspect.FloatType: _Walk.number,
    inspect.StrType: _Walk.text,
    inspect.BoolType: _Walk.plain,
    inspect.NoneType: _Walk.plain,
    inspect.LiteralType: _Walk.choice,
    inspect.EnumType: _Walk.choice,
    inspect.VarTupleType: _Walk.items,
    inspect.FrozenSetType: _Walk.items,
    inspect.DictType: _Walk.table,
    inspect.UnionType: _Walk.union,
}
