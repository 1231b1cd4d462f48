"""Attacks 25, 26, 31 and 33: fork bombs, daemons, spinning, and steps that never end."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lxcbuild.model import FailureClass
from lxcbuild.policy import CpuLimits, TimeLimits
from tests.attacks.attacking import SCRIPTS, run_script
from tests.attacks.host_state import processes_in_range
from tests.support.timing import once, quick

pytestmark = pytest.mark.root


def gone_within(instance, seconds: float) -> None:
    begun = time.monotonic()
    while left := processes_in_range(instance._id_start):
        assert quick(time.monotonic() - begun, seconds), left
        time.sleep(0.02)


@pytest.mark.attack(number=25)
def test_a_fork_bomb_runs_into_its_limit_and_is_gone_in_a_second(sandbox) -> None:
    bomb = sandbox(pids_max=64, time=TimeLimits(wall_s=20))
    said = run_script(bomb, "attack_25_fork_bomb", "1.5", str(1 << 30))
    assert said.result.stopped_by in (FailureClass.PIDS_EXHAUSTED, FailureClass.TIMEOUT), said
    assert said.result.usage.pids_denied > 0
    assert said.result.usage.peak_pids <= 64
    begun = time.monotonic()
    bomb.stop()
    assert quick(time.monotonic() - begun, 1)
    assert processes_in_range(bomb._id_start) == []


@pytest.mark.attack(number=25)
def test_a_fork_bomb_that_never_gives_up_ends_at_the_wall_clock(sandbox) -> None:
    bomb = sandbox(pids_max=64, time=TimeLimits(wall_s=1.5))
    begun = time.monotonic()
    said = run_script(bomb, "attack_25_fork_bomb", "600", str(1 << 30))
    assert said.result.stopped_by is FailureClass.TIMEOUT
    assert quick(time.monotonic() - begun - 1.5, 3)
    bomb.close()
    gone_within(bomb, 1)


@pytest.mark.attack(number=25)
def test_without_the_limit_the_processes_are_made(sandbox) -> None:
    said = run_script(sandbox(pids_max=400), "attack_25_fork_bomb", "10", "150")
    assert (said.result.stopped_by, said.text) == (None, "made=150 denied=0\n")


@pytest.mark.attack(number=26)
@pytest.mark.parametrize("kind", ["deaf", "hydra"])
def test_daemons_end_with_their_step(sandbox, kind: str) -> None:
    instance = sandbox(pids_max=64)
    said = run_script(instance, "attack_26_daemons", kind)
    assert said.text.endswith("left behind\n"), said
    # The step is over when everything that it started is dead, so there is nothing to wait for here.
    assert [pid for pid in processes_in_range(instance._id_start) if not is_runner(pid)] == []
    instance.stop()
    assert processes_in_range(instance._id_start) == []


@pytest.mark.attack(number=26)
@pytest.mark.parametrize("kind", ["deaf", "hydra"])
def test_daemons_do_not_survive_a_kill_in_the_middle(sandbox, kind: str) -> None:
    instance = sandbox(pids_max=64)
    timer = threading.Timer(0.4, instance.cancel)
    timer.start()
    run_script(instance, "attack_26_daemons", kind)
    timer.join()
    instance.stop()
    assert processes_in_range(instance._id_start) == []


@pytest.mark.attack(number=26)
def test_without_a_sandbox_the_daemon_lives_on(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    done = subprocess.run([sys.executable, SCRIPTS / "attack_26_daemons.py", "deaf", alive], stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    while not (text := alive.read_text()):  # it is being written again
        pass
    pid = int(text)
    os.kill(pid, signal.SIGTERM)
    before = alive.stat().st_mtime_ns
    time.sleep(0.3)
    assert alive.stat().st_mtime_ns > before
    os.kill(pid, signal.SIGKILL)


def is_runner(pid: int) -> bool:
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid")
    )
    return fields["NSpid"].split()[-1] == "1"


def spun(instance, percent: float) -> float:
    """The share of a CPU that four spinning threads had below a quota, which holds on any machine."""
    usage = run_script(instance, "attack_31_cpu_spin", "4", "4").result.usage
    assert usage.cpu_s / usage.wall_s <= percent / 100 * 1.05, usage
    assert usage.throttled_s > 0
    return usage.cpu_s / usage.wall_s


@pytest.mark.attack(number=31)
@pytest.mark.parametrize("percent", [25.0, 10.0])
def test_spinning_threads_get_no_more_than_the_quota(sandbox, percent: float) -> None:
    spun(sandbox(cpu=CpuLimits(quota_percent=percent)), percent)


@pytest.mark.attack(number=31)
@pytest.mark.bench
@pytest.mark.parametrize("percent", [25.0, 10.0])
def test_spinning_threads_get_all_of_the_quota(sandbox, percent: float) -> None:
    """Where nobody else uses the CPUs up."""
    instance = sandbox(cpu=CpuLimits(quota_percent=percent))
    once(lambda: spun(instance, percent), lambda share: share >= percent / 100 * 0.90)


@pytest.mark.attack(number=31)
def test_without_a_quota_nothing_is_throttled(sandbox) -> None:
    assert run_script(sandbox(), "attack_31_cpu_spin", "4", "2").result.usage.throttled_s == 0


@pytest.mark.attack(number=31)
@pytest.mark.bench
def test_without_a_quota_it_gets_more(sandbox) -> None:
    instance = sandbox()
    once(
        lambda: run_script(instance, "attack_31_cpu_spin", "4", "2").result.usage,
        lambda usage: usage.cpu_s / usage.wall_s > 0.3,
    )


@pytest.mark.attack(number=31)
@pytest.mark.bench
def test_weights_divide_contended_cpus(sandbox) -> None:
    """Three parts to one, on one processor; other programs on it take from both alike. Medians, because they are not steady."""
    light = sandbox(name="light", cpu=CpuLimits(weight=100, cpuset="0"))
    heavy = sandbox(name="heavy", cpu=CpuLimits(weight=300, cpuset="0"))
    lead = 1.0  # seconds until both interpreters run; a slow machine needs more

    def share() -> float:
        nonlocal lead
        start = time.monotonic() + lead
        with ThreadPoolExecutor(2) as pool:
            said = [
                pool.submit(run_script, instance, "attack_31_cpu_share", "2", str(start), str(start + 2))
                for instance in (light, heavy)
            ]
        little, much = (each.result().document for each in said)
        if little["late"] or much["late"]:
            lead *= 2
            assert lead < 60, (little, much)
            return share()
        return much["cpu_s"] / (much["cpu_s"] + little["cpu_s"])

    once(lambda: statistics.median(share() for _ in range(3)), lambda share: abs(share - 0.75) < 0.05)


@pytest.mark.attack(number=33)
@pytest.mark.parametrize("way", ["quiet", "talking", "stopped", "deaf", "stop-all", "vfork", "traced"])
def test_what_never_ends_is_ended_at_the_wall_clock(sandbox, way: str) -> None:
    said = run_script(sandbox(time=TimeLimits(wall_s=1.5)), "attack_33_hang", way)
    assert said.result.stopped_by is FailureClass.TIMEOUT
    assert said.result.usage.wall_s >= 1.5
    assert quick(said.result.usage.wall_s - 1.5, 2.5)


@pytest.mark.attack(number=33)
@pytest.mark.parametrize("way", ["quiet", "stopped", "deaf"])
def test_what_says_nothing_is_ended_as_silent(sandbox, way: str) -> None:
    said = run_script(sandbox(time=TimeLimits(wall_s=60, silence_s=1.0)), "attack_33_hang", way)
    assert said.result.stopped_by is FailureClass.SILENT
    assert said.result.usage.wall_s >= 1.0
    assert quick(said.result.usage.wall_s - 1.0, 3)


@pytest.mark.attack(number=33)
def test_what_talks_is_not_silent(sandbox) -> None:
    said = run_script(sandbox(time=TimeLimits(wall_s=2.5, silence_s=1.0)), "attack_33_hang", "talking")
    assert said.result.stopped_by is FailureClass.TIMEOUT


@pytest.mark.attack(number=33)
def test_cpu_time_has_a_clock_of_its_own(sandbox) -> None:
    said = run_script(sandbox(time=TimeLimits(wall_s=60, cpu_s=1.0)), "attack_31_cpu_spin", "2", "50")
    assert said.result.stopped_by is FailureClass.TIMEOUT
    assert said.result.usage.cpu_s < 1.0 + 2.5
