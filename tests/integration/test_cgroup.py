"""Cgroups on the real kernel: limits hold, counters move, everything dies and goes away."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxcbuild.errors import HostError, KernelError
from lxcbuild.linux import block
from lxcbuild.linux.cgroups.cgroup import Cgroup, CgroupHost
from lxcbuild.model import Usage
from lxcbuild.policy import CpuLimits, DiskLimits, IoDeviceLimits, IoLimits, MemoryLimits, Policy, TimeLimits
from lxcbuild.sandbox.limits.enforcement import LimitPlan, enforce, plan_limits, read_back
from tests.support.timing import once, quick

pytestmark = pytest.mark.root

MIB = 2**20
TOP = f"lxcbuild-test{os.getpid()}"


@pytest.fixture(scope="module")
def host() -> CgroupHost:
    return CgroupHost.detect()


@pytest.fixture
def cgroup(host: CgroupHost) -> Iterator[Cgroup]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with host.create(f"{TOP}/one") as group:
        yield group
    assert host.list(TOP) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def policy(**changes: object) -> Policy:
    fields: dict[str, object] = {
        "name": "test",
        "memory": MemoryLimits(max_bytes=64 * MIB),
        "disk": DiskLimits(max_bytes=MIB, max_inodes=10),
        "time": TimeLimits(wall_s=10),
        "pids_max": 20,
    }
    return Policy(**{**fields, **changes})  # type: ignore[arg-type]


def limited(host: CgroupHost, cgroup: Cgroup, tmp_path: Path, **changes: object) -> LimitPlan:
    return enforce(plan_limits(policy(**changes), host, state_dir=tmp_path), cgroup)


def run_inside(cgroup: Cgroup, action: Callable[[], int]) -> int:
    """Run ``action`` in a child that entered the cgroup; its exit status, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            cgroup.enter()
            os._exit(action())
        except BaseException as error:  # noqa: BLE001 - a forked child must not return into pytest
            os.write(2, f"{error!r}\n".encode())
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start_inside(cgroup: Cgroup, code: str) -> subprocess.Popen[bytes]:
    """A Python program that begins inside and says so with one byte."""
    files = [
        os.fspath(node.path / ("tasks" if h.version == "v1" else "cgroup.procs")) for h, node in cgroup.nodes.items()
    ]
    enter = f"import os, sys\nfor f in {files!r}:\n    open(f, 'w').write('0')\nos.write(1, b'.')\n"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", enter + textwrap.dedent(code)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.read(1) == b"."
    return process


def test_a_fork_beyond_the_limit_is_denied_and_counted(host: CgroupHost, cgroup: Cgroup, tmp_path: Path) -> None:
    limited(host, cgroup, tmp_path)

    def fork_until_denied() -> int:
        for made in range(100):
            try:
                if os.fork() == 0:
                    signal.pause()
            except OSError as error:
                return made if error.errno == errno.EAGAIN else 98
        return 97

    assert run_inside(cgroup, fork_until_denied) == 19
    counters = cgroup.counters()
    assert counters.pids_denied == 1
    assert counters.peak_pids == 20
    assert len(cgroup.pids()) == 19
    cgroup.kill()
    assert cgroup.pids() == set()


def test_a_memory_hog_dies_alone_and_is_counted(host: CgroupHost, cgroup: Cgroup, tmp_path: Path) -> None:
    limited(host, cgroup, tmp_path)
    assert run_inside(cgroup, lambda: len(bytearray(200 * MIB)) and 1) == -signal.SIGKILL
    counters = cgroup.counters()
    assert counters.oom_kills == 1
    assert 60 * MIB < counters.peak_memory_bytes <= 64 * MIB


def test_hits_of_the_memory_limit_are_counted(host: CgroupHost, cgroup: Cgroup, tmp_path: Path) -> None:
    for write in plan_limits(policy(), host, state_dir=tmp_path)["memory.max"].writes:
        cgroup.set(write.controller, write.file, write.text)
    run_inside(cgroup, lambda: len(bytearray(200 * MIB)) and 1)
    assert cgroup.counters().memory_denied > 0


