"""A package is read when dpkg-deb could have written it, to the byte: what else two programs might read in two ways is refused."""

from __future__ import annotations

import gzip
import lzma
import subprocess
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lxcbuild.debian.gate.artifacts import ArtifactError, read_control, read_deb
from tests.support import debs
from tests.support.debs import Entry

TREE = debs.whole([*debs.TREE, Entry("./usr/bin/link", kind=b"2", link="demo", mode=0o777)])
CONTROL = debs.whole([Entry("./control", debs.CONTROL.encode()), Entry("./postinst", debs.POSTINST.encode())])
LONG = "./usr/share/doc/python3-demo/" + "n" * 80
DEMO = next(entry for entry in TREE if entry.name == "./usr/bin/demo")


def package(*, control: bytes | None = None, data: bytes | None = None, end: str = "") -> bytes:
    """A package of tar archives, or of what is in their place."""
    control = debs.tar(CONTROL) if control is None else control
    data = debs.tar(TREE) if data is None else data
    return debs.ar([("debian-binary", b"2.0\n"), (f"control.tar{end}", control), (f"data.tar{end}", data)])


def refused(tmp_path: Path, package: bytes) -> str:
    path = tmp_path / "a.deb"
    path.write_bytes(package)
    with pytest.raises(ArtifactError) as caught:
        read_deb(path)
    return str(caught.value)


def test_what_the_deviations_deviate_from_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(package())
    read = read_deb(path)
    assert {f"./{member.name}" for member in read.members} == {entry.name.rstrip("/") for entry in TREE} - {"."}
    assert read.control_files == {"postinst": debs.POSTINST.encode()}


def patched(at: int, value: bytes) -> bytes:
    """The tree with other bytes in the header of one program, and a checksum that fits them."""
    return tree_with(lambda header: debs.summed(header[:at] + value + header[at + len(value) :]))


def tree_with(change: Callable[[bytes], bytes]) -> bytes:
    return debs.ended(
        b"".join(
            change(debs.header(entry)) + debs.packed(entry)[512:] if entry is DEMO else debs.packed(entry)
            for entry in TREE
        )
    )


HEADERS = {
    "slash-after-a-files-name": patched(0, b"./usr/bin/demo/"),
    "no-dot": patched(0, b"usr/bin/demo\0\0"),
    "absolute": patched(0, b"/usr/bin/demo\0"),
    "empty-component": patched(0, b"./usr/bin//demo"),
    "dot-component": patched(0, b"./usr/bin/./demo"),
    "parent-component": patched(0, b"./usr/bin/../demo"),
    "two-dots": patched(0, b"./usr/bin/..\0\0"),
    "hidden-after-the-name": patched(20, b"/"),
    "no-name": patched(0, bytes(14)),
    "posix-magic": patched(257, b"ustar\x0000"),
    "old-magic": patched(257, bytes(8)),
    "magic-with-a-digit": patched(257, b"ustar  0"),
    "mode-with-a-file-type": patched(100, b"0100755\0"),
    "mode-with-blanks": patched(100, b"   755 \0"),
    "mode-ends-in-a-blank": patched(100, b"0000755 "),
    "negative-mode": patched(100, b"-000755\0"),
    "uid-in-base-256": patched(108, b"\x80" + bytes(7)),
    "empty-gid": patched(116, bytes(8)),
    "size-without-zeros": patched(124, b"23\0".ljust(12, b"\0")),
    "size-with-blanks": patched(124, b"        23 \0"),
    "size-with-a-sign": patched(124, b"+0000000023\0"),
    "size-of-twelve-digits": patched(124, b"000000000023"),
    "size-in-base-256": patched(124, b"\x80" + bytes(10) + b"\x13"),
    "hidden-after-the-size": patched(124, b"00000023\x002\x000"),
    "size-in-hex": patched(124, b"0x000000013\0"),
    "time-in-base-256": patched(136, b"\xff" * 12),
    "link-of-a-file": patched(157, b"x"),
    "hidden-after-the-link": patched(250, b"x"),
    "no-user": patched(265, bytes(4)),
    "another-user": patched(265, b"sync"),
    "another-group": patched(297, b"disk"),
    "hidden-after-the-user": patched(275, b"x"),
    "device-number": patched(329, b"0000000\0"),
    "prefix": patched(345, b"etc"),
    "access-time": patched(345, b"00000000000\0"),
    "real-size": patched(483, b"00000000023\0"),
    "sparse-map": patched(386, b"00000000000\0"),
    "last-byte": patched(511, b"x"),
    "checksum-without-blank": tree_with(lambda h: h[:148] + b"0" + h[148:154] + b"\0" + h[156:]),
    "checksum-ends-in-blanks": tree_with(lambda h: h[:154] + b" \0" + h[156:]),
    "signed-checksum": tree_with(lambda h: h[:148] + b"-%05o\0 " % 7 + h[156:]),
}
HEADERS |= {
    f"type-{kind!r}": patched(156, kind)
    for kind in (b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"A", b"D", b"K", b"L", b"M", b"S", b"V", b"g", b"x")
}


