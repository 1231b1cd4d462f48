"""Limits of CPU, memory, processes and devices: which file of which cgroup version enforces each, or why none can."""

from __future__ import annotations

from collections.abc import Iterator

from lxcbuild.config.units import parse_cpu_list
from lxcbuild.linux.cgroups.cgroup import DEVICES, CgroupHost, Version
from lxcbuild.policy import Policy
from lxcbuild.sandbox.limits.limit import Facts, Limit, Mechanism, Write, missing

PERIOD_US = 100_000  # the kernel's default cpu.max period; long enough to be cheap, short enough not to be noticed


def compute_limits(policy: Policy, facts: Facts) -> Iterator[Limit]:
    """In the order in which they must be written: memory before swap."""
    yield _cpu_weight(policy, facts)
    yield _cpu_quota(policy, facts)
    yield _cpu_set(policy, facts)
    yield _memory_max(policy, facts)
    yield _memory_high(policy, facts)
    yield _memory_swap(policy, facts)
    yield _pids_max(policy, facts)
    yield _devices(facts)


# -- cpu --------------------------------------------------------------------------------------------------------


def shares_of_weight(weight: int) -> int:
    """v1 cpu.shares for a v2 weight: weight x 1024 / 100, within 2..262144.

    It is the kernel's own conversion (sched_weight_from_cgroup in kernel/sched/sched.h) and keeps 100 at the default of 1024. OCI's
    linear map of 1..10000 onto 2..262144 would make 100 two and a half times the default.
    """
    return min(max(round(weight * 1024 / 100), 2), 262144)


def _cpu_weight(policy: Policy, facts: Facts) -> Limit:
    weight = policy.cpu.weight
    if (version := facts.version("cpu")) is None:
        return missing("cpu.weight", weight, controller="cpu")
    v1 = version is Version.V1
    write = Write("cpu", "cpu.shares", str(shares_of_weight(weight))) if v1 else Write("cpu", "cpu.weight", str(weight))
    return Limit(
        name="cpu.weight",
        value=weight,
        mechanism=Mechanism.CGROUP,
        how=f"{write.file}={write.text} (cgroup {version})",
        writes=(write,),
        read=(("cpu", write.file),),
        interpret=(lambda text: round(int(text) * 100 / 1024)) if v1 else int,
        note="counts only while CPUs are contended",
    )


def _cpu_quota(policy: Policy, facts: Facts) -> Limit:
    percent = policy.cpu.quota_percent
    name = "cpu.quota"
    if percent is None:
        return Limit(name=name, value=None, mechanism=Mechanism.NOTHING, how="no quota asked for")
    if (version := facts.version("cpu")) is None:
        return missing(name, percent, controller="cpu")
    quota_us = max(round(percent * PERIOD_US / 100), 1000)  # the kernel takes no less than 1 ms
    if version is Version.V1:
        writes: tuple[Write, ...] = (
            Write("cpu", "cpu.cfs_period_us", str(PERIOD_US)),
            Write("cpu", "cpu.cfs_quota_us", str(quota_us)),
        )
        read: tuple[tuple[str, str], ...] = (("cpu", "cpu.cfs_quota_us"), ("cpu", "cpu.cfs_period_us"))
    else:
        writes = (Write("cpu", "cpu.max", f"{quota_us} {PERIOD_US}"),)
        read = (("cpu", "cpu.max"),)
    return Limit(
        name=name,
        value=percent,
        mechanism=Mechanism.CGROUP,
        how=f"{writes[-1].file}={writes[-1].text} (cgroup {version})",
        writes=writes,
        read=read,
        interpret=_percent_of_quota,
    )


def _percent_of_quota(*texts: str) -> float | None:
    quota, period = " ".join(texts).split()
    return None if quota in ("max", "-1") else 100 * int(quota) / int(period)


def _cpu_set(policy: Policy, facts: Facts) -> Limit:
    wanted, name = policy.cpu.cpuset, "cpu.cpuset"
    if wanted is None:
        return Limit(name=name, value=None, mechanism=Mechanism.NOTHING, how="all CPUs of the host")
    if (version := facts.version("cpuset")) is None:
        return missing(name, wanted, controller="cpuset")
    absent = sorted(parse_cpu_list(wanted) - facts.cpus)
    return Limit(
        name=name,
        value=wanted,
        mechanism=Mechanism.CGROUP,
        how=f"cpuset.cpus={wanted} (cgroup {version})",
        writes=(Write("cpuset", "cpuset.cpus", wanted),),
        read=(("cpuset", "cpuset.cpus"),),
        interpret=str,
        problem=f"we may not use CPU {', '.join(map(str, absent))} (we may use {sorted(facts.cpus)})"
        if absent
        else None,
        fix="change cpu.cpuset in the policy" if absent else None,
    )


# -- memory -----------------------------------------------------------------------------------------------------


def _memory_max(policy: Policy, facts: Facts) -> Limit:
    value = policy.memory.max_bytes
    if (version := facts.version("memory")) is None:
        return missing("memory.max", value, controller="memory")
    v1 = version is Version.V1
    file = "memory.limit_in_bytes" if v1 else "memory.max"
    writes: tuple[Write, ...] = (Write("memory", file, str(value)),)
    note = "covers the writable tmpfs and the page cache too; the kernel rounds down to whole pages"
    if v1 and _offered(facts.host, SOCKET_MEMORY):
        writes += (Write("memory", SOCKET_MEMORY, str(socket_memory_bytes(value))),)
        note += f"; socket buffers have a limit of their own, {SOCKET_MEMORY}={socket_memory_bytes(value)}"
    elif v1:
        note += "; this kernel does not count the buffers of network sockets"
    return Limit(
        name="memory.max",
        value=value,
        mechanism=Mechanism.CGROUP,
        how=f"{file}={value} (cgroup {version})",
        writes=writes,
        read=(("memory", file),),
        interpret=_bytes_or_none,
        note=note,
    )


