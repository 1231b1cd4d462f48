"""Attack 43: SIGKILL to each process of a real build, at each phase and at any moment; and Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.errors import BuildsFailedError, SandboxError
from lxcbuild.state.paths import StateDirs
from tests.attacks.crashes import RunningBuild, alive, leftovers, mark_of, until_gone
from tests.support.command import argv
from tests.support.timing import quick

pytestmark = [pytest.mark.root, pytest.mark.network]

PHASES = ["resolve", "fetch", "inspect", "provision", "debianize", "compile", "verify", "collect"]
#: Time for the kernel to end what a dead process held, on a machine that does other things, too.
GONE_S = 2.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crash")


@pytest.fixture(scope="module")
def duration_s(state: StateDirs, folder: Path) -> Iterator[float]:
    """How long a build takes when everything is cached. After all the crashes of this file, the same build works again."""
    seconds = []
    for _ in range(2):
        with RunningBuild(state, folder) as build:
            assert build.wait(300) == 0, build.errors
            seconds.append(time.monotonic() - build.begun_at)
    yield seconds[-1]
    with RunningBuild(state, folder) as build:
        assert build.wait(300) == 0, build.errors
    assert leftovers(state) == []


def lxcbuild(state: StateDirs, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv(state, *arguments), capture_output=True, stdin=subprocess.DEVNULL, text=True)


def recorded(state: StateDirs, build_id: str) -> dict[str, Any]:
    """What the ledger says of a build."""
    (found,) = [b for b in json.loads(lxcbuild(state, "history", "--json").stdout)["builds"] if b["id"] == build_id]
    return dict(found)


def assert_nothing_left(state: StateDirs, owner_pid: int) -> None:
    """Mounts, processes and full cgroups go by themselves; files and records at the latest with ``gc``."""
    until_gone(state, owner_pid, GONE_S)
    if leftovers(state):
        done = lxcbuild(state, "gc")
        assert done.returncode == 0, done.stdout + done.stderr
    assert leftovers(state) == []
    assert not list((state.lib / "work").glob(f"*{mark_of(owner_pid)}*"))


@pytest.mark.attack(number=43)
@pytest.mark.usefixtures("duration_s")
@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_orchestrator_leaves_nothing(state: StateDirs, folder: Path, phase: str) -> None:
    with RunningBuild(state, folder) as build:
        build_id = build.until_phase(phase)
        time.sleep(random.uniform(0, 0.2))  # somewhere in the phase: the moment is the attack
        build.kill("orchestrator")
        assert build.wait() in (-signal.SIGKILL, 0)
        assert_nothing_left(state, build.process.pid)
    if build.process.returncode:
        found = recorded(state, build_id)
        # The last phase takes milliseconds: the kill may come when everything was done and recorded.
        finished = phase == "collect" and found["status"] == "built"
        assert finished or (found["status"], found["failure"]["class"]) == ("cancelled", "cancelled")


@pytest.mark.attack(number=43)
@pytest.mark.usefixtures("duration_s")
@pytest.mark.parametrize("who", ["launcher pool", "launcher", "runner"])
@pytest.mark.parametrize(
    "phase",
    [
        "compile",
        *(pytest.param(phase, marks=pytest.mark.slow) for phase in ("inspect", "debianize", "verify")),
    ],
)
def test_a_killed_helper_fails_the_build_and_leaves_nothing(
    state: StateDirs, folder: Path, who: str, phase: str
) -> None:
    with RunningBuild(state, folder) as build:
        build_id = build.until_phase(phase)
        build.kill(who)
        status = build.wait()
        # It may have been the last moment of a phase, in which nobody misses the helper any more.
        assert status in (0, BuildsFailedError.exit_code, SandboxError.exit_code), (status, build.errors)
        assert "Traceback" not in "".join(build.errors)
        assert_nothing_left(state, build.process.pid)
    found = recorded(state, build_id)
    if status:
        assert found["failure"]["class"] == "sandbox-failed", found["failure"]


@pytest.mark.attack(number=43)
@pytest.mark.usefixtures("duration_s")
def test_while_a_build_lives_the_same_look_finds_it(state: StateDirs, folder: Path) -> None:
    with RunningBuild(state, folder) as build:
        build.until_phase("compile")
        while build.find("runner") is None:
            assert build.process.poll() is None
            time.sleep(0.002)
        found = alive(state, build.process.pid)
        assert any(f"process {build.find('launcher pool')}" in each for each in found)
        assert any(" in lxcbuild-" in each for each in found), "processes in the build's cgroups"
        assert leftovers(state) == [], "what lives is nobody's leftover"
        build.kill("orchestrator")
        build.kill("launcher pool")  # who would have cleaned up
        build.wait()
        assert leftovers(state), "records and cgroups need somebody"
        assert_nothing_left(state, build.process.pid)


@pytest.mark.attack(number=43)
@pytest.mark.usefixtures("duration_s")
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("count", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_random_moments(state: StateDirs, folder: Path, duration_s: float, count: int) -> None:
    moments = random.Random(43)
    for number in range(count):
        who = moments.choice(["orchestrator", "orchestrator", "launcher pool", "launcher", "runner"])
        with RunningBuild(state, folder) as build:
            time.sleep(moments.uniform(0, duration_s))
            if (pid := build.find(who)) is not None and build.process.poll() is None:
                build.process.send_signal(signal.SIGKILL) if who == "orchestrator" else kill(pid)
            build.wait()
            assert "Traceback" not in "".join(build.errors), (number, who, build.errors)
            assert_nothing_left(state, build.process.pid)
    history = json.loads(lxcbuild(state, "history", "--json").stdout)["builds"]
    assert [b for b in history if b["status"] == "running"] == []


def kill(pid: int) -> None:
    """A helper may have ended meanwhile, by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.attack(number=43)
@pytest.mark.usefixtures("duration_s")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_ctrl_c_ends_a_build_within_a_second(state: StateDirs, folder: Path, duration_s: float, count: int) -> None:
    moments = random.Random(130)
    took = []
    for _ in range(count):
        with RunningBuild(state, folder) as build:
            build.until_phase("resolve")
            time.sleep(moments.uniform(0, duration_s * 0.6))
            if build.process.poll() is not None:
                continue
            pressed_at = time.monotonic()
            build.process.send_signal(signal.SIGINT)
            status = build.wait()
            took.append(time.monotonic() - pressed_at)
            assert status == 130, (status, build.errors)
            assert "Traceback" not in "".join(build.errors)
            until_gone(state, build.process.pid, 0.5)
            assert leftovers(state) == []
    assert took
    assert quick(statistics.median(took), 1), took
    assert quick(max(took), 3), took
