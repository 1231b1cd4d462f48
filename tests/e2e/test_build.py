"""``lxcbuild build`` on real projects of the index: what comes out, what is recorded, what is left behind."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.images.store import ImageStore
from lxcbuild.model import Target
from lxcbuild.state.paths import StateDirs
from tests.support.command import LxcBuild, argv
from tests.support.timing import quick

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.usefixtures("nothing_left")]

SUITES = ("debian/bookworm", "debian/trixie")
KINDS = (".deb", ".dsc", ".changes", ".buildinfo")


def installs_and_imports(state: StateDirs, target: str, deb: Path, module: str, scratch: Path) -> str:
    """Install with apt in a fresh overlay of the image, by chroot: none of our own sandbox is involved. The module's file."""
    store = ImageStore(state)
    image = store.get(Target.parse(target)).path
    for name in ("upper", "work", "root"):
        (scratch / name).mkdir()
    script = f"""
        set -e
        mount -t tmpfs none {scratch}/upper; mkdir {scratch}/upper/u {scratch}/upper/w
        mount -t overlay -o lowerdir={image},upperdir={scratch}/upper/u,workdir={scratch}/upper/w none {scratch}/root
        mount -t proc none {scratch}/root/proc
        cp {deb} {scratch}/root/tmp/package.deb
        chroot {scratch}/root /usr/bin/env DEBIAN_FRONTEND=noninteractive apt-get install -y -q /tmp/package.deb >&2
        chroot {scratch}/root python3 -c 'import {module}; print({module}.__file__)'
    """
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--net", "sh", "-c", script], capture_output=True, text=True
    )
    store.close()
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("target", SUITES)
@pytest.mark.parametrize("project", ["six", "idna", "click"])
def test_a_project_becomes_a_package_that_installs_and_imports(
    project: str,
    target: str,
    lxcbuild: LxcBuild,
    made_image: Callable[[str], None],
    state: StateDirs,
    tmp_path: Path,
) -> None:
    made_image(target)
    out = tmp_path / "out"
    done = lxcbuild("build", project, "--force", "--rebuild", "--target", target, "-o", out, "--json")
    assert done.status == 0, done.stdout + done.stderr
    (build,) = done.document["builds"]
    assert (build["name"], build["target"], build["status"], build["failure"]) == (project, target, "built", None)
    by_kind = {kind: [a for a in build["artifacts"] if a["path"].endswith(kind)] for kind in KINDS}
    assert {kind: len(found) for kind, found in by_kind.items()} == dict.fromkeys(KINDS, 1)
    for artifact in build["artifacts"]:
        content = Path(artifact["path"]).read_bytes()
        assert Path(artifact["path"]).parent == out
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
        assert len(content) == artifact["bytes"]
    assert [phase["name"] for phase in build["phases"]] == [
        "resolve", "fetch", "inspect", "provision", "debianize", "compile", "verify", "collect",
    ]  # fmt: skip
    compile_phase = build["phases"][5]
    assert compile_phase["cpu_s"] > 0.1
    assert compile_phase["peak_memory_bytes"] > 10 << 20
    limits = build["limits_in_force"]
    assert limits["memory.max"]["value"]
    assert Path(build["log"]).read_text().count("=== ") >= 8
    deb = Path(by_kind[".deb"][0]["path"])
    where = installs_and_imports(state, target, deb, project, tmp_path)
    assert where.startswith("/usr/lib/python3/dist-packages/")


def test_an_archive_is_read_once_and_makes_the_same_packages(
    lxcbuild: LxcBuild, made_image: Callable[[str], None], state: StateDirs
) -> None:
    made_image("debian/bookworm")
    shutil.rmtree(state.cache / "readings", ignore_errors=True)
    memory, made = [], []
    for _ in range(3):
        (build,) = lxcbuild("build", "idna==3.10", "--force", "--rebuild", "--json").document["builds"]
        assert build["status"] == "built", build
        memory.append(build["phases"][2]["peak_memory_bytes"])
        made.append(
            {Path(item["path"]).name: item["sha256"] for item in build["artifacts"] if "amd64" not in item["path"]}
        )
        if len(made) == 2:
            for path in (state.cache / "readings").glob("*/*"):
                path.write_bytes(b"")  # as after a power cut
    assert [bytes_ > 0 for bytes_ in memory] == [True, False, True]
    assert made[0] == made[1] == made[2]


def test_what_the_distribution_ships_is_not_built(lxcbuild: LxcBuild, made_image: Callable[[str], None]) -> None:
    made_image("debian/bookworm")
    done = lxcbuild("build", "six", "--target", "debian/bookworm", "--json")
    (build,) = done.document["builds"]
    assert (done.status, build["status"], build["artifacts"]) == (0, "official", [])
    assert build["version"].startswith("1.16.0-")


def test_stdeb_converts_where_it_is_asked_for(
    lxcbuild: LxcBuild, made_image: Callable[[str], None], tmp_path: Path
) -> None:
    made_image("debian/bookworm")
    arguments = ("build", "six", "--force", "--rebuild", "--target", "debian/bookworm", "--converter", "stdeb")
    done = lxcbuild(*arguments, "-o", tmp_path, "--json")
    assert done.status == 0, done.stdout + done.stderr
    (dsc,) = tmp_path.glob("*.dsc")
    assert "dh-python" in dsc.read_text()
    log = lxcbuild("log", done.document["builds"][0]["id"])
    assert "sdist_dsc" in log.stdout or "stdeb" in log.stdout


