"""The doctor's judgements that need no particular host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lxcbuild.cli.sandboxes import bind_inputs
from lxcbuild.errors import InputError
from lxcbuild.host.checks import check_host, known_trouble
from lxcbuild.state.paths import StateDirs


@pytest.mark.parametrize(
    ("library", "binding", "layout", "bad"),
    [
        ("5.0.2", "1:5.0.0-1+b1", "v1", False),
        ("6.0.4", "1:6.0.0-1", "v2", False),
        ("7.0.0", "1:6.0.0-1", "v2", False),
        ("7.0.0", "1:6.0.0-1", "v1", True),
        ("7.1.0", "", "hybrid", True),
        ("3.0.3", "", "v1", True),
        ("5.0.2", "1:3.0.4-1", "v1", True),
        ("nonsense", "", "v2", True),
    ],
)
def test_pairs_of_versions_that_cannot_work_are_known(library: str, binding: str, layout: str, *, bad: bool) -> None:
    assert (known_trouble(library, binding, layout=layout) is not None) is bad


def test_every_complaint_has_a_fix(fresh_state: StateDirs) -> None:
    checks = list(check_host(fresh_state))
    assert {"root", "kernel", "subuid", "cgroups", "lxc", "tools", "memory", "disk", "kvm"} <= {c.name for c in checks}
    assert [check for check in checks if check.verdict != "ok" and not check.fix] == []


def test_the_exit_status_agrees_with_the_document(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lxcbuild", "--state-dir", os.fspath(tmp_path), "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    document = json.loads(done.stdout)
    assert document["ok"] is (done.returncode == 0)
    assert document["ok"] is not any(check["verdict"] == "fail" for check in document["checks"])


def test_inputs_are_named_after_themselves(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b.txt").touch()
    (tmp_path / "link").symlink_to("b.txt")
    binds = bind_inputs([tmp_path / "a", tmp_path / "b.txt", tmp_path / "link", tmp_path / "a" / ".."])
    assert [bind.inside for bind in binds] == ["/in/a", "/in/b.txt", "/in/link", f"/in/{tmp_path.name}"]
    assert binds[2].host == tmp_path / "b.txt"


def test_inputs_that_cannot_be_shown_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x").mkdir()
    (tmp_path / "y/x").mkdir(parents=True)
    for bad in ([tmp_path / "gone"], [tmp_path / "pipe"], [Path("/")], [tmp_path / "x", tmp_path / "y/x"]):
        with pytest.raises(InputError):
            bind_inputs(bad)
