"""Changed paths and layers, from upper directories that a real overlay mount of this host made."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcbuild.errors import ExtractionError
from lxcbuild.linux.paths import open_directory
from lxcbuild.sandbox.base import ChangeKind
from lxcbuild.sandbox.delta import changes, save_delta
from tests.support.timing import quick

pytestmark = pytest.mark.root

START = 1_000_000
_libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, target: Path, options: str) -> None:
    if _libc.mount(kind.encode(), os.fsencode(target), kind.encode(), 0, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {kind}")


class Layers:
    """A tmpfs with lower, upper, work; ``merged`` is mounted on demand."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.lower, self.upper, self.merged = top / "lower", top / "upper", top / "merged"
        for folder in (self.lower, self.upper, self.merged, top / "work"):
            folder.mkdir()

    def mount(self, lowers: str | None = None) -> Path:
        options = f"lowerdir={lowers or self.lower},upperdir={self.upper},workdir={self.top / 'work'},redirect_dir=off,metacopy=off"
        mount("overlay", self.merged, options)
        return self.merged

    def unmount(self) -> None:
        _libc.umount2(os.fsencode(self.merged), 2)

    def changes(self, *prefixes: str, **more: int) -> dict[str, ChangeKind]:
        fd = open_directory(self.upper)
        try:
            return {change.path: change.kind for change in changes(fd, prefixes=prefixes or ("/",), **more)}
        finally:
            os.close(fd)

    def save(self, *, trusted: bool = False) -> Path:
        fd = open_directory(self.upper)
        try:
            save_delta(fd, self.top / "saved", id_start=START, trusted=trusted)
        finally:
            os.close(fd)
        return self.top / "saved"

    def own(self) -> None:
        """Give everything in the upper to the sandbox's root."""
        os.chown(self.upper, START, START)
        for folder, names, files in os.walk(self.upper):
            for name in names + files:
                os.chown(f"{folder}/{name}", START, START, follow_symlinks=False)


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    top = tmp_path / "tmpfs"
    top.mkdir()
    mount("tmpfs", top, "size=256m")
    layers = Layers(top)
    try:
        yield layers
    finally:
        layers.unmount()
        assert _libc.umount2(os.fsencode(top), 0) == 0


def populate(lower: Path) -> None:
    for folder in ("etc", "usr/lib", "gone", "replaced", "untouched"):
        (lower / folder).mkdir(parents=True)
    for name in ("etc/passwd", "etc/removed", "usr/lib/a", "gone/x", "replaced/old", "untouched/x"):
        (lower / name).write_text(name)


def edit(merged: Path) -> None:
    (merged / "etc/passwd").write_text("changed")
    (merged / "etc/removed").unlink()
    (merged / "gone/x").unlink()
    (merged / "gone").rmdir()
    (merged / "replaced/old").unlink()
    (merged / "replaced").rmdir()
    (merged / "replaced").mkdir()
    (merged / "replaced/new").write_text("new")
    (merged / "usr/lib/b").symlink_to("/usr/lib/a")
    (merged / "opt/empty").mkdir(parents=True)


def test_changes(layers: Layers) -> None:
    populate(layers.lower)
    edit(layers.mount())
    layers.unmount()
    written, deleted = ChangeKind.WRITTEN, ChangeKind.DELETED
    assert layers.changes() == {
        "/etc/passwd": written,
        "/etc/removed": deleted,
        "/gone": deleted,
        "/opt": written,
        "/opt/empty": written,
        "/replaced": written,
        "/replaced/new": written,
        "/usr/lib/b": written,
    }
    assert set(layers.changes("/usr", "/etc/")) == {"/etc/passwd", "/etc/removed", "/usr/lib/b"}
    assert set(layers.changes("/etc/passwd")) == {"/etc/passwd"}
    assert layers.changes("/us") == {}
    assert len(layers.changes(max_entries=3)) <= 3


