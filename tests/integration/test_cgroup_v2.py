"""Debian's stock kernels with nothing but cgroup v2, booted under QEMU: the same tests, and lxcbuild as a user runs it.

Software emulation (tcg), so no KVM is needed; about five minutes per suite on two cores, and ten more the first time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.images.store import ImageStore
from lxcbuild.model import Target
from lxcbuild.state.paths import StateDirs
from tests.qemu.guest_disks import Boot, make_boot, work_disk

QEMU = "qemu-system-x86_64"
LIFE_S = 1500.0
KERNEL_LINE = (
    "console=ttyS0 panic=-1 reboot=t quiet mitigations=off systemd.unit=guest.target systemd.show_status=0"
    " systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all"
)
pytestmark = [
    pytest.mark.root,
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.qemu,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        shutil.which(QEMU) is None or os.uname().machine != "x86_64",
        reason=f"no {QEMU}: sudo apt-get install --no-install-recommends qemu-system-x86 (amd64 hosts only)",
    ),
]


@dataclass
class Told:
    """What a guest said about itself, and about each test."""

    suite: str
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    tests: list[dict[str, Any]] = field(default_factory=list)
    console: str = ""

    def outcome(self, name: str) -> str:
        """How the test of that name ended; several of the name must agree."""
        (found,) = {test["outcome"] for test in self.tests if test["test"].split("::")[1].split("[")[0] == name}
        return str(found)


def boot(made: Boot, work: Path, port: Path, console: Path) -> None:
    """One life of a guest; it ends by itself."""
    disks = [("r", made.root_disk), ("w", work)]
    argv: list[str | Path] = [QEMU, "-M", "q35", "-accel", "tcg,thread=multi"]
    argv += [
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "3584",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]
    argv += ["-serial", f"file:{console}", "-kernel", made.kernel, "-initrd", made.initramfs]
    argv += ["-append", KERNEL_LINE]
    for name, file in disks:
        # A snapshot: the root disk is used again, and nothing written is worth keeping.
        argv += ["-drive", f"id={name},file={file},format=raw,if=none,snapshot=on,cache=unsafe"]
        argv += ["-device", f"virtio-blk-pci,drive={name}"]
    argv += ["-device", "virtio-serial-pci", "-chardev", f"file,id=p,path={port}"]
    argv += ["-device", "virtserialport,chardev=p,name=lxcbuild", "-device", "virtio-rng-pci"]
    subprocess.run(argv, check=True, timeout=LIFE_S, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def guest(request: pytest.FixtureRequest, state: StateDirs, tmp_path_factory: pytest.TempPathFactory) -> Told:
    suite = request.param
    ImageStore(state).ensure(Target(distribution="debian", suite="bookworm"))  # guests have no network to make one
    made = make_boot(state.cache / "guests", suite)
    place = tmp_path_factory.mktemp(f"guest-{suite}")
    port, console = place / "port", place / "console"
    work_disk(place / "work.ext4", made, images=state.images, staging=place / "staging")
    shutil.rmtree(place / "staging")
    told = Told(suite)
    try:
        boot(made, place / "work.ext4", port, console)
    finally:
        (place / "work.ext4").unlink()
    told.console = console.read_text(errors="replace")[-4000:]
    for line in port.read_text().splitlines():
        document = json.loads(line)
        if "check" in document:
            told.checks[document["check"]] = document
        else:
            told.tests.append(document)
    if kept := os.environ.get("LXCBUILD_GUEST_REPORT_DIR"):
        shutil.copyfile(port, Path(kept, f"{suite}.jsonl"))
    assert "end" in told.checks, f"the guest died early\n{told.checks}\n{told.console}"
    return told


def verdicts(told: Told) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in told.checks["doctor"]["document"]["checks"]}


def test_the_guest_is_what_it_should_be(guest: Told) -> None:
    facts = guest.checks["facts"]
    kernel, python, liblxc = {"bookworm": ("6.1.", "3.11.", "5."), "trixie": ("6.12.", "3.13.", "6.")}[guest.suite]
    assert facts["kernel"].startswith(kernel)
    assert facts["python"].startswith(python)
    assert facts["liblxc"].startswith(liblxc)
    assert facts["pid_1"] == "systemd"
    assert facts["cgroup"] == "0::/system.slice/guest.service\n", "cgroup v2 alone, in a service"


def test_doctor_finds_the_host_ready(guest: Told) -> None:
    doctor = guest.checks["doctor"]
    assert doctor["status"] == 0, doctor
    (cgroups,) = (check for check in doctor["document"]["checks"] if check["name"] == "cgroups")
    assert cgroups["says"].startswith("v2: ")
    assert "cgroup.kill" in cgroups["says"]
    assert verdicts(guest)["overlay"] == ("warn" if guest.suite == "bookworm" else "ok")


def test_commands_run_in_a_service_and_in_a_shell(guest: Told) -> None:
    for name in ("run", "again", "shell"):
        done = guest.checks[name]
        assert (done["status"], done["document"].get("output")) == (0, "1000\n"), done


def test_the_image_lies_where_this_kernel_can_map_it(guest: Told) -> None:
    document = guest.checks["rootfs"]["document"]
    notes = guest.checks["run"]["said"]
    if guest.suite == "bookworm":
        assert document["storage"] == "disk"
        assert "Linux 6.3" in document["why_on_disk"]
        assert "unpacked on disk, not in memory" in notes
        assert "unpacked on disk" not in guest.checks["again"]["said"], "said once"
    else:
        assert (document["storage"], document["why_on_disk"]) == ("ram", None)
        assert "on disk" not in notes


def test_the_default_policy_is_in_force_and_read_back(guest: Told) -> None:
    limits = guest.checks["run"]["document"]["limits_in_force"]
    values = {name: limit.get("value") for name, limit in limits.items() if isinstance(limit, dict)}
    assert values["pids.max"] == 1024
    assert values["memory.swap_max"] == 0
    assert 1 << 30 < values["memory.max"] < 2 << 30  # half of the guest's
    assert values["cpu.weight"] == 100
    assert all(limit["file"].startswith("/sys/fs/cgroup/lxcbuild-") for limit in limits.values() if limit.get("file"))
    assert guest.checks["run"]["document"]["usage"]["peak_memory_bytes"] > 1 << 20


def test_limits_of_the_default_policy_stop_what_exceeds_them(guest: Told) -> None:
    hog, modest, bomb = (guest.checks[name]["document"] for name in ("memory", "little-memory", "forks"))
    assert hog["stopped_by"] == "oom"
    assert hog["usage"]["oom_kills"] >= 1
    assert modest["exit_status"] == 0
    assert modest["usage"]["oom_kills"] == 0
    assert 900 < int(bomb["output"].split()[-1]) <= 1024
    assert bomb["usage"]["pids_denied"] >= 1
    assert bomb["stopped_by"] == "pids-exhausted"


def test_systemd_leaves_a_running_sandbox_alone(guest: Told) -> None:
    found = guest.checks["systemd"]
    assert (
        {"cpu", "cpuset", "io", "memory", "pids"}
        >= set(found["cgroup.controllers"].split())
        >= {"cpu", "memory", "pids"}
    )
    assert int(found["memory.max"]) == guest.checks["run"]["document"]["limits_in_force"]["memory.max"]["value"]
    assert found["pids.max"] == "1024"
    assert (found["status"], found["still_there"]) == (130, False), "interrupted by us, and gone"


def test_every_test_passes_in_the_guest(guest: Told) -> None:
    failed = [
        f"{test['test']} ({test['when']})\n{test['reason']}" for test in guest.tests if test["outcome"] == "failed"
    ]
    assert not failed, f"{guest.suite}: {len(failed)} failed\n" + "\n".join(failed)
    assert guest.checks["tests"]["status"] == 0, guest.checks["tests"]["tail"]
    assert sum(test["outcome"] == "passed" for test in guest.tests) > 50


def test_what_only_such_a_host_can_show_was_not_skipped(guest: Told) -> None:
    for name in (
        "test_cgroup_kill_of_v2",
        "test_the_rate_of_a_disk_holds",
        "test_a_memory_hog_dies_alone_and_is_counted",
        "test_the_cpu_quota_holds_and_throttling_is_counted",
        "test_the_cpu_set_holds",
    ):
        assert guest.outcome(name) == "passed", name


def test_nothing_is_left_behind(guest: Told) -> None:
    assert guest.checks["leftovers"]["status"] == 0, guest.checks["leftovers"]
    assert guest.checks["leftovers"]["document"]["leftovers"] == []
