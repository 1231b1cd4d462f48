"""Extraction from directory trees that need no privilege to make."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lxcbuild.errors import ExtractionError
from lxcbuild.linux.paths import open_directory
from lxcbuild.policy import OutputLimits
from lxcbuild.sandbox.base import ExtractedFile
from lxcbuild.sandbox.extract import extract

LIMITS = OutputLimits(max_files=50, max_bytes=10_000_000, max_file_bytes=5_000_000, max_depth=4)


class Tree:
    def __init__(self, top: Path) -> None:
        self.root = top / "root"
        self.out = self.root / "out"
        self.out.mkdir(parents=True)
        self.destination = top / "taken" / "here"
        self.canary = top / "canary"
        self.canary.write_text("secret")

    def extract(self, limits: OutputLimits = LIMITS, inside: str = "/out") -> list[ExtractedFile]:
        fd = open_directory(self.root)
        try:
            return extract(fd, inside, self.destination, limits)
        finally:
            os.close(fd)

    def nothing_remains(self) -> bool:
        return not self.destination.parent.exists() or not list(self.destination.parent.iterdir())


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_plain_files(tree: Tree) -> None:
    (tree.out / "sub").mkdir()
    (tree.out / "empty").mkdir()
    (tree.out / "b.deb").write_bytes(b"b" * 1_000_000)
    (tree.out / "a.txt").write_bytes(b"")
    (tree.out / "sub" / "c ä.txt").write_text("c")
    (tree.out / "sub" / "c ä.txt").chmod(0o4777)
    os.setxattr(tree.out / "b.deb", "user.secret", b"1")
    files = tree.extract()
    assert [file.name for file in files] == ["a.txt", "b.deb", "sub/c ä.txt"]
    for file in files:
        data = file.path.read_bytes()
        assert file.path == tree.destination / file.name
        assert data == (tree.out / file.name).read_bytes()
        assert (file.size_bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        info = file.path.stat()
        assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_nlink) == (0o644, os.geteuid(), 1)
        assert os.listxattr(file.path) == []
        assert info.st_ino != (tree.out / file.name).stat().st_ino
    assert sorted(path.name for path in tree.destination.iterdir()) == ["a.txt", "b.deb", "sub"]
    assert stat.S_IMODE(tree.destination.stat().st_mode) == 0o755
    assert list(tree.destination.parent.iterdir()) == [tree.destination]


def test_the_source_can_change_afterwards(tree: Tree) -> None:
    with (tree.out / "a").open("wb", buffering=0) as kept_open:
        kept_open.write(b"good")
        (file,) = tree.extract()
        kept_open.write(b" evil")
    assert file.path.read_bytes() == b"good"


def test_nothing_left_is_an_empty_result(tree: Tree) -> None:
    assert tree.extract() == []
    assert tree.extract(inside="/missing") == []
    assert list(tree.destination.iterdir()) == []


def link_to_canary(tree: Tree) -> None:
    (tree.out / "x").symlink_to(tree.canary)


def relative_link(tree: Tree) -> None:
    (tree.out / "x").symlink_to("../../canary")


def linked_directory(tree: Tree) -> None:
    (tree.out / "x").symlink_to(tree.canary.parent)


def dangling_link(tree: Tree) -> None:
    (tree.out / "x").symlink_to("nowhere")


def hard_link(tree: Tree) -> None:
    (tree.out / "x").hardlink_to(tree.canary)


def fifo(tree: Tree) -> None:
    os.mkfifo(tree.out / "x")


def unix_socket(tree: Tree) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(tree.out / "x"))


def sparse(tree: Tree) -> None:
    (tree.out / "x").touch()
    os.truncate(tree.out / "x", 1 << 40)


def many_sparse(tree: Tree) -> None:
    for number in range(3):
        (tree.out / f"x{number}").touch()
        os.truncate(tree.out / f"x{number}", 4_000_000)


def too_many(tree: Tree) -> None:
    for number in range(51):
        (tree.out / f"x{number}").touch()


def too_many_directories(tree: Tree) -> None:
    for number in range(51):
        (tree.out / f"x{number}").mkdir()


def too_deep(tree: Tree) -> None:
    (tree.out / "x/x/x/x/x").mkdir(parents=True)


def output_is_a_link(tree: Tree) -> None:
    tree.out.rmdir()
    tree.out.symlink_to(tree.canary.parent)


def output_is_a_file(tree: Tree) -> None:
    tree.out.rmdir()
    tree.out.touch()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "attack",
    [
        link_to_canary, relative_link, linked_directory, dangling_link, hard_link, fifo, unix_socket, sparse, many_sparse,
        too_many, too_many_directories, too_deep, output_is_a_link, output_is_a_file,
    ],
)  # fmt: skip
def test_what_is_refused(tree: Tree, attack: Callable[[Tree], None]) -> None:
    (tree.out / "a-good-file").write_text("good")
    (tree.out / "a-good-file").unlink() if attack in (output_is_a_link, output_is_a_file) else None
    attack(tree)
    with pytest.raises(ExtractionError):
        tree.extract()
    assert tree.nothing_remains()
    assert tree.canary.read_text() == "secret"


@pytest.mark.parametrize(
    "name",
    [
        b"-rf",
        b"..x",
        b"a\nb",
        b"a\tb",
        b"a\x1b[31m",
        b"\xff\xfe",
        "a\u202eb".encode(),
        b"\x7f",
        "\x9b".encode(),
        b"a\rb",
    ],
)
def test_bad_names(tree: Tree, name: bytes) -> None:
    with open(os.fsencode(tree.out) + b"/" + name, "wb"):  # noqa: PTH123 - a name that is no text
        pass
    with pytest.raises(ExtractionError, match="bad name") as caught:
        tree.extract()
    assert str(caught.value).isprintable()
    assert tree.nothing_remains()


def test_long_names_and_shell_characters_are_names_like_others(tree: Tree) -> None:
    names = ["$(reboot);'\"`<b>&.txt", "x" * 255, ".hidden", "a b"]
    for name in names:
        (tree.out / name).touch()
    assert [file.name for file in tree.extract()] == sorted(names)


@pytest.mark.attack(number=37)
def test_a_sparse_file_within_the_limits_stays_sparse(tree: Tree) -> None:
    with (tree.out / "x").open("wb") as file:
        file.write(b"start")
        file.seek(3_000_000)
        file.write(b"end")
        file.truncate(4_000_000)
    (taken,) = tree.extract()
    assert taken.path.read_bytes() == (tree.out / "x").read_bytes()
    assert taken.sha256 == hashlib.sha256((tree.out / "x").read_bytes()).hexdigest()
    assert taken.path.stat().st_blocks * 512 < 2_000_000


def test_a_destination_in_use_is_left_alone(tree: Tree) -> None:
    tree.destination.mkdir(parents=True)
    (tree.destination / "mine").write_text("mine")
    (tree.out / "a").touch()
    with pytest.raises(ExtractionError, match="cannot be written"):
        tree.extract()
    assert [path.name for path in tree.destination.iterdir()] == ["mine"]
    assert list(tree.destination.parent.iterdir()) == [tree.destination]


def test_no_descriptor_is_left_open(tree: Tree) -> None:
    (tree.out / "a/b").mkdir(parents=True)
    (tree.out / "a/b/c").touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    tree.extract()
    (tree.out / "a/b/x").symlink_to("c")
    with pytest.raises(ExtractionError):
        tree.extract()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
