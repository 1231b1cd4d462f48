"""The files of isolation policies: ``cgroups/*.yaml`` and the administrator's, merged and resolved for this machine.

Order of strength, weakest first: what ``inherits`` names, the shipped file, the administrator's file of the same name, the
override whose pattern matches the package. :func:`merge` says how values meet; ``null`` takes an inherited value away.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from pydantic import BaseModel

from lxcbuild import model
from lxcbuild.config import policies
from lxcbuild.config.documents import nearest, read_document, validate
from lxcbuild.config.policy_schema import PolicyFile, Size
from lxcbuild.errors import ConfigError, UnknownPolicyError
from lxcbuild.state import data


class PolicyInfo(Struct, frozen=True):
    """A policy as a list shows it. ``files``: the weaker one first."""

    name: str
    description: str
    inherits: str | None
    files: tuple[Path, ...]


def list_policies(*, places: tuple[Path, ...] | None = None) -> tuple[PolicyInfo, ...]:
    """All policies by name; raises :class:`ConfigError` for a file with a mistake."""
    found: list[PolicyInfo] = []
    for name, paths in data.files(policies.KIND, places=places).items():
        merged = _merged_files(name, paths)
        found.append(PolicyInfo(name, merged.get("description") or "", merged.get("inherits"), tuple(paths)))
    return tuple(found)


def load_policy(name: str, *, package: str | None = None, places: tuple[Path, ...] | None = None) -> model.Policy:
    """The policy of that name, resolved for this machine and, where given, for one package.

    Raises :class:`UnknownPolicyError` with the nearest name, or :class:`ConfigError` with file, line and key.
    """
    return _resolve(name, _merged(name, data.files(policies.KIND, places=places)), package)


def override_patterns(name: str, *, places: tuple[Path, ...] | None = None) -> tuple[tuple[str, ...], ...]:
    """The patterns of packages of which the policy says anything else, by override."""
    overrides = _merged(name, data.files(policies.KIND, places=places)).get("packages") or ()
    return tuple(tuple(override["match"]) for override in overrides)


def load_policy_file(path: Path, *, package: str | None = None, places: tuple[Path, ...] | None = None) -> model.Policy:
    """A policy from a file that may lie anywhere; what it inherits comes from the known ones."""
    known = data.files(policies.KIND, places=places)
    return _resolve(path.stem, _merged(path.stem, {**known, path.stem: [path]}), package)


def _merged_files(name: str, paths: Sequence[Path]) -> dict[str, Any]:
    """The files of one name over each other, without what they inherit; tables as plain dictionaries."""
    merged: dict[str, Any] = {}
    for path in paths:
        document = read_document(path)
        own = _plain(validate(document, PolicyFile))
        if own.get("inherits") == name:
            raise document.error(("inherits",), "a policy cannot inherit from itself (files of one name add up anyway)")
        merged = merge(merged, own)
    return merged


def _plain(table: BaseModel) -> dict[str, Any]:
    """The keys that the file really has; sizes stay objects, for they are resolved when everything is merged."""
    found: dict[str, Any] = {}
    for key in table.model_fields_set:
        value = getattr(table, key)
        if isinstance(value, BaseModel) and not isinstance(value, Size):
            value = _plain(value)
        elif isinstance(value, tuple):
            value = [_plain(each) if isinstance(each, BaseModel) else each for each in value]
        found[key] = value
    return found


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


def _resolve(name: str, table: dict[str, Any], package: str | None) -> model.Policy:
    for override in table.get("packages") or ():
        if package is not None and policies.matches(package, override["match"]):
            table = merge(table, {key: value for key, value in override.items() if key != "match"})
    memory_max = _pages(_need(name, table, "memory", "max").resolve(policies.machine_memory_bytes()))
    memory, time = table["memory"], table.get("time") or {}
    high: Size | None = memory.get("high")
    optional: dict[str, Any] = {
        "pids_max": (table.get("pids") or {}).get("max"),
        "network": model.NetworkMode(table["network"]) if table.get("network") else None,
        "backend": model.BackendChoice(table["backend"]) if table.get("backend") else None,
        "seccomp": table.get("seccomp"),
        "fork_server": table.get("fork_server"),
    }
    return model.Policy(
        name=name,
        memory=model.MemoryLimits(
            max_bytes=memory_max,
            high_bytes=_pages(high.resolve(policies.machine_memory_bytes())) if high else None,
            swap_max_bytes=memory.get("swap_max") or 0,
        ),
        disk=model.DiskLimits(
            max_bytes=_pages(_need(name, table, "disk", "max").resolve(memory_max)),
            max_inodes=_need(name, table, "disk", "max_inodes"),
            retry_factor=table["disk"].get("retry_factor") or 1.0,
        ),
        time=model.TimeLimits(
            wall_s=_need(name, table, "time", "wall"), silence_s=time.get("silence"), cpu_s=time.get("cpu")
        ),
        cpu=_cpu(table.get("cpu") or {}),
        io=_io(table.get("io") or {}),
        log=_renamed(model.LogLimits, table.get("log"), {"max": "max_bytes", "max_line": "max_line_bytes"}),
        output=_renamed(model.OutputLimits, table.get("output"), {"max": "max_bytes", "max_file": "max_file_bytes"}),
        best_effort=frozenset(table.get("best_effort") or ()),
        proxy_hosts=tuple(table.get("proxy_hosts") or ()),
        **{key: value for key, value in optional.items() if value is not None},
    )


def _need(name: str, table: Mapping[str, Any], group: str, key: str) -> Any:
    value = (table.get(group) or {}).get(key)
    if value is None:
        raise ConfigError(
            f"policy {name}: {group}.{key}: is missing", resolution=f"set it, or write inherits: default in {name}.yaml"
        )
    return value


def _cpu(table: Mapping[str, Any]) -> model.CpuLimits:
    return model.CpuLimits(
        weight=table.get("weight") or 100, quota_percent=table.get("quota"), cpuset=table.get("cpuset")
    )


def _io(table: Mapping[str, Any]) -> model.IoLimits:
    devices = tuple(
        model.IoDeviceLimits(
            device=each["device"],
            read_bytes_per_s=each.get("read"),
            write_bytes_per_s=each.get("write"),
            read_ops_per_s=each.get("read_ops"),
            write_ops_per_s=each.get("write_ops"),
        )
        for each in table.get("devices") or ()
    )
    return model.IoLimits(weight=table.get("weight") or 100, devices=devices)


def _renamed(kind: Any, table: Mapping[str, Any] | None, names: Mapping[str, str]) -> Any:
    """A limits object from the keys of a file; keys that are absent or null keep the object's defaults."""
    return kind(**{names.get(key, key): value for key, value in (table or {}).items() if value is not None})


def _pages(count: int) -> int:
    """Down to whole pages, as the kernel does, so that what is read back equals what was asked for."""
    page = os.sysconf("SC_PAGE_SIZE")
    return max(count // page, 1) * page