def test_history_and_log_know_every_build(lxcbuild: LxcBuild, made_image: Callable[[str], None]) -> None:
    made_image("debian/bookworm")
    build = lxcbuild("build", "six", "--target", "debian/bookworm", "--json").document["builds"][0]
    recorded = lxcbuild("history", "--limit", "1", "--json").document["builds"][0]
    assert {key: recorded[key] for key in ("id", "name", "version", "status")} == {
        key: build[key] for key in ("id", "name", "version", "status")
    }
    assert lxcbuild("log", build["id"]).status == 0


BAD_INPUT: list[tuple[list[str], int, str]] = [
    (["build", "no-such-project-of-anybody-9"], 11, "knows no project"),
    (["build", "idna==99.9"], 12, "no release"),
    (["build", "torch==2.0.0", "--force"], 14, "no source archive"),
    (["build", "idna", "--target", "debian/potato"], 16, "no recipe"),
    (["build", "idna;reboot"], 10, "not a requirement"),
    (["build", "$(reboot)"], 10, "not a requirement"),
    (["build", "x' OR '1'='1"], 10, "not a requirement"),
    (["build", "./missing-1.0.tar.gz"], 10, "no file or directory"),
    (["build", "idna", "--policy", "defualt"], 21, "Perhaps you meant 'default'"),
    (["build", "idna", "--target", "ubuntu/jammy", "--force"], 41, "no base image"),
    (["build"], 2, "nothing to build"),
    (["log", "nothing-of-that-name"], 17, "knows no build"),
]


@pytest.mark.parametrize(("arguments", "status", "said"), BAD_INPUT, ids=[" ".join(row[0]) for row in BAD_INPUT])
def test_bad_input_is_told_in_one_line_with_a_hint_and_its_own_status(
    arguments: list[str], status: int, said: str, lxcbuild: LxcBuild, made_image: Callable[[str], None]
) -> None:
    made_image("debian/bookworm")
    if arguments[0] == "build" and len(arguments) > 1 and "--target" not in arguments:
        arguments = [*arguments, "--target", "debian/bookworm"]
    done = lxcbuild(*arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.status, len(errors)) == (status, 1), done.stderr
    assert said in errors[0]
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_without_root_the_answer_is_sudo(state: StateDirs) -> None:
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    if subprocess.run([*nobody, "test", "-r", Path(__file__)]).returncode != 0:
        pytest.skip("this checkout lies where other users cannot read it")
    done = subprocess.run(
        [*nobody, *argv(state, "build", "six")],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (done.returncode, "sudo" in done.stderr) == (31, True), done.stderr


def started_build(state: StateDirs, phase: str) -> subprocess.Popen[str]:
    """A build that has just entered the phase."""
    child = subprocess.Popen(
        argv(state, "--log-format", "json", "build", "six", "--force", "--rebuild", "--target", "debian/bookworm"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stderr is not None
    seen: list[Any] = []
    for line in child.stderr:
        seen.append(line)
        event = json.loads(line)
        if (event["event"], event.get("phase")) == ("PhaseStarted", phase):
            return child
    raise AssertionError(f"the build never entered {phase}: {seen[-1]}")


def test_ctrl_c_ends_a_build_in_a_second(
    lxcbuild: LxcBuild, made_image: Callable[[str], None], state: StateDirs
) -> None:
    made_image("debian/bookworm")
    child = started_build(state, "compile")
    time.sleep(0.3)  # well inside dpkg-buildpackage
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    took = time.monotonic() - began
    assert child.returncode == 130, err
    assert "Traceback" not in err
    assert quick(took, 1.0)
    assert lxcbuild("history", "--limit", "1", "--json").document["builds"][0]["status"] == "cancelled"


@pytest.mark.parametrize("phase", ["inspect", "debianize", "compile", "verify"])
def test_a_killed_build_leaves_nothing(
    phase: str, lxcbuild: LxcBuild, made_image: Callable[[str], None], state: StateDirs
) -> None:
    made_image("debian/bookworm")
    shutil.rmtree(state.cache / "readings", ignore_errors=True)  # else there is no sandbox in inspect
    child = started_build(state, phase)
    time.sleep(0.1)
    child.kill()
    child.communicate(timeout=20)
    deadline = time.monotonic() + 10.0
    while (done := lxcbuild("doctor", "--leftovers")).status != 0 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert done.status == 0, done.stdout
    assert lxcbuild("history", "--limit", "1", "--json").document["builds"][0]["status"] == "cancelled"


def test_a_project_directory_is_built_as_it_lies(
    lxcbuild: LxcBuild, made_image: Callable[[str], None], tmp_path: Path
) -> None:
    made_image("debian/bookworm")
    project = tmp_path / "some checkout"
    (project / "src" / "tiny_thing").mkdir(parents=True)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=61"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "tiny-thing"\nversion = "0.3"\ndescription = "A tiny thing"\n'
    )
    (project / "src" / "tiny_thing" / "__init__.py").write_text("answer = 42\n")
    subprocess.run(["git", "init", "-q", project], check=True)
    done = lxcbuild("build", project, "--target", "debian/bookworm", "-o", tmp_path / "out", "--json")
    assert done.status == 0, done.stdout + done.stderr
    (build,) = done.document["builds"]
    assert (build["name"], build["version"], build["status"]) == ("tiny-thing", "0.3", "built")
    assert [path.name for path in (tmp_path / "out").glob("*.deb")] == [
        "python3-tiny-thing_0.3-0~lxcbuild1~deb12_all.deb"
    ]
