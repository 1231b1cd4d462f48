"""Bounded readers for what a build leaves: .deb archives, taken as hostile bytes and never unpacked.

Nothing here is lenient: what two programs could read in two ways (pax headers, trailing data, repeated fields, odd ar members) is
refused, so that dpkg sees what the gate saw. Formats: deb(5), deb822(5), tar as dpkg-deb writes it.
"""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import itertools
import lzma
import os
import re
import tempfile
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO

from lxcbuild import process
from lxcbuild.debian.stanza import ArtifactError, checksums, parse_stanza
from lxcbuild.values import dataclass

__all__ = ["ArtifactError", "Deb", "Member", "checksums", "parse_stanza", "read_control", "read_deb"]

MAX_CONTROL_BYTES = 4 * 1024 * 1024
MAX_DATA_BYTES = 8 * 1024**3
MAX_MEMBERS = 200_000
_MAX_NAME = 4096
_MAX_DEPTH = 100
#: Of all names of one package together: 200,000 of the longest ones would fill the memory of whoever reads them.
_MAX_NAMES_BYTES = 64 * 1024 * 1024
#: What the gate reads: members that programs take orders from.
_READ = re.compile(r"[^\0]*\.pth")
_MAX_READ_BYTES = 64 * 1024
_CHUNK = 1 << 18
_XZ_MEMORY_BYTES = 256 * 1024 * 1024
_AR_HEADER = re.compile(rb"(.{16})(.{12})(.{6})(.{6})(.{8})(.{10})`\n", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One entry of a package's file tree; ``name`` is relative, without the leading ``./``; ``link`` is as written.

    ``data`` is kept for small .pth files only.
    """

    name: str
    kind: str  # file, dir, symlink, hardlink
    mode: int
    uid: int
    gid: int
    size_bytes: int
    link: str = ""
    data: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deb:
    """A binary package: its control stanza, its other control files by name, its file tree."""

    path: Path
    control: dict[str, str]
    control_files: dict[str, bytes]
    members: tuple[Member, ...]


# -- ar and compression ---------------------------------------------------------------------------------------------


def read_deb(path: Path, *, max_data_bytes: int = MAX_DATA_BYTES) -> Deb:
    """Read a .deb within the bounds. Raises :class:`ArtifactError` for anything that dpkg-deb would not have written."""
    with _reading(path) as file:
        parts = _parts(file)
        control_files = _control_files(file, parts[1])
        members = tuple(_data_members(file, parts[2], max_data_bytes))
    control = _control_stanza(control_files)
    return Deb(path=path, control=control, control_files=control_files, members=members)


def read_control(path: Path) -> dict[str, str]:
    """The control stanza of a .deb alone; the file tree is not looked at. Raises :class:`ArtifactError`."""
    with _reading(path) as file:
        return _control_stanza(_control_files(file, _parts(file)[1]))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except (zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        raise ArtifactError(f"it cannot be read: {type(error).__name__}: {str(error)[:200]}") from None


def _parts(file: IO[bytes]) -> list[tuple[str, int, int]]:
    """Name, offset and size of the three members of a .deb of format 2.0."""
    parts = list(itertools.islice(_ar_members(file, os.fstat(file.fileno()).st_size), 4))
    names = [name for name, _offset, _size in parts]
    if len(names) != 3 or names[0] != "debian-binary":
        raise ArtifactError("it does not consist of debian-binary, control.tar and data.tar")
    file.seek(parts[0][1])
    if parts[0][2] != 4 or file.read(4) != b"2.0\n":
        raise ArtifactError("its format is not 2.0")
    return parts


def _control_stanza(control_files: dict[str, bytes]) -> dict[str, str]:
    """Takes the control file out of ``control_files``."""
    if "control" not in control_files:
        raise ArtifactError("it has no control file")
    return parse_stanza(control_files.pop("control"), what="the control file")


def _ar_members(file: IO[bytes], size_bytes: int) -> Iterator[tuple[str, int, int]]:
    if file.read(8) != b"!<arch>\n":
        raise ArtifactError("it is no ar archive")
    at = 8
    while at < size_bytes:
        file.seek(at)
        match = _AR_HEADER.fullmatch(file.read(60))
        if match is None or not match[6].strip().isdigit():
            raise ArtifactError("it has a malformed ar header")
        size = int(match[6])
        name = match[1].rstrip(b" ").rstrip(b"/").decode("ascii", "replace")
        if at + 60 + size > size_bytes:
            raise ArtifactError("it is cut short")
        yield name, at + 60, size
        at += 60 + size + size % 2


class _Gzip:
    """zlib's decompressor with the interface of the two others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max(0, max_length))


class _Stream:
    """The decompressed bytes of one ar member, at most ``limit`` of them; exactly one compressed stream, nothing after it."""

    def __init__(self, source: Iterator[bytes], *, limit: int) -> None:
        self._source = source
        self._buffer = bytearray()
        self._left = limit

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes, or fewer at the end."""
        while len(self._buffer) < count:
            chunk = next(self._source, b"")
            if not chunk:
                break
            self._left -= len(chunk)
            if self._left < 0:
                raise ArtifactError("it unpacks to more bytes than allowed")
            self._buffer += chunk
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes."""
        while count > 0:
            data = self.read(min(count, _CHUNK))
            if not data:
                raise ArtifactError("its tar archive is cut short")
            count -= len(data)


def _raw(file: IO[bytes], offset: int, size: int) -> Generator[bytes, None, None]:
    file.seek(offset)
    while size > 0:
        data = file.read(min(size, _CHUNK))
        if not data:
            raise ArtifactError("it is cut short")
        size -= len(data)
        yield data


def _decompressed(
    raw: Iterator[bytes], inner: lzma.LZMADecompressor | bz2.BZ2Decompressor | _Gzip
) -> Generator[bytes, None, None]:
    for data in raw:
        if inner.eof:
            raise ArtifactError("it has data after its compressed stream")
        yield from _pump(inner, data)
    if not inner.eof or inner.unused_data:
        raise ArtifactError("its compressed stream is cut short, or data follow it")


def _pump(inner: lzma.LZMADecompressor | bz2.BZ2Decompressor | _Gzip, data: bytes) -> Iterator[bytes]:
    while True:
        out = inner.decompress(data, _CHUNK)
        data = b""
        if out:
            yield out
        if inner.eof or inner.needs_input:
            return


def _zstd(raw: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Through the zstd program, whose memory is bounded by its own option and whose output by the reader's limit."""
    with tempfile.TemporaryFile() as packed:
        for data in raw:
            packed.write(data)
        packed.seek(0)
        argv = ["zstd", "--decompress", "--stdout", "--quiet", "--memory=256MB"]
        with process.spawn(argv, stdin=packed.fileno(), stdout=process.PIPE) as child:
            assert child.stdout is not None
            while data := child.stdout.read(_CHUNK):
                yield data
            if child.wait() != 0:
                raise ArtifactError("its zstd stream is damaged")


@contextlib.contextmanager
def _opened(file: IO[bytes], part: tuple[str, int, int], *, stem: str, limit: int) -> Iterator[_Stream]:
    name, offset, size = part
    raw = _raw(file, offset, size)
    source: Generator[bytes, None, None]
    if name == f"{stem}.tar":
        source = raw
    elif name == f"{stem}.tar.xz":
        source = _decompressed(raw, lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES))
    elif name == f"{stem}.tar.gz":
        source = _decompressed(raw, _Gzip())
    elif name == f"{stem}.tar.zst":
        source = _zstd(raw)
    else:
        raise ArtifactError(f"it has the member {name[:20]!r} in place of {stem}.tar")
    with contextlib.closing(source):
        yield _Stream(source, limit=limit)


# -- tar ------------------------------------------------------------------------------------------------------------


def _control_files(file: IO[bytes], part: tuple[str, int, int]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with _opened(file, part, stem="control", limit=MAX_CONTROL_BYTES) as stream:
        for member in _tar(stream):
            data = stream.read(member.size_bytes)
            stream.skip(-member.size_bytes % 512)
            if member.kind == "dir" and member.name == "":
                continue
            if member.kind != "file" or "/" in member.name or member.name in found or not member.name:
                raise ArtifactError(f"its control archive holds {member.name[:80]!r}, which is no plain control file")
            found[member.name] = data
    return found


def _data_members(file: IO[bytes], part: tuple[str, int, int], limit: int) -> Iterator[Member]:
    with _opened(file, part, stem="data", limit=limit) as stream:
        names_bytes = 0
        for member in _tar(stream):
            names_bytes += len(member.name) + len(member.link)
            if names_bytes > _MAX_NAMES_BYTES:
                raise ArtifactError(f"the names of its members have more than {_MAX_NAMES_BYTES} bytes")
            wanted = member.kind == "file" and member.size_bytes <= _MAX_READ_BYTES and _READ.fullmatch(member.name)
            data = stream.read(member.size_bytes) if wanted else None
            stream.skip((0 if wanted else member.size_bytes) + -member.size_bytes % 512)
            if member.name:
                yield member if data is None else dataclasses.replace(member, data=data)


def _tar(stream: _Stream) -> Iterator[Member]:
    """The headers of a tar archive as dpkg-deb writes it (GNU or plain ustar); the caller passes over each one's data."""
    count = 0
    long_name: str | None = None
    long_link: str | None = None
    while True:
        block = stream.read(512)
        if len(block) != 512:
            raise ArtifactError("its tar archive is cut short")
        if not block.strip(b"\0"):
            break
        count += 1
        if count > MAX_MEMBERS:
            raise ArtifactError(f"it has more than {MAX_MEMBERS} members")
        kind, size = block[156:157], _header_numbers(block)
        if kind in (b"L", b"K"):
            text = _long_text(stream, size)
            long_name, long_link = (text, long_link) if kind == b"L" else (long_name, text)
            continue
        yield _member(block, size, long_name, long_link)
        long_name = long_link = None
    while tail := stream.read(_CHUNK):
        if tail.strip(b"\0"):
            raise ArtifactError("it has data after the end of its tar archive")


def _header_numbers(block: bytes) -> int:
    total = sum(block) - sum(block[148:156]) + 8 * 32
    if _octal(block[148:156]) != total:
        raise ArtifactError("a tar header has a wrong checksum")
    if block[257:263] not in (b"ustar\0", b"ustar "):
        raise ArtifactError("a tar header is of an unknown kind")
    return _octal(block[124:136])


def _octal(field: bytes) -> int:
    text = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]{0,12}", text):
        raise ArtifactError("a tar header has a malformed number")
    return int(text or b"0", 8)


def _long_text(stream: _Stream, size: int) -> str:
    if not 0 < size <= _MAX_NAME + 1:
        raise ArtifactError("a member has too long a name")
    data = stream.read(size + -size % 512)[:size]
    return _name(data)


def _name(data: bytes) -> str:
    raw = data.split(b"\0", 1)[0]
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ArtifactError(f"a member's name is not UTF-8: {raw[:80]!r}") from None
    if re.search(r"[\x00-\x1f\x7f-\x9f]", text) or len(text) > _MAX_NAME:
        raise ArtifactError(f"a member's name holds control characters or is too long: {text[:80]!r}")
    return text


_KINDS = {b"0": "file", b"\0": "file", b"1": "hardlink", b"2": "symlink", b"5": "dir"}


def _member(block: bytes, size: int, long_name: str | None, long_link: str | None) -> Member:
    name = _name(block[0:100]) if long_name is None else long_name
    prefix = block[345:500].split(b"\0", 1)[0]
    if long_name is None and block[257:263] == b"ustar\0" and prefix:
        name = f"{_name(prefix)}/{name}"
    kind = _KINDS.get(block[156:157])
    if kind is None:
        raise ArtifactError(f"{name[:80]!r} is a device, a fifo or of another kind that a package may not hold")
    if kind != "file" and size:
        raise ArtifactError(f"{name[:80]!r} has data although it is no file")
    return Member(
        name=_relative(name),
        kind=kind,
        mode=_octal(block[100:108]),
        uid=_octal(block[108:116]),
        gid=_octal(block[116:124]),
        size_bytes=size,
        link=_name(block[157:257]) if long_link is None else long_link,
    )


def _relative(name: str) -> str:
    """dpkg-deb writes ``./usr/bin/x``; the tree's root is the empty name."""
    parts = name.removeprefix("./").rstrip("/").split("/") if name not in (".", "./") else []
    if name.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ArtifactError(f"a member's name is absolute or leads out of the package: {name[:80]!r}")
    if len(parts) > _MAX_DEPTH:
        raise ArtifactError(f"a member lies deeper than {_MAX_DEPTH} directories: {name[:80]!r}")
    return "/".join(parts)
