"""What a policy file may say, made from the fields of :class:`lxcbuild.policy.Policy`.

Everything in a file is optional, because files inherit from and override each other; see ``policies.py``.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from msgspec import Struct, inspect

from lxcbuild.config.structs import Table, nearest
from lxcbuild.config.units import parse_bytes, parse_cpu_list, parse_percent, parse_seconds
from lxcbuild.policy import Policy

_ALL_BUT = re.compile(r"all(?:\s*-\s*(\d{1,4}))?", re.ASCII)
_NAME = r"^[a-z0-9][a-z0-9-]{0,62}\Z"


class Key(Struct, frozen=True, kw_only=True):
    """One key of a policy; see :func:`lxcbuild.policy.limit`."""

    name: str  # dotted, as in the files
    place: tuple[str, ...]  # attributes, from the policy or the device on
    type: Any  # as msgspec.inspect has it, without None
    text: str
    required: bool
    unit: str
    v1: str
    v2: str
    stops: tuple[str, ...]
    planned: bool


class Size(Struct, frozen=True):
    """Bytes, possibly relative: the least of ``terms``, each a number of bytes or a percentage of something."""

    terms: tuple[int | float, ...]  # int: bytes; float: per cent

    def resolve(self, whole_bytes: int) -> int:
        """The bytes, where percentages are of ``whole_bytes``."""
        return min(term if isinstance(term, int) else int(whole_bytes * term / 100) for term in self.terms)


@functools.cache
def keys() -> tuple[Key, ...]:
    """All keys that end in a value, in the order of the policy's fields."""
    return tuple(_keys(_fields(), ()))


@functools.cache
def groups() -> Mapping[str, type[Struct]]:
    """The groups of keys: attributes of the policy to their classes."""
    return {each.name: each.type.cls for each in _fields().fields if isinstance(each.type, inspect.StructType)}


def value_of(policy: Any, key: Key) -> Any:
    """What a policy, or a device, has under a key."""
    return functools.reduce(getattr, key.place, policy)


@functools.cache
def device_keys() -> tuple[Key, ...]:
    """The keys of one entry of ``io.devices``."""
    (devices,) = (key for key in keys() if key.name == "io.devices")
    return tuple(_keys(devices.type.item_type, ()))


@functools.cache
def _fields() -> Any:
    return inspect.type_info(Policy)


def _keys(node: Any, above: tuple[str, ...]) -> Iterator[Key]:
    for field in node.fields:
        place, found = (*above, field.name), field.type
        if isinstance(found, inspect.StructType):
            yield from _keys(found, place)
            continue
        if isinstance(found, inspect.UnionType):
            (found,) = (each for each in found.types if not isinstance(each, inspect.NoneType))
        if isinstance(found, inspect.Metadata):  # the name of the policy is no key
            said: Any = dict(found.extra or {})
            text = (found.extra_json_schema or {})["description"]
            name = ".".join((*above, said.pop("key")))
            yield Key(name=name, place=place, type=found.type, text=text, required=field.required, **said)


def limit_names() -> frozenset[str]:
    """What ``best_effort`` may hold: limits that a host may be unable to keep, their groups, and ``*``."""
    names = [*(key.name for key in keys() if key.planned), "devices"]
    return frozenset({"*", *names, *(name.split(".")[0] for name in names)})


@functools.cache
def policy_file() -> Table:
    """The keys of one file of ``cgroups/``."""
    inner: dict[str, dict[str, Any]] = {}
    for key in keys():
        group, _, name = key.name.rpartition(".")
        inner.setdefault(group, {})[name] = _in_files(key)
    own = inner.pop("")
    text: Any = inspect.StrType()
    limits = {**{group: Table(those) for group, those in inner.items()}, **own}
    best_effort = limits.pop("best_effort")
    words = inspect.VarTupleType(text)
    match: Any = inspect.Metadata(words, extra={"parse": _words, "unit": "limits"})
    override: Any = Table({**limits, "match": match}, frozenset({"match"}))
    return Table(
        {
            **limits,
            "description": text,
            "inherits": inspect.StrType(pattern=_NAME),
            "best_effort": best_effort,
            "packages": inspect.VarTupleType(override),
        }
    )


def _in_files(key: Key) -> Any:
    said = {"text": key.text, "unit": key.unit}
    if key.name == "io.devices":
        device: Any = Table({each.name: _in_files(each) for each in device_keys()}, frozenset({"device"}))
        return inspect.Metadata(inspect.VarTupleType(device), extra=said)
    if key.unit:
        said |= {"parse": _PARSERS[key.unit]}
    return inspect.Metadata(inspect.AnyType() if key.unit == "relative" else key.type, extra=said)


# -- values as people write them --------------------------------------------------------------------------------------


def _size(value: object) -> Size:
    """``2GiB``, ``50%`` or ``min(4GiB, 50%)``."""
    text = value.strip() if isinstance(value, str) else ""
    inner = text[4:-1].split(",") if text.startswith("min(") and text.endswith(")") else [value]
    terms: list[int | float] = []
    for term in inner:
        if isinstance(term, str) and term.strip().endswith("%"):
            percent = parse_percent(term)
            if not 0 < percent <= 100:
                raise ValueError(f"{term.strip()} is not between 0% and 100%")
            terms.append(percent)
        else:
            terms.append(parse_bytes(term.strip() if isinstance(term, str) else term))
    return Size(terms=tuple(terms))


def _rate(value: object) -> int:
    return parse_bytes(value.strip().removesuffix("/s") if isinstance(value, str) else value)


def _cpuset(value: object) -> str:
    """The kernel's list, or ``all``, or ``all-1`` (leave one CPU alone; at least one stays)."""
    text = str(value).strip()
    if match := _ALL_BUT.fullmatch(text):
        cpus = sorted(os.sched_getaffinity(0))
        kept = cpus[min(int(match[1] or 0), len(cpus) - 1) :]
        return ",".join(map(str, kept))
    parse_cpu_list(text)
    return text


def _words(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _limits(value: object) -> object:
    names = _words(value)
    known = limit_names()
    for name in names if isinstance(names, list | tuple) else ():
        if name not in known:
            raise ValueError(f"there is no limit {str(name)[:60]!r}.{nearest(str(name), known)}")
    return names


_PARSERS: Mapping[str, Any] = MappingProxyType(
    {
        "bytes": parse_bytes,
        "relative": _size,
        "percent": parse_percent,
        "rate": _rate,
        "seconds": parse_seconds,
        "cpus": _cpuset,
        "limits": _limits,
    }
)
