"""Archives that nobody vouches for are unpacked as they are where they are sound, and never reach out of their directory."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from lxcbuild.errors import ExtractionError
from lxcbuild.images import pack
from lxcbuild.images import untar as untar_module
from lxcbuild.images.untar import TarLimits, untar, untar_file

pytestmark = pytest.mark.root


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def archive(*members: tuple[tarfile.TarInfo, bytes] | tarfile.TarInfo) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for item in members:
            info, data = item if isinstance(item, tuple) else (item, b"")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    out.seek(0)
    return out


def raw(size: bytes, content: bytes = b"", *, kind: bytes = b"0", mtime: bytes = b"0") -> io.BytesIO:
    """An archive of one file whose header says these texts of it, with the right checksum."""
    info = tarfile.TarInfo("f")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136], header[136:148] = size.ljust(12, b"\0"), mtime.ljust(12, b"\0")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    return io.BytesIO(bytes(header) + content + bytes(1024))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    place = tmp_path / "tree"
    place.mkdir()
    return place


def test_what_a_layer_holds_comes_back(tree: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "file").write_bytes(b"data" * 1000)
    (source / "holes").write_bytes(b"x" + bytes(1 << 20) + b"y")
    (source / "deep" / "link").symlink_to("/etc/passwd")
    (source / "deep" / "hard").hardlink_to(source / "deep" / "file")
    (source / ("n" * 150) / ("m" * 150)).mkdir(parents=True)
    os.mknod(source / "gone", stat.S_IFCHR, 0)
    os.setxattr(source / "deep" / "er", "trusted.overlay.opaque", b"y")
    os.chown(source / "deep" / "file", 1000, 1000)
    (source / "deep").chmod(0o1777)
    digest = pack.pack_tree(source, tmp_path / "a.tar.zst")
    untar_file(tmp_path / "a.tar.zst", tree)
    assert (tree / "deep/file").read_bytes() == b"data" * 1000
    assert (tree / "holes").stat().st_size == (1 << 20) + 2
    assert (tree / "holes").read_bytes() == (source / "holes").read_bytes()
    assert (tree / "deep/link").readlink() == Path("/etc/passwd")
    assert (tree / "deep/hard").samefile(tree / "deep/file")
    assert (tree / "deep/file").stat().st_uid == 1000
    assert stat.S_IMODE((tree / "deep").stat().st_mode) == 0o1777
    gone = (tree / "gone").lstat()
    assert (stat.S_ISCHR(gone.st_mode), gone.st_rdev) == (True, 0)
    assert os.getxattr(tree / "deep/er", "trusted.overlay.opaque") == b"y"
    for name in ("deep", "deep/file", "holes", "deep/link", "n" * 150):
        assert (tree / name).lstat().st_mtime_ns == (source / name).lstat().st_mtime_ns
    assert pack.pack_tree(tree, tmp_path / "b.tar.zst") == digest


def test_rights_and_devices_of_strangers_do_not_arrive(tree: Path) -> None:
    capability = member("cap", pax_headers={"SCHILY.xattr.security.capability": "x" * 20, "SCHILY.xattr.user.a": "b"})
    untar(
        archive(
            member("d", tarfile.DIRTYPE, mode=0o2755),
            (member("d/su", mode=0o6755), b"#!"),
            (capability, b"c"),
            member("mem", tarfile.CHRTYPE, devmajor=1, devminor=1),
            member("disk", tarfile.BLKTYPE, devmajor=8, devminor=0),
            member("pipe", tarfile.FIFOTYPE),
        ),
        tree,
    )
    assert stat.S_IMODE((tree / "d/su").stat().st_mode) == 0o755
    assert os.listxattr(tree / "cap") == []
    assert sorted(path.name for path in tree.iterdir()) == ["cap", "d"]


HOSTILE: dict[str, Callable[[], io.BytesIO]] = {
    "dotdot": lambda: archive((member("../evil"), b"x")),
    "inner dotdot": lambda: archive(member("d", tarfile.DIRTYPE), (member("d/../../evil"), b"x")),
    "absolute": lambda: archive((member("/evil"), b"x")),
    "through a link": lambda: archive(member("d", tarfile.SYMTYPE, linkname=".."), (member("d/evil"), b"x")),
    "over a link": lambda: archive(member("f", tarfile.SYMTYPE, linkname="../evil"), (member("f"), b"x")),
    "directory over a link": lambda: archive(
        member("d", tarfile.SYMTYPE, linkname=".."), member("d", tarfile.DIRTYPE), (member("d/evil"), b"x")
    ),
    "hard link out": lambda: archive(member("f", tarfile.LNKTYPE, linkname="../secret"), (member("f"), b"x")),
    "hard link through a link": lambda: archive(
        member("d", tarfile.SYMTYPE, linkname=".."), member("f", tarfile.LNKTYPE, linkname="d/secret")
    ),
    "twice": lambda: archive((member("f"), b"x"), (member("f"), b"y")),
    "no directory": lambda: archive((member("a/b"), b"x")),
    "owner of the host": lambda: archive((member("f", uid=65536), b"x")),
    "owner below zero": lambda: archive((member("f", pax_headers={"uid": "-1"}), b"x")),
    "root is a file": lambda: archive((member("."), b"x")),
    "too deep": lambda: archive((member("/".join("d" * 300)), b"x")),
    "unknown type": lambda: archive(member("f", b"Z")),
    "sparse": lambda: archive((member("f", pax_headers={"GNU.sparse.major": "1"}), b"x")),
    "size that is none": lambda: archive((member("f", pax_headers={"size": "1e9"}), b"x")),
    "huge size": lambda: archive((member("f", pax_headers={"size": "9" * 19}), b"x")),
    "time that is none": lambda: archive((member("f", pax_headers={"mtime": "nan"}), b"x")),
    "no tar": lambda: io.BytesIO(b"hello" * 1000),
    "cut": lambda: io.BytesIO(archive((member("f"), b"x" * 5000)).getvalue()[:2000]),
    "empty": lambda: io.BytesIO(b""),
    "size below zero": lambda: raw(b"-1", bytes(1 << 20)),
    "size below zero in base 256": lambda: raw(b"\xff" * 12, bytes(1 << 20)),
    "size with a sign": lambda: raw(b"+1", bytes(512)),
    "size with underscores": lambda: raw(b"1_0", bytes(512)),
    "size with a prefix": lambda: raw(b"0o1", bytes(512)),
    "size of two numbers": lambda: raw(b"1 0", bytes(512)),
    "vast size in base 256": lambda: raw(b"\x80" + b"\xff" * 11, bytes(512)),
    "extended header below zero": lambda: raw(b"-1", bytes(1 << 20), kind=b"x"),
    "vast time": lambda: raw(b"0", mtime=b"\x80" + b"\xff" * 11),
    "record below zero": lambda: raw(b"10", b"-7 a=b\n\0".ljust(512, b"\0"), kind=b"x"),
    "vast header": lambda: archive((member("f", pax_headers={"comment": "x" * 100_000}), b"x")),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives_are_refused_and_change_nothing_outside(tree: Path, kind: str) -> None:
    secret = tree.parent / "secret"
    secret.write_text("kept")
    with pytest.raises(ExtractionError):
        untar(HOSTILE[kind](), tree)
    assert sorted(path.name for path in tree.parent.iterdir()) == ["secret", "tree"]
    assert (secret.read_text(), secret.stat().st_nlink) == ("kept", 1)


def test_sizes_and_counts_are_bounded(tree: Path) -> None:
    many = archive(*((member(f"f{n}"), b"") for n in range(20)))
    with pytest.raises(ExtractionError, match="more than 10 entries"):
        untar(many, tree, TarLimits(max_entries=10))
    with pytest.raises(ExtractionError, match="or 1 MiB"):
        untar(archive((member("big"), bytes(1 << 20)), (member("more"), b"x")), tree, TarLimits(max_bytes=1 << 20))


def test_a_small_archive_takes_little_memory(tree: Path, tmp_path: Path) -> None:
    packed = tmp_path / "bomb.tar.zst"
    with subprocess.Popen(["zstd", "-q", "-o", packed], stdin=subprocess.PIPE) as zstd:
        assert zstd.stdin is not None
        zstd.stdin.write(raw(b"-1").getvalue()[:512])
        for _ in range(300):
            zstd.stdin.write(bytes(1 << 20))
    assert packed.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(ExtractionError, match="an invalid number"):
            untar_file(packed, tree)
        whole = archive((member("f"), bytes(32 << 20)))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        untar(whole, tree)
        assert tracemalloc.get_traced_memory()[1] - before < 4 << 20
    finally:
        tracemalloc.stop()


def test_headers_of_headers_and_names_are_bounded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = archive((member("f", pax_headers={"comment": "x"}), b"")).getvalue()[:1024] * 20
    with pytest.raises(ExtractionError, match="or too many"):
        untar(io.BytesIO(endless), tree, TarLimits(max_entries=10))
    monkeypatch.setattr(untar_module, "_MAX_KEPT_BYTES", 1000)
    names = ["d" * 200, *(f"{'d' * 200}/{number}" for number in range(10))]
    with pytest.raises(ExtractionError, match="the names of the archive's directories"):
        untar(archive(*(member(name, tarfile.DIRTYPE) for name in names)), tree)


def test_descriptors_do_not_leak(tree: Path) -> None:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for kind, make in HOSTILE.items():
        place = tree / kind
        place.mkdir()
        with pytest.raises(ExtractionError):
            untar(make(), place)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
