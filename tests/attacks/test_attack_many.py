"""Attack 44: one sandbox after the other: descriptors, memory, threads, mounts and cgroups stay what they were."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from lxcbuild.linux.cgroups.cgroup import CgroupHost
from lxcbuild.sandbox.base import InstanceSpec, Step
from tests.attacks.attacking import POLICY

pytestmark = pytest.mark.root

MIB = 1 << 20


def rss_bytes(pid: int | str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


def descriptors(pid: int | str) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@dataclass(frozen=True)
class Footprint:
    """What an orchestrator and its launcher pool hold."""

    own: int
    launchers: int
    threads: int
    mounts: int
    cgroups: tuple[str, ...]

    @classmethod
    def of(cls, backend, dirs, launchers: int) -> Footprint:
        backend._background.join()
        return cls(
            own=descriptors("self"),
            launchers=descriptors(launchers),
            threads=threading.active_count(),
            mounts=len(Path("/proc/self/mountinfo").read_text().splitlines()),
            cgroups=tuple(CgroupHost.detect().list(dirs.cgroup)),
        )


@pytest.mark.attack(number=44)
@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_nothing_grows(backend, dirs, rootfs: Path, count: int) -> None:
    def one(number: int) -> None:
        with backend.create(InstanceSpec(instance_id=f"n{number}", lowers=(rootfs,), policy=POLICY)) as instance:
            instance.start()
            nonlocal launchers
            launchers = parent_of(instance._launcher.pid)
            result = instance.run(Step(argv=("sh", "-c", "head -c 1M /dev/zero > /out/f")), lambda _: None)
            assert result.ok, result
            instance.stop()

    launchers = 0
    for number in range(10):  # caches fill, and the allocator finds its size
        one(number)
    before, born = Footprint.of(backend, dirs, launchers), launchers
    own, helper = rss_bytes("self"), rss_bytes(launchers)
    for number in range(10, 10 + count):
        one(number)
    assert launchers == born, "one launcher pool serves all"
    assert Footprint.of(backend, dirs, launchers) == before
    assert rss_bytes("self") - own < 4 * MIB
    assert rss_bytes(launchers) - helper < 2 * MIB


@pytest.mark.attack(number=44)
def test_what_is_not_closed_would_show(backend, dirs, rootfs: Path) -> None:
    """The same look at one sandbox that lives: every figure but the threads' is another one, and memory that is kept is seen."""
    forgotten = backend.create(InstanceSpec(instance_id="forgotten", lowers=(rootfs,), policy=POLICY))
    with contextlib.ExitStack() as stack:
        stack.callback(forgotten.close)
        forgotten.start()
        launchers = parent_of(forgotten._launcher.pid)
        kept = Footprint.of(backend, dirs, launchers)
    before = rss_bytes("self")
    memory = b"x" * (64 * MIB)  # more than the allocator keeps
    assert rss_bytes("self") - before > 4 * MIB
    del memory
    freed = Footprint.of(backend, dirs, launchers)
    assert kept.own > freed.own
    assert kept.launchers > freed.launchers
    assert len(kept.cgroups) > len(freed.cgroups)


def parent_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("PPid")).split()[1])
