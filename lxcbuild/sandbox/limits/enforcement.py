"""From a policy to what this host does about it: each limit with the kernel file (or clock, or mount option) that enforces it.

``plan_limits`` decides and writes nothing; ``enforce`` writes the plan into a cgroup; ``read_back`` asks the kernel what is in
force. A limit that cannot be enforced here is refused with its reason and fix, unless the policy marks it best-effort.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from lxcbuild import files
from lxcbuild.config.units import parse_cpu_list
from lxcbuild.errors import KernelError, LimitRefusedError, SandboxError
from lxcbuild.linux import block
from lxcbuild.linux.cgroups.cgroup import Cgroup, CgroupHost
from lxcbuild.policy import Policy
from lxcbuild.sandbox.limits.compute import compute_limits
from lxcbuild.sandbox.limits.io import io_limits
from lxcbuild.sandbox.limits.limit import Facts, Limit, Mechanism, Write
from lxcbuild.sandbox.limits.walls import wall_limits

__all__ = [
    "Limit", "LimitPlan", "Mechanism", "Write", "cpus_allotted", "enforce", "plan_limits", "read_back", "read_back_disk",
]  # fmt: skip

#: Always there: what measuring and killing need, whether or not the policy limits it.
_BASE_CONTROLLERS = frozenset({"cpuacct", "cpu", "memory", "pids", "freezer"})


class LimitPlan(Struct, frozen=True, kw_only=True):
    """Every limit of one policy on one host."""

    policy: Policy
    limits: tuple[Limit, ...]

    def __iter__(self) -> Iterator[Limit]:
        return iter(self.limits)

    def __getitem__(self, name: str) -> Limit:
        return next(limit for limit in self.limits if limit.name == name)

    @property
    def controllers(self) -> frozenset[str]:
        """Controllers that the sandbox's cgroup must exist in: hand them to :meth:`CgroupHost.create`."""
        return (
            _BASE_CONTROLLERS | {write.controller for limit in self.limits for write in limit.writes} | {"blkio", "io"}
        )

    @property
    def refused(self) -> tuple[Limit, ...]:
        """Limits that cannot be enforced here and that the policy insists on."""
        return tuple(limit for limit in self.limits if limit.problem and not self.tolerates(limit.name))

    def tolerates(self, name: str) -> bool:
        """Whether the policy marks the limit best-effort, by its name, the name of its group, or ``*``."""
        return bool(self.policy.best_effort & {name, name.split(".", 1)[0], "*"})

    def require(self) -> None:
        """Raise :class:`LimitRefusedError` for the first limit that is refused; details list the others."""
        if not (refused := self.refused):
            return
        first = refused[0]
        raise LimitRefusedError(
            f"this host cannot enforce {first.name}={first.text} of policy {self.policy.name}: {first.problem}",
            details="\n".join(f"{limit.name}={limit.text}: {limit.problem}" for limit in refused[1:]) or None,
            resolution=first.fix or f"choose another policy, or list {first.name} under best_effort in it",
        )


def plan_limits(policy: Policy, host: CgroupHost, *, state_dir: Path = Path("/var/lib/lxcbuild")) -> LimitPlan:
    """Decide how each limit of the policy is enforced on this host; reads the kernel, writes nothing, raises nothing for a
    limit that cannot be enforced (see :meth:`LimitPlan.require`). ``state_dir`` says which disk ``device: state`` means."""
    facts = Facts(
        host=host,
        cpus=frozenset(os.sched_getaffinity(0)),
        swap_bytes=files.memory()["SwapTotal"],
        state_dir=state_dir,
        state_device=block.below(state_dir),
    )
    found = (*compute_limits(policy, facts), *io_limits(policy, facts), *wall_limits(policy, facts))
    return LimitPlan(policy=policy, limits=found)


def enforce(plan: LimitPlan, cgroup: Cgroup) -> LimitPlan:
    """Write all cgroup limits of the plan. Returns the plan with the problems of best-effort limits that the kernel refused.

    Raises :class:`LimitRefusedError` for a limit that the policy insists on.
    """
    plan.require()
    done: list[Limit] = []
    for limit in plan.limits:
        try:
            if not limit.problem:
                for write in limit.writes:
                    cgroup.set(write.controller, write.file, write.text)
            done.append(limit)
        except KernelError as error:
            done.append(replace(limit, problem=error.brief))
    result = replace(plan, limits=tuple(done))
    result.require()
    return result


def read_back(plan: LimitPlan, cgroup: Cgroup) -> Mapping[str, object]:
    """What the kernel now says: dotted name to ``{"value", "file", "raw"}``, values in the policy's units.

    Limits that are not kept in a cgroup give ``{"value", "by"}``; best-effort limits that are not enforced give
    ``{"value": None, "why"}``. Plain data, fit for JSON.
    """
    return {limit.name: _in_force(limit, cgroup) for limit in plan.limits}


def read_back_disk(plan: LimitPlan, upper_fd: int) -> Mapping[str, object]:
    """What the file system of the writable layer says of its own size: the policy's bytes and inodes, plus the few for files of
    ours. Raises SandboxError when it has less, or no bound."""
    room = os.fstatvfs(upper_fd)
    found: dict[str, object] = {}
    for name, size in (("disk.max", room.f_blocks * room.f_frsize), ("disk.max_inodes", room.f_files)):
        limit = plan[name]
        assert isinstance(limit.plain, int), limit
        if size < limit.plain:  # 0 is what a tmpfs without a bound says
            raise SandboxError(f"{name} is {limit.plain}, and the writable layer has {size}")
        found[name] = {"value": limit.plain, "by": limit.how, "raw": str(size)}
    return found


def _in_force(limit: Limit, cgroup: Cgroup) -> Mapping[str, object]:
    if limit.problem:
        return {"value": None, "why": limit.problem}
    if not limit.read:
        return {"value": limit.plain, "by": limit.how}
    files: list[str] = []
    raw: list[str] = []
    for controller, file in limit.read:
        text = cgroup.get(controller, file)
        if text is not None:
            raw.append(text)
            files.append(os.fspath(cgroup.path(controller) / file))
    value = limit.interpret(*raw) if limit.interpret and len(raw) == len(limit.read) else None
    return {"value": value, "file": " ".join(files), "raw": "\n".join(raw)}


def cpus_allotted(policy: Policy) -> int:
    """How many threads a build should run: the CPUs of its set, no more than its quota pays for, at least one."""
    available = frozenset(os.sched_getaffinity(0))
    if policy.cpu.cpuset:
        available &= parse_cpu_list(policy.cpu.cpuset)
    count = len(available)
    if policy.cpu.quota_percent is not None:
        count = min(count, int(policy.cpu.quota_percent // 100))
    return max(count, 1)
