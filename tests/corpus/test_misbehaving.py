"""Projects that misbehave while they are built: each gets the class that says why, in time, and harms nobody."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.state.paths import StateDirs
from tests.corpus.packing import MISBEHAVING, sdist

pytestmark = [pytest.mark.root, pytest.mark.network]

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

#: Project, policy on top of the small one, class, phase, and the seconds that the whole command may take beyond an honest build.
CASES = [
    ("waits_on_stdin", "", "compile-failed", "compile", 0),
    ("makes_etc_directory", "", "wrote-outside", "compile", 0),
    ("fills_tmp", "", "disk-full", "compile", 5),
    ("fills_tmp_and_cleans_up", "", "disk-full", "compile", 5),
    ("prints_for_ever", "", "log-flood", "compile", 5),
    ("sleeps", "time: {wall: 60s, silence: 3s}\n", "silent", "compile", 3),
    ("spins_loudly", "time: {wall: 12s}\n", "timeout", "compile", 12),
    ("forks_without_end", "pids: {max: 40}\n", "pids-exhausted", "compile", 5),
    ("takes_all_memory", "", "oom", "compile", 5),
    ("lacks_requirements", "", "broken-sdist", "compile", 0),
    ("downloads", "", "network-denied", "compile", 0),
    ("clones_repository", "", "network-denied", "compile", 0),
    ("absolute_data_files", "", "gate-rejected", "verify", 0),
    ("version_from_clock", "", "gate-rejected", "verify", 0),
]
HONEST_S = 60.0
#: Same kinds as others of the list, or long ones.
LESS_OFTEN = ("clones_repository", "version_from_clock")
#: Builds that succeed, with what is said about them: a note that begins so; None where there is nothing to say.
FLAGGED = {
    "setup_requires_from_index": None,
    "ships_tests": "left out, because every project would have them: the top-level modules docs, tests ",
    "ships_bytecode": "2 shipped bytecode files were left out",
    "native_code": "native-code: compiled for the processor of this machine",
}
MORE = {"ships_bytecode": {f"shipsbytecode/{name}": b"x" for name in ("old.pyc", "__pycache__/old.cpython-36.pyc")}}


@pytest.mark.parametrize(
    ("project", "policy", "failure", "phase", "more_s"),
    [pytest.param(*case, marks=[pytest.mark.slow] if case[0] in LESS_OFTEN else [], id=case[0]) for case in CASES],
)
def test_the_class_says_why(
    build: Any, tmp_path: Path, project: str, policy: str, failure: str, phase: str, more_s: float
) -> None:
    begun = time.monotonic()
    done = build(sdist(MISBEHAVING / project, tmp_path), policy=policy)
    assert time.monotonic() - begun < HONEST_S + more_s
    assert done.status != 0
    found = done.build["failure"]
    assert (found["class"], found["phase"]) == (failure, phase), found
    assert done.build["artifacts"] == []
    assert b"Traceback" not in done.stderr, "a build that fails is no bug of ours"


@pytest.mark.parametrize(
    "project", [pytest.param(name, marks=[] if name == "ships_tests" else [pytest.mark.slow]) for name in FLAGGED]
)
def test_what_is_no_reason_to_fail_is_flagged(build: Any, tmp_path: Path, project: str) -> None:
    done = build(sdist(MISBEHAVING / project, tmp_path, more=MORE.get(project)))
    assert done.build["status"] == "built", done.build["failure"]
    said = FLAGGED[project]
    assert said is None or any(note.startswith(said) for note in done.build["notes"]), done.build["notes"]
    (deb,) = [item["path"] for item in done.build["artifacts"] if item["path"].endswith(".deb")]
    listed = subprocess.run(["dpkg-deb", "--contents", deb], check=True, capture_output=True, text=True).stdout
    assert not re.search(r"dist-packages/(?:tests|docs)\b|\.pyc\b", listed)


def test_a_full_disk_is_tried_once_more_with_more_room(build: Any, tmp_path: Path) -> None:
    done = build(sdist(MISBEHAVING / "needs_more_room", tmp_path), policy="disk: {retry_factor: 2}\n")
    assert done.build["status"] == "built", done.build["failure"]
    (note,) = [note for note in done.build["notes"] if note.startswith("disk-full")]
    assert "128 MiB" in note
    assert "256MiB" in note
    assert [phase["name"] for phase in done.build["phases"]].count("compile") == 2


@pytest.mark.slow
def test_what_fills_any_disk_is_tried_twice_and_no_more(build: Any, tmp_path: Path) -> None:
    done = build(sdist(MISBEHAVING / "fills_tmp", tmp_path), policy="disk: {retry_factor: 2}\n")
    assert (done.build["failure"]["class"], done.build["failure"]["phase"]) == ("disk-full", "compile")
    assert "256 MiB" in done.build["failure"]["brief"]
    assert [phase["name"] for phase in done.build["phases"]].count("compile") == 2


def test_writes_outside_are_flagged_and_do_not_matter(build: Any, tmp_path: Path) -> None:
    done = build(sdist(MISBEHAVING / "writes_outside_quietly", tmp_path))
    assert done.build["status"] == "built"
    (note,) = [note for note in done.build["notes"] if note.startswith("wrote-outside")]
    # Nothing but the lock directory is the build user's to write.
    assert "/run/lock/quiet-marker" in note
    assert "/etc" not in note
    assert not any(Path(place, "quiet-marker").exists() for place in ("/etc", "/usr/lib", "/opt", "/run/lock"))
    assert_costs_are_recorded(done)


def assert_costs_are_recorded(done: Any) -> None:
    """What each phase of an honest build took, by the kernel's counters: more than nothing, within the limits."""
    phases = {phase["name"]: phase for phase in done.build["phases"]}
    for name in ("inspect", "debianize", "compile", "verify"):
        cost = phases[name]
        assert 0 < cost["cpu_s"] < 120
        assert 5 << 20 < cost["peak_memory_bytes"] <= 384 << 20
        assert 2 <= cost["peak_pids"] <= 96
        assert 0 < cost["peak_disk_bytes"] < 140 << 20
        assert cost["throttled_s"] == 0
        assert (cost["oom_kills"], cost["pids_denied"]) == (0, 0)
    assert phases["compile"]["cpu_s"] > phases["inspect"]["cpu_s"]