@pytest.mark.parametrize("data", HEADERS.values(), ids=HEADERS)
def test_a_header_that_tar_would_not_write_is_refused(tmp_path: Path, data: bytes) -> None:
    assert "cannot be read" not in refused(tmp_path, package(data=data))


def members(*entries: Entry | bytes) -> bytes:
    """The tree, and after it these entries or raw bytes."""
    return debs.ended(
        b"".join(entry if isinstance(entry, bytes) else debs.packed(entry) for entry in (*TREE, *entries))
    )


def long_text(kind: bytes, text: bytes) -> bytes:
    return debs.packed(Entry("././@LongLink", text + b"\0", kind))


FILE = debs.packed(Entry("./usr/bin/x"))
LONG_FILE = debs.packed(Entry(LONG))
SYMLINK = debs.packed(Entry("./usr/bin/y", kind=b"2", link="demo" * 30, mode=0o777))
COMPLETE = debs.tar(TREE)
STRUCTURES = {
    "no-root": debs.tar(TREE[1:]),
    "root-is-a-file": debs.tar([Entry("./", b"")]),
    "root-late": debs.tar([*TREE[1:], TREE[0]]),
    "root-twice": debs.tar([*TREE, TREE[0]]),
    "nothing": debs.tar([]),
    "file-twice": members(DEMO),
    "directory-twice": members(TREE[1]),
    "directory-where-a-file-is": members(Entry("./usr/bin/demo/", kind=b"5", mode=0o755)),
    "no-parent": members(Entry("./srv/x")),
    "below-a-file": members(Entry("./usr/bin/demo/x")),
    "below-a-link": members(Entry("./usr/bin/link/x")),
    "child-before-parent": members(Entry("./srv/x"), Entry("./srv/", kind=b"5")),
    "directory-without-slash": members(Entry("./srv", kind=b"5", mode=0o755)),
    "directory-with-two-slashes": members(Entry("./srv//", kind=b"5", mode=0o755)),
    "directory-with-data": members(Entry("./srv/", FILE, b"5", 0o755)),
    "link-with-data": members(Entry("./usr/bin/x", FILE, b"2", 0o777, link="demo")),
    "link-with-slash": members(Entry("./usr/bin/x/", kind=b"2", mode=0o777, link="demo")),
    "link-to-nothing": members(Entry("./usr/bin/x", kind=b"2", mode=0o777)),
    "hard-link-with-data": members(Entry("./usr/bin/x", FILE, b"1", link="./usr/bin/demo")),
    "hard-link-without-dot": members(Entry("./usr/bin/x", kind=b"1", link="usr/bin/demo")),
    "hard-link-to-elsewhere": members(Entry("./usr/bin/x", kind=b"1", link="./etc/shadow")),
    "hard-link-to-later": members(Entry("./usr/bin/x", kind=b"1", link="./usr/bin/z"), Entry("./usr/bin/z")),
    "hard-link-to-a-directory": members(Entry("./usr/bin/x", kind=b"1", link="./usr")),
    "foreign-uid": members(debs.block(
        name=b"./usr/bin/x", mode=0o644, uid=5, size=0, kind=b"0", link=b"", owner=b"root")),
    "short-name-as-a-long-one": members(long_text(b"L", b"./usr/bin/x"), FILE),
    "long-name-of-another-file": members(LONG_FILE[:1024], debs.packed(Entry(LONG.replace("n", "m")))[1024:],),
    "long-name-alone": members(LONG_FILE[:1024]),
    "long-name-of-no-header": members(LONG_FILE[:1024], FILE),
    "long-name-twice": members(LONG_FILE[:1024], LONG_FILE),
    "long-name-with-a-short-one-inside": members(LONG_FILE[:512 + 50], b"\0", LONG_FILE[512 + 51 :]),
    "long-name-of-another-owner": members(debs.summed(LONG_FILE[:265] + b"sync" + LONG_FILE[269:512]), LONG_FILE[512:]),
    "long-name-with-a-time": members(debs.summed(LONG_FILE[:146] + b"1" + LONG_FILE[147:512]), LONG_FILE[512:]),
    "long-name-padded-with-data": members(LONG_FILE[:1023], b"x", LONG_FILE[1024:]),
    "long-name-otherwise-called": members(debs.summed(b"././@LongName" + LONG_FILE[13:512]), LONG_FILE[512:]),
    "long-link-of-a-file": members(SYMLINK[:1024], FILE),
    "long-link-alone": members(SYMLINK[:1024]),
    "long-link-after-the-name": members(LONG_FILE[:1024], SYMLINK[:1024], LONG_FILE[1024:]),
    "name-over-4096": members(Entry("./usr/bin/" + "n" * 5000)),
    "control-character": members(Entry("./usr/bin/\x1b[2J")),
    "not-utf-8": members(debs.summed(b"./usr/bin/\xff" + FILE[11:512])),
    "data-in-the-padding": members(debs.packed(Entry("./usr/bin/x", b"x"))[:-1] + b"x"),
    "deeper-than-40": debs.tar(debs.whole([*TREE, Entry("./usr/share/" + "d/" * 60 + "x")])),
    "one-block-of-zeros": b"".join(map(debs.packed, TREE)) + bytes(512),
    "no-end": b"".join(map(debs.packed, TREE)),
    "no-whole-record": b"".join(map(debs.packed, TREE)) + bytes(1024),
    "another-record": COMPLETE + bytes(10240),
    "members-after-the-end": COMPLETE + debs.tar([Entry("./etc/evil")]),
    "members-after-one-block": debs.ended(b"".join(map(debs.packed, TREE)) + bytes(512) + FILE),
    "data-in-the-last-record": COMPLETE[:-1] + b"x",
    "cut-in-the-data": COMPLETE[: len(b"".join(map(debs.packed, TREE))) - 512],
}  # fmt: skip