#: v1 counts what waits in TCP and UDP sockets apart from all other memory, and only where there is a limit for it
#: (mem_cgroup_sk_alloc in mm/memcontrol.c). Without one it is bounded for the whole machine only (tcp_mem, udp_mem): a build could
#: take gigabytes, and the host's own sockets would go short. v2 counts it under memory.max.
SOCKET_MEMORY = "memory.kmem.tcp.limit_in_bytes"


def socket_memory_bytes(max_bytes: int) -> int:
    """For sockets, on top of ``memory.max`` in v1: an eighth of it, 16 MiB at least."""
    return max(max_bytes // 8, 1 << 24)


def _bytes_or_none(text: str) -> int | None:
    """A limit in bytes; None for "max" and for v1's way of saying the same, the largest page-aligned number."""
    return None if text == "max" or int(text) >= 2**62 else int(text)


def _memory_high(policy: Policy, facts: Facts) -> Limit:
    value, name = policy.memory.high_bytes, "memory.high"
    if value is None:
        return Limit(name=name, value=None, mechanism=Mechanism.NOTHING, how="not asked for")
    version = facts.version("memory")
    if version is Version.V2:
        return Limit(
            name=name,
            value=value,
            mechanism=Mechanism.CGROUP,
            how=f"memory.high={value} (cgroup v2)",
            writes=(Write("memory", "memory.high", str(value)),),
            read=(("memory", "memory.high"),),
            interpret=_bytes_or_none,
        )
    return Limit(
        name=name,
        value=value,
        mechanism=Mechanism.CGROUP,
        how="nothing",
        problem="cgroup v1 has no such limit (memory.soft_limit_in_bytes acts only while the whole host runs short)",
        fix="remove memory.high from the policy, list it under best_effort, or boot with systemd.unified_cgroup_hierarchy=1",
    )


def _memory_swap(policy: Policy, facts: Facts) -> Limit:
    swap, name = policy.memory.swap_max_bytes, "memory.swap_max"
    version = facts.version("memory")
    file, value = ("memory.swap.max", swap)
    if version is Version.V1:
        file, value = ("memory.memsw.limit_in_bytes", policy.memory.max_bytes + swap)
    if version is not None and _offered(facts.host, file):
        limit = policy.memory.max_bytes
        return Limit(
            name=name,
            value=swap,
            mechanism=Mechanism.CGROUP,
            how=f"{file}={value} (cgroup {version}{', memory and swap together' if version is Version.V1 else ''})",
            writes=(Write("memory", file, str(value)),),
            read=(("memory", file),),
            interpret=(lambda text: max(int(text) - limit // 4096 * 4096, 0))
            if version is Version.V1
            else _bytes_or_none,
        )
    if facts.swap_bytes == 0:
        return Limit(
            name=name,
            value=swap,
            mechanism=Mechanism.NOTHING,
            how="this host has no swap space, so nothing can be swapped out",
            note="swap accounting is off: if swap space is added, this limit will be refused",
        )
    return Limit(
        name=name,
        value=swap,
        mechanism=Mechanism.CGROUP,
        how="nothing",
        problem="this kernel does not account for swap, and the host has swap space",
        fix="add swapaccount=1 to the kernel's command line and reboot, or swapoff -a",
    )


def _offered(host: CgroupHost, file: str) -> bool:
    """Whether the memory controller shows a file: in the base, or (the real root of v2 shows few) in any cgroup below it."""
    base = host.controllers["memory"].base
    if (base / file).exists():
        return True
    below = [child for child in base.iterdir() if child.is_dir() and (child / "memory.max").exists()]
    return any((child / file).exists() for child in below) if below else host.version("memory") is Version.V2


# -- pids and devices -------------------------------------------------------------------------------------------


def _pids_max(policy: Policy, facts: Facts) -> Limit:
    if (version := facts.version("pids")) is None:
        return missing("pids.max", policy.pids_max, controller="pids")
    return Limit(
        name="pids.max",
        value=policy.pids_max,
        mechanism=Mechanism.CGROUP,
        how=f"pids.max={policy.pids_max} (cgroup {version})",
        writes=(Write("pids", "pids.max", str(policy.pids_max)),),
        read=(("pids", "pids.max"),),
        interpret=lambda text: None if text == "max" else int(text),
        note="processes and threads together",
    )


def _devices(facts: Facts) -> Limit:
    if facts.version("devices") is Version.V1:
        return Limit(
            name="devices",
            value=list(DEVICES),
            mechanism=Mechanism.CGROUP,
            how="devices.deny=a, then devices.allow (cgroup v1)",
            writes=(Write("devices", "devices.deny", "a"), *(Write("devices", "devices.allow", d) for d in DEVICES)),
            read=(("devices", "devices.list"),),
            interpret=lambda text: text.splitlines(),
        )
    return Limit(
        name="devices",
        value=list(DEVICES),
        mechanism=Mechanism.NAMESPACE,
        how="the user namespace forbids mknod, and /dev holds no other device (cgroup v2 has no device files)",
    )