def test_changes_of_a_hostile_upper_are_bounded(layers: Layers) -> None:
    for number in range(5000):
        (layers.upper / f"f{number}").touch()
    deep = layers.upper
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(20_000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    (layers.upper / "z\udcff\n").touch()
    began = time.monotonic()
    assert len(layers.changes(max_entries=1000)) == 1000
    assert len(layers.changes()) < 6000
    assert "/z\udcff\n" in layers.changes()
    assert quick(time.monotonic() - began, 2)
    assert layers.merged.exists()


def test_a_saved_layer_shows_the_same_tree(layers: Layers) -> None:
    populate(layers.lower)
    merged = layers.mount()
    edit(merged)
    expected = {
        os.fspath(path.relative_to(merged)): path.read_text() if path.is_file() and not path.is_symlink() else None
        for path in merged.rglob("*")
    }
    layers.unmount()
    layers.own()
    saved = layers.save()
    layers.upper, old = layers.top / "upper2", layers.upper
    layers.upper.mkdir()
    assert old.exists()
    merged = layers.mount(f"{saved}:{layers.lower}")
    found = {
        os.fspath(path.relative_to(merged)): path.read_text() if path.is_file() and not path.is_symlink() else None
        for path in merged.rglob("*")
    }
    assert found == expected
    assert "replaced/old" not in found
    layers.unmount()


def test_what_a_saved_layer_keeps_and_drops(layers: Layers) -> None:
    up = layers.upper
    (up / "sub").mkdir(mode=0o2775)
    (up / "sub").chmod(0o2775)
    (up / "a").write_bytes(b"data")
    (up / "b").hardlink_to(up / "a")
    (up / "sub/c").hardlink_to(up / "a")
    (up / "setuid").write_bytes(b"x")
    (up / "link").symlink_to("../../a")
    os.mkfifo(up / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(up / "socket"))
    os.mknod(up / "whiteout", stat.S_IFCHR, 0)
    (up / "marked").touch()
    os.setxattr(up / "marked", "trusted.overlay.whiteout", b"")
    for name, value in (("redirect", b"/etc"), ("metacopy", b""), ("origin", b"x"), ("impure", b"y")):
        os.setxattr(up / "sub", f"trusted.overlay.{name}", value)
    os.setxattr(up / "sub", "trusted.overlay.opaque", b"y")
    os.setxattr(up / "a", "trusted.overlay.metacopy", b"")
    os.setxattr(up / "a", "user.overlay.redirect", b"/etc/shadow")
    os.setxattr(up / "setuid", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    layers.own()
    os.chown(up / "sub", START + 7, START + 8)
    (up / "setuid").chmod(0o6755)
    for path in ("a", "sub", "link"):
        os.utime(up / path, ns=(5, 1_700_000_000_123_456_789), follow_symlinks=False)

    saved = layers.save()
    names = {os.fspath(path.relative_to(saved)) for path in saved.rglob("*")}
    assert names == {"sub", "a", "b", "sub/c", "setuid", "link", "whiteout", "marked"}
    assert os.listxattr(saved / "sub") == ["trusted.overlay.opaque"]
    assert [os.listxattr(saved / name) for name in ("a", "setuid")] == [[], []]
    assert (saved / "a").stat().st_ino == (saved / "b").stat().st_ino == (saved / "sub/c").stat().st_ino
    assert (saved / "a").read_bytes() == b"data"
    assert stat.S_IMODE((saved / "setuid").stat().st_mode) == 0o755
    sub = (saved / "sub").stat()
    assert (sub.st_uid, sub.st_gid, stat.S_IMODE(sub.st_mode)) == (7, 8, 0o2775)
    assert (saved / "a").stat().st_uid == 0
    assert (saved / "link").readlink() == Path("../../a")
    for name in ("whiteout", "marked"):
        info = (saved / name).lstat()
        assert stat.S_ISCHR(info.st_mode)
        assert info.st_rdev == 0
    for name in ("a", "sub", "link"):
        assert (saved / name).lstat().st_mtime_ns == 1_700_000_000_123_456_789


def test_a_trusted_layer_keeps_setuid(layers: Layers) -> None:
    (layers.upper / "su").touch()
    layers.own()
    (layers.upper / "su").chmod(0o4755)
    assert stat.S_IMODE((layers.save(trusted=True) / "su").stat().st_mode) == 0o4755


@pytest.mark.parametrize("owner", [0, START - 1, START + 65536])
def test_a_foreign_owner_is_refused(layers: Layers, owner: int) -> None:
    (layers.upper / "x").touch()
    layers.own()
    os.chown(layers.upper / "x", owner, START)
    before = len(list(layers.top.iterdir()))
    with pytest.raises(ExtractionError, match="outside"):
        layers.save()
    assert len(list(layers.top.iterdir())) == before


def test_a_device_is_refused(layers: Layers) -> None:
    os.mknod(layers.upper / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    layers.own()
    with pytest.raises(ExtractionError, match="device"):
        layers.save()


def test_a_sparse_terabyte_costs_nothing(layers: Layers) -> None:
    with (layers.upper / "x").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"middle")
    layers.own()
    began = time.monotonic()
    saved = layers.save() / "x"
    assert time.monotonic() - began < 10
    info = saved.stat()
    assert info.st_size == 1 << 40
    assert info.st_blocks < 100
    with saved.open("rb") as file:
        file.seek(1 << 39)
        assert file.read(6) == b"middle"


@pytest.mark.bench
def test_18000_files_in_seconds(layers: Layers) -> None:
    for number in range(180):
        folder = layers.upper / f"d{number}"
        folder.mkdir()
        for inner in range(100):
            (folder / f"f{inner}").write_bytes(b"x" * 3000)
    layers.own()
    began = time.monotonic()
    saved = layers.save()
    took_s = time.monotonic() - began
    assert len(list(saved.rglob("f*"))) == 18_000
    assert quick(took_s, 10), "about 0.6 s on an idle machine"
