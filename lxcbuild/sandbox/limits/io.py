"""Limits of block I/O: weights, and rates per disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from lxcbuild.linux import block
from lxcbuild.linux.cgroups.cgroup import Version
from lxcbuild.policy import IoDeviceLimits, Policy
from lxcbuild.sandbox.limits.limit import Facts, Limit, Mechanism, Write, missing


def io_limits(policy: Policy, facts: Facts) -> Iterator[Limit]:
    """The weight and the rates."""
    yield _io_weight(policy, facts)
    yield _io_devices(policy, facts)


def bfq_weight(weight: int) -> int:
    """BFQ's 1..1000 for a weight of 1..10000: 1..100 as they are, the rest compressed.

    systemd's BFQ_WEIGHT (src/core/cgroup.c); both scales call 100 normal.
    """
    return min(max(weight if weight <= 100 else 100 + (weight - 100) * 900 // 9900, 1), 1000)


def _io_weight(policy: Policy, facts: Facts) -> Limit:
    weight, name, device = policy.io.weight, "io.weight", facts.state_device
    controller = "io" if facts.version("io") else "blkio"
    version = facts.version(controller)
    if weight == 100:
        return Limit(name=name, value=weight, mechanism=Mechanism.NOTHING, how="100 is what every cgroup has")
    if device is None:
        return Limit(
            name=name,
            value=weight,
            mechanism=Mechanism.NOTHING,
            how=f"{facts.state_dir} is not on a block device, so builds do no block I/O there",
        )
    if version is None:
        return missing(name, weight, controller="io")
    if device.scheduler == "bfq":
        file = "blkio.bfq.weight" if version is Version.V1 else "io.bfq.weight"
        text = str(bfq_weight(weight))
    elif version is Version.V2 and _iocost_enabled(facts, device):
        file, text = "io.weight", str(weight)
    else:
        return Limit(
            name=name,
            value=weight,
            mechanism=Mechanism.CGROUP,
            how="nothing",
            problem=f"the I/O scheduler of {device.name} ({device.scheduler or 'none'}) knows no weights",
            fix=f"echo bfq | sudo tee /sys/block/{device.name}/queue/scheduler",
        )
    return Limit(
        name=name,
        value=weight,
        mechanism=Mechanism.CGROUP,
        how=f"{file}={text} (cgroup {version})",
        writes=(Write(controller, file, text),),
        read=((controller, file),),
        interpret=lambda raw: int(raw.split()[-1]),
    )


def _iocost_enabled(facts: Facts, device: block.BlockDevice) -> bool:
    try:
        lines = (facts.host.controllers["io"].mount / "io.cost.qos").read_text().splitlines()
    except OSError:
        return False
    return any(line.split()[0] == device.numbers and "enable=1" in line.split() for line in lines if line.strip())


_RATES = (
    ("read_bytes_per_s", "read_bps_device", "rbps"),
    ("write_bytes_per_s", "write_bps_device", "wbps"),
    ("read_ops_per_s", "read_iops_device", "riops"),
    ("write_ops_per_s", "write_iops_device", "wiops"),
)


def _io_devices(policy: Policy, facts: Facts) -> Limit:
    name = "io.devices"
    value = [
        {"device": d.device} | {f: getattr(d, f) for f, _, _ in _RATES if getattr(d, f)} for d in policy.io.devices
    ]
    if not policy.io.devices:
        return Limit(name=name, value=None, mechanism=Mechanism.NOTHING, how="no rates asked for")
    controller = "io" if facts.version("io") else "blkio"
    if (version := facts.version(controller)) is None:
        return missing(name, value, controller="io")
    writes: list[Write] = []
    problem = None
    for wanted in policy.io.devices:
        device = _resolve(wanted, facts)
        if device is not None:
            writes += _rate_writes(wanted, device, version)
        elif wanted.device != "state":
            problem = f"{wanted.device} is not a block device of this host"
    if not writes and problem is None:
        how = f"{facts.state_dir} is not on a block device, so builds do no block I/O there"
        return Limit(name=name, value=value, mechanism=Mechanism.NOTHING, how=how)
    read = tuple(dict.fromkeys((w.controller, w.file) for w in writes))
    return Limit(
        name=name,
        value=value,
        mechanism=Mechanism.CGROUP,
        how=", ".join(f"{w.file}={w.text}" for w in writes) + f" (cgroup {version})",
        writes=tuple(writes),
        read=read,
        interpret=lambda *texts: _rates_of([file for _, file in read], texts),
        problem=problem,
        fix="see lsblk for the names of the disks" if problem else None,
        note=None
        if version is Version.V2
        else "cgroup v1 does not attribute written page cache: direct and synchronous I/O only",
    )


def _rates_of(files: Sequence[str], texts: Sequence[str]) -> dict[str, dict[str, int]]:
    """``major:minor`` to the rates in force, by the names of :class:`IoDeviceLimits`."""
    found: dict[str, dict[str, int]] = {}
    for file, text in zip(files, texts, strict=True):
        for line in text.splitlines():
            numbers, *rates = line.split()
            for name, v1, v2 in _RATES:
                value = (
                    rates[0]
                    if file.endswith(v1)
                    else next((r[len(v2) + 1 :] for r in rates if r.startswith(f"{v2}=")), "max")
                )
                if value != "max":
                    found.setdefault(numbers, {})[name] = int(value)
    return found


def _resolve(wanted: IoDeviceLimits, facts: Facts) -> block.BlockDevice | None:
    if wanted.device == "state":
        return facts.state_device
    major, colon, minor = wanted.device.partition(":")
    if colon and major.isdecimal() and minor.isdecimal():
        return block.by_numbers(int(major), int(minor))
    return block.by_path(Path(wanted.device))


def _rate_writes(wanted: IoDeviceLimits, device: block.BlockDevice, version: Version) -> list[Write]:
    rates = [(v1, v2, getattr(wanted, name)) for name, v1, v2 in _RATES if getattr(wanted, name) is not None]
    if version is Version.V1:
        return [Write("blkio", f"blkio.throttle.{v1}", f"{device.numbers} {rate}") for v1, _, rate in rates]
    text = " ".join(f"{v2}={rate}" for _, v2, rate in rates)
    return [Write("io", "io.max", f"{device.numbers} {text}")] if text else []
