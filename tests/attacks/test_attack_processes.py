"""Attacks 10 to 12, 16, 20, 51 and 52: other processes, PID 1, secrets of the orchestrator, late writers, rights, odd programs."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcbuild.policy import NetworkMode, OutputLimits
from lxcbuild.sandbox.base import User
from lxcbuild.sandbox.session import RUNNER
from tests.attacks.attacking import run_script, run_unguarded
from tests.attacks.host_state import processes_in_range

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("user", list(User))


@pytest.fixture
def bystander() -> Iterator[int]:
    """An innocent process of the host, ours to harm."""
    with subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) as process:
        yield process.pid
        process.kill()


@pytest.mark.attack(number=10)
@BOTH
def test_proc_shows_no_path_and_no_descriptor_of_the_host(run_attack, user) -> None:
    found = run_attack("attack_10_proc_walk", user=user)
    assert found["pids"][0] == 1
    assert len(found["pids"]) == 2
    assert set(found["links"].values()) == {"errno 13"}
    assert {how for name, how in found["opened"].items() if name != "1/fd"} == {"EACCES"}
    own = found["own"]
    assert own.pop("0") == "/dev/null"
    assert own.pop("1") == own.pop("2")
    assert all(re.fullmatch(r"/proc/\d+/fd|pipe:\[\d+\]", target) for target in own.values()), own


@pytest.mark.attack(number=10)
def test_without_a_sandbox_root_walks_in(bystander) -> None:
    found = run_unguarded("attack_10_proc_walk", str(bystander))
    assert found["links"][f"{bystander}/root"] == "/"
    assert set(found["opened"].values()) == {"done"}


@pytest.mark.attack(number=10)
@BOTH
def test_no_file_of_proc_tells_where_the_host_keeps_things(sandbox, dirs, rootfs, user, monkeypatch) -> None:
    secret = secrets.token_hex(24)
    monkeypatch.setenv("LXCBUILD_PLANTED_SECRET", secret)
    words = [secret, os.fspath(dirs.run), os.fspath(rootfs), f"lxcbuild-{dirs.cgroup.removeprefix('lxcbuild-')}"]
    instance = sandbox(network=NetworkMode.SINKHOLE)
    found = run_script(
        instance, "attack_10_all_of_proc", *(word[::-1].rstrip("/") for word in words), user=user
    ).document
    assert found["hits"] == []
    assert found["read"] > 500
    assert found["links"] > 20


@pytest.mark.attack(number=10)
def test_without_a_sandbox_the_same_search_finds_them() -> None:
    secret, program = secrets.token_hex(24), os.path.realpath("/usr/bin/sleep")
    with subprocess.Popen([program, "60"], env={"PLANTED": secret}) as process:
        found = run_unguarded("attack_10_all_of_proc", secret[::-1], program[::-1], "--only", f"/proc/{process.pid}")
        process.kill()
    hits = {(path.rpartition("/")[2], word) for path, _, word in (hit.rpartition(": ") for hit in found["hits"])}
    assert {("environ", secret[::-1]), ("exe", program[::-1]), ("maps", program[::-1])} <= hits


@pytest.mark.attack(number=11)
@BOTH
def test_pid_1_cannot_be_overwritten(run_attack, rootfs, user) -> None:
    interpreter = Path(rootfs, os.path.relpath((rootfs / "usr/bin/python3").resolve(), rootfs))
    before = [hashlib.sha256(path.read_bytes()).digest() for path in (RUNNER, interpreter)]
    found = run_attack("attack_11_overwrite_init", user=user)
    assert "done" not in found.values(), found
    assert [hashlib.sha256(path.read_bytes()).digest() for path in (RUNNER, interpreter)] == before


@pytest.mark.attack(number=11)
def test_without_read_only_mounts_a_file_is_overwritten(tmp_path) -> None:
    copy = tmp_path / "copy"
    copy.write_text("#!/bin/true")
    assert set(run_unguarded("attack_11_overwrite_init", str(copy)).values()) == {"done"}
    assert copy.read_text() == ""


@pytest.mark.attack(number=12)
@BOTH
def test_secrets_of_the_orchestrator_are_nowhere_inside(sandbox, user, monkeypatch) -> None:
    secret = secrets.token_hex(24)
    monkeypatch.setenv("LXCBUILD_PLANTED_SECRET", secret)
    instance = sandbox()
    said = run_script(instance, "attack_12_secrets", secret[::-1], user=user)
    assert said.document["hits"] == []
    assert said.document["read"] > 5
    # Nor in what PID 1 and its keeper hold, which only the host can read.
    keeper = instance._launcher.pid
    init = int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text())
    found = run_unguarded("attack_12_secrets", secret[::-1], str(init), env={"PATH": os.environ["PATH"]})
    assert found["hits"] == []
    assert found["read"] > 20  # its memory was really read


@pytest.mark.attack(number=12)
def test_in_the_orchestrator_itself_the_secret_is_found(monkeypatch) -> None:
    secret = secrets.token_hex(24)
    monkeypatch.setenv("LXCBUILD_PLANTED_SECRET", secret)
    found = run_unguarded("attack_12_secrets", secret[::-1], str(os.getpid()))
    assert "own environment" in found["hits"]
    assert f"{os.getpid()}/mem" in found["hits"]


@pytest.mark.attack(number=16)
def test_a_daemon_cannot_change_a_sealed_result(sandbox, tmp_path) -> None:
    instance = sandbox()
    run_script(instance, "attack_16_late_writer", "/out/result")
    mine = processes_in_range(instance._id_start)
    assert len(mine) == 1, "only PID 1 is left when the step is over"
    instance.stop()
    (tmp_path / "taken").mkdir()
    (taken,) = instance.extract("/out", tmp_path / "taken", OutputLimits())
    assert processes_in_range(instance._id_start) == []
    first = hashlib.sha256(taken.path.read_bytes()).hexdigest()
    time.sleep(0.2)  # many periods of the daemon, if it lived
    assert first == taken.sha256 == hashlib.sha256(taken.path.read_bytes()).hexdigest()


@pytest.mark.attack(number=16)
def test_without_a_sandbox_the_daemon_writes_on(tmp_path) -> None:
    result = tmp_path / "result"
    daemon = run_unguarded("attack_16_late_writer", str(result))["daemon"]
    pidfd = os.pidfd_open(daemon)
    try:
        deadline = time.monotonic() + 10
        while result.read_text() != "evil" and time.monotonic() < deadline:
            time.sleep(0.005)
        assert result.read_text() == "evil"
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


@pytest.mark.attack(number=20)
def test_processes_of_the_host_and_pid_1_are_out_of_reach(run_attack, bystander) -> None:
    found = run_attack("attack_20_other_processes", str(bystander), str(os.getpid()))
    assert set(found.pop("1").values()) == {"EPERM"}
    for outcomes in found.values():
        assert set(outcomes.values()) <= {"ESRCH", "EPERM"}
        assert outcomes["kill"] == outcomes["ptrace"] == "ESRCH"


@pytest.mark.attack(number=20)
def test_without_a_sandbox_root_reaches_them(bystander) -> None:
    found = run_unguarded("attack_20_other_processes", str(bystander))[str(bystander)]
    assert found["kill 0"] == found["ptrace"] == found["pidfd_getfd"] == "done"


@pytest.mark.attack(number=51)
def test_the_build_user_stays_who_it_is(run_attack) -> None:
    found = run_attack("attack_51_regain_rights")
    assert found.pop("bounding set") == []
    assert {found.pop("new privileges"), found.pop("filter off")} == {"EINVAL"}
    assert set(found.values()) == {"EPERM"}, found


@pytest.mark.attack(number=51)
def test_without_the_filter_a_new_namespace_can_be_had(run_attack) -> None:
    found = run_attack("attack_51_regain_rights", seccomp="none")
    assert found["weaker filter"] == "done"
    assert found["setuid"] == found["capset"] == found["ambient"] == "EPERM"  # other belts


@pytest.mark.attack(number=52)
def test_programs_without_a_file_have_no_more_rights(run_attack) -> None:
    found = run_attack("attack_52_odd_programs")
    assert found["anonymous"] == found["/dev/shm"] == ["1000", "0" * 16, "2", "1"]
    assert found["write /dev"] == "EROFS"
    assert found["run the runner"] == 1  # it refuses to be anything but PID 1


@pytest.mark.attack(number=52)
def test_without_a_sandbox_they_have_those_of_who_runs_them(tmp_path) -> None:
    found = run_unguarded("attack_52_odd_programs", str(tmp_path))
    own = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    wanted = [own[name].split()[0] for name in ("Uid", "CapEff", "Seccomp", "NoNewPrivs")]
    assert found["anonymous"] == found["/dev/shm"] == wanted
    assert int(wanted[1], 16), "the tests run with capabilities"
    assert found["write /dev"] == "done"
