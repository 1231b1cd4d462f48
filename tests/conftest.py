"""Fixtures that every kind of test shares."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxcbuild.state.paths import StateDirs
from tests.support.command import Ended, LxcBuild, argv

# Making a base image takes half a minute, so tests share one state directory that outlives the run (its cold cache, at least).
TEST_STATE = Path(os.environ.get("LXCBUILD_TEST_STATE_DIR", "/var/tmp/lxcbuild-tests"))


def pytest_configure() -> None:
    """A job in the background of a script starts with SIGINT ignored, and nohup ignores SIGHUP: children would inherit that, and
    lxcbuild respects it. Tests send these signals, so they begin as on a terminal."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need root are skipped for others, with the reason printed."""
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root: run sudo scripts/test")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """``scripts/test`` runs pytest more than once and closes with one summary: each run leaves its counts and what failed."""
    place = os.environ.get("LXCBUILD_TEST_SUMMARY")
    if place and not hasattr(terminalreporter.config, "workerinput"):  # the parts of a parallel run tell their parent
        stats = terminalreporter.stats
        with Path(place).open("a") as file:
            for kind in ("passed", "failed", "error", "skipped", "xfailed"):
                file.write(f"{kind} {len(stats.get(kind, []))}\n")
            for report in (*stats.get("failed", []), *stats.get("error", [])):
                file.write(f"FAILED {getattr(report, 'nodeid', report)}\n")


@pytest.fixture(scope="session")
def state() -> StateDirs:
    """The state directory of the tests: images and downloads in it are reused from run to run."""
    return StateDirs.choose(TEST_STATE)


@pytest.fixture
def fresh_state(tmp_path: Path) -> StateDirs:
    """An empty state directory of one test."""
    return StateDirs.choose(tmp_path / "state")


@pytest.fixture
def lxcbuild(state: StateDirs) -> LxcBuild:
    """Run ``lxcbuild`` on the tests' state directory."""

    def run(*arguments: str | Path, env: dict[str, str] | None = None) -> Ended:
        done = subprocess.run(
            argv(state, *arguments),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **(env or {})},
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def made_image(state: StateDirs) -> Callable[[str], None]:
    """Make sure that a target's base image is there; made once, kept from run to run."""

    def make(target: str) -> None:
        done = subprocess.run(argv(state, "rootfs", "make", target), capture_output=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr.decode()

    return make


@pytest.fixture
def nothing_left(lxcbuild: LxcBuild, made_image: Callable[[str], None]) -> Iterator[None]:
    """For Debian 12's image: afterwards no process, mount, cgroup or file is on the host that nobody owns."""
    made_image("debian/bookworm")
    yield
    done = lxcbuild("doctor", "--leftovers")
    assert done.status == 0, done.stdout + done.stderr
