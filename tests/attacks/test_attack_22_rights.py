"""Attack 22: the exact rights of every step of every phase of a real build, and of installations as the inner root."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lxcbuild.builder.work import Work
from lxcbuild.cli.main import run_command_line
from lxcbuild.images.install import provision_policy
from lxcbuild.sandbox.base import Instance, OutputSink, Step, StepResult, User
from lxcbuild.sandbox.lxc import LxcInstance
from lxcbuild.state.paths import StateDirs

pytestmark = pytest.mark.root

NONE, INSTALLER = "0" * 16, f"{0x1FB:016x}"
#: Of /proc/self/status, as the policy has it for each user.
RIGHTS = {
    user: {
        "Uid": " ".join([uid] * 4), "Gid": " ".join([uid] * 4), "CapInh": NONE, "CapPrm": capabilities, "CapEff": capabilities,
        "CapBnd": capabilities, "CapAmb": NONE, "NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "2",
    }
    for user, uid, capabilities in ((User.BUILD, "1000", NONE), (User.ROOT, "0", INSTALLER))
}  # fmt: skip
PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "lxcbuild-rights"
version = "1.0"
description = "Says what its own build may do"
"""
# The package's own code looks too, while it is being built, and fails the build when it may do anything.
SETUP = """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
rights = [status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")]
if rights != ["0" * 16] * 5 + ["1", "2"]:
    raise SystemExit("unexpected rights: " + repr(rights))
from setuptools import setup
setup(py_modules=["lxcbuild_rights"])
"""


def rights(instance: Instance, user: User, run: Callable[[Instance, Step, OutputSink], StepResult]) -> dict[str, str]:
    parts: list[bytes] = []
    assert run(instance, Step(argv=("/bin/cat", "/proc/self/status"), user=user, cwd="/"), parts.append).ok
    lines = b"".join(parts).decode().splitlines()
    found = {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)}
    return {name: found[name] for name in RIGHTS[user] if name in found or name != "Seccomp_filters"}


def wanted(user: User, found: dict[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in RIGHTS[user].items() if name in found
    }  # the filters are counted since Linux 5.9


@pytest.mark.attack(number=22)
@pytest.mark.network
def test_every_step_of_a_real_build_has_exactly_the_rights_of_its_user(
    state: StateDirs, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "lxcbuild-rights"
    project.mkdir()
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "setup.py").write_text(SETUP)
    (project / "lxcbuild_rights.py").write_text("")
    seen: list[tuple[str, User, dict[str, str]]] = []
    phases: list[str] = []
    plain_run, plain_enter = LxcInstance.run, Work.enter

    def watched_run(instance: LxcInstance, step: Step, on_output: OutputSink) -> StepResult:
        seen.append((phases[-1] if phases else "", step.user, rights(instance, step.user, plain_run)))
        return plain_run(instance, step, on_output)

    def watched_enter(work: Work, phase, converter) -> None:
        phases.append(str(phase))
        plain_enter(work, phase, converter)

    monkeypatch.setattr(LxcInstance, "run", watched_run)
    monkeypatch.setattr(Work, "enter", watched_enter)
    out = tmp_path / "out"
    arguments = [
        "--state-dir",
        os.fspath(state.lib.parent),
        "build",
        os.fspath(project),
        "--force",
        "-o",
        os.fspath(out),
    ]
    assert run_command_line([*arguments, "--target", "debian/bookworm"]) == 0, capfd.readouterr().err
    assert {"inspect", "debianize", "compile", "verify"} <= {phase for phase, _, _ in seen}
    for phase, user, found in seen:
        assert found == wanted(user, found), (phase, user)
    # Only the installation of packages is done by the inner root: never a step with the package's sources.
    assert {phase for phase, user, _ in seen if user is User.ROOT} <= {"provision", "verify"}
    assert {user for phase, user, _ in seen if phase in ("inspect", "debianize", "compile")} == {User.BUILD}


@pytest.mark.attack(number=22)
def test_trusted_installations_have_the_rights_of_an_installer(sandbox) -> None:
    instance = sandbox(policy=provision_policy(0))
    found = rights(instance, User.ROOT, LxcInstance.run)
    assert found == wanted(User.ROOT, found)


@pytest.mark.attack(number=22)
def test_without_the_filter_it_would_show(sandbox) -> None:
    found = rights(sandbox(seccomp="none"), User.BUILD, LxcInstance.run)
    assert {name for name, value in wanted(User.BUILD, found).items() if found[name] != value} <= {
        "Seccomp",
        "Seccomp_filters",
    }
    assert found["Seccomp"] == "0"
