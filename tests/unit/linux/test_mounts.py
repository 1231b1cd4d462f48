"""Mount points below a hostile tree, and the words of inner paths; needs no privilege."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcbuild.linux import idmap, mounts, syscalls


@pytest.fixture
def root_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_inner_paths_are_split_into_plain_parts() -> None:
    assert mounts.split_inside("/in//deep/file") == ("in", "deep", "file")


@pytest.mark.parametrize("path", ["", "/", "in", "/in/../etc", "/./in", "/a\0b"])
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not an absolute path"):
        mounts.split_inside(path)


def test_missing_directories_are_made(root_fd: int, tmp_path: Path) -> None:
    fd = mounts.make_dir(root_fd, ("in", "deep"), owner=os.getuid(), mode=0o700)
    assert (tmp_path / "in/deep").is_dir()
    assert os.fstat(fd).st_mode & 0o777 == 0o700
    os.close(fd)


@pytest.mark.parametrize("target", ["/etc", "elsewhere", "/", ".."])
def test_a_link_in_the_place_of_a_directory_is_refused(root_fd: int, tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "dev").symlink_to(target)
    with pytest.raises(mounts.BadMountPointError, match="/dev of the image"):
        mounts.make_dir(root_fd, ("dev", "shm"), owner=os.getuid())
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_in_the_place_of_a_directory_is_refused(root_fd: int, tmp_path: Path) -> None:
    (tmp_path / "proc").write_text("")
    with pytest.raises(mounts.BadMountPointError):
        mounts.make_dir(root_fd, ("proc",), owner=os.getuid())


def test_a_file_mount_point_is_a_plain_file(root_fd: int, tmp_path: Path) -> None:
    os.close(mounts.make_file(root_fd, "new", owner=os.getuid()))
    assert (tmp_path / "new").read_bytes() == b""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(mounts.BadMountPointError):
        mounts.make_file(root_fd, "pipe", owner=os.getuid())
    (tmp_path / "link").symlink_to("new")
    with pytest.raises((mounts.BadMountPointError, OSError)):
        mounts.make_file(root_fd, "link", owner=os.getuid())


def test_nothing_is_left_open_when_a_mount_point_is_refused(root_fd: int, tmp_path: Path) -> None:
    (tmp_path / "dev").symlink_to("/")
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(3):
        with pytest.raises(mounts.BadMountPointError):
            mounts.make_dir(root_fd, ("dev",), owner=os.getuid())
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_refused_calls_raise_with_the_name_of_the_call(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="open_tree"):
        syscalls.open_tree(tmp_path / "missing", flags=0)
    with pytest.raises(OSError, match="openat2"):
        syscalls.openat2("x", dir_fd=-1, flags=os.O_PATH, resolve=0)


def test_the_map_line_covers_the_whole_range() -> None:
    assert idmap.map_line(165536) == "0 165536 65536\n"


def test_the_mount_table_lists_proc() -> None:
    assert any(entry.mount_point == "/proc" and entry.fstype == "proc" for entry in mounts.mount_table())
