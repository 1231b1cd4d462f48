"""What attack tests share: the policy that attacks run under, and running a script inside."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxcbuild.model import CpuLimits, DiskLimits, MemoryLimits, NetworkMode, Policy, TimeLimits
from lxcbuild.sandbox.base import Instance, Step, StepResult, User

SCRIPTS = Path(__file__).parent / "scripts"
MIB = 1 << 20
#: What attacks run under unless the test says otherwise: small, and with every belt on.
POLICY = Policy(
    name="attack",
    memory=MemoryLimits(max_bytes=256 * MIB),
    disk=DiskLimits(max_bytes=64 * MIB, max_inodes=20_000),
    time=TimeLimits(wall_s=60),
    cpu=CpuLimits(),
    pids_max=128,
    network=NetworkMode.NONE,
    best_effort=frozenset({"*"}),
)


@dataclass(frozen=True)
class Said:
    """How a script ended, and what it printed."""

    result: StepResult
    text: str

    @property
    def document(self) -> Any:
        """The JSON on the last line."""
        assert self.text.strip(), f"the script said nothing: {self.result}"
        return json.loads(self.text.strip().splitlines()[-1])


def run_script(instance: Instance, script: str, *arguments: str, user: User = User.BUILD, **step: Any) -> Said:
    """Run a file of ``scripts/`` inside; returns how it ended and all it printed."""
    text = (SCRIPTS / f"{script}.py").read_bytes()
    instance.put(f"/build/{script}.py", text)
    heard: list[bytes] = []
    argv = ("python3", "-B", f"/build/{script}.py", *arguments)
    result = instance.run(Step(argv=argv, user=user, **step), heard.append)
    return Said(result, b"".join(heard).decode(errors="replace"))
