"""``dataclass`` as Python's own, but made in an eighth of the time: its methods are shared, and ``__init__`` is compiled when the
first object is made.

Python 3.11 compiles up to eight functions for every class when its module is imported: 0.7 ms for a frozen one with slots. A build
imports some 200 of them and makes objects of a third. Whoever checks types sees the standard library's decorator.
"""

from __future__ import annotations

import dataclasses
import operator
import reprlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, *, frozen=False, slots=False, kw_only=False, order=False):
        """As :func:`dataclasses.dataclass`; ``order`` makes what that makes. ``InitVar`` is not understood."""

        def make(plain):
            if order:
                return dataclasses.dataclass(frozen=frozen, slots=slots, kw_only=kw_only, order=True)(plain)
            return _made(plain, frozen=frozen, slots=slots, kw_only=kw_only)

        return make if cls is None else make(cls)


def _made(plain: type, *, frozen: bool, slots: bool, kw_only: bool) -> type:
    own = set(plain.__dict__)
    if plain.__doc__ is None:
        plain.__doc__ = plain.__name__  # else Python makes one of the signature, with a tokenizer: 10 ms for the first
    # Only Python's own check of what is inherited needs to know; it costs two functions more.
    inherits = any(dataclasses.is_dataclass(base) for base in plain.__bases__)
    known = dataclasses.dataclass(
        init=False, repr=False, eq=False, frozen=frozen and inherits, slots=slots, kw_only=kw_only
    )
    cls: Any = known(plain)
    methods: dict[str, Any] = {"__repr__": _repr, "__eq__": _eq}
    if frozen:
        methods |= {"__setattr__": _refuse_to_set, "__delattr__": _refuse_to_delete}
        if slots:
            methods |= {"__getstate__": _getstate, "__setstate__": _setstate}
        cls.__dataclass_params__.frozen = True  # Python's check of inheritance, and pydantic, look at it
    for name, method in methods.items():
        if name not in own:
            setattr(cls, name, method)
    if "__hash__" not in own or (
        "__eq__" in own and plain.__hash__ is None
    ):  # Python sets it to None beside an own __eq__
        cls.__hash__ = _hash if frozen else None
    cls.__init__ = _deferred(cls)
    made: type = cls
    return made


def _deferred(cls: type) -> Callable[..., None]:
    def __init__(self: Any, /, *args: Any, **given: Any) -> None:  # noqa: N807 - it becomes a method
        cls.__init__ = _compiled(cls)  # type: ignore[misc]
        cls.__init__(self, *args, **given)  # type: ignore[misc]

    return __init__


def _compiled(cls: Any) -> Callable[..., None]:
    """The real ``__init__``: arguments in the order of fields, those by keyword last."""
    names: dict[str, Any] = {"__set": object.__setattr__, "__made": object()}
    positional: list[str] = []
    keyword: list[str] = []
    body: list[str] = []
    for number, field in enumerate(dataclasses.fields(cls)):
        value = field.name
        argument = field.name
        if field.default_factory is not dataclasses.MISSING:
            names[f"__f{number}"] = field.default_factory
            value = f"__f{number}() if {value} is __made else {value}" if field.init else f"__f{number}()"
            argument += "=__made"
        elif field.default is not dataclasses.MISSING:
            names[f"__d{number}"] = field.default
            value = value if field.init else f"__d{number}"
            argument += f"=__d{number}"
        elif not field.init:
            continue
        if field.init:
            (keyword if field.kw_only else positional).append(argument)
        body.append(f"__set(self, {field.name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    arguments = ", ".join(["self", *positional, *(["*", *keyword] if keyword else [])])
    exec(f"def __init__({arguments}):\n " + "\n ".join(body or ["pass"]), names)  # noqa: S102 - names of our own fields
    made: Callable[..., None] = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


_GETTERS: dict[tuple[type, bool], Callable[[Any], Any]] = {}


def _key(value: Any, *, hashed: bool) -> Any:
    """What decides equality, or the hash, of a value."""
    cls = type(value)
    getter = _GETTERS.get((cls, hashed))
    if getter is None:
        chosen = [f for f in dataclasses.fields(cls) if (f.hash if hashed and f.hash is not None else f.compare)]
        getter = operator.attrgetter(*(f.name for f in chosen)) if chosen else lambda _value: ()
        _GETTERS[cls, hashed] = getter
    return getter(value)


def _eq(self: Any, other: object) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return _key(self, hashed=False) == _key(other, hashed=False)


def _hash(self: Any) -> int:
    return hash(_key(self, hashed=True))


@reprlib.recursive_repr()
def _repr(self: Any) -> str:
    shown = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr)
    return f"{self.__class__.__qualname__}({shown})"


def _refuse_to_set(_self: Any, name: str, _value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