@pytest.mark.parametrize("data", STRUCTURES.values(), ids=STRUCTURES)
def test_members_that_tar_would_not_write_so_are_refused(tmp_path: Path, data: bytes) -> None:
    assert "cannot be read" not in refused(tmp_path, package(data=data))


HIDDEN = b"".join(map(debs.packed, (Entry("./preinst", b"#!/bin/sh\nid\n", mode=0o755), Entry("./shlibs", b"\n"))))
CONTROLS: dict[str, Sequence[Entry]] = {
    "members-in-a-file-that-tar-takes-for-a-directory": [*CONTROL, Entry("./shlibs/", HIDDEN)],
    "directory": [*CONTROL, Entry("./x/", kind=b"5", mode=0o755)],
    "symbolic-link": [*CONTROL, Entry("./preinst", kind=b"2", link="postinst", mode=0o777)],
    "hard-link": [*CONTROL, Entry("./preinst", kind=b"1", link="./postinst")],
    "twice": [*CONTROL, CONTROL[1]],
    "no-root": CONTROL[1:],
    "no-control": [CONTROL[0], CONTROL[2]],
}


@pytest.mark.parametrize("entries", CONTROLS.values(), ids=CONTROLS)
def test_a_control_archive_holds_plain_files_alone(tmp_path: Path, entries: Sequence[Entry]) -> None:
    refused(tmp_path, package(control=debs.tar(entries)))
    with pytest.raises(ArtifactError):  # publication reads no more than this
        read_control(tmp_path / "a.deb")


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, check=True, capture_output=True).stdout


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