def test_what_wanted_the_network_is_named(build: Any, tmp_path: Path) -> None:
    done = build(sdist(MISBEHAVING / "downloads", tmp_path))
    failure = done.build["failure"]
    assert failure["brief"] == "github.com:443 (python3 build_wheel), phase compile"
    assert "build_wheel" in failure["details"]
    assert "proxy_hosts" in failure["resolution"]
    assert "github.com:443" in Path(done.build["log"]).read_text()


def test_wishing_for_the_network_is_noted_and_does_not_matter(build: Any, tmp_path: Path) -> None:
    done = build(sdist(MISBEHAVING / "downloads_if_it_can", tmp_path))
    assert done.build["status"] == "built"
    (note,) = [note for note in done.build["notes"] if note.startswith("network-denied")]
    assert "stats.example.org:8080 (python3 " in note


def test_escape_codes_stay_inside(build: Any, command: Any, tmp_path: Path, state: StateDirs) -> None:
    archive = sdist(MISBEHAVING / "paints_the_terminal", tmp_path)
    done = build(archive)
    assert done.build["status"] == "built"
    log = Path(done.build["log"]).read_bytes().decode("utf-8")
    assert "red" in log
    assert not CONTROL.search(log), CONTROL.search(log)
    shown = command("log", done.build["id"])
    assert "red" in shown.stdout.decode()
    assert not CONTROL.search(shown.stdout.decode())
    spoken = command("--verbose", "build", archive, "--policy", "tight", "--target", "debian/bookworm")
    assert "red" in spoken.stderr.decode()
    assert not CONTROL.search(spoken.stderr.decode() + spoken.stdout.decode())


@pytest.mark.slow
def test_stdeb_takes_a_project_that_says_nothing_of_itself(build: Any, tmp_path: Path) -> None:
    """Its setup.py has no description, which stdeb by itself falls over."""
    done = build(sdist(MISBEHAVING / "setup_requires_from_index", tmp_path), "--converter", "stdeb")
    assert done.build["status"] == "built", done.build["failure"]
