"""Isolation policies by name: ``cgroups/*.yaml`` and the administrator's, merged and resolved for this machine.

Order of strength, weakest first: what ``inherits`` names, the shipped file, the administrator's file of the same name, the
override whose pattern matches the package. :func:`merge` says how values meet; ``null`` takes an inherited value away.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from lxcbuild.config.documents import Document, parse_document, read_bytes, validate_table
from lxcbuild.config.policy_schema import Size, device_keys, groups, keys, policy_file
from lxcbuild.config.structs import nearest
from lxcbuild.errors import ConfigError, UnknownPolicyError
from lxcbuild.policy import IoDeviceLimits, Policy
from lxcbuild.state import data

KIND = "cgroups"


class PolicyInfo(Struct, frozen=True):
    """A policy as a list shows it. ``files``: the weaker one first."""

    name: str
    description: str
    inherits: str | None
    files: tuple[Path, ...]


def list_policies(*, places: tuple[Path, ...] | None = None) -> tuple[PolicyInfo, ...]:
    """All policies by name; raises :class:`ConfigError` for a file with a mistake."""
    found: list[PolicyInfo] = []
    for name, paths in data.files(KIND, places=places).items():
        merged = _merged_files(name, paths)
        found.append(PolicyInfo(name, merged.get("description") or "", merged.get("inherits"), tuple(paths)))
    return tuple(found)


def load_policy(name: str, *, package: str | None = None, places: tuple[Path, ...] | None = None) -> Policy:
    """The policy of that name, resolved for this machine and, where given, for one package.

    Raises :class:`UnknownPolicyError` with the nearest name, or :class:`ConfigError` with file, line and key.
    """
    return _resolve(name, _merged(name, data.files(KIND, places=places)), package)


def load_policy_file(path: Path, *, package: str | None = None, places: tuple[Path, ...] | None = None) -> Policy:
    """A policy from a file that may lie anywhere; what it inherits comes from the known ones."""
    known = data.files(KIND, places=places)
    return _resolve(path.stem, _merged(path.stem, {**known, path.stem: [path]}), package)


def _merged_files(name: str, paths: Sequence[Path]) -> dict[str, Any]:
    """The files of one name over each other, without what they inherit; tables as plain dictionaries."""
    merged: dict[str, Any] = {}
    for path in paths:
        document, own = _checked(path, read_bytes(path))
        if own.get("inherits") == name:
            raise document.error(("inherits",), "a policy cannot inherit from itself (files of one name add up anyway)")
        merged = merge(merged, own)
    return merged


@functools.lru_cache(maxsize=64)  # a plan of half a million builds asks for the policy of each
def _checked(path: Path, content: bytes) -> tuple[Document, Mapping[str, Any]]:
    document = parse_document(content, path=path)
    return document, validate_table(document, policy_file())


def _merged(name: str, known: Mapping[str, Sequence[Path]], seen: tuple[str, ...] = ()) -> dict[str, Any]:
    if name in seen:
        chain = " -> ".join([*seen[seen.index(name) :], name])
        raise ConfigError(f"policies inherit from each other in a circle: {chain}", resolution="remove one inherits:")
    if name not in known:
        inherited = f"policy {seen[-1]} inherits from it: " if seen else ""
        raise UnknownPolicyError(
            f"{inherited}there is no policy {name[:80]!r}.{nearest(name, known)}",
            details=f"known: {', '.join(known) or 'none'}",
            resolution="run: lxcbuild policy list",
        )
    own = _merged_files(name, known[name])
    parent = own.pop("inherits", None)
    if parent is None:
        return own
    base = _merged(parent, known, (*seen, name))
    base.pop("description", None)
    return merge(base, own)


def merge(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    """Tables key by key; everything else, lists and null included, is replaced by the stronger side.

    Overrides for packages add up instead (the last that matches is the strongest), unless the stronger side has an empty list.
    """
    merged = dict(weak)
    for key, value in strong.items():
        below = merged.get(key)
        if key == "packages" and value:
            merged[key] = [*(below or ()), *value]
        elif isinstance(below, dict) and isinstance(value, dict):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def _resolve(name: str, table: Mapping[str, Any], package: str | None) -> Policy:
    for override in table.get("packages") or ():
        if package is not None and matches(package, override["match"]):
            table = merge(table, {key: value for key, value in override.items() if key != "match"})
    fields: dict[str, Any] = {"name": name}
    for key in keys():
        group, _, last = key.name.rpartition(".")
        value = ((table.get(group) or {}) if group else table).get(last)
        if value is None:
            if key.required:
                raise ConfigError(
                    f"policy {name}: {key.name}: is missing",
                    resolution=f"set it, or write inherits: default in {name}.yaml",
                )
            continue
        if isinstance(value, Size):
            memory = fields["memory"]["max_bytes"] if group == "disk" else machine_memory_bytes()
            value = _pages(value.resolve(memory))
        elif key.name == "io.devices":
            value = tuple(_device(each) for each in value)
        within = fields.setdefault(key.place[0], {}) if len(key.place) > 1 else fields
        within[key.place[-1]] = value
    return Policy(**fields | {name: kind(**fields.get(name, {})) for name, kind in groups().items()})


def _device(table: Mapping[str, Any]) -> IoDeviceLimits:
    return IoDeviceLimits(**{key.place[0]: table[key.name] for key in device_keys() if table.get(key.name) is not None})


def _pages(count: int) -> int:
    """Down to whole pages, as the kernel does, so that what is read back equals what was asked for."""
    page = os.sysconf("SC_PAGE_SIZE")
    return max(count // page, 1) * page


def matches(package: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns of an override means that project, however either is written."""
    normalised = re.sub(r"[-_.]+", "-", package).lower()
    return any(fnmatch.fnmatchcase(normalised, re.sub(r"[_.]+", "-", pattern).lower()) for pattern in patterns)


def machine_memory_bytes() -> int:
    """The memory of this machine, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
