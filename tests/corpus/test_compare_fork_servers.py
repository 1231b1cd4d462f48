"""scripts/compare-fork-servers: what it takes for a difference, and that a suite of today passes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lxcbuild.state.paths import StateDirs
from tests.corpus import fork_servers


def _built(place: Path, **content: str) -> dict[str, Path]:
    place.mkdir()
    paths = {name: place / name for name in (f"x.{suffix}" for suffix in content)}
    for path, text in zip(paths.values(), content.values(), strict=True):
        path.write_text(text)
    return paths


def test_only_the_lines_that_say_when_may_differ(tmp_path: Path) -> None:
    info, changes = "Source: x\nBuild-Date: {}\nVersion: {}\n", "Files:\n {} 70 x.buildinfo\n {} 90 x.deb\n"
    one = _built(tmp_path / "1", deb="same", buildinfo=info.format(1, 1), changes=changes.format(1, 1))
    two = _built(tmp_path / "2", deb="same", buildinfo=info.format(2, 1), changes=changes.format(2, 1))
    assert fork_servers.differing(one, two) == []
    other = _built(tmp_path / "3", deb="other", buildinfo=info.format(1, 2), changes=changes.format(1, 2), dsc="")
    assert fork_servers.differing(one, other) == ["x.buildinfo", "x.changes", "x.deb", "x.dsc"]


@pytest.mark.root
@pytest.mark.network
@pytest.mark.slow
def test_both_ways_build_the_same_package_for_debian_12(state: StateDirs, tmp_path: Path) -> None:
    rows, script = tmp_path / "rows.json", Path(fork_servers.__file__)
    options = ("--target", "debian/bookworm", "--sample", "pure", "--json", os.fspath(rows))
    own = ("--state-dir", os.fspath(state.lib.parent))
    done = subprocess.run([sys.executable, script, *own, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(rows.read_text())
    assert (row["differing"], row["files"]) == ([], 6)
    assert row["served"]["peak_pids"] > row["alone"]["peak_pids"]
