"""What sandboxes cost while others live: the time to start one more beside N sleeping ones, and the memory of each."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from lxcbuild import files
from lxcbuild.errors import SandboxError
from lxcbuild.policy import Policy
from lxcbuild.sandbox.base import Instance, InstanceSpec, Step
from lxcbuild.sandbox.inside import compiled
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.state.paths import StateDirs


class ParallelRuns(Struct, frozen=True, kw_only=True):
    """One value for each sandbox, in the order of their starts.

    ``first_ms``: from the request to the first byte that a command inside printed. ``memory_bytes``: what its cgroup was charged
    with. ``host_bytes``: by how much all of them together made the machine's available memory smaller, for each.
    """

    first_ms: tuple[float, ...]
    memory_bytes: tuple[int, ...]
    host_bytes: int
    stop_ms: float  # of all of them


def measure(dirs: StateDirs, *, image: Path, policy: Policy, count: int) -> ParallelRuns:
    """Start ``count`` sandboxes that stay, one after the other; raises SandboxError when one does not start."""
    first: list[float] = []
    with LxcBackend(dirs) as backend, contextlib.ExitStack() as stack:
        compiled.provide(dirs, backend, image)
        instances: list[Instance] = []
        before = files.memory()["MemAvailable"]
        for number in range(count):
            instance, took_ms = _start(backend, stack, number, lowers=(image,), policy=policy)
            instances.append(instance)
            first.append(took_ms)
        held = before - files.memory()["MemAvailable"]
        began = time.perf_counter()
        memory = [instance.stop().peak_memory_bytes or 0 for instance in instances]
        stop_ms = (time.perf_counter() - began) * 1000
    return ParallelRuns(
        first_ms=tuple(first), memory_bytes=tuple(memory), host_bytes=max(held, 0) // max(count, 1), stop_ms=stop_ms
    )


#: Between two sandboxes that follow each other: the kernel takes their namespaces down later than it says.
_SETTLE_S = 0.15
_PER_DIRECTORY = 1000


def measure_trees(
    dirs: StateDirs,
    *,
    image: Path,
    policy: Policy,
    sizes: Sequence[int],
    runs: int,
) -> dict[int, list[float]]:
    """Milliseconds to the first byte, by the number of files in a layer above the image; each round starts one of each size.

    The layers are made beside the image, on the same file system. Raises SandboxError.
    """
    found: dict[int, list[float]] = {size: [] for size in sizes}
    with (
        LxcBackend(dirs) as backend,
        tempfile.TemporaryDirectory(dir=image.parent, prefix="bench-trees-") as place,
    ):
        compiled.provide(dirs, backend, image)
        layers = {size: _tree(Path(place) / f"{size}", size) for size in sizes}
        for number in range(runs + 1):
            for size in sizes if number % 2 else reversed(sizes):
                backend.prestart()
                time.sleep(_SETTLE_S)
                with contextlib.ExitStack() as stack:
                    lowers = (layers[size], image)
                    instance, took_ms = _start(backend, stack, number, lowers=lowers, policy=policy)
                    instance.stop()
                backend.settle()
                if number:
                    found[size].append(took_ms)
    return found


def _tree(place: Path, files: int) -> Path:
    """A directory with so many small files below it."""
    place.mkdir(mode=0o755, parents=True)
    for number in range(files):
        if number % _PER_DIRECTORY == 0:
            below = place / "usr" / "share" / "bench" / f"{number // _PER_DIRECTORY}"
            below.mkdir(parents=True)
        (below / f"{number}").write_bytes(b"x")
    return place


def _start(
    backend: LxcBackend, stack: contextlib.ExitStack, number: int, *, lowers: tuple[Path, ...], policy: Policy
) -> tuple[Instance, float]:
    seen_at: list[float] = []
    began = time.perf_counter()
    spec = InstanceSpec(instance_id=f"crowd-{os.getpid()}.{number}", lowers=lowers, policy=policy)
    instance = backend.create(spec)
    stack.callback(instance.close)
    instance.start()
    step = Step(argv=("/bin/sh", "-c", "sleep 3600 >/dev/null 2>&1 & echo there"))
    outcome = instance.run(step, lambda _data: seen_at.append(time.perf_counter()))
    if outcome.exit_status != 0 or not seen_at:
        raise SandboxError(f"sandbox {number + 1} did not run: {outcome.exit_status}, {outcome.stopped_by}")
    return instance, (seen_at[0] - began) * 1000
