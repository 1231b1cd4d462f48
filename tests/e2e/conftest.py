"""Fixtures of the tests that run the command as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.config.paths import StateDirs


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """What a ``--json`` run printed."""
        parsed: dict[str, Any] = json.loads(self.stdout)
        return parsed


LxcBuild = Callable[..., Ended]


def argv(state: StateDirs, *arguments: str | Path) -> list[str]:
    own = [sys.executable, "-m", "lxcbuild", "--state-dir", os.fspath(state.lib.parent)]
    return [*own, *(os.fspath(item) for item in arguments)]


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
