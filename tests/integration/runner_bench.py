"""The runner as PID 1 of a bare PID namespace, and the session at the other end of its stream. No LXC."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lxcbuild.model import Usage
from lxcbuild.policy import DiskLimits, MemoryLimits, Policy, TimeLimits
from lxcbuild.sandbox.base import Step
from lxcbuild.sandbox.session import RUNNER, Reading, Session

MIB = 1024 * 1024
POLICY = Policy(
    name="test",
    memory=MemoryLimits(max_bytes=1024 * MIB),
    disk=DiskLimits(max_bytes=MIB, max_inodes=1000),
    time=TimeLimits(wall_s=60),
)


class Bench:
    """One runner with its session, and what a backend would add: the outside kill and the counters."""

    def __init__(self, ours: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.kills = 0
        self.reading = Reading(usage=Usage())
        self.session = Session(ours, kill=self.kill)
        self.output = bytearray()

    def kill(self) -> None:
        self.kills += 1
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()  # unshare --kill-child: PID 1 of the namespace dies with it

    def run(self, *argv: str, policy: Policy = POLICY, **step):
        self.output.clear()
        step.setdefault("cwd", "/")
        return self.session.run(
            Step(argv=argv, **step), policy=policy, on_output=self.output.extend, probe=lambda: self.reading
        )

    def sh(self, script: str, **more):
        return self.run("sh", "-c", script, **more)

    @property
    def pid_namespace(self) -> list[int]:
        """Host pids of all processes in the runner's namespace, the runner included."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        wanted = Path(f"/proc/{children[0]}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if (entry / "ns/pid").readlink() == wanted:
                        found.append(int(entry.name))
        return found


def pythons() -> list[str]:
    """The interpreters of this machine that an image might have."""
    system = [f"/usr/bin/python3.{minor}" for minor in range(9, 15)]
    return [path for path in system if Path(path).exists()] or [sys.executable]


@contextlib.contextmanager
def started(python: str, *, ready: bool = True, script: Path = RUNNER) -> Iterator[Bench]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", python, "-I", "-S", script], stdin=theirs
        )
    bench = Bench(ours, process)
    try:
        if ready:
            bench.session.wait_ready(10)
        yield bench
    finally:
        bench.session.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
