"""A resolved policy as flat, dotted names with values. People read the units of files, programs plain data."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from lxcbuild.config.policy_schema import device_keys, keys, value_of
from lxcbuild.config.units import bytes_text, seconds_text
from lxcbuild.policy import IoDeviceLimits, Policy

_MIB = 1 << 20
_BYTES = ("bytes", "relative", "rate")


def flat(policy: Policy) -> dict[str, object]:
    """Dotted names, as in the files, to plain values: bytes, seconds, per cent; None where there is no limit."""
    return {key.name: _plain(value_of(policy, key)) for key in keys()}


def _plain(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, IoDeviceLimits):
        return {key.name: own for key in device_keys() if (own := value_of(value, key)) is not None}
    return value


def raised(policy: Policy, stop: str) -> str:
    """Twice of each limit that ends a step with this failure class, as a file says it. "" where none does."""
    groups: dict[str, list[str]] = {}
    for key in keys():
        if stop in key.stops and (value := value_of(policy, key)) is not None:
            twice = 2 * value if key.unit not in _BYTES else -(-2 * value // _MIB) * _MIB
            group, _, name = key.name.rpartition(".")
            groups.setdefault(group, []).append(f"{name}: {value_text(key.name, twice)}")
    return ", ".join(f"{group}: {{{', '.join(values)}}}" for group, values in groups.items())


def value_text(name: str, value: object) -> str:
    """One value in the units of the files; ``-`` where there is no limit."""
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        return ", ".join(_rate_text(each) if isinstance(each, Mapping) else str(each) for each in value)
    if isinstance(value, bool):
        return str(value).lower()
    unit = next((key.unit for key in keys() if key.name == name), "")
    if unit in _BYTES and isinstance(value, int):
        return bytes_text(value)
    if unit == "seconds" and isinstance(value, int | float):
        return seconds_text(value)
    return f"{value:g}{'%' * (unit == 'percent')}" if isinstance(value, float) else str(value)


def _rate_text(device: Mapping[str, object]) -> str:
    parts = [str(device["device"])]
    for name in ("read", "write"):
        rate = device.get(name) or device.get(f"{name}_bytes_per_s")
        if isinstance(rate, int):
            parts.append(f"{name} {bytes_text(rate)}/s")
        ops = device.get(f"{name}_ops") or device.get(f"{name}_ops_per_s")
        if ops:
            parts.append(f"{name} {ops} ops/s")
    return " ".join(parts)
