"""Which files of a project's directory are its sources, told without letting its repository say anything but names."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import pytest

from lxcbuild import process
from lxcbuild.errors import InputError
from lxcbuild.pypi.files import projectfiles
from lxcbuild.pypi.files.projectfiles import project_files


def git(tree: Path, *arguments: str) -> bytes:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.invalid", "-c", "protocol.file.allow=always")
    return process.run(["git", *identity, "-C", tree, *arguments]).stdout


def files(root: Path, *told: str) -> list[str]:
    """What is found; with ``told`` the words of the one note."""
    notes: list[str] = []
    found = project_files(root, notes.append)
    assert len(notes) == bool(told)
    assert all(word in notes[0] for word in told)
    return found


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def index(*names: tuple[int, bytes], version: int = 2) -> bytes:
    """A git index of these cuts (of the name before) and names; without a checksum, which says nothing about who wrote it."""
    data = struct.pack(">4sII", b"DIRC", version, len(names))
    for cut, name in names:
        head = struct.pack(">24xI32xH", 0o100644, min(len(name), 0xFFF))
        if version == 4:
            data += head + bytes([cut]) + name + b"\0"
        else:
            data += (head + name).ljust((len(head + name) // 8 + 1) * 8, b"\0")
    return data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "project"
    make(place, "pyproject.toml", "src/a.py", "src/b.py", "x.log")
    (place / ".gitignore").write_text("*.log\n/local/\n")
    git(place, "init", "-q")
    return place


@pytest.mark.parametrize("version", [2, 3, 4])
def test_tracked_files_are_taken_though_they_are_ignored(root: Path, version: int) -> None:
    wanted = ["kept.log", "local/deep/er/settings.py", "local/deep/er/settings2.py", "n" * 200 + ".log", "\u00e4.log"]
    make(root, *wanted, "local/secret", "other.log")
    git(root, "add", "-f", *wanted, "pyproject.toml")
    if version == 3:
        git(root, "add", "-N", "src/a.py")
    else:
        git(root, "update-index", f"--index-version={version}")
    assert (root / ".git/index").read_bytes()[4:8] == version.to_bytes(4, "big")
    (root / "kept.log").unlink()
    assert files(root) == sorted([*wanted[1:], ".gitignore", "pyproject.toml", "src/a.py", "src/b.py"])
    real = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split(b"\0")
    assert {*files(root), "kept.log"} == {os.fsdecode(name) for name in real if name}


def test_a_directory_inside_a_repository_follows_its_rules(root: Path) -> None:
    make(root, "sub/code.py", "sub/x.log", "sub/kept.log", "sub/x.tmp", "sub/x.priv")
    (root / "sub/.gitignore").write_text("*.tmp\n")
    (root / ".git/info/exclude").write_text("*.priv\n")
    git(root, "add", "-f", "sub/kept.log", "x.log")
    assert files(root / "sub") == [".gitignore", "code.py", "kept.log"]
    make(root, "local/a.py", "local/b.log")
    assert files(root / "local") == ["a.py", "b.log"], "all of a directory that is ignored as a whole"


def test_repositories_inside_are_taken_without_their_histories(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make(other, "inner.py")
    git(other, "init", "-q")
    git(other, "add", ".")
    git(other, "commit", "-q", "-m", "x")
    git(root, "submodule", "add", "-q", str(other), "module")
    git(root, "clone", "-q", str(other), "nested")
    assert files(root) == [
        ".gitignore", ".gitmodules", "module/inner.py", "nested/inner.py", "pyproject.toml", "src/a.py", "src/b.py",
    ]  # fmt: skip
    assert files(root / "module", ".git is not read") == ["inner.py"]


def test_a_repository_that_another_user_put_above_is_none(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give files away")
    make(root, "sub/code.py", "sub/x.log")
    os.chown(root / ".git", 12345, 12345)
    assert files(root / "sub") == ["code.py", "x.log"]
    assert "x.log" not in files(root)


@pytest.mark.parametrize("version", [2, 4])
def test_names_of_an_index_lead_nowhere(root: Path, tmp_path: Path, version: int) -> None:
    make(tmp_path, "outside/secret")
    (root / "link").symlink_to(tmp_path / "outside")
    honest = files(root)
    evil = (b"../outside/secret", b"/etc/passwd", b".git/config", b"src//a.py", b"src/../x.log", b"./x.log", b"")
    (root / ".git/index").write_bytes(index(*((0, b""), *((0, name) for name in evil)), version=2))
    assert files(root) == honest
    # A submodule of that name would be walked.
    data = index((0, b"link"), version=version).replace(struct.pack(">I", 0o100644), struct.pack(">I", 0o160000))
    (root / ".git/index").write_bytes(data)
    assert files(root) == honest


def test_a_small_index_of_long_names_is_refused_in_little_memory(root: Path) -> None:
    (root / ".git/index").write_bytes(index((0, b"a"), *((0, b"a" * 9) for _ in range(9000)), version=4))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="longer than 4095 bytes"):
            files(root)
        (root / ".git/index").write_bytes(
            index((0, b"a" * 4000), *((1, b"%d" % (n % 10)) for n in range(9000)), version=4)
        )
        assert "pyproject.toml" in files(root)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        submodules = index((0, b"a" * 4000), *((9, b"%09d" % number) for number in range(20_000)), version=4)
        (root / ".git/index").write_bytes(submodules.replace(struct.pack(">I", 0o100644), struct.pack(">I", 0o160000)))
        with pytest.raises(InputError, match="the names of the files"):
            files(root)
        assert tracemalloc.get_traced_memory()[1] < 96 << 20
    finally:
        tracemalloc.stop()


DAMAGED = {
    "empty": b"",
    "no index": b"hello" * 100,
    "cut": index((0, b"x.log"))[:40],
    "more than there is": struct.pack(">4sII", b"DIRC", 2, 0xFFFFFFFF),
    "unknown version": struct.pack(">4sII", b"DIRC", 5, 0),
    "cuts more than there is": index((7, b"x"), version=4),
    "a number without an end": struct.pack(">4sII62x", b"DIRC", 4, 1) + b"\xff" * 100_000,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_index_is_told_and_left_out(root: Path, kind: str) -> None:
    make(root, "kept.log")
    honest = files(root)
    (root / ".git/index").write_bytes(DAMAGED[kind])
    assert files(root, ".git is not read", "left out") == honest


def test_what_is_no_plain_repository_is_not_followed(root: Path, tmp_path: Path) -> None:
    make(root, "kept.log")
    git(root, "add", "-f", "kept.log")
    honest = [".gitignore", "pyproject.toml", "src/a.py", "src/b.py"]
    (root / ".git").rename(tmp_path / "elsewhere")
    (root / ".git").write_text(f"gitdir: {tmp_path / 'elsewhere'}\n")
    assert files(root, "Not a directory") == honest
    (root / ".git").unlink()
    (root / ".git").symlink_to(tmp_path / "elsewhere")
    assert files(root, ".git is not read") == honest
    (root / ".git").unlink()
    (root / ".git").mkdir()
    (root / ".git/index").symlink_to(tmp_path / "elsewhere/index")
    assert files(root, ".git is not read") == honest
    (root / ".git/index").unlink()
    os.mkfifo(root / ".git/index")
    assert files(root, "not a regular file") == honest


def test_a_vast_list_of_what_is_ignored_takes_no_memory(root: Path) -> None:
    with (root / ".gitignore").open("wb") as file:
        file.truncate(64 << 30)
    assert "x.log" in files(root, "could not tell")


def test_masses_of_names_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(root, *(f"many/{number}.py" for number in range(20)))
    monkeypatch.setattr(projectfiles, "MAX_FILES", 10)
    with pytest.raises(InputError, match="more than 10 files"):
        files(root)
    monkeypatch.setattr(projectfiles, "MAX_FILES", 200)
    monkeypatch.setattr(projectfiles, "_MAX_NAMES_BYTES", 100)
    with pytest.raises(InputError, match="the names of the files"):
        files(root)
