"""Limits that no cgroup keeps: tmpfs, clocks, bounded readers, namespaces, seccomp, and the choice of the backend."""

from __future__ import annotations

from collections.abc import Iterator

from lxcbuild.errors import LimitRefusedError
from lxcbuild.linux import netns, probe
from lxcbuild.linux.cgroups.cgroup import Version
from lxcbuild.policy import BackendChoice, NetworkMode, Policy
from lxcbuild.sandbox import seccomp
from lxcbuild.sandbox.limits.limit import Facts, Limit, Mechanism

_NETWORKS = {
    NetworkMode.NONE: "a network namespace of its own, with nothing in it but lo, which is down",
    NetworkMode.LOOPBACK: "a network namespace of its own, with nothing in it but lo",
    NetworkMode.SINKHOLE: "a network namespace of its own; every name and connection is answered by a guard and recorded",
    NetworkMode.PROXY: "as sinkhole, with a proxy to the hosts in proxy_hosts; every request is recorded",
}
BACKENDS = frozenset({BackendChoice.LXC, BackendChoice.AUTO})


def wall_limits(policy: Policy, facts: Facts) -> Iterator[Limit]:
    """Everything but cgroups."""
    yield from _mounts_and_clocks(policy, facts)
    yield from _walls(policy)


def _mounts_and_clocks(policy: Policy, facts: Facts) -> Iterator[Limit]:
    disk, time, log, output = policy.disk, policy.time, policy.log, policy.output
    over = disk.max_bytes > policy.memory.max_bytes
    yield Limit(
        name="disk.max",
        value=disk.max_bytes,
        mechanism=Mechanism.TMPFS,
        how=f"size={disk.max_bytes} of the writable layer's tmpfs",
        note="larger than memory.max: a build that fills it runs out of memory first" if over else None,
    )
    how = f"nr_inodes={disk.max_inodes} of the writable layer's tmpfs"
    yield Limit(name="disk.max_inodes", value=disk.max_inodes, mechanism=Mechanism.TMPFS, how=how)
    yield Limit(
        name="disk.retry_factor",
        value=disk.retry_factor,
        mechanism=Mechanism.NOTHING,
        how="a build that fills its disk is tried once more, with so many times the room"
        if disk.retry_factor > 1
        else "a build that fills its disk is not tried again",
    )
    yield Limit(
        name="time.wall", value=time.wall_s, mechanism=Mechanism.CLOCK, how="monotonic clock of ours, then SIGKILL"
    )
    yield Limit(name="time.silence", value=time.silence_s, mechanism=Mechanism.CLOCK, how="clock since the last output")
    counted = facts.version("cpuacct") or facts.version("cpu") is Version.V2
    yield Limit(
        name="time.cpu",
        value=time.cpu_s,
        mechanism=Mechanism.CLOCK if time.cpu_s is not None else Mechanism.NOTHING,
        how="the cgroup's CPU counter, looked at while the step runs" if time.cpu_s is not None else "not asked for",
        problem=None if counted or time.cpu_s is None else "no controller counts CPU time here",
    )
    for name, value in (
        ("log.max", log.max_bytes),
        ("log.max_line", log.max_line_bytes),
        ("output.max_files", output.max_files),
        ("output.max", output.max_bytes),
        ("output.max_file", output.max_file_bytes),
        ("output.max_depth", output.max_depth),
    ):
        yield Limit(name=name, value=value, mechanism=Mechanism.READER, how="bounded reader on the host's side")


def _walls(policy: Policy) -> Iterator[Limit]:
    yield _network(policy)
    yield _seccomp(policy)
    usable = policy.backend in BACKENDS
    yield Limit(
        name="backend",
        value=policy.backend.value,
        mechanism=Mechanism.BACKEND,
        how="LXC container" if usable else "nothing",
        problem=None if usable else f"this version of lxcbuild has no {policy.backend} backend",
        fix=None if usable else "use backend: auto or backend: lxc",
    )


def _network(policy: Policy) -> Limit:
    mode = policy.network
    problem = fix = None
    if mode in (NetworkMode.SINKHOLE, NetworkMode.PROXY) and (tun := netns.tun_problem()) is not None:
        problem, fix = f"no TUN device can be made ({tun})", "run: modprobe tun; or use network: loopback"
    elif mode is NetworkMode.PROXY and not policy.proxy_hosts:
        problem, fix = "network: proxy without any host in proxy_hosts", "name the hosts, or use network: sinkhole"
    return Limit(
        name="network",
        value=mode.value,
        mechanism=Mechanism.NAMESPACE,
        how=_NETWORKS[mode],
        problem=problem,
        fix=fix,
    )


def _seccomp(policy: Policy) -> Limit:
    name, problem, fix = policy.seccomp, None, None
    try:
        found = seccomp.filters(name)
    except LimitRefusedError as error:
        found, problem, fix = None, error.brief, error.resolution
    if found is not None and problem is None and (problem := probe.seccomp()) is not None:
        fix = "use a kernel with CONFIG_SECCOMP_FILTER"
    off = found is None and problem is None
    return Limit(
        name="seccomp",
        value=name,
        mechanism=Mechanism.NOTHING if off else Mechanism.SECCOMP,
        how="switched off by the policy"
        if off
        else f"allow-list {name}: PID 1 loads it before any step, liblxc its core first",
        problem=problem,
        fix=fix,
    )