def test_less_memory_than_the_limit_is_fine(host: CgroupHost, cgroup: Cgroup, tmp_path: Path) -> None:
    limited(host, cgroup, tmp_path)
    assert run_inside(cgroup, lambda: 7 if bytearray(20 * MIB) else 1) == 7
    counters = cgroup.counters()
    assert counters.oom_kills == 0
    assert 20 * MIB < counters.peak_memory_bytes < 40 * MIB


def test_the_peak_can_be_taken_per_phase(host: CgroupHost, cgroup: Cgroup) -> None:
    run_inside(cgroup, lambda: 1 if bytearray(40 * MIB) else 0)
    if not cgroup.reset_peaks():
        pytest.skip("this kernel cannot reset memory.peak (cgroup v2 before Linux 6.12)")
    run_inside(cgroup, lambda: 1 if bytearray(10 * MIB) else 0)
    assert 10 * MIB < cgroup.counters().peak_memory_bytes < 30 * MIB


def test_files_in_memory_count(host: CgroupHost, cgroup: Cgroup, tmp_path: Path) -> None:
    limited(host, cgroup, tmp_path)
    shared = Path("/dev/shm", TOP)

    def fill() -> int:
        with shared.open("wb") as file:
            for _ in range(100):
                file.write(b"x" * MIB)
        return 0

    try:
        assert run_inside(cgroup, fill) == -signal.SIGKILL
        assert cgroup.counters().oom_kills == 1
    finally:
        shared.unlink()


