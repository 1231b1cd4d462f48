"""A worker process that is killed: its build is tried again, and the run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lxcbuild.state.paths import StateDirs
from tests.e2e.synthetic import make_world
from tests.support.command import LxcBuild, argv

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.usefixtures("nothing_left")]

TARGET = "debian/bookworm"


def test_a_worker_that_is_killed_in_the_middle_costs_one_attempt(
    lxcbuild: LxcBuild, state: StateDirs, tmp_path: Path
) -> None:
    salt = f"lxcbuild-syn-{secrets.token_hex(4)}"
    made = make_world(tmp_path / "index", 2, seed=7, failing=0, salt=salt)
    (tmp_path / "names.txt").write_text("\n".join(made.needs) + "\n")
    with subprocess.Popen(
        argv(state, "rebuild", "--from", tmp_path / "names.txt", "-t", TARGET, "-j", "1", "--json"),
        env={**os.environ, **made.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as head:
        worker = _worker_with_a_sandbox(head.pid)
        os.kill(worker, signal.SIGKILL)
        out, err = head.communicate(timeout=600)
    assert head.returncode == 0, err
    assert [job["state"] for job in json.loads(out)["jobs"].values()] == ["built", "built"], out
    assert err.count("died (signal SIGKILL)") == 1, err
    assert err.count("it is tried again") == 1, err


def _worker_with_a_sandbox(head: int) -> int:
    """The first process of a job that has started a helper for sandboxes: its build is under way."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for server in _children(head):
            if "multiprocessing.forkserver" in _words(server):
                for worker in _children(server):
                    if _children(worker):
                        return worker
        time.sleep(0.02)
    raise AssertionError("no build was started in two minutes")


def _children(process: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def _words(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    return ""
