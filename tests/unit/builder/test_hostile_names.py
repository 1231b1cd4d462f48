"""Attack 49: names, versions and targets that mean something to a shell, a path, SQL, HTML or a terminal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lxcbuild.builder.phases import compile as compile_phase
from lxcbuild.builder.work import Work
from lxcbuild.cli.main import run_command_line

HOSTILE = [
    "$(touch owned)",
    "`touch owned`",
    "a;touch owned",
    "a|b",
    "a&b",
    "a\nb",
    "a\0b",
    "../../etc/passwd-x",
    "/absent/../../x",
    "..",
    "-rf",
    "--help=x",
    "a b",
    "a'b",
    'a"b',
    "x'; DROP TABLE build; --",
    "<script>alert(1)</script>",
    "\x1b[2Jx",
    "\u202egnp.exe",
    "a" * 5000,
    "%s%n",
    "{0.__class__}",
    "\ud800",
    "",
]


def refused(capfd: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str) -> str:
    """What it said; the command must have failed as for a user's mistake, and in words."""
    status = run_command_line(["--state-dir", str(tmp_path / "state"), *arguments])
    said = capfd.readouterr()
    assert status not in (0, 70), said
    assert "Traceback" not in said.err
    assert said.err.strip()
    assert len(said.err) < 4000
    assert not any(character in said.out + said.err for character in "\x1b\0\u202e")
    assert not (tmp_path / "owned").exists()
    return said.err


@pytest.mark.attack(number=49)
@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_is_refused_with_a_clear_error(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(capfd, tmp_path, "build", "--target", "debian/bookworm", "--", text)


@pytest.mark.attack(number=49)
@pytest.mark.parametrize("text", [text for text in HOSTILE if text])
def test_a_version_is_refused_with_a_clear_error(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(capfd, tmp_path, "build", "--target", "debian/bookworm", "--", f"idna=={text}")


@pytest.mark.attack(number=49)
@pytest.mark.parametrize("text", HOSTILE)
def test_a_target_is_refused_with_a_clear_error(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for target in (f"debian/{text}", f"{text}/bookworm", f"debian/bookworm/{text}", text):
        refused(capfd, tmp_path, "build", f"--target={target}", "idna")


@pytest.mark.attack(number=49)
@pytest.mark.parametrize("text", HOSTILE)
def test_other_words_are_refused_with_a_clear_error(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(capfd, tmp_path, "policy", "show", "--", text)
    refused(capfd, tmp_path, "log", "--", text)
    refused(capfd, tmp_path, "explain", "--", text)


@pytest.mark.attack(number=49)
def test_notes_are_one_safe_line_whatever_they_name() -> None:
    remarks: list[str] = []
    work: Any = SimpleNamespace(
        notes=[],
        build_id="b",
        log=SimpleNamespace(remark=remarks.append),
        monitor=SimpleNamespace(emit=lambda event: remarks.append(event.text)),
    )
    work.note = lambda text, *, warning=False: Work.note(work, text, warning=warning)
    paths = [
        "/etc/\u202egpj.exe",
        "/etc/a\n[lxcbuild: all is well]",
        "/srv/" + "x" * 4000,
        "/build/own",
        "/opt/z\x1b[2J",
    ]
    instance: Any = SimpleNamespace(changes=lambda: [SimpleNamespace(path=path) for path in paths])
    compile_phase._report_writes_outside(work, instance)
    (note,) = work.notes
    assert note.startswith(
        "wrote-outside: the build changed /etc/\\u202egpj.exe, /etc/a [lxcbuild: all is well], /srv/xxx"
    )
    assert note.isprintable()
    assert note.endswith("..., /opt/z")
    assert len(note) <= 2000
    assert remarks == [note, note]
