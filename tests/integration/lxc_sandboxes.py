"""What the tests of the LXC backend share: a small policy, and a shell inside."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from lxcbuild.policy import CpuLimits, DiskLimits, MemoryLimits, NetworkMode, Policy, TimeLimits
from lxcbuild.sandbox.base import InstanceSpec, Step, StepResult, User
from lxcbuild.sandbox.lxc import LxcInstance

MIB = 1 << 20
POLICY = Policy(
    name="test",
    memory=MemoryLimits(max_bytes=256 * MIB),
    disk=DiskLimits(max_bytes=64 * MIB, max_inodes=5000),
    time=TimeLimits(wall_s=30),
    cpu=CpuLimits(quota_percent=150),
    pids_max=64,
    network=NetworkMode.LOOPBACK,
    best_effort=frozenset({"*"}),
)


def spec(rootfs: Path, name: str = "one", **fields: object) -> InstanceSpec:
    return replace(InstanceSpec(instance_id=name, lowers=(rootfs,), policy=POLICY), **fields)  # type: ignore[arg-type]


def shell(instance: LxcInstance, script: str, *, user: User = User.BUILD) -> tuple[StepResult, str]:
    parts: list[bytes] = []
    result = instance.run(Step(argv=("/bin/sh", "-c", script), user=user), parts.append)
    return result, b"".join(parts).decode(errors="replace")


def processes_of(id_start: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                status = (entry / "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if "\nState:\tZ" in status:
                continue
            uid = int(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1])
            if id_start <= uid < id_start + 65536:
                found.append(int(entry.name))
    return found
