"""The outer shell of a .deb: the ar archive, the one compressed stream in each of its tar members, and what reading may cost.

Written as dpkg-deb writes it, to the byte, or refused: deb(5), RFC 1952, the .xz file format, RFC 8878.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import tempfile
import time
import zlib
from collections.abc import Generator, Iterator
from typing import IO

from msgspec import Struct

from lxcbuild import process
from lxcbuild.debian.stanza import ArtifactError

_CHUNK = 1 << 18
_XZ_MEMORY_BYTES = 256 * 1024 * 1024
_AR_HEADER_BYTES = 60
_FREE_BYTES = 64 * 1024 * 1024
#: Real archives unpack to at most 45 times their size, those of more than a megabyte to 31 times; zeros in xz to 7,000 times.
_RATIO = 200
_FREE_SECONDS = 60
#: xz on a slow machine; what takes longer has been made to.
_BYTES_PER_SECOND = 1024 * 1024


class Budget:
    """What the reading of one package, or of all packages of a set, may cost: unpacked bytes, and CPU seconds of this thread.

    Both grow with the packed bytes. Seconds of the CPU, because a busy machine is no fault of a package.
    """

    def __init__(self) -> None:
        self._left_bytes = _FREE_BYTES
        self._until = time.thread_time() + _FREE_SECONDS

    def grant(self, packed_bytes: int) -> None:
        """Allow what so many packed bytes may cost."""
        self._left_bytes += packed_bytes * _RATIO
        self._until += packed_bytes / _BYTES_PER_SECOND

    def spend(self, unpacked_bytes: int) -> None:
        """Raises :class:`ArtifactError` when nothing is left."""
        self._left_bytes -= unpacked_bytes
        self.check(0)

    def check(self, unpacked_bytes: int) -> None:
        """Raises :class:`ArtifactError` when so many bytes, or the time until now, are too much."""
        if unpacked_bytes > self._left_bytes:
            raise ArtifactError(f"it unpacks to more bytes than allowed: over {_RATIO} times its size")
        if time.thread_time() > self._until:
            raise ArtifactError("it takes too long to read")


class Part(Struct, frozen=True):
    """One member of the ar archive."""

    name: str
    offset: int
    size_bytes: int


def parts(file: IO[bytes]) -> tuple[Part, Part]:
    """The control and the data archive of a .deb of format 2.0. Raises :class:`ArtifactError`."""
    size_bytes = os.fstat(file.fileno()).st_size
    if file.read(8) != b"!<arch>\n":
        raise ArtifactError("it is not an ar archive")
    found: list[Part] = []
    at = 8
    while at < size_bytes:
        if len(found) == 3:
            raise ArtifactError("it does not consist of debian-binary, control.tar and data.tar alone")
        found.append(_part(file, at))
        end = found[-1].offset + found[-1].size_bytes
        at = end + end % 2
        file.seek(end)
        if at > size_bytes or file.read(at - end) != b"\n"[: at - end]:
            raise ArtifactError("it is cut short, or a byte between its members is no newline")
    if len(found) != 3 or found[0].name != "debian-binary":
        raise ArtifactError("it does not consist of debian-binary, control.tar and data.tar")
    file.seek(found[0].offset)
    if found[0].size_bytes != 4 or file.read(4) != b"2.0\n":
        raise ArtifactError("its format is not 2.0")
    return found[1], found[2]


def _part(file: IO[bytes], at: int) -> Part:
    """A header is what dpkg-deb writes for what it says: blank-padded, owner 0, mode 100644, no slash after the name."""
    file.seek(at)
    block = file.read(_AR_HEADER_BYTES)
    try:
        name, written, size = block[:16].decode("ascii").rstrip(" "), int(block[16:28]), int(block[48:58])
    except ValueError:
        raise ArtifactError("it has a malformed ar header") from None
    if block != f"{name:<16}{written:<12}0     0     100644  {size:<10}`\n".encode() or written < 0 or size < 0:
        raise ArtifactError(f"the ar header of {name[:20]!r} is not one that dpkg-deb writes")
    return Part(name, at + _AR_HEADER_BYTES, size)


class Stream:
    """The unpacked bytes of one part, at most ``limit`` of them and no more than the budget has left."""

    def __init__(self, source: Iterator[bytes], *, limit: int, budget: Budget) -> None:
        self._source = source
        self._buffer = bytearray()
        self._left = limit
        self._budget = budget
        self.position = 0

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes, or fewer at the end."""
        while len(self._buffer) < count:
            chunk = next(self._source, b"")
            if not chunk:
                break
            self._left -= len(chunk)
            if self._left < 0:
                raise ArtifactError("it unpacks to more bytes than allowed")
            self._budget.spend(len(chunk))
            self._buffer += chunk
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        self.position += len(data)
        return data

    def expect(self, count: int) -> None:
        """Raises :class:`ArtifactError` when so many more bytes are too many, before any of them is unpacked."""
        missing = count - len(self._buffer)
        if missing > self._left:
            raise ArtifactError("it unpacks to more bytes than allowed")
        self._budget.check(missing)

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes."""
        while count > 0:
            data = self.read(min(count, _CHUNK))
            if not data:
                raise ArtifactError("its tar archive is cut short")
            count -= len(data)


@contextlib.contextmanager
def opened(file: IO[bytes], part: Part, *, stem: str, limit: int, budget: Budget) -> Iterator[Stream]:
    """The unpacked bytes of a part that is called after its compression. Raises :class:`ArtifactError`."""
    budget.grant(part.size_bytes)
    raw = _raw(file, part)
    source: Generator[bytes, None, None]
    if part.name == f"{stem}.tar":
        source = raw
    elif part.name == f"{stem}.tar.xz":
        source = _xz(raw)
    elif part.name == f"{stem}.tar.gz":
        source = _decompressed(raw, _Gzip())
    elif part.name == f"{stem}.tar.zst":
        source = _zstd(raw, budget)
    else:
        raise ArtifactError(f"it has the member {part.name[:20]!r} in place of {stem}.tar")
    with contextlib.closing(source):
        yield Stream(source, limit=limit, budget=budget)


# -- compression ----------------------------------------------------------------------------------------------------


class _Gzip:
    """zlib's decompressor with the interface of lzma's."""

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


def _raw(file: IO[bytes], part: Part) -> Generator[bytes, None, None]:
    file.seek(part.offset)
    size = part.size_bytes
    while size > 0:
        data = file.read(min(size, _CHUNK))
        if not data:
            raise ArtifactError("it is cut short")
        size -= len(data)
        yield data


def _decompressed(raw: Iterator[bytes], inner: lzma.LZMADecompressor | _Gzip) -> Generator[bytes, None, None]:
    """Exactly one stream: dpkg-deb, tar and the programs of the formats differ in what they do about a second one."""
    for data in raw:
        if inner.eof:
            raise ArtifactError("it has data after its compressed stream")
        yield from _pump(inner, data)
    if not inner.eof or inner.unused_data:
        raise ArtifactError("its compressed stream is cut short, or data follow it")


def _pump(inner: lzma.LZMADecompressor | _Gzip, data: bytes) -> Iterator[bytes]:
    while True:
        out = inner.decompress(data, _CHUNK)
        data = b""
        if out:
            yield out
        if inner.eof or inner.needs_input:
            return


def _xz(raw: Iterator[bytes]) -> Generator[bytes, None, None]:
    inner = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
    yield from _decompressed(raw, inner)
    if inner.check != lzma.CHECK_CRC64:
        raise ArtifactError("its xz stream has another check than the CRC64 that dpkg-deb writes")


def _zstd(raw: Iterator[bytes], budget: Budget) -> Generator[bytes, None, None]:
    """Through the zstd program, whose memory is bounded by its own option and whose output by the reader's limit."""
    with tempfile.TemporaryFile() as packed:
        for data in raw:
            packed.write(data)
        _check_zstd_frame(packed, packed.tell(), budget)
        os.lseek(packed.fileno(), 0, os.SEEK_SET)  # the child reads past our buffer
        argv = ["zstd", "--decompress", "--stdout", "--quiet", "--memory=256MB"]
        with process.spawn(argv, stdin=packed.fileno(), stdout=process.PIPE) as child:
            while data := process.piped(child.stdout).read(_CHUNK):
                yield data
            if child.wait() != 0:
                raise ArtifactError("its zstd stream is damaged")


def _check_zstd_frame(packed: IO[bytes], size_bytes: int, budget: Budget) -> None:
    """One frame that ends where the part ends (RFC 8878, 3.1.1): the program would read any number, also ones to skip."""
    packed.seek(0)
    head = packed.read(5)
    if head[:4] != b"\x28\xb5\x2f\xfd" or len(head) != 5 or head[4] & 0b11011:
        raise ArtifactError("its zstd stream does not begin with a frame as dpkg-deb writes it")
    single = head[4] >> 5 & 1
    at = 5 + (not single) + (single, 2, 4, 8)[head[4] >> 6]
    last = 0
    while not last:
        budget.check(0)
        packed.seek(at)
        block = int.from_bytes(packed.read(3), "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        at += 3 + (1 if kind == 1 else size)
        if at > size_bytes or kind == 3:
            raise ArtifactError("its zstd stream is damaged")
    if at + (head[4] & 4) != size_bytes:
        raise ArtifactError("it has data after its compressed stream")
