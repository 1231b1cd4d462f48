"""A build that failed opens again as it was, here and out of a file on a machine that has nothing; an override mends it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.errors import StateGoneError
from lxcbuild.state.paths import StateDirs
from tests.corpus import packing
from tests.support.command import argv

pytestmark = [pytest.mark.root, pytest.mark.network]

#: What waits_on_stdin says when nobody answers.
SAID = "EOFError: EOF when reading a line"
PATCH = """\
--- a/setup.py
+++ b/setup.py
@@ -4 +4 @@
-{old}
+{new}
"""


def other_machine(place: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    own = [sys.executable, "-m", "lxcbuild", "--state-dir", os.fspath(place)]
    return subprocess.run([*own, *map(os.fspath, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def failed(command: Any, tmp_path: Path) -> Any:
    """A build of a project that asks a question, saved as a capsule; afterwards its state is forgotten."""
    archive = packing.sdist(packing.MISBEHAVING / "waits_on_stdin", tmp_path)
    target = ("--policy", "tight", "--target", "debian/bookworm")
    done = command("build", archive, "--json", *target, f"--capsule={tmp_path}")
    yield done.build
    assert command("gc", "--failed").status == 0
    gone = command("shell", "--failed", "--again")
    assert gone.status == StateGoneError.exit_code
    left = command("doctor", "--leftovers", "--json")
    assert left.status == 0, left.stdout.decode()
    assert json.loads(left.stdout)["failed_states"] == {"count": 0, "bytes": 0}


def test_the_state_opens_here_and_on_another_machine(
    failed: Any, command: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert failed["failure"]["class"] == "compile-failed"
    script = "pwd; echo $SOURCE_DATE_EPOCH; id -un; ls; touch /etc/x; cat /in/source/* | wc -c; sh /lxcbuild/again"
    looked = command("shell", "--failed", failed["id"], "--json", "--", "sh", "-c", script)
    here = json.loads(looked.stdout)
    assert (here["exit_status"], here["failed_command"][0]) == (2, "dpkg-buildpackage")
    assert here["output"].startswith("/build/python-waits-on-stdin-1.0\n1577836800\nbuild\n")
    assert "setup.py" in here["output"]
    assert "'/etc/x': Permission denied" in here["output"]
    assert SAID in here["output"]

    (capsule,) = tmp_path.glob("*.capsule")
    place = tmp_path_factory.mktemp("other") / "state"
    shown = json.loads(other_machine(place, "capsule", "show", capsule, "--json").stdout)
    assert shown["record"]["failure"] == failed["failure"]
    assert shown["failed_command"] == here["failed_command"]
    there = other_machine(place, "capsule", "open", capsule, "--again", "--json")
    assert json.loads(there.stdout)["exit_status"] == 2, there.stderr
    assert SAID in json.loads(there.stdout)["output"]
    # Nothing of it has become an image of that machine, and nothing was left.
    assert not (place / "cache" / "images").exists()
    assert not any((place / "run" / "hot").iterdir())
    assert other_machine(place, "doctor", "--leftovers").returncode == 0
    # Without images in it, a capsule needs the same ones.
    slim = tmp_path / "slim.capsule"
    assert command("capsule", "save", failed["id"], "--slim", "-o", slim).status == 0
    assert slim.stat().st_size < 1 << 20
    elsewhere = other_machine(place, "capsule", "open", slim, "--again")
    assert elsewhere.returncode == StateGoneError.exit_code
    assert command("capsule", "open", slim, "--", "pwd").stdout == b"/build/python-waits-on-stdin-1.0\n"
    assert other_machine(place, "gc", "--hot").returncode == 0


def test_nothing_draws_over_the_shell_of_a_failed_state(failed: Any, state: StateDirs) -> None:
    """On a terminal progress is drawn again and again; a prompt in the same line would vanish."""
    main_fd, side_fd = os.openpty()
    shell = argv(state, "shell", "--failed", failed["id"])
    with subprocess.Popen(shell, stdin=side_fd, stdout=side_fd, stderr=side_fd) as child:
        os.close(side_fd)
        try:
            seen = read_until(main_fd, b"$ ")
            os.write(main_fd, b"sleep 1; exit 5\n")
            seen += read_until(main_fd, None)
            assert child.wait(60) == 5
        finally:
            child.terminate()
            os.close(main_fd)
    said = seen[seen.index(b"to repeat it:") :]
    assert b"\x1b[2K" not in said, said


def read_until(fd: int, wanted: bytes | None) -> bytes:
    """What comes until it contains ``wanted``, or to its end; fails when that takes too long."""
    seen, deadline = b"", time.monotonic() + 60
    while wanted is None or wanted not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([fd], [], [], 0.5)[0]:
            try:
                chunk = os.read(fd, 65536)
            except OSError:  # EIO: nobody has the other side any more
                break
            if not chunk:
                break
            seen += chunk
    return seen


def test_an_override_mends_it_and_a_build_that_succeeds_keeps_nothing(
    command: Any, tmp_path: Path, state: StateDirs
) -> None:
    archive = packing.sdist(packing.MISBEHAVING / "waits_on_stdin", tmp_path)
    lines = (packing.MISBEHAVING / "waits_on_stdin" / "setup.py").read_text().splitlines()
    (number, old), *_ = [(n, line) for n, line in enumerate(lines, 1) if "input(" in line]
    overrides = tmp_path / "overrides"
    overrides.mkdir()
    indent = old[: len(old) - len(old.lstrip())]
    new = f'{indent}import os; name = os.environ["ANSWER"]'
    patch = PATCH.replace("@@ -4 +4 @@", f"@@ -{number} +{number} @@").format(old=old, new=new)
    (overrides / "answer.patch").write_text(patch)
    (overrides / "waits-on-stdin.yaml").write_text("patches: [answer.patch]\nenvironment: {ANSWER: waits_on_stdin}\n")
    done = command(
        "build", archive, "--json", "--policy", "tight", "--target", "debian/bookworm", "--overrides", overrides
    )
    assert done.build["status"] == "built", done.stderr.decode()
    told = "override overrides/waits-on-stdin.yaml: ANSWER=waits_on_stdin; patch answer.patch"
    assert told in done.build["notes"]
    assert told in command("explain", done.build["id"]).stdout.decode()
    assert not (state.failed / done.build["id"]).exists()
    source = next(item["path"] for item in done.build["artifacts"] if item["path"].endswith(".debian.tar.xz"))
    listed = subprocess.run(["tar", "-tf", source], capture_output=True, text=True, check=True).stdout
    assert "debian/patches/answer.patch" in listed
