"""Cgroup detection and the v2 side, over trees of plain files; the real kernel is in tests/integration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lxcbuild.errors import BadNameError, KernelError, LimitRefusedError
from lxcbuild.linux.cgroups import version2
from lxcbuild.linux.cgroups.cgroup import Cgroup, CgroupHost, Counters
from lxcbuild.linux.cgroups.detect import V2_CONTROLLERS, detect, own_cgroups
from lxcbuild.linux.cgroups.fs import Hierarchy, Node, Version, check_name, flat_keyed, nested_keyed
from lxcbuild.policy import (
    CpuLimits,
    DiskLimits,
    IoDeviceLimits,
    IoLimits,
    MemoryLimits,
    NetworkMode,
    Policy,
    TimeLimits,
)
from lxcbuild.sandbox.limits.compute import shares_of_weight
from lxcbuild.sandbox.limits.enforcement import cpus_allotted, enforce, plan_limits, read_back
from lxcbuild.sandbox.limits.io import bfq_weight

MIB = 2**20


def v2_tree(place: Path, **files: str) -> Path:
    """A directory with the files that a cgroup v2 directory has."""
    place.mkdir(parents=True, exist_ok=True)
    defaults = {
        "cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma",
        "cgroup.subtree_control": "",
        "cgroup.procs": "",
        "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nnr_throttled 3\nthrottled_usec 1500000",
        "cpu.weight": "100",
        "cpu.max": "max 100000",
        "cpuset.cpus": "",
        "memory.max": "max",
        "memory.high": "max",
        "memory.swap.max": "max",
        "memory.current": "1000",
        "memory.peak": "5000000",
        "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0",
        "io.max": "",
        "io.stat": "254:0 rbytes=1000 wbytes=2000 rios=1 wios=2 dbytes=0 dios=0\n8:0 rbytes=10 wbytes=20 rios=1 wios=1",
        "pids.max": "max",
        "pids.current": "3",
        "pids.events": "max 4",
    }
    for name, text in {**defaults, **files}.items():
        (place / name).write_text(text + "\n")
    return place


@pytest.fixture
def host(tmp_path: Path) -> CgroupHost:
    mount = v2_tree(tmp_path / "cg")
    return CgroupHost([Hierarchy(Version.V2, mount, mount, V2_CONTROLLERS)])


@pytest.fixture
def cgroup(host: CgroupHost, tmp_path: Path) -> Cgroup:
    v2_tree(tmp_path / "cg" / "lxcbuild-t" / "one")
    return host.open("lxcbuild-t/one")


def policy(**changes: object) -> Policy:
    fields: dict[str, object] = {
        "name": "test",
        "memory": MemoryLimits(max_bytes=64 * MIB),
        "disk": DiskLimits(max_bytes=MIB, max_inodes=10),
        "time": TimeLimits(wall_s=10),
    }
    return Policy(**{**fields, **changes})  # type: ignore[arg-type]


# -- detection --

V1_MOUNTS = """\
31 23 0:28 / {root} rw - tmpfs tmpfs rw
32 31 0:29 / {root}/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:31 / {root}/memory rw - cgroup cgroup rw,memory
34 31 0:36 / {root}/pids rw - cgroup cgroup rw,pids
35 31 0:37 / {root}/systemd rw - cgroup cgroup rw,name=systemd
36 31 0:38 / {root}/with\\040space rw - cgroup cgroup rw,freezer
"""


def test_v1_hierarchies_co_mounted_and_named(tmp_path: Path) -> None:
    for name in ("cpu,cpuacct", "memory", "pids", "systemd", "with space"):
        (tmp_path / name).mkdir()
    found = detect(V1_MOUNTS.format(root=tmp_path), "9:name=systemd:/\n8:pids:/\n4:memory:/\n2:cpu,cpuacct:/\n")
    host = CgroupHost(found)
    assert host.layout == "v1"
    assert set(host.controllers) == {"cpu", "cpuacct", "memory", "pids", "freezer"}
    assert host.controllers["cpu"] is host.controllers["cpuacct"]
    assert host.controllers["freezer"].mount == tmp_path / "with space"
    assert len(found) == 5  # the named one holds no controller, but leftovers can be in it


def test_hybrid(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    v2_tree(tmp_path / "unified", **{"cgroup.controllers": "pids hugetlb"})
    text = f"1 0 0:1 / {tmp_path}/memory rw - cgroup cgroup rw,memory\n2 0 0:2 / {tmp_path}/unified rw - cgroup2 cgroup2 rw\n"
    host = CgroupHost(detect(text, "1:memory:/\n0::/\n"))
    assert host.layout == "hybrid"
    assert (host.version("memory"), host.version("pids"), host.version("cpu")) == (Version.V1, Version.V2, None)


def test_a_hierarchy_mounted_twice_counts_once(tmp_path: Path) -> None:
    v2_tree(tmp_path / "a")
    v2_tree(tmp_path / "b")
    text = "".join(f"{n} 0 0:9 / {tmp_path}/{n} rw - cgroup2 cgroup2 rw\n" for n in "ab")
    assert [h.mount.name for h in detect(text, "0::/\n")] == ["a"]


def test_a_user_gets_the_delegated_part_of_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = v2_tree(tmp_path / "user.slice" / "user@1000.service")
    v2_tree(service / "app.slice")
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place).is_relative_to(service))
    text = f"1 0 0:1 / {tmp_path} rw - cgroup2 cgroup2 rw\n"
    (found,) = detect(text, "0::/user.slice/user@1000.service/app.slice\n")
    assert found.base == service


def test_a_container_without_cgroup_namespace_gets_its_own_part(tmp_path: Path) -> None:
    v2_tree(tmp_path)
    text = f"1 0 0:1 /docker/1234 {tmp_path} rw - cgroup2 cgroup2 rw\n"
    (found,) = detect(text, "0::/docker/1234\n")
    assert found.base == tmp_path


def test_own_cgroups_may_hold_colons() -> None:
    assert own_cgroups("4:memory:/a:b\n0::/x\n") == {"memory": "/a:b", "": "/x"}


@pytest.mark.parametrize("name", ["", "/abs", "../up", "a/../b", "a//b", "a b", "a/b/c/d/e", "x" * 300, "a\n", "-x"])
def test_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(BadNameError):
        check_name(name)


# -- shapes of files --


def test_keyed_files() -> None:
    assert flat_keyed("a 1\nb x\n\nc -2\nbroken line here\n") == {"a": 1, "c": -2}
    assert flat_keyed(None) == {}
    assert nested_keyed("8:0 rbytes=1 wbytes=2\n254:0\n") == {"8:0": {"rbytes": "1", "wbytes": "2"}, "254:0": {}}


# -- v2 --


def test_controllers_are_delegated_once(tmp_path: Path) -> None:
    place = v2_tree(tmp_path / "x", **{"cgroup.subtree_control": "cpu"})
    with Node(Hierarchy(Version.V2, place, place, V2_CONTROLLERS), place) as node:
        version2.delegate(node, {"cpu", "memory", "pids"})
        assert (place / "cgroup.subtree_control").read_text().startswith("+memory +pids")
        (place / "cgroup.subtree_control").write_text("cpu memory pids")
        version2.delegate(node, {"cpu", "memory", "pids"})
        assert (place / "cgroup.subtree_control").read_text() == "cpu memory pids"


def test_v2_counters(cgroup: Cgroup) -> None:
    assert cgroup.counters() == Counters(
        cpu_s=2.5,
        throttled_s=1.5,
        peak_memory_bytes=5_000_000,
        read_bytes=1010,
        written_bytes=2020,
        peak_pids=3,
        oom_kills=1,
        pids_denied=4,
        memory_denied=7,
        sampled=frozenset({"peak_pids"}),
    )


def test_v2_counters_of_an_old_kernel_say_what_is_a_sample(cgroup: Cgroup) -> None:
    (cgroup.path("memory") / "memory.peak").unlink()
    (cgroup.path("pids") / "pids.peak").write_text("9\n")
    counters = cgroup.counters()
    assert (counters.peak_memory_bytes, counters.peak_pids) == (1000, 9)
    assert counters.sampled == {"peak_memory_bytes"}
    assert cgroup.reset_peaks() is False


def test_differences_keep_peaks() -> None:
    earlier = Counters(cpu_s=1, peak_memory_bytes=10, oom_kills=1)
    later = Counters(cpu_s=3, peak_memory_bytes=20, oom_kills=1, peak_pids=4)
    assert later.since(earlier) == Counters(cpu_s=2, peak_memory_bytes=20, oom_kills=0, peak_pids=4)


def test_v2_limits_are_written_and_read_back(host: CgroupHost, cgroup: Cgroup, tmp_path: Path) -> None:
    cpu = str(max(os.sched_getaffinity(0)))
    wanted = policy(
        cpu=CpuLimits(weight=50, quota_percent=150, cpuset=cpu),
        memory=MemoryLimits(max_bytes=64 * MIB, high_bytes=32 * MIB, swap_max_bytes=MIB),
        pids_max=77,
    )
    v2_tree(tmp_path / "cg")  # the base shows memory.swap.max
    plan = enforce(plan_limits(wanted, host, state_dir=tmp_path), cgroup)
    found = {name: entry["value"] for name, entry in read_back(plan, cgroup).items()}  # type: ignore[index]
    assert {name: found[name] for name in found if name.split(".")[0] in ("cpu", "memory", "pids")} == {
        "cpu.weight": 50,
        "cpu.quota": 150,
        "cpu.cpuset": cpu,
        "memory.max": 64 * MIB,
        "memory.high": 32 * MIB,
        "memory.swap_max": MIB,
        "pids.max": 77,
    }
    assert cgroup.get("cpu", "cpu.max") == "150000 100000"


def test_v2_io_rates_are_one_line_per_disk(host: CgroupHost, tmp_path: Path) -> None:
    numbers = next(iter(sorted(p.name for p in Path("/sys/dev/block").iterdir() if not (p / "partition").exists())))
    wanted = IoLimits(devices=(IoDeviceLimits(device=numbers, read_bytes_per_s=MIB, write_ops_per_s=5),))
    limit = plan_limits(policy(io=wanted), host, state_dir=tmp_path)["io.devices"]
    assert [(write.file, write.text) for write in limit.writes] == [("io.max", f"{numbers} rbps={MIB} wiops=5")]
    assert limit.interpret is not None
    shown = f"{numbers} rbps={MIB} wbps=max riops=max wiops=5\n"  # as the kernel shows it
    assert limit.interpret(shown) == {numbers: {"read_bytes_per_s": MIB, "write_ops_per_s": 5}}


# -- refusals --


def test_a_missing_controller_is_refused_with_reason_and_fix(tmp_path: Path) -> None:
    mount = v2_tree(tmp_path / "cg")
    host = CgroupHost([Hierarchy(Version.V2, mount, mount, frozenset({"cpu", "pids"}))])
    plan = plan_limits(policy(), host, state_dir=tmp_path)
    with pytest.raises(
        LimitRefusedError, match=r"cannot enforce memory.max=67108864 of policy test: .*no memory"
    ) as caught:
        plan.require()
    assert "cgroup_disable=memory" in (caught.value.resolution or "")
    assert caught.value.exit_code == 22
    for mark in ("memory.max", "memory", "*"):
        tolerant = plan_limits(policy(best_effort=frozenset({mark, "memory.swap_max"})), host, state_dir=tmp_path)
        tolerant.require()
        assert tolerant["memory.max"].problem


def test_v1_has_no_memory_high(tmp_path: Path) -> None:
    host = CgroupHost([Hierarchy(Version.V1, tmp_path, tmp_path, frozenset({"cpu", "memory", "pids", "cpuacct"}))])
    plan = plan_limits(policy(memory=MemoryLimits(max_bytes=MIB, high_bytes=MIB)), host, state_dir=tmp_path)
    assert [limit.name for limit in plan.refused] == ["memory.high"]
    assert "unified_cgroup_hierarchy" in (plan["memory.high"].fix or "")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"cpu": CpuLimits(cpuset="60000")}, "cpu.cpuset"),
        ({"network": NetworkMode.PROXY}, "network"),
        ({"seccomp": "mistyped"}, "seccomp"),
        ({"io": IoLimits(devices=(IoDeviceLimits(device="/dev/null", read_bytes_per_s=1),))}, "io.devices"),
    ],
)
def test_what_cannot_be_is_refused(host: CgroupHost, tmp_path: Path, changes: dict[str, object], name: str) -> None:
    assert [limit.name for limit in plan_limits(policy(**changes), host, state_dir=tmp_path).refused] == [name]


def test_a_state_directory_in_memory_needs_no_io_limits(host: CgroupHost) -> None:
    wanted = IoLimits(weight=10, devices=(IoDeviceLimits(device="state", read_bytes_per_s=1),))
    plan = plan_limits(policy(io=wanted), host, state_dir=Path("/dev/shm/lxcbuild"))
    assert not plan.refused
    assert "not on a block device" in plan["io.devices"].how


def test_a_value_that_the_kernel_refuses_is_an_error_unless_best_effort(
    host: CgroupHost, cgroup: Cgroup, tmp_path: Path
) -> None:
    pids = cgroup.path("pids") / "pids.max"
    pids.unlink()
    pids.mkdir()  # nobody can write to a directory: stands for a kernel that says no
    with pytest.raises(LimitRefusedError, match=r"cannot enforce pids\.max=1024"):
        enforce(plan_limits(policy(), host, state_dir=tmp_path), cgroup)
    plan = enforce(plan_limits(policy(best_effort=frozenset({"pids.max"})), host, state_dir=tmp_path), cgroup)
    entry = read_back(plan, cgroup)["pids.max"]
    assert entry["value"] is None  # type: ignore[index]
    assert "EISDIR" in entry["why"]  # type: ignore[index]


def test_setting_without_the_controller_is_an_error(tmp_path: Path) -> None:
    mount = v2_tree(tmp_path / "cg")
    host = CgroupHost([Hierarchy(Version.V2, mount, mount, frozenset({"pids"}))])
    v2_tree(mount / "g")
    group = host.open("g")
    assert group.get("memory", "memory.max") is None
    with pytest.raises(KernelError, match="has no memory controller"):
        group.set("memory", "memory.max", "1")


# -- conversions --


@pytest.mark.parametrize(("weight", "shares"), [(1, 10), (100, 1024), (50, 512), (10000, 102400)])
def test_weights_become_the_kernels_shares(weight: int, shares: int) -> None:
    assert shares_of_weight(weight) == shares


@pytest.mark.parametrize(("weight", "bfq"), [(1, 1), (100, 100), (1090, 190), (10000, 1000)])
def test_weights_become_bfq_weights(weight: int, bfq: int) -> None:
    assert bfq_weight(weight) == bfq


def test_threads_follow_the_cpus_allotted() -> None:
    available = len(os.sched_getaffinity(0))
    assert cpus_allotted(policy()) == available
    assert cpus_allotted(policy(cpu=CpuLimits(quota_percent=50))) == 1
    assert cpus_allotted(policy(cpu=CpuLimits(cpuset=str(min(os.sched_getaffinity(0)))))) == 1
