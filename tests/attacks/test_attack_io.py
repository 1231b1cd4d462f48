"""Attack 30: reading a disk past every cache, as fast as it goes."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcbuild.linux import block
from lxcbuild.linux.cgroups.cgroup import CgroupHost
from lxcbuild.policy import IoDeviceLimits, IoLimits
from lxcbuild.sandbox.base import Bind
from tests.attacks.attacking import run_script
from tests.support.timing import once

pytestmark = pytest.mark.root

MIB = 1 << 20
RATE = 8 * MIB
SECONDS = "2"


@pytest.fixture
def disk() -> Iterator[tuple[block.BlockDevice, Path]]:
    """A file of 32 MiB on a real disk; tests that need one are skipped, with the reason, where there is none."""
    folder = Path(os.environ.get("LXCBUILD_TEST_DISK", "/var/tmp"))
    device = block.below(folder)
    host = CgroupHost.detect()
    if device is None:
        pytest.skip(f"{folder} is on no block device: LXCBUILD_TEST_DISK names a directory that is")
    if host.version("blkio") is None and host.version("io") is None:
        pytest.skip("no controller of this host limits block I/O")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name, "data")
        with path.open("wb") as file:
            for _ in range(32):
                file.write(os.urandom(MIB))
            os.fsync(file.fileno())
        Path(name).chmod(0o755)
        yield device, path


def flood(sandbox, path: Path, io: IoLimits):
    instance = sandbox(binds=(Bind(host=path.parent, inside="/in/disk"),), io=io)
    said = run_script(instance, "attack_30_io_flood", f"/in/disk/{path.name}", SECONDS)
    assert said.result.ok, said
    return int(said.text), said.result.usage, instance


def held(sandbox, disk):
    """A flood below a rate, which holds on any disk."""
    device, path = disk
    said = flood(sandbox, path, IoLimits(devices=(IoDeviceLimits(device=device.numbers, read_bytes_per_s=RATE),)))
    assert said[0] < RATE * 1.25
    return said


@pytest.mark.attack(number=30)
def test_a_flood_is_held_to_the_policys_rate(sandbox, disk) -> None:
    rate, usage, instance = held(sandbox, disk)
    # The kernel's own counters agree, so what a build reads is in its record.
    assert usage.read_bytes == pytest.approx(rate * float(SECONDS), rel=0.25)
    assert instance.limits_in_force["io.devices"]["value"] == {disk[0].numbers: {"read_bytes_per_s": RATE}}


@pytest.mark.attack(number=30)
@pytest.mark.bench
def test_a_flood_gets_all_of_the_policys_rate(sandbox, disk) -> None:
    """Where nobody else uses the disk up."""
    once(lambda: held(sandbox, disk), lambda said: said[0] > RATE * 0.5)


@pytest.mark.attack(number=30)
def test_without_a_rate_it_reads_as_fast_as_the_disk(sandbox, disk) -> None:
    _rate, usage, _ = once(lambda: flood(sandbox, disk[1], IoLimits()), lambda said: said[0] > RATE * 2)
    assert usage.read_bytes > RATE * 2 * float(SECONDS) * 0.75


@pytest.mark.attack(number=30)
@pytest.mark.bench
def test_a_neighbour_keeps_what_the_policy_leaves(sandbox, disk) -> None:
    """A neighbour's reads alone, beside a flood with a rate, and beside one without: in turn, for some rounds.

    The bound of a rate: of the disk, the neighbour loses no more than that rate (and a fifth, for seeks). Whoever else uses this
    disk can only take from a round, hence the best of each. The flood without a rate is the counter-test: it takes more.
    """
    device, path = disk
    rates = IoLimits(devices=(IoDeviceLimits(device=device.numbers, read_bytes_per_s=RATE),))
    bind = (Bind(host=path.parent, inside="/in/disk"),)
    reader = sandbox(binds=bind, io=IoLimits())
    floods = {"held": sandbox(binds=bind, io=rates), "free": sandbox(binds=bind, io=IoLimits())}

    def read(instance, seconds: str) -> int:
        return int(run_script(instance, "attack_30_io_flood", f"/in/disk/{path.name}", seconds).text)

    found: dict[str, list[int]] = {"alone": [], "held": [], "free": []}

    def measure() -> tuple[float, float, float]:
        found["alone"].append(read(reader, "0.6"))
        for kind, instance in floods.items():
            thread = threading.Thread(target=read, args=(instance, "1.2"))
            thread.start()
            found[kind].append(read(reader, "0.6"))
            thread.join()
        return max(found["alone"]), max(found["held"]), statistics.median(found["free"])

    def holds(measured: tuple[float, float, float]) -> bool:
        alone, held, free = measured
        return free < held > (alone - RATE) * 0.8

    figures = [f"{rate / MIB:.0f} MiB/s" for rate in once(measure, holds, tries=12)]
    print("alone, beside a held flood, beside a free one:", *figures)  # noqa: T201 - pytest -s shows it
