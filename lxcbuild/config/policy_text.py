"""A resolved policy as flat, dotted names with values: for people in the units of the files, for programs as plain data."""

from __future__ import annotations

from collections.abc import Mapping

from lxcbuild.config.units import bytes_text, seconds_text
from lxcbuild.model import IoDeviceLimits, Policy

_BYTES = frozenset(
    {
        "memory.max",
        "memory.high",
        "memory.swap_max",
        "disk.max",
        "log.max",
        "log.max_line",
        "output.max",
        "output.max_file",
    }
)


def flat(policy: Policy) -> dict[str, object]:
    """Dotted names, as in the files, to plain values: bytes, seconds, per cent; None where there is no limit."""
    return {
        "cpu.weight": policy.cpu.weight,
        "cpu.quota": policy.cpu.quota_percent,
        "cpu.cpuset": policy.cpu.cpuset,
        "memory.max": policy.memory.max_bytes,
        "memory.high": policy.memory.high_bytes,
        "memory.swap_max": policy.memory.swap_max_bytes,
        "pids.max": policy.pids_max,
        "io.weight": policy.io.weight,
        "io.devices": [_rates(device) for device in policy.io.devices],
        "disk.max": policy.disk.max_bytes,
        "disk.max_inodes": policy.disk.max_inodes,
        "disk.retry_factor": policy.disk.retry_factor,
        "time.wall": policy.time.wall_s,
        "time.silence": policy.time.silence_s,
        "time.cpu": policy.time.cpu_s,
        "log.max": policy.log.max_bytes,
        "log.max_line": policy.log.max_line_bytes,
        "output.max_files": policy.output.max_files,
        "output.max": policy.output.max_bytes,
        "output.max_file": policy.output.max_file_bytes,
        "output.max_depth": policy.output.max_depth,
        "network": policy.network.value,
        "proxy_hosts": list(policy.proxy_hosts),
        "seccomp": policy.seccomp,
        "backend": policy.backend.value,
        "fork_server": policy.fork_server,
        "best_effort": sorted(policy.best_effort),
    }


def _rates(device: IoDeviceLimits) -> dict[str, object]:
    rates = {
        "read": device.read_bytes_per_s,
        "write": device.write_bytes_per_s,
        "read_ops": device.read_ops_per_s,
        "write_ops": device.write_ops_per_s,
    }
    return {"device": device.device, **{name: rate for name, rate in rates.items() if rate is not None}}


def value_text(name: str, value: object) -> str:
    """One value in the units of the files; ``-`` where there is no limit."""
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        return ", ".join(_rate_text(each) if isinstance(each, Mapping) else str(each) for each in value)
    if name in _BYTES and isinstance(value, int):
        return bytes_text(value)
    if name.startswith("time.") and isinstance(value, int | float):
        return seconds_text(value)
    if isinstance(value, bool):
        return str(value).lower()
    if name == "disk.retry_factor":
        return f"{value:g}"
    if name == "cpu.quota":
        return f"{value:g}%"
    return str(value)


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
