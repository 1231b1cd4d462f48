"""What attack tests share: the policy that attacks run under, and running a script inside."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxcbuild.policy import CpuLimits, DiskLimits, MemoryLimits, NetworkMode, Policy, TimeLimits
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
    for name in (script, "tools"):
        instance.put(f"/build/{name}.py", (SCRIPTS / f"{name}.py").read_bytes())
    heard: list[bytes] = []
    argv = ("python3", "-B", f"/build/{script}.py", *arguments)
    result = instance.run(Step(argv=argv, user=user, **step), heard.append)
    return Said(result, b"".join(heard).decode(errors="replace"))


def run_unguarded(
    script: str, *arguments: str, wrapper: tuple[str, ...] = (), scripts: Path = SCRIPTS, **options: Any
) -> Any:
    """The parsed JSON of the same script as an ordinary process of the host: what it does where no sandbox is around it.

    ``wrapper`` goes before the command: ``("unshare", "--mount", "--uts")`` keeps the host out of it, ``("setpriv", ...)`` makes it
    an ordinary user (who may need a copy of the ``scripts``). Only for scripts that do no harm.
    """
    command = [*wrapper, "/usr/bin/python3", "-B", os.fspath(scripts / f"{script}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])
