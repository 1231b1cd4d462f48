"""Attacks 1 to 5 and 50: the kernel's settings and files, /sys, release_agent, the build's own limits, the machine as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxcbuild.sandbox.base import User
from tests.attacks.attacking import run_unguarded

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("user", list(User))
REFUSED = {"EROFS", "EPERM", "EACCES", "ENOENT"}
CAP_SYS_RESOURCE = 24


@pytest.mark.attack(number=1)
@BOTH
def test_settings_of_the_kernel_cannot_be_written(run_attack, user) -> None:
    found = run_attack("attack_01_proc_sys", user=user)
    assert found.pop("writable") == []
    assert set(found.values()) <= REFUSED, found


@pytest.mark.attack(number=1)
def test_without_a_sandbox_root_writes_them() -> None:
    name = "/proc/sys/kernel/hostname"  # of a UTS namespace of its own
    assert run_unguarded("attack_01_proc_sys", name, wrapper=("unshare", "--uts")) == {name: "done"}


@pytest.mark.attack(number=2)
@BOTH
def test_files_about_the_host_are_closed_or_empty(run_attack, user) -> None:
    found = run_attack("attack_02_kernel_files", user=user)
    telling = {name for name, how in found.items() if how == "tells"}
    assert telling <= {"config.gz"}  # how the kernel was built is public
    assert set(found.values()) <= {"ENOENT", "EACCES", "EPERM", "empty", "zeroed", "tells"}


@pytest.mark.attack(number=2)
def test_without_a_sandbox_they_tell() -> None:
    found = run_unguarded("attack_02_kernel_files")
    assert {"cmdline", "interrupts", "iomem", "timer_list", "slabinfo"} <= {
        n for n, how in found.items() if how == "tells"
    }


@pytest.mark.attack(number=3)
@BOTH
def test_there_is_no_sys(run_attack, user) -> None:
    found = run_attack("attack_03_sys", "--create", user=user)
    assert found["entries"] == []
    assert found["types"] == ["devpts", "overlay", "proc", "tmpfs"]
    assert found["uevent_helper"] == found["hugepages"] == "ENOENT"
    assert found["mount"] == "EPERM"


@pytest.mark.attack(number=3)
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists(), reason="no such setting here")
def test_without_a_sandbox_root_writes_there() -> None:
    found = run_unguarded("attack_03_sys", "--no-mount")
    assert "kernel" in found["entries"]
    assert found["hugepages"] == "done"


@pytest.mark.attack(number=4)
@BOTH
def test_no_release_agent_runs_on_the_host(run_attack, user, tmp_path) -> None:
    marker = tmp_path / "marker"
    found = run_attack("attack_04_release_agent", str(marker), user=user)
    assert (found["unshare"], found["mount"], found["direct"]) == ("EPERM", "EPERM", "EPERM")
    assert found["cgroup mounts"] == []
    assert not marker.exists()


@pytest.mark.attack(number=4)
def test_without_the_filter_namespaces_are_made_and_the_next_belt_holds(run_attack, tmp_path) -> None:
    marker = tmp_path / "marker"
    found = run_attack("attack_04_release_agent", str(marker), seccomp="none")
    assert found["unshare"] == "done"
    assert "done" not in {found["agent"], found["release"]}
    assert not marker.exists()


@pytest.mark.attack(number=5)
@BOTH
def test_limits_cannot_be_raised_from_inside(run_attack, user) -> None:
    found = run_attack("attack_05_own_limits", user=user)
    assert found.pop("cgroup paths") == ["/"]
    assert found.pop("cgroup file systems") == []
    lowered = {found.pop("oom_score_adj 0"), found.pop("oom_score_adj 499")}
    # The floor is raised by a writer with CAP_SYS_RESOURCE only (fs/proc/base.c); without it, 0 is the floor: that of the host.
    assert lowered == ({"EACCES"} if host_has(CAP_SYS_RESOURCE) else {"done"})
    assert "done" not in found.values(), found


def host_has(capability: int) -> bool:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(line.split()[1], 16) >> capability & 1)


@pytest.mark.attack(number=5)
def test_without_a_sandbox_root_goes_first() -> None:
    found = run_unguarded("attack_05_own_limits")
    assert found["nice -5"] == found["ioprio real-time"] == "done"
    assert found["cgroup file systems"] != []


@pytest.mark.attack(number=50)
@BOTH
def test_the_machine_cannot_be_changed(run_attack, user) -> None:
    assert set(run_attack("attack_50_the_machine", user=user).values()) == {"EPERM"}


@pytest.mark.attack(number=50)
def test_without_a_sandbox_root_changes_its_name() -> None:
    names = ("sethostname", "setdomainname")
    assert run_unguarded("attack_50_the_machine", *names, wrapper=("unshare", "--uts")) == dict.fromkeys(names, "done")
