"""States of failed builds: kept within bounds, found again, removed unless somebody looks at them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from lxcbuild.builder.failed import failedstate
from lxcbuild.builder.failed.failedstate import FailedState, KeptCommand
from lxcbuild.builder.failed.reopen import again_script
from lxcbuild.config.retention import FailedStates, load_retention
from lxcbuild.errors import ConfigError, StateGoneError
from lxcbuild.state import data, locks
from lxcbuild.state.paths import StateDirs
from tests.support.capsules import keep, state

MIB = 1 << 20


def ids(places: list[Path]) -> list[str]:
    return [place.name[-1] for place in places]


def several(dirs: StateDirs, count: int, *, bytes_each: int = 0) -> list[Path]:
    return [keep(dirs, state(f"2026112{n}-000000-000{n}"), padding_bytes=bytes_each) for n in range(count)]


def test_a_state_is_read_as_it_was_written(fresh_state: StateDirs) -> None:
    kept = state()
    keep(fresh_state, kept)
    assert failedstate.read(failedstate.place_of(fresh_state, kept.build_id)) == kept
    assert FailedState.from_json(kept.to_json()) == kept


def test_the_newest_are_kept(fresh_state: StateDirs) -> None:
    several(fresh_state, 5)
    gone = failedstate.prune(fresh_state, FailedStates(count=2))
    assert ids(gone) == ["2", "1", "0"]
    assert ids(failedstate.kept(fresh_state)) == ["4", "3"]
    assert failedstate.half_removed(fresh_state) == []


def test_large_ones_make_room(fresh_state: StateDirs) -> None:
    several(fresh_state, 4, bytes_each=MIB)
    assert ids(failedstate.prune(fresh_state, FailedStates(max_bytes=int(2.5 * MIB)))) == ["1", "0"]


def test_old_ones_go(fresh_state: StateDirs) -> None:
    places = several(fresh_state, 3)
    for place, age_s in zip(places, (9 * 86400, 86400, 0), strict=True):
        os.utime(place, (time.time() - age_s,) * 2)
    assert ids(failedstate.prune(fresh_state, FailedStates())) == ["0"]


def test_one_in_use_stays(fresh_state: StateDirs) -> None:
    places = several(fresh_state, 2)
    with locks.shared(failedstate.use_lock(fresh_state, places[0].name)):
        assert ids(failedstate.prune(fresh_state, FailedStates(count=0))) == ["1"]
    assert ids(failedstate.prune(fresh_state, FailedStates(count=0))) == ["0"]


@pytest.mark.parametrize("asked", ["20260101-000000-0000", "../../etc", "", ".old-x"])
def test_what_is_not_kept_is_said(fresh_state: StateDirs, asked: str) -> None:
    several(fresh_state, 1)
    with pytest.raises(StateGoneError) as caught:
        failedstate.place_of(fresh_state, asked)
    assert "not kept" in caught.value.brief
    assert caught.value.resolution


def test_a_damaged_one_is_said(fresh_state: StateDirs) -> None:
    (place,) = several(fresh_state, 1)
    (place / "state.json").write_text("{}")
    with pytest.raises(StateGoneError, match="cannot be read"):
        failedstate.read(place)


def test_the_administrator_says_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, str(tmp_path))
    assert load_retention().failed_states == FailedStates()
    (tmp_path / "retention.yaml").write_text("failed_states: {count: 3, max: 1GiB, max_each: 10MiB, age: 2d}\n")
    found = load_retention().failed_states
    assert (found.count, found.max_bytes, found.max_each_bytes, found.age_s) == (3, 1 << 30, 10 * MIB, 172800.0)
    (tmp_path / "retention.yaml").write_text("failed_state: {}\n")
    with pytest.raises(ConfigError, match="Perhaps you meant 'failed_states'"):
        load_retention()


def test_the_script_repeats_the_command_exactly(tmp_path: Path) -> None:
    command = KeptCommand(
        argv=("sh", "-c", 'printf "%s|%s|%s" "$0" "$1" "$V"; pwd', "it's", "a;b $(id)"),
        env={"V": "two words\n'and' more"},
        cwd=str(tmp_path),
    )
    script = tmp_path / "again"
    script.write_text(again_script(command))
    done = subprocess.run(["sh", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"it's|a;b $(id)|two words\n'and' more{tmp_path}\n"


def test_limits_are_part_of_it(fresh_state: StateDirs) -> None:
    kept = state()
    changed = replace(kept, limits=replace(kept.limits, pids_max=17))
    assert FailedState.from_json(changed.to_json()).limits.pids_max == 17
