"""Many builds through the real command: order, pruning, classes, nothing left, and runs that are killed and go on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.ledger.store import Ledger
from lxcbuild.state.paths import StateDirs
from tests.e2e.synthetic import World, make_world
from tests.support.command import Ended, LxcBuild, argv

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("nothing_left")]

TARGET = "debian/bookworm"
#: Design: CPU seconds of the orchestrator per build, the head's share and the worker process.
MAX_CPU_S = 0.4


def world(tmp_path: Path, count: int, *, failing: int, seed: int = 7) -> World:
    """New names in each run, so that nothing is there already."""
    salt = f"lxcbuild-syn-{secrets.token_hex(4)}"
    made = make_world(tmp_path / "index", count, seed=seed, failing=failing, salt=salt)
    (tmp_path / "names.txt").write_text("\n".join(made.needs) + "\n")
    return made


def by_name(done: Ended) -> dict[str, dict[str, Any]]:
    return {key.rpartition("/")[2].partition("==")[0]: job for key, job in done.document["jobs"].items()}


def check(made: World, jobs: dict[str, dict[str, Any]], state: StateDirs) -> None:
    """Every job ended as it must; nothing began before what it needs had ended."""
    assert jobs.keys() == made.needs.keys()
    for name, job in jobs.items():
        expected = made.expected(name)
        # Whose needs cannot be known, nobody can choose versions of.
        unsatisfiable = any(made.failing.get(other) in ("dep-missing", "broken-sdist") for other in made.below(name))
        if expected == "pruned" and unsatisfiable and job["state"] == "failed":
            # Its own choice of versions has failed already, or what is wrong with itself was seen before that.
            assert job["failure"] in {"dep-missing", made.failing.get(name)}, (name, job)
            continue
        if expected == "pruned" and name in made.failing and job["state"] == "failed":
            assert job["failure"] == made.failing[name]  # nobody can tell what a broken archive needs
            continue
        assert job["state"] == expected, (name, job)
        if expected == "failed":
            assert job["failure"] == made.failing[name], (name, job)
    with Ledger.open(state) as ledger:
        records = {
            name: ledger.find(job["builds"][0])
            for name, job in jobs.items()
            if job["builds"] and job["state"] == "built"
        }
        for name, record in records.items():
            recorded = ledger.recent(name=name, target=TARGET, limit=None, status="built")
            assert len(recorded) == 1, f"{name} was built {len(recorded)} times"
            for other in made.needs[name]:
                ended = records[other].ended_at
                assert ended is not None
                compiled = next(p.started_at for p in ledger.find(record.build_id).phases if p.phase == "compile")
                assert compiled >= ended[: len(compiled)][:19], f"{name} was compiled before {other} had ended"


@pytest.mark.timeout(900)
def test_an_archive_is_built_in_order_and_failures_prune_their_dependents(
    lxcbuild: LxcBuild, state: StateDirs, tmp_path: Path
) -> None:
    made = world(tmp_path, 8, failing=2)
    done = lxcbuild("rebuild", "--from", tmp_path / "names.txt", "-t", TARGET, "--json", env=made.environment)
    assert done.status == 1, done.stderr
    check(made, by_name(done), state)
    again = lxcbuild(
        "rebuild", "--from", tmp_path / "names.txt", "-t", TARGET, "--resume", "--json", env=made.environment
    )
    assert again.document["totals"]["built"] == 0
    assert by_name(again).keys() == made.needs.keys()
    assert again.document["worker_jobs"] == 0, "what has ended in a run is neither built nor tried again"


@pytest.mark.slow
@pytest.mark.timeout(5 * 3600)
def test_a_thousand_builds(
    state: StateDirs, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    count = int(os.environ.get("LXCBUILD_TEST_BULK", "1000"))
    made = world(tmp_path, count, failing=count // 25)
    done, head_cpu_s, descriptors = _watched(
        argv(state, "rebuild", "--from", tmp_path / "names.txt", "-t", TARGET, "--json"), made.environment
    )
    assert done.status == 1, done.stderr
    check(made, by_name(done), state)
    builds = sum(bool(job["builds"]) or job["state"] == "failed" for job in by_name(done).values())
    head_s, all_s = head_cpu_s / builds, (head_cpu_s + done.document["worker_cpu_s"]) / builds
    figures = {"builds": builds, "head_cpu_s": head_s, "all_cpu_s": all_s, "descriptors": max(descriptors)}
    for name, value in figures.items():
        record_testsuite_property(name, value)
    assert all_s <= MAX_CPU_S, figures
    half = len(descriptors) // 2
    assert max(descriptors[half:]) <= max(descriptors[:half]) + 8, "the head's descriptors become more and more"


def _watched(command: list[str], environment: dict[str, str]) -> tuple[Ended, float, list[int]]:
    """Run a head; CPU seconds of it, of all programs that it runs itself, and of the server that forks its workers; how many
    descriptors it had open, twice a second.

    Planning and starting are in there. What the workers spend, the head's document says.
    """
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=err) as head,
    ):
        server_s, descriptors = 0.0, [0]
        while (waited := os.wait4(head.pid, os.WNOHANG))[0] == 0:
            server_s = max(server_s, _server_cpu_s(head.pid))
            with contextlib.suppress(OSError):
                descriptors.append(len(list(Path(f"/proc/{head.pid}/fd").iterdir())))
            time.sleep(0.5)
        head.returncode = os.waitstatus_to_exitcode(waited[1])
        out.seek(0)
        err.seek(0)
        ended = Ended(head.returncode, out.read(), err.read())
    assert server_s > 0
    return ended, waited[2].ru_utime + waited[2].ru_stime + server_s, descriptors


def _server_cpu_s(head: int) -> float:
    """Of the child of ``head`` that is multiprocessing's server (proc(5), fields 14 and 15); 0 when there is none."""
    for children in Path(f"/proc/{head}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                if b"multiprocessing.forkserver" in Path(f"/proc/{child}/cmdline").read_bytes():
                    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_that_is_killed_three_times_goes_on_and_builds_nothing_twice(
    lxcbuild: LxcBuild, state: StateDirs, tmp_path: Path
) -> None:
    made = world(tmp_path, 20, failing=4)
    command = argv(state, "rebuild", "--from", tmp_path / "names.txt", "-t", TARGET, "--resume")
    draw = random.Random()
    for _ in range(3):
        with subprocess.Popen(command, env={**os.environ, **made.environment}, stderr=subprocess.DEVNULL) as head:
            time.sleep(draw.uniform(8, 30))
            head.send_signal(signal.SIGKILL)
    done = lxcbuild(*command[5:], "--json", env=made.environment)
    check(made, by_name(done), state)


def test_ctrl_c_once_finishes_what_runs_and_resume_goes_on(
    lxcbuild: LxcBuild, state: StateDirs, tmp_path: Path
) -> None:
    made = world(tmp_path, 3, failing=0)
    arguments = ["rebuild", "--from", tmp_path / "names.txt", "-t", TARGET, "-j", "1", "--resume", "--json"]
    with subprocess.Popen(
        argv(state, "--log-format", "json", *arguments),
        env={**os.environ, **made.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as head:
        run = _wait_for_worker(head.pid)
        head.send_signal(signal.SIGINT)
        out, _ = head.communicate()
    assert run
    assert head.returncode == 130
    states = sorted(job["state"] for job in json.loads(out)["jobs"].values())
    assert states == ["built", "cancelled", "cancelled"], states
    done = lxcbuild(*arguments, env=made.environment)
    assert done.status == 0, done.stderr
    assert (done.document["totals"]["reused"], done.document["totals"]["built"]) == (1, 2)


def _wait_for_worker(head: int) -> bool:
    """Until a build of the head has a sandbox, which its slot file says; whether that came to be."""
    for _ in range(600):
        for path in Path("/run/lock/lxcbuild").glob(f"bulk-{head}-*.slot"):
            assert path.name
            return True
        time.sleep(0.1)
    return False


def test_interactive_builds_take_room_from_bulk_ones(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from lxcbuild.state.paths import StateDirs\n"
        "from lxcbuild.cli.build_context import bulk_build_context; from lxcbuild.farm.engines.local import LocalEngine\n"
        "engine = LocalEngine(StateDirs.choose(sys.argv[1]), bulk_build_context, slots_directory=Path(sys.argv[2]))\n"
        "print(engine.workers()[0].cpus); engine.close()"
    )

    def cpus() -> float:
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "state", tmp_path / "slots"],
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout)

    from lxcbuild.state import slots

    free = cpus()
    with slots.hold(slots.Kind.INTERACTIVE, memory_bytes=1 << 20, directory=tmp_path / "slots"):
        assert cpus() == max(free - 1, 1)
        with slots.hold(slots.Kind.INTERACTIVE, memory_bytes=1, cpus=free, directory=tmp_path / "slots"):
            assert cpus() == 1, "a run gets on, slowly, whoever else builds"
    assert cpus() == free
