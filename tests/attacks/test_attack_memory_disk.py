"""Attacks 27, 28 and 29: memory by every way that kernels account differently, disk space, inodes, /dev and /dev/shm."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lxcbuild.linux.cgroups.cgroup import CgroupHost, Version
from lxcbuild.model import FailureClass
from lxcbuild.policy import DiskLimits, MemoryLimits, NetworkMode
from lxcbuild.sandbox.limits.compute import SOCKET_MEMORY, socket_memory_bytes
from tests.attacks.attacking import MIB, run_script
from tests.attacks.host_state import processes_in_range

pytestmark = pytest.mark.root

WAYS = ["heap", "tmpfs", "shm", "mapped", "pipes", "sysv", "memfd"]
SMALL = MemoryLimits(max_bytes=48 * MIB)
ROOMY = DiskLimits(max_bytes=512 * MIB, max_inodes=2000)  # so that memory is what runs out
#: What pipes can take is bounded by fs.pipe-user-pages-soft, 64 MiB for all pipes of one user.
WANTED_MIB = {"pipes": 60}


@pytest.mark.attack(number=27)
@pytest.mark.parametrize("way", WAYS)
def test_a_memory_hog_dies_alone(sandbox, way: str) -> None:
    neighbour = sandbox(name="neighbour")
    hog = sandbox(name="hog", memory=SMALL, disk=ROOMY)
    said = run_script(hog, "attack_27_memory_hog", way, str(WANTED_MIB.get(way, 200)))
    assert said.result.stopped_by is FailureClass.OOM, said
    assert said.result.usage.oom_kills >= 1
    assert said.result.usage.peak_memory_bytes <= SMALL.max_bytes
    calm = run_script(neighbour, "attack_27_memory_hog", "heap", "20")
    assert calm.result.ok, calm
    assert calm.result.usage.oom_kills == 0


@pytest.mark.attack(number=27)
@pytest.mark.parametrize("way", WAYS)
def test_without_the_limit_the_hog_gets_what_it_wants(sandbox, way: str) -> None:
    wanted = WANTED_MIB.get(way, 100)
    roomy = sandbox(memory=MemoryLimits(max_bytes=512 * MIB), disk=ROOMY)
    said = run_script(roomy, "attack_27_memory_hog", way, str(wanted))
    assert (said.result.stopped_by, said.text) == (None, f"took {wanted} MiB\n")
    # The kernel counts every one of these ways for the sandbox.
    assert said.result.usage.peak_memory_bytes > wanted * MIB * 9 // 10


#: Ways to have the kernel take memory for a build that no process of it has.
KERNEL_WAYS = [
    "netlink",
    "udp",
    "tcp",
    "local",
    "attributes",
    "links",
    "polls",
    "timers",
    "signals",
    "watches",
]
KERNEL_WAYS += ["semaphores", "queues"]
UNCOUNTED = {"netlink", "udp"}  # by the cgroup, were it not for our guards


@pytest.mark.attack(number=27)
@pytest.mark.parametrize("way", KERNEL_WAYS)
def test_what_the_kernel_keeps_for_a_build_is_counted_or_refused(sandbox, way: str) -> None:
    hog = sandbox(memory=SMALL, disk=ROOMY, network=NetworkMode.LOOPBACK)
    said = run_script(hog, "attack_27_kernel_memory", way, "150")
    if said.result.stopped_by is FailureClass.OOM:
        return
    assert said.result.ok, said
    taken, ended = said.text.split()
    # On cgroup v1 socket buffers have a limit beside the one of all other memory.
    assert int(taken) * MIB <= SMALL.max_bytes + socket_memory_bytes(SMALL.max_bytes), said
    assert (ended == "EAFNOSUPPORT") is (way == "netlink")


@pytest.mark.attack(number=27)
@pytest.mark.parametrize("way", sorted(UNCOUNTED))
def test_without_the_guard_the_kernel_takes_what_nobody_counts(sandbox, way: str) -> None:
    if way == "udp" and CgroupHost.detect().version("memory") is not Version.V1:
        pytest.skip("cgroup v2 counts socket buffers under memory.max")
    hog = sandbox(memory=SMALL, disk=ROOMY, network=NetworkMode.LOOPBACK, seccomp="none")
    hog._cgroup.set("memory", SOCKET_MEMORY, "-1") if way == "udp" else None
    said = run_script(hog, "attack_27_kernel_memory", way, "150")
    taken, ended = said.text.split()
    assert (int(taken) >= 150, ended) == (True, "done"), said
    assert said.result.usage.peak_memory_bytes < 40 * MIB


@pytest.mark.attack(number=28)
@pytest.mark.parametrize(("what", "wanted"), [("bytes", 48 * MIB), ("files", 12_000)])
def test_a_full_disk_ends_the_build_and_is_not_the_hosts(sandbox, rootfs: Path, what: str, wanted: int) -> None:
    full = sandbox(disk=DiskLimits(max_bytes=16 * MIB, max_inodes=4000))
    said = run_script(full, "attack_28_fill_disk", what, str(wanted))
    assert said.result.stopped_by is FailureClass.DISK_FULL, said
    assert "ENOSPC" in said.text
    assert said.result.usage.peak_disk_bytes <= 18 * MIB  # our own files have a MiB of their own
    # What was filled is a file system of this sandbox alone: neither the image's nor the host's shrinks with it.
    devices = {Path(path).stat().st_dev for path in ("/", "/tmp", rootfs)}
    assert os.fstat(full._upper_fd).st_dev not in devices


@pytest.mark.attack(number=28)
@pytest.mark.parametrize(("what", "wanted"), [("bytes", 48 * MIB), ("files", 12_000)])
def test_with_more_room_the_same_fits(sandbox, what: str, wanted: int) -> None:
    said = run_script(sandbox(), "attack_28_fill_disk", what, str(wanted))
    assert (said.result.stopped_by, said.text) == (None, f"done {wanted}\n")


@pytest.mark.attack(number=28)
def test_files_without_end_stop_at_the_inodes_in_bounded_time(sandbox) -> None:
    said = run_script(sandbox(), "attack_28_fill_disk", "files", "10000000")
    assert said.result.stopped_by is FailureClass.DISK_FULL
    stopped_at = int(said.text.split()[2].rstrip(":"))
    assert 19_000 < stopped_at <= 20_200
    assert said.result.usage.wall_s < 20


@pytest.mark.attack(number=29)
def test_dev_is_closed_and_its_memory_is_the_builds(sandbox) -> None:
    instance = sandbox(disk=DiskLimits(max_bytes=16 * MIB, max_inodes=4000))
    said = run_script(instance, "attack_29_fill_dev")
    found = {words[0]: (words[1], int(words[2])) for words in map(str.split, said.text.splitlines())}
    assert found["dev"][0] in ("EROFS", "EACCES")
    assert found["ptmx"] == ("ENOSPC", 64), "the terminals of one sandbox are numbered"
    assert found["shm"][0] == "ENOSPC"
    assert 14 * MIB < found["shm"][1] <= 18 * MIB, "one tmpfs, one cap, whatever the path"


@pytest.mark.attack(number=29)
def test_with_more_room_shm_takes_more(sandbox) -> None:
    said = run_script(sandbox(), "attack_29_fill_dev")
    assert int(next(line for line in said.text.splitlines() if line.startswith("shm")).split()[2]) > 48 * MIB


@pytest.mark.attack(number=27)
def test_what_a_dead_hog_held_is_given_back(sandbox) -> None:
    hog = sandbox(memory=MemoryLimits(max_bytes=256 * MIB), disk=ROOMY)
    assert run_script(hog, "attack_27_memory_hog", "sysv", "100").result.ok
    hog.stop()
    assert processes_in_range(hog._id_start) == []
    # The kernel puts IPC namespaces away in a work queue (free_ipc in ipc/namespace.c), soon after the last process.
    deadline = time.monotonic() + 10
    while (held := memory_in_use(hog)) > 60 * MIB and time.monotonic() < deadline:
        time.sleep(0.05)
    assert held < 60 * MIB, "the segments went with the IPC namespace"


def memory_in_use(instance) -> int:
    files = ("memory.usage_in_bytes", "memory.current")
    return next(int(text) for file in files if (text := instance._cgroup.get("memory", file)))