def spin(seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return 0


def test_a_cpu_quota_throttles(host: CgroupHost, cgroup: Cgroup, tmp_path: Path) -> None:
    limited(host, cgroup, tmp_path, cpu=CpuLimits(quota_percent=20))
    run_inside(cgroup, lambda: spin(0.6))
    assert cgroup.counters().throttled_s > 0


@pytest.mark.bench
def test_the_cpu_quota_holds_and_throttling_is_counted(host: CgroupHost, cgroup: Cgroup, tmp_path: Path) -> None:
    limited(host, cgroup, tmp_path, cpu=CpuLimits(quota_percent=20))

    def used() -> Usage:
        before = cgroup.counters()
        assert run_inside(cgroup, lambda: spin(1.0)) == 0
        used = cgroup.counters().since(before)
        assert used.cpu_s < 0.3
        return used

    once(used, lambda used: used.cpu_s > 0.1 and used.throttled_s > 0.3)


def test_without_a_quota_the_same_work_gets_more(host: CgroupHost, cgroup: Cgroup, tmp_path: Path) -> None:
    limited(host, cgroup, tmp_path)
    run_inside(cgroup, lambda: spin(0.3))
    assert cgroup.counters().throttled_s == 0


@pytest.mark.bench
def test_the_weight_divides_a_contended_cpu(host: CgroupHost, tmp_path: Path) -> None:
    cpu = str(max(os.sched_getaffinity(0)))
    both = {"cpu", "cpuacct", "cpuset", "freezer"}
    with host.create(f"{TOP}/low", controllers=both) as low, host.create(f"{TOP}/high", controllers=both) as high:
        running: list[subprocess.Popen[bytes]] = []
        try:
            for group, weight in ((low, 100), (high, 400)):
                plan = plan_limits(policy(cpu=CpuLimits(weight=weight, cpuset=cpu)), host, state_dir=tmp_path)
                for name in ("cpu.weight", "cpu.cpuset"):
                    for write in plan[name].writes:
                        group.set(write.controller, write.file, write.text)
                running.append(start_inside(group, "while True: pass"))

            def ratio() -> float:
                before = {100: low.counters().cpu_s, 400: high.counters().cpu_s}
                time.sleep(1.5)  # the measurement: how much CPU each gets in this time
                return (high.counters().cpu_s - before[400]) / (low.counters().cpu_s - before[100])

            once(ratio, lambda ratio: 2.5 < ratio < 6)
        finally:
            for process in running:
                process.kill()
                process.communicate()
    assert host.list(TOP) == []


def test_the_cpu_set_holds(host: CgroupHost, tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    plan = plan_limits(policy(cpu=CpuLimits(cpuset=str(cpu))), host, state_dir=tmp_path)
    with host.create(f"{TOP}/set", controllers=plan.controllers) as group:
        enforce(plan, group)
        assert run_inside(group, lambda: 0 if os.sched_getaffinity(0) == {cpu} else 1) == 0


def test_only_the_listed_devices_open(host: CgroupHost, cgroup: Cgroup, tmp_path: Path) -> None:
    if host.version("devices") is None:
        pytest.skip("cgroup v2 has no device files: the sandbox has no device nodes and cannot make any")
    limited(host, cgroup, tmp_path)

    def look() -> int:
        for path in ("/dev/null", "/dev/zero", "/dev/urandom"):
            os.close(os.open(path, os.O_RDWR if path != "/dev/urandom" else os.O_RDONLY))
        try:
            os.open("/dev/kmsg", os.O_RDONLY)
        except PermissionError:
            return 0
        return 1

    assert run_inside(cgroup, look) == 0
    os.close(os.open("/dev/kmsg", os.O_RDONLY))  # the guard is the cgroup: outside of it we may


def test_the_rate_of_a_disk_holds(host: CgroupHost, cgroup: Cgroup) -> None:
    place = Path("/var/tmp")
    if block.below(place) is None:
        pytest.skip("/var/tmp is not on a block device")
    rates = IoDeviceLimits(device="state", read_bytes_per_s=MIB, write_bytes_per_s=4 * MIB)
    plan = limited(host, cgroup, place, io=IoLimits(devices=(rates,)))
    (in_force,) = read_back(plan, cgroup)["io.devices"]["value"].values()  # type: ignore[index]
    assert in_force == {"read_bytes_per_s": MIB, "write_bytes_per_s": 4 * MIB}
    file = place / TOP

    def write() -> int:
        import mmap

        data = mmap.mmap(-1, MIB)  # aligned, as direct I/O wants it
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
        for _ in range(4):
            os.write(fd, data)
        return 0

    before, began_at = cgroup.counters(), time.monotonic()
    try:
        assert run_inside(cgroup, write) == 0
    finally:
        file.unlink(missing_ok=True)
    assert time.monotonic() - began_at > 0.6
    assert cgroup.counters().since(before).written_bytes >= 4 * MIB


def test_what_is_in_force_is_read_from_the_kernel(host: CgroupHost, tmp_path: Path) -> None:
    cpu = str(max(os.sched_getaffinity(0)))
    wanted = policy(cpu=CpuLimits(weight=50, quota_percent=150, cpuset=cpu))
    plan = plan_limits(wanted, host, state_dir=tmp_path)
    with host.create(f"{TOP}/read", controllers=plan.controllers) as group:
        found = read_back(enforce(plan, group), group)
        values = {name: entry["value"] for name, entry in found.items()}  # type: ignore[index]
        assert values["cpu.weight"] == 50
        assert values["cpu.quota"] == 150
        assert values["cpu.cpuset"] == cpu
        assert values["memory.max"] == 64 * MIB
        assert values["memory.swap_max"] == 0
        assert values["pids.max"] == 20
        file = Path(found["pids.max"]["file"])  # type: ignore[index]
        assert file.read_text().strip() == "20"
        group.set("pids", "pids.max", "33")  # somebody changes it behind our back
        assert read_back(plan, group)["pids.max"]["value"] == 33  # type: ignore[index]


BOMB = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.setsid()
    for _ in range(200):
        try:
            os.fork()
        except OSError:
            pass
    time.sleep(600)
"""


def test_a_fork_bomb_of_daemons_is_killed_to_the_last(host: CgroupHost, cgroup: Cgroup, tmp_path: Path) -> None:
    limited(host, cgroup, tmp_path, pids_max=200)
    process = start_inside(cgroup, BOMB)
    while len(cgroup.pids()) < 150:
        time.sleep(0.01)
    began_at = time.monotonic()
    cgroup.kill()
    took_s = time.monotonic() - began_at
    process.communicate()
    assert cgroup.pids() == set()
    assert quick(took_s, 1)


def test_what_runs_in_cgroups_below_is_counted_killed_and_removed_too(host: CgroupHost, cgroup: Cgroup) -> None:
    inner = []
    for node in cgroup.nodes.values():
        (node.path / "a").mkdir()
        (node.path / "a" / "b").mkdir()
        inner.append(node.path / "a" / "b" / "cgroup.procs")
    process = subprocess.Popen(["sleep", "600"])
    for file in inner:
        file.write_text(str(process.pid))
    assert cgroup.pids() == {process.pid}
    cgroup.kill()
    assert process.wait() == -signal.SIGKILL


def test_a_process_can_be_moved_in(cgroup: Cgroup) -> None:
    process = subprocess.Popen(["sleep", "600"])
    cgroup.add(process.pid)
    assert cgroup.pids() == {process.pid}
    cgroup.kill()
    process.wait()


def test_nobody_kills_the_cgroup_it_is_in(cgroup: Cgroup) -> None:
    def inside() -> int:
        with pytest.raises(AssertionError, match="own cgroup"):
            cgroup.kill()
        return 0

    assert run_inside(cgroup, inside) == 0


def test_leftovers_are_found_and_removed_by_name(host: CgroupHost) -> None:
    host.create(f"{TOP}/lost").close()
    assert host.list(TOP) == [TOP, f"{TOP}/lost"]
    assert f"{TOP}/lost" in host.list("lxcbuild-")
    group = host.open(f"{TOP}/lost")
    group.kill()
    group.remove()
    group.remove()
    assert host.list(TOP) == []
    with pytest.raises(FileNotFoundError):
        host.open(f"{TOP}/lost")


def test_the_same_cgroup_is_not_made_twice(host: CgroupHost, cgroup: Cgroup) -> None:
    with pytest.raises(HostError, match="exists already"):
        host.create(cgroup.name)
    assert cgroup.pids() == set()
    host.open(cgroup.name).close()  # the one that was there first is still there, in every hierarchy
    assert all(node.path.is_dir() for node in cgroup.nodes.values())


def test_a_refused_value_names_file_and_errno(cgroup: Cgroup) -> None:
    with pytest.raises(KernelError, match=r"refused 'nonsense' for .*pids.max: EINVAL"):
        cgroup.set("pids", "pids.max", "nonsense")


def test_cgroup_kill_of_v2(host: CgroupHost) -> None:
    unified = next((h for h in host.hierarchies if h.version == "v2"), None)
    if unified is None:
        pytest.skip("no cgroup v2 hierarchy is mounted here")
    place = unified.directory(f"{TOP}/unified")
    place.mkdir(parents=True)
    process = subprocess.Popen(["sleep", "600"])
    (place / "cgroup.procs").write_text(str(process.pid))
    with host.open(f"{TOP}/unified") as group:
        assert group.pids() == {process.pid}
    assert process.wait() == -signal.SIGKILL
    assert not place.parent.exists()


CHURN = """
    import sys
    from lxcbuild.linux.cgroups.cgroup import CgroupHost
    host = CgroupHost.detect()
    for turn in range(30):
        with host.create(f"{sys.argv[1]}/{sys.argv[2]}-{turn}"):
            pass
"""


def test_neighbours_that_make_and_remove_the_common_parent_do_not_collide(host: CgroupHost) -> None:
    argv = [sys.executable, "-c", textwrap.dedent(CHURN), TOP]
    running = [subprocess.Popen([*argv, str(n)], stderr=subprocess.PIPE) for n in range(4)]
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
    assert host.list(TOP) == []
