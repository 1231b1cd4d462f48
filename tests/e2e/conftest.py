"""Fixtures of the tests that run the command as a user does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxcbuild.state.paths import StateDirs
from tests.e2e.command import Ended, LxcBuild, argv


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
