"""Fixtures that every kind of test shares."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from lxcbuild.state.paths import StateDirs

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


@pytest.fixture(scope="session")
def state() -> StateDirs:
    """The state directory of the tests: images and downloads in it are reused from run to run."""
    return StateDirs.choose(TEST_STATE)


@pytest.fixture
def fresh_state(tmp_path: Path) -> StateDirs:
    """An empty state directory of one test."""
    return StateDirs.choose(tmp_path / "state")
