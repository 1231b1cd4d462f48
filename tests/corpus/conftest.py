"""Fixtures of the corpus: real builds with policies that are as tight as the tests are short."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.state.paths import StateDirs
from tests.support.command import argv

TARGET = "debian/bookworm"
#: Roomy enough for an honest build, small enough that a dishonest one is over within seconds.
POLICY = """\
description: Small
inherits: default
memory: {max: 384MiB}
disk: {max: 128MiB, max_inodes: 20000, retry_factor: 1}
pids: {max: 96}
time: {wall: 60s, silence: 15s}
log: {max: 1MiB, max_line: 4KiB}
"""


@dataclass(frozen=True)
class Built:
    """A ``lxcbuild build`` that has ended."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def build(self) -> dict[str, Any]:
        """The outcome of the one build."""
        (build,) = json.loads(self.stdout)["builds"]
        return dict(build)

    @property
    def failure_class(self) -> str | None:
        """Why it failed."""
        return self.build["failure"] and self.build["failure"]["class"]


Builder = Callable[..., Built]


@pytest.fixture
def command(state: StateDirs, tmp_path: Path) -> Callable[..., Built]:
    """Run ``lxcbuild`` with the policy ``tight`` at hand; ``policy`` adds lines to it."""

    def run(*arguments: str | Path, policy: str = "") -> Built:
        config = tmp_path / "config"
        (config / "cgroups").mkdir(parents=True, exist_ok=True)
        (config / "cgroups/small.yaml").write_text(POLICY)
        (config / "cgroups/tight.yaml").write_text(f"description: Tight\ninherits: small\n{policy}")
        done = subprocess.run(
            argv(state, *arguments),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LXCBUILD_CONFIG_DIR": os.fspath(config)},
        )
        return Built(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def build(command: Callable[..., Built]) -> Iterator[Builder]:
    """Build one archive; afterwards nothing of it may be left on the host."""

    def run(archive: Path, *options: str, policy: str = "") -> Built:
        return command("build", archive, "--json", "--policy", "tight", "--target", TARGET, *options, policy=policy)

    yield run
    done = command("doctor", "--leftovers")
    assert done.status == 0, done.stdout.decode()
