"""``lxcbuild run``, ``shell``, ``doctor`` and ``gc`` as a user runs them: real containers of a real image."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.linux.cgroups.cgroup import CgroupHost
from lxcbuild.sandbox import registry
from lxcbuild.state.paths import StateDirs
from tests.support.command import argv
from tests.support.timing import quick

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.usefixtures("nothing_left")]

PATIENCE_S = 20.0


def lxcbuild(state: StateDirs, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv(state, *arguments), capture_output=True, stdin=subprocess.DEVNULL)


def run_json(state: StateDirs, *arguments: str | Path) -> dict[str, Any]:
    done = lxcbuild(state, "run", "--json", *arguments)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module", autouse=True)
def image(state: StateDirs) -> None:
    """The base image of this host's own suite: made once, kept from run to run."""
    assert lxcbuild(state, "run", "--", "true").returncode == 0


def test_output_and_exit_status_are_passed_on(state: StateDirs) -> None:
    done = lxcbuild(state, "run", "--", "sh", "-c", "printf 'a\\0\\033[31mb'; echo c >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, b"a\0\x1b[31mbc\n")
    assert lxcbuild(state, "run", "--", "sh", "-c", "kill -9 $$").returncode == 137
    assert lxcbuild(state, "run", "sh", "-c", "exit 3").returncode == 3, "the dashes may be left out"


def test_input_is_read_only_and_output_is_collected(state: StateDirs, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data/x").write_text("hello")
    (tmp_path / "one").write_text("two")
    out = tmp_path / "out"
    script = "cat /in/data/x /in/one; mkdir /out/d; tr a-z A-Z </in/one >/out/d/up; echo no >/in/data/y"
    argv = ("--in", tmp_path / "data", "--in", tmp_path / "one", "--out", out, "--", "sh", "-c", script)
    document = run_json(state, *argv)
    assert document["output"].startswith("hellotwo")
    assert document["exit_status"] != 0, "writing below /in must fail"
    assert [(f["name"], f["bytes"]) for f in document["files"]] == [("d/up", 3)]
    assert (out / "d/up").read_text() == "TWO"
    assert not (tmp_path / "data/y").exists()
    assert sorted(p.name for p in out.iterdir()) == ["d"]


def test_a_hostile_link_in_the_output_is_refused(state: StateDirs, tmp_path: Path) -> None:
    done = lxcbuild(state, "run", "--out", tmp_path / "out", "--", "ln", "-s", "/etc/shadow", "/out/x")
    assert done.returncode == 43, done.stderr.decode()
    assert list((tmp_path / "out").iterdir()) == []


def test_the_user_inside_is_nobody_special(state: StateDirs) -> None:
    document = run_json(
        state, "--", "sh", "-c", "id -u; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; ls /sys/class/net"
    )
    lines = dict(line.split(":\t") for line in document["output"].splitlines() if ":\t" in line)
    assert document["output"].startswith("1000\n")
    assert int(lines["CapEff"], 16) == int(lines["CapBnd"], 16) == 0
    assert lines["NoNewPrivs"] == "1"
    assert "eth" not in document["output"]


def test_limits_are_read_back(state: StateDirs) -> None:
    document = run_json(state, "--", "true")
    assert document["limits_in_force"]
    assert document["usage"]["wall_s"] > 0


def test_a_shell_talks_to_the_terminal(state: StateDirs) -> None:
    main_fd, side_fd = os.openpty()
    with subprocess.Popen(argv(state, "shell"), stdin=side_fd, stdout=side_fd, stderr=side_fd) as child:
        os.close(side_fd)
        try:
            _read_until(main_fd, b"$ ")
            os.write(main_fd, b"echo $((6 * 7)); id -u; exit 5\n")
            seen = _read_until(main_fd, None)
            assert child.wait(PATIENCE_S) == 5
        finally:
            child.terminate()
            os.close(main_fd)
    assert b"42" in seen
    assert b"1000" in seen


def _read_until(fd: int, wanted: bytes | None) -> bytes:
    """What comes until it contains ``wanted``, or to its end; fails when that takes too long."""
    seen, deadline = b"", time.monotonic() + PATIENCE_S
    while wanted is None or wanted not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([fd], [], [], 0.5)[0]:
            try:
                chunk = os.read(fd, 65536)
            except OSError:  # EIO: nobody has the other side any more
                break
            if not chunk:
                break
            seen += chunk
    return seen


def test_a_shell_needs_a_terminal(state: StateDirs) -> None:
    done = lxcbuild(state, "shell")
    assert done.returncode == 10
    assert b"lxcbuild run" in done.stderr


@contextlib.contextmanager
def started(state: StateDirs, marker: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A sandbox that sleeps, once its command runs; killed at the end whatever the test found."""
    command = argv(state, "run", "--", "sh", "-c", "echo up; sleep 1000 & exec sleep 1000")
    with marker.open("wb") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"up\n", marker.read_text()
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_it_within_a_second(state: StateDirs, tmp_path: Path, number: signal.Signals) -> None:
    with started(state, tmp_path / "err") as child:
        before = time.monotonic()
        child.send_signal(number)
        assert child.wait(PATIENCE_S) == 130
        assert quick(time.monotonic() - before, 1)
    assert (tmp_path / "err").read_text().endswith("error: cancelled\n")


def test_nothing_stays_when_the_orchestrator_is_killed(state: StateDirs, tmp_path: Path) -> None:
    with started(state, tmp_path / "err") as child:
        assert len(sandboxes(state)) == 1
        child.kill()
        child.wait()
    # The clean-up runs in another process: it has this long, and then there must be nothing, without any gc.
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and (sandboxes(state) or registry.list_instances(state)):
        time.sleep(0.05)
    assert sandboxes(state) == []
    assert registry.list_instances(state) == []


def sandboxes(state: StateDirs) -> list[str]:
    return [name for name in CgroupHost.detect().list(state.cgroup) if "/" in name]


def test_gc_removes_what_only_looks_alive(state: StateDirs) -> None:
    name = f"{state.cgroup}/left-over"
    CgroupHost.detect().create(name).close()
    (state.instances / "gone").mkdir(parents=True)
    os.utime(state.instances / "gone", (0, 0))
    found = json.loads(lxcbuild(state, "doctor", "--leftovers", "--json").stdout)["leftovers"]
    assert {(each["kind"], each["what"].split()[0]) for each in found} >= {("sandbox", "gone"), ("cgroup", name)}
    dry = lxcbuild(state, "gc", "--dry-run")
    assert dry.returncode == 0
    assert name.encode() in dry.stdout
    assert lxcbuild(state, "doctor", "--leftovers").returncode == 39
    assert lxcbuild(state, "gc").returncode == 0
    assert lxcbuild(state, "doctor", "--leftovers").returncode == 0


def test_gc_spares_the_living(state: StateDirs, tmp_path: Path) -> None:
    with started(state, tmp_path / "err") as child:
        assert lxcbuild(state, "doctor", "--leftovers").returncode == 0
        assert lxcbuild(state, "gc", "--hot").returncode == 0
        assert child.poll() is None
        assert len(sandboxes(state)) == 1
        assert state.hot.is_mount(), "the image is in use"
        child.send_signal(signal.SIGINT)
        assert child.wait(PATIENCE_S) == 130


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("--policy", "defualt"), 21),
        (("--target", "debian/nosuch"), 16),
        (("--target", "debian/$(id)"), 10),
        (("--in", "/nowhere"), 10),
    ],
)
def test_bad_requests_are_refused_before_anything_starts(state: StateDirs, argv: tuple[str, ...], code: int) -> None:
    done = lxcbuild(state, "run", *argv, "--", "true")
    assert done.returncode == code
    assert done.stderr.startswith(b"error: ")
    assert b"hint: " in done.stderr
    assert b"Traceback" not in done.stderr
