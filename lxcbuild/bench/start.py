"""How long sandboxes take to start and to end, beside other programs, interleaved: every round runs everything once."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from lxcbuild.bench.peers import COMMAND, PEERS, Peer, run_once, swept
from lxcbuild.bench.samples import Spread, ratios
from lxcbuild.errors import SandboxError
from lxcbuild.policy import NetworkMode, Policy
from lxcbuild.sandbox.base import InstanceSpec, Step
from lxcbuild.sandbox.inside import compiled
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.sandbox.network.network import GUARDED
from lxcbuild.state.paths import StateDirs

#: Budgets (docs/reference/performance.md).
MAX_RATIO, MAX_FIRST_MS, MAX_STOP_MS, MAX_MEMORY_BYTES, MAX_GUARD_MS = 3.0, 40.0, 5.0, 30 << 20, 3.0
_REFERENCE = "lxc-execute"
#: Between two things measured: what the one before left to the kernel (the end of its namespaces) is not the next one's time.
_SETTLE_S = 0.15
#: Our series, in the order of a sandbox's life. All but ``stop`` and ``close`` count from the request.
OURS = {
    "ready": "request to PID 1's answer, limits in force",
    "first": "request to the first byte that a command inside printed",
    "second": "another command in the same sandbox, to its end",
    "stop": "everything inside killed and dead",
    "close": "handing the rest of the cleaning over",
    "whole": "request to dead, one command, without the second one",
}


class Starts(Struct):
    """What was measured: series in milliseconds, one value a round."""

    ours: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in OURS})
    memory_bytes: list[int] = field(default_factory=list)
    first: dict[str, list[float]] = field(default_factory=dict)  # of each peer
    whole: dict[str, list[float]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    without_network: list[float] = field(
        default_factory=list
    )  # first byte with network none, where the policy has a guard

    def ratio(self, peer: str = _REFERENCE) -> Spread | None:
        """Our first byte to the peer's, round by round; None when the peer is absent."""
        theirs = self.first.get(peer)
        return ratios(self.ours["first"], theirs) if theirs else None

    def guard(self) -> Spread | None:
        """What the network's guard costs until the first byte, round by round; None when the policy has none."""
        pairs = zip(self.ours["first"], self.without_network, strict=True) if self.without_network else ()
        costs = [watched - bare for watched, bare in pairs]
        return Spread.of(costs) if costs else None

    def budgets(self) -> tuple[Promise, ...]:
        """Each budget with what counts for it: the median."""
        ratio, guard = self.ratio(), self.guard()
        found = [
            Promise("first command / lxc-execute", ratio.median if ratio else None, MAX_RATIO, "x"),
            Promise("request to first command", Spread.of(self.ours["first"]).median, MAX_FIRST_MS, "ms"),
            Promise("teardown seen by the caller", Spread.of(self.ours["stop"]).median, MAX_STOP_MS, "ms"),
            Promise("network guard over no network", guard.median if guard else None, MAX_GUARD_MS, "ms"),
            Promise("memory of a sandbox", max(self.memory_bytes) / (1 << 20), MAX_MEMORY_BYTES / (1 << 20), "MiB"),
        ]
        return tuple(found)


class Promise(Struct, frozen=True):
    """One promise; ``value`` is None when it could not be measured."""

    name: str
    value: float | None
    limit: float
    unit: str

    @property
    def holds(self) -> bool | None:
        """Whether it is kept."""
        return None if self.value is None else self.value <= self.limit


def measure(
    dirs: StateDirs,
    *,
    image: Path,
    policy: Policy,
    runs: int,
    peers: Sequence[str],
) -> Starts:
    """Run ``runs`` rounds after one that does not count. Raises SandboxError, CommandError for what does not run at all."""
    chosen = [peer for peer in PEERS if peer.name in peers]
    present = [peer for peer in chosen if shutil.which(peer.program)]
    result = Starts(absent=tuple(peer.name for peer in chosen if peer not in present))
    warming = Starts()
    memory = Path("/dev/shm")  # noqa: S108 - others get a tmpfs for what they write, as our sandboxes do
    bare = replace(policy, network=NetworkMode.NONE) if policy.network in GUARDED else None
    # Two backends: each prepares the network that its own last sandbox had.
    with (
        LxcBackend(dirs) as backend,
        LxcBackend(dirs) as other,
        tempfile.TemporaryDirectory(dir=memory, prefix="lxcbuild-bench-") as scratch,
        swept(),
    ):
        compiled.provide(dirs, backend, image)
        for number in range(runs + 1):
            into = result if number else warming
            aside = Starts()
            pair = [(backend, into, policy)] + ([(other, aside, bare)] if bare is not None else [])
            # In turn: what one sandbox leaves to the kernel must not always fall on the other one.
            for where, series, limits in pair if number % 2 else reversed(pair):
                _one_of_ours(where, series, image=image, policy=limits)
            into.without_network += aside.ours["first"]
            for peer in present:
                time.sleep(_SETTLE_S)
                _one_of_theirs(peer, into, image=image, scratch_below=Path(scratch))
    return result


def _one_of_ours(backend: LxcBackend, into: Starts, *, image: Path, policy: Policy) -> None:
    backend.prestart()  # as every build does, as soon as it knows that it will need a sandbox
    time.sleep(_SETTLE_S)
    seen_at: list[float] = []
    step = Step(argv=COMMAND)
    began = time.perf_counter()
    spec = InstanceSpec(instance_id=f"bench-{os.getpid()}", lowers=(image,), policy=policy)
    with contextlib.closing(backend.create(spec)) as instance:
        instance.start()
        ready = time.perf_counter()
        outcome = instance.run(step, lambda _data: seen_at.append(time.perf_counter()))
        ended = time.perf_counter()
        if outcome.exit_status != 0 or not seen_at:
            raise SandboxError(f"the measured command failed: {outcome.exit_status}, {outcome.stopped_by}")
        instance.run(step, lambda _data: None)
        again = time.perf_counter()
        usage = instance.stop()
        stopped = time.perf_counter()
        instance.close()
        closed = time.perf_counter()
    backend.settle()
    values = {
        "ready": ready - began,
        "first": seen_at[0] - began,
        "second": again - ended,
        "stop": stopped - again,
        "close": closed - stopped,
        "whole": stopped - began - (again - ended),
    }
    for name, value in values.items():
        into.ours[name].append(value * 1000)
    into.memory_bytes.append(usage.peak_memory_bytes or 0)


def _one_of_theirs(peer: Peer, into: Starts, *, image: Path, scratch_below: Path) -> None:
    with tempfile.TemporaryDirectory(dir=scratch_below, prefix="bench-") as scratch:
        life = run_once(peer.prepare(image, Path(scratch)))
    into.first.setdefault(peer.name, []).append(life.first_ms)
    into.whole.setdefault(peer.name, []).append(life.whole_ms)
