"""Block I/O of cgroups is counted on a disk that has never had a rate: kernels since 6.10 do not count there by themselves."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcbuild.linux.cgroups.cgroup import CgroupHost, Version

pytestmark = pytest.mark.root

MIB = 1 << 20


@pytest.fixture
def fresh_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that nobody has used: a loop device over a file."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    made = subprocess.run(["losetup", "--find", "--show", os.fspath(image)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no loop device to be had: {made.stderr.strip()}")
    device = Path(made.stdout.strip())
    yield device
    subprocess.run(["losetup", "--detach", os.fspath(device)], check=True)


def test_io_is_counted_once_it_was_asked_for(fresh_disk: Path) -> None:
    host = CgroupHost.detect()
    if host.version("blkio") is not Version.V1:
        pytest.skip("cgroup v2 counts always")
    numbers = Path("/sys/block", fresh_disk.name, "dev").read_text().strip()
    assert host.count_io(numbers)
    assert host.count_io(numbers), "a second time is harmless"
    with host.create(f"lxcbuild-test-io/{os.getpid()}") as group:
        read = (
            f"echo $$ > {group.path('blkio')}/cgroup.procs; dd if={fresh_disk} of=/dev/null bs=1M count=8 iflag=direct"
        )
        subprocess.run(["sh", "-c", read], check=True, capture_output=True)
        assert 8 * MIB <= group.counters().read_bytes < 9 * MIB  # and what udev wants to know of a new disk
        rates = group.get("blkio", "blkio.throttle.read_bps_device")
        assert not rates, "no limit came with it"


def test_a_disk_that_is_not_there_is_not_counted() -> None:
    host = CgroupHost.detect()
    if host.version("blkio") is not Version.V1:
        pytest.skip("cgroup v2 counts always")
    assert not host.count_io("4095:4095")
