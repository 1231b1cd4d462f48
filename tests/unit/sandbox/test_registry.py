"""Records of sandboxes: who is alive, who is not, what is swept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lxcbuild.errors import BadNameError, SandboxError
from lxcbuild.sandbox import registry
from lxcbuild.sandbox.registry import Registration
from lxcbuild.state.paths import StateDirs


def test_a_record_says_who_owns_the_sandbox(fresh_state: StateDirs) -> None:
    registration = Registration.create(fresh_state, "one")
    registration.update(launcher_pid=os.getpid(), id_start=165536)
    (record,) = registry.list_instances(fresh_state)
    assert record == registration.record
    assert (record.owner_pid, record.launcher_pid, record.id_start) == (os.getpid(), os.getpid(), 165536)
    assert record.owner_started == registry.started_ticks(os.getpid())
    assert record.cgroup == f"{fresh_state.cgroup}/one"
    assert json.loads((record.directory / "record.json").read_text())["version"] == 1
    registration.release()
    registration.release()
    assert registry.list_instances(fresh_state) == []


def test_the_living_are_not_swept(fresh_state: StateDirs) -> None:
    registration = Registration.create(fresh_state, "one")
    (record,) = registry.list_instances(fresh_state)
    assert registry.is_live(record)
    assert registry.sweep(record) == []
    assert record.directory.is_dir()
    registration.release()


def test_an_owner_that_was_killed_is_dead_and_its_record_is_swept(fresh_state: StateDirs) -> None:
    script = (
        "import os, sys; from lxcbuild.state.paths import StateDirs; from lxcbuild.sandbox.registry import Registration;"
        f"Registration.create(StateDirs.choose({os.fspath(fresh_state.run.parent)!r}), 'one');"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    (record,) = registry.list_instances(fresh_state)
    assert not registry.is_live(record)
    assert registry.sweep(record) == [f"record {record.directory}"]
    assert registry.list_instances(fresh_state) == []


@pytest.mark.parametrize("content", [None, "", "{}", '{"version": 2}', '{"version": 1, "unknown": 1}', "[]"])
def test_a_broken_record_is_listed_as_left_over(fresh_state: StateDirs, content: str | None) -> None:
    directory = fresh_state.instances / "broken"
    directory.mkdir(parents=True)
    if content is not None:
        (directory / "record.json").write_text(content)
    (record,) = registry.list_instances(fresh_state)
    assert (record.instance_id, record.owner_pid) == ("broken", 0)
    assert not registry.is_live(record)


def test_an_id_is_used_once_and_is_a_plain_word(fresh_state: StateDirs) -> None:
    registration = Registration.create(fresh_state, "one")
    with pytest.raises(SandboxError, match="already"):
        Registration.create(fresh_state, "one")
    for bad in ("", "../x", "a/b", ".hidden", "a" * 65, "a\n"):
        with pytest.raises(BadNameError):
            Registration.create(fresh_state, bad)
    registration.release()


def test_no_state_directory_means_no_instances(tmp_path: Path) -> None:
    assert registry.list_instances(StateDirs.choose(tmp_path / "nothing")) == []


def test_a_half_made_record_has_no_owner_once_its_process_is_gone(fresh_state: StateDirs) -> None:
    fresh_state.instances.mkdir(parents=True)
    dead = subprocess.Popen(["true"])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (fresh_state.instances / f".{pid}.one").mkdir()
    assert registry.list_instances(fresh_state) == []
    assert [path.name for path in registry.half_made(fresh_state)] == [f".{dead.pid}.one"]
    assert len(registry.half_made(fresh_state, dead_pid=os.getpid())) == 2


def test_an_id_in_use_is_refused_and_leaves_nothing(fresh_state: StateDirs) -> None:
    first = registry.Registration.create(fresh_state, "one")
    with pytest.raises(SandboxError, match="already"):
        registry.Registration.create(fresh_state, "one")
    assert [path.name for path in fresh_state.instances.iterdir()] == ["one"]
    first.release()
    assert list(fresh_state.instances.iterdir()) == []
