"""What sandboxes cost while others live: the time to start one more beside N sleeping ones, and the memory of each."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lxcbuild.config.paths import StateDirs
from lxcbuild.errors import SandboxError
from lxcbuild.model import Policy
from lxcbuild.sandbox import compiled
from lxcbuild.sandbox.base import Instance, InstanceSpec, Step
from lxcbuild.sandbox.lxc import LxcBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """One value for each sandbox, in the order of their starts.

    ``first_ms``: from the request to the first byte that a command inside printed. ``memory_bytes``: what its cgroup was charged
    with. ``host_bytes``: by how much all of them together made the machine's available memory smaller, for each.
    """

    first_ms: tuple[float, ...]
    memory_bytes: tuple[int, ...]
    host_bytes: int
    stop_ms: float  # of all of them


def measure(
    dirs: StateDirs, *, image: Path, policy: Policy, count: int, progress: Callable[[int], None] = lambda _number: None
) -> Crowd:
    """Start ``count`` sandboxes that stay, one after the other; raises SandboxError when one does not start."""
    first: list[float] = []
    with LxcBackend(dirs) as backend, contextlib.ExitStack() as stack:
        compiled.provide(dirs, backend, image)
        instances: list[Instance] = []
        before = _available_bytes()
        for number in range(count):
            instance, took_ms = _start(backend, stack, number, image=image, policy=policy)
            instances.append(instance)
            first.append(took_ms)
            progress(number)
        held = before - _available_bytes()
        began = time.perf_counter()
        memory = [instance.stop().peak_memory_bytes or 0 for instance in instances]
        stop_ms = (time.perf_counter() - began) * 1000
    return Crowd(
        first_ms=tuple(first), memory_bytes=tuple(memory), host_bytes=max(held, 0) // max(count, 1), stop_ms=stop_ms
    )


def _start(
    backend: LxcBackend, stack: contextlib.ExitStack, number: int, *, image: Path, policy: Policy
) -> tuple[Instance, float]:
    seen_at: list[float] = []
    began = time.perf_counter()
    spec = InstanceSpec(instance_id=f"crowd-{os.getpid()}.{number}", lowers=(image,), policy=policy)
    instance = backend.create(spec)
    stack.callback(instance.close)
    instance.start()
    step = Step(argv=("/bin/sh", "-c", "sleep 3600 >/dev/null 2>&1 & echo there"))
    outcome = instance.run(step, lambda _data: seen_at.append(time.perf_counter()))
    if outcome.exit_status != 0 or not seen_at:
        raise SandboxError(f"sandbox {number + 1} did not run: {outcome.exit_status}, {outcome.stopped_by}")
    return instance, (seen_at[0] - began) * 1000


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