FIRST, SECOND = COMPLETE[:2048], COMPLETE[2048:]
SKIPPABLE = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
STREAMS: dict[str, tuple[str, Callable[[bytes], bytes], Callable[[], bytes]]] = {
    "xz-twice": (".xz", lzma.compress, lambda: lzma.compress(FIRST) + lzma.compress(SECOND)),
    "xz-and-an-empty-one": (".xz", lzma.compress, lambda: lzma.compress(COMPLETE) + lzma.compress(b"")),
    "xz-padded": (".xz", lzma.compress, lambda: lzma.compress(COMPLETE) + bytes(4)),
    "xz-and-data": (".xz", lzma.compress, lambda: lzma.compress(COMPLETE) + b"x"),
    "xz-cut": (".xz", lzma.compress, lambda: lzma.compress(COMPLETE)[:-1]),
    "xz-without-check": (".xz", lzma.compress, lambda: lzma.compress(COMPLETE, check=lzma.CHECK_NONE)),
    "lzma": (".xz", lzma.compress, lambda: lzma.compress(COMPLETE, format=lzma.FORMAT_ALONE)),
    "gz-twice": (".gz", gz, lambda: gz(FIRST) + gz(SECOND)),
    "gz-padded": (".gz", gz, lambda: gz(COMPLETE) + bytes(1)),
    "gz-cut": (".gz", gz, lambda: gz(COMPLETE)[:-1]),
    "gz-of-zlib": (".gz", gz, lambda: zlib.compress(COMPLETE)),
    "zst-twice": (".zst", zstd, lambda: zstd(FIRST) + zstd(SECOND)),
    "zst-after-skipped": (".zst", zstd, lambda: SKIPPABLE + zstd(COMPLETE)),
    "zst-before-skipped": (".zst", zstd, lambda: zstd(COMPLETE) + SKIPPABLE),
    "zst-and-data": (".zst", zstd, lambda: zstd(COMPLETE) + b"x"),
    "zst-cut": (".zst", zstd, lambda: zstd(COMPLETE)[:-1]),
    "bz2": (".bz2", gz, lambda: COMPLETE),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_part_is_one_compressed_stream(tmp_path: Path, kind: str) -> None:
    end, pack, make = STREAMS[kind]
    if end != ".bz2":
        (tmp_path / "good.deb").write_bytes(package(control=pack(debs.tar(CONTROL)), data=pack(COMPLETE), end=end))
        assert len(read_deb(tmp_path / "good.deb").members) == len(TREE) - 1
    refused(tmp_path, package(control=pack(debs.tar(CONTROL)), data=make(), end=end))


PLAIN = package()
CONTROL_AT = PLAIN.index(b"control.tar")
BINARY, CONTROL_PART, DATA_PART = (
    ("debian-binary", b"2.0\n"),
    ("control.tar", debs.tar(CONTROL)),
    ("data.tar", COMPLETE),
)


def in_ar(at: int, value: bytes) -> bytes:
    at += CONTROL_AT
    return PLAIN[:at] + value + PLAIN[at + len(value) :]


SHELLS = {
    "name-with-a-slash": in_ar(0, b"control.tar/"),
    "name-with-a-nul": in_ar(0, b"control.tar\0"),
    "name-in-a-table": in_ar(0, b"/0         "),
    "no-time": in_ar(16, b" " * 12),
    "time-with-a-sign": in_ar(16, b"-1"),
    "another-owner": in_ar(28, b"5"),
    "another-mode": in_ar(40, b"100755"),
    "size-with-a-zero": in_ar(48, b"%010d" % len(CONTROL_PART[1])),
    "size-with-an-underscore": in_ar(48, b"10_240    "),
    "size-with-a-sign": in_ar(48, b"+10240    "),
    "header-end": in_ar(58, b"`\r"),
    "another-member-before": debs.ar([BINARY, ("_x", b""), CONTROL_PART, DATA_PART]),
    "another-member-after": debs.ar([BINARY, CONTROL_PART, DATA_PART, ("_x", b"")]),
    "signature": debs.ar([BINARY, CONTROL_PART, DATA_PART, ("_gpgorigin", b"")]),
    "two-data-archives": debs.ar([BINARY, CONTROL_PART, DATA_PART, DATA_PART]),
    "other-order": debs.ar([BINARY, DATA_PART, CONTROL_PART]),
    "binary-last": debs.ar([CONTROL_PART, DATA_PART, BINARY]),
    "binary-otherwise-called": debs.ar([("debian-binary.x", b"2.0\n"), CONTROL_PART, DATA_PART]),
    "format-2.1": debs.ar([("debian-binary", b"2.1\n"), CONTROL_PART, DATA_PART]),
    "format-with-more-lines": debs.ar([("debian-binary", b"2.0\nmore\n"), CONTROL_PART, DATA_PART]),
    "thin": b"!<thin>\n" + PLAIN[8:],
    "newline-after": PLAIN + b"\n",
    "nuls-after": PLAIN + bytes(512),
    "cut": PLAIN[:-1],
    "no-data-archive": debs.ar([BINARY, CONTROL_PART]),
    "padding-is-no-newline": debs.ar([BINARY, ("control.tar.gz", gz(debs.tar(CONTROL)) + b"x"), DATA_PART]).replace(
        b"x\ndata.tar", b"xxdata.tar"
    ),
}


@pytest.mark.parametrize("package", SHELLS.values(), ids=SHELLS)
def test_the_shell_is_the_one_of_dpkg_deb(tmp_path: Path, package: bytes) -> None:
    refused(tmp_path, package)
