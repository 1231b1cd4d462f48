"""The commands of docs/tutorial/own-project.md, as they stand there, up to a repository with the second version."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from lxcbuild.cli.options import host_target
from lxcbuild.state.paths import StateDirs
from tests import ROOT
from tests.support.command import argv

pytestmark = [pytest.mark.root, pytest.mark.network]


def commands(title: str) -> str:
    """The first block of commands below a heading that ends with this title."""
    page = (ROOT / "docs" / "tutorial" / "own-project.md").read_text()
    found = re.search(rf"^## \d\. {title}\n.*?^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def test_the_tutorial_works_as_it_is_written(state: StateDirs, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "lxcbuild").write_text(f'#!/bin/sh\nexec {shlex.join(argv(state))} "$@"\n')
    (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    publish = "\n".join(commands("Publish a new version").splitlines()[:3])
    steps = [
        commands("Make a project"),
        commands("Build it"),
        commands("Look inside"),
        commands("Make a repository"),
        publish,
    ]
    script = "set -eu\n" + "\n".join(steps).replace("/srv/apt", f"{tmp_path}/apt").replace(
        "debian/bookworm", str(host_target())
    )
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "HOME": os.fspath(tmp_path), "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Depends: python3-click" in done.stdout
    pool = [path.name for path in (tmp_path / "apt" / "pool").rglob("*.deb")]
    assert any(name.startswith("python3-wordtally_1.1-") for name in pool)
