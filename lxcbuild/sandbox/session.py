"""The host's end of the runner's byte stream: sends steps, receives output, owns the clocks, decides why a step ended.

Everything that comes from the runner is treated as hostile: lines are bounded, messages are schema-checked, clocks and
counters are the host's own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lxcbuild.model import FailureClass, Policy, Usage
from lxcbuild.sandbox.base import OutputSink, Step, StepResult, User

#: The script that runs as PID 1 inside: ``python3 -I -S RUNNER [FD | DEVICE]``; the default is descriptor 0.
RUNNER = Path(__file__).with_name("runner.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the kernel says about a sandbox at one moment: counters since its start, and the room left in its tmpfs."""

    usage: Usage  # cumulative since the sandbox's start; wall_s is ignored
    disk_total_bytes: int = 0  # 0: unknown
    disk_free_bytes: int = 0
    disk_total_inodes: int = 0
    disk_free_inodes: int = 0


Probe = Callable[[], Reading]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What the runner says about itself when it is up."""

    python: tuple[int, int, int]
    cap_eff: int
    cap_bnd: int
    seccomp: int
    no_new_privs: int


class Session:
    """One conversation with one runner. Not re-entrant: one ``run``, ``interact`` or ``put`` at a time; ``cancel`` at any time.

    ``kill`` is the backend's way to kill the whole sandbox from outside (it must not block for long); it is called when the
    runner does not stop a step by itself, and by ``cancel``.
    """

    def __init__(self, sock: socket.socket, *, kill: Callable[[], None]) -> None: ...

    def wait_ready(self, timeout_s: float) -> Ready:
        """Wait for the runner's first message. Raises SandboxError when it does not come in time, or is not one."""
        ...

    def put(self, inside: str, data: bytes, *, mode: int = 0o644, user: User = User.BUILD) -> None:
        """Write one small file inside (at most 16 MiB; parents are made, no link is followed). Raises SandboxError."""
        ...

    def run(self, step: Step, *, policy: Policy, on_output: OutputSink, probe: Probe) -> StepResult:
        """Run one step to its end. Never raises for what happens inside, a dead runner included (``stopped_by``)."""
        ...

    def interact(self, step: Step, *, policy: Policy, probe: Probe) -> int:
        """Run one step on a pseudo-terminal inside, joined to the caller's terminal; its exit status (128+n for a signal)."""
        ...

    def cancel(self) -> None:
        """End the running step as ``cancelled`` and kill the sandbox; safe in any thread, idempotent."""
        ...

    def close(self) -> None:
        """Close the stream: the runner exits, and the kernel kills what is left inside."""
        ...
