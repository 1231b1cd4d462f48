"""Unpacking a tar archive that nobody vouches for: one strict reader of the form that :mod:`lxcbuild.images.pack` writes.

POSIX tar (pax), directories before what is in them, each name once. Names are resolved beneath the tree and never through a
link, owners are ids of a sandbox (0 to 65535), set-user-id bits and every extended attribute but overlay's opaque mark are
dropped, and of all devices only whiteouts are made. Sizes and counts are bounded, also of what the headers claim.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from msgspec import Struct

from lxcbuild import process
from lxcbuild.errors import DiskFullError, ExtractionError
from lxcbuild.linux.paths import open_directory, open_hostile_directory

_BLOCK = 512
_CHUNK = 1 << 18
_MAX_PAX = 1 << 16
_MAX_TIME_S = 10**12
_MAX_DEPTH = 200
_MAX_KEPT_BYTES = 64 << 20
_OPAQUE = "trusted.overlay.opaque"
_ZEROS = bytes(_CHUNK)
_PIPE, _NULL = -1, -3  # what Popen takes for these; the module that names them belongs to process.py
#: What goes wrong because of a name in the archive, not because of the host.
_OF_NAMES = (errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG, errno.EISDIR, errno.EPERM,
             errno.EINVAL)  # fmt: skip


class TarLimits(Struct, frozen=True, kw_only=True):
    """Bounds of one archive: of its content as unpacked, and of its entries."""

    max_bytes: int = 8 * 1024**3
    max_entries: int = 400_000


class TarEntry(Struct, frozen=True, kw_only=True):
    """One header. ``name`` has no leading ``./`` and no trailing slash; "" is the tree itself. ``kind`` is tar's type flag."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size_bytes: int
    mtime_ns: int
    link: bytes
    whiteout: bool
    opaque: bool


def entries(stream: IO[bytes], limits: TarLimits) -> Iterator[tuple[TarEntry, Callable[[int], bytes]]]:
    """The entries of an archive, each with a function that reads up to so many bytes of its content (b"" at its end).

    What is not read is skipped. Raises :class:`ExtractionError` for everything that is not exactly such an archive.
    """
    total = count = extended = 0
    pax: dict[bytes, bytes] = {}
    while True:
        header = _exactly(stream, _BLOCK)
        if not header.strip(b"\0"):
            return
        _check_sum(header)
        kind = header[156:157]
        if kind in (b"x", b"g"):
            size = _number(header[124:136])
            extended += 1
            if size > _MAX_PAX or extended > limits.max_entries:
                raise ExtractionError("the archive has an extended header of unreasonable size, or too many of them")
            records = _pax_records(_padded(stream, size))
            pax = records if kind == b"x" else {}
            continue
        entry = _entry(header, pax)
        pax = {}
        count, total = count + 1, total + entry.size_bytes
        if count > limits.max_entries or total > limits.max_bytes:
            raise ExtractionError(
                f"the archive holds more than {limits.max_entries} entries or {limits.max_bytes >> 20} MiB"
            )
        content = _Content(stream, entry.size_bytes)
        yield entry, content.read
        content.skip()


class _Content:
    def __init__(self, stream: IO[bytes], size_bytes: int) -> None:
        self._stream = stream
        self._left = size_bytes
        self._padding = -size_bytes % _BLOCK

    def read(self, count: int) -> bytes:
        data = _exactly(self._stream, min(count, self._left))
        self._left -= len(data)
        return data

    def skip(self) -> None:
        while self._left:
            self.read(_CHUNK)
        _exactly(self._stream, self._padding)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count) if count > 0 else b""
    if len(data) != count:
        raise ExtractionError("the archive ends too early")
    return data


def _padded(stream: IO[bytes], size: int) -> bytes:
    return _exactly(stream, size + -size % _BLOCK)[:size]


def _number(field: bytes) -> int:
    if field[:1] == b"\x80":  # GNU's base-256, for sizes from 8 GiB on
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    if text.strip(b"01234567"):
        raise ExtractionError("the archive has a header with an invalid number")
    return int(text, 8) if text else 0


def _check_sum(header: bytes) -> None:
    if header[257:262] != b"ustar" or sum(header[:148]) + sum(header[156:]) + 8 * 32 != _number(header[148:156]):
        raise ExtractionError("this is not a tar archive, or it is damaged")


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """``LENGTH KEY=VALUE\\n`` again and again (pax(1))."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        length_text = data[at : at + 7].partition(b" ")[0]
        if not length_text.isdigit() or len(length_text) > 6:
            raise ExtractionError("the archive has a malformed extended header")
        end = at + int(length_text)
        key, equals, value = data[at + len(length_text) + 1 : end - 1].partition(b"=")
        if end > len(data) or data[end - 1 : end] != b"\n" or not equals:
            raise ExtractionError("the archive has a malformed extended header")
        found[key] = value
        at = end
    return found


def _entry(header: bytes, pax: dict[bytes, bytes]) -> TarEntry:
    def number(key: bytes, field: bytes) -> int:
        value = pax.get(key)
        if value is None:
            return _number(field)
        if not value.isdigit() or len(value) > 20:
            raise ExtractionError("the archive has a header with an invalid number")
        return int(value)

    if any(key.startswith(b"GNU.sparse") for key in pax):
        raise ExtractionError("the archive holds sparse files, which we do not write")
    prefix, name = header[345:500].rstrip(b"\0"), header[:100].partition(b"\0")[0]
    name = pax.get(b"path", prefix + b"/" + name if prefix else name)
    kind = header[156:157].replace(b"\0", b"0")
    uid, gid = number(b"uid", header[108:116]), number(b"gid", header[116:124])
    if uid > 0xFFFF or gid > 0xFFFF:
        raise ExtractionError("the archive holds a file whose owner is not an id of a sandbox")
    seconds = _number(header[136:148])
    if seconds > _MAX_TIME_S:
        raise ExtractionError("the archive has a header with an invalid time")
    return TarEntry(
        name=b"/".join(_parts(name)),
        kind=kind,
        mode=_number(header[100:108]) & 0o7777,
        uid=uid,
        gid=gid,
        size_bytes=number(b"size", header[124:136]) if kind == b"0" else 0,
        mtime_ns=_nanoseconds(pax.get(b"mtime")) if b"mtime" in pax else seconds * 10**9,
        link=pax.get(b"linkpath", header[157:257].partition(b"\0")[0]),
        whiteout=kind == b"3" and _number(header[329:337]) == 0 and _number(header[337:345]) == 0,
        opaque=pax.get(b"SCHILY.xattr." + _OPAQUE.encode()) == b"y",
    )


def _nanoseconds(value: bytes | None) -> int:
    seconds, _, fraction = (value or b"0").partition(b".")
    digits = seconds.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 12 or (fraction and not fraction.isdigit()):
        raise ExtractionError("the archive has a header with an invalid time")
    return int(seconds) * 10**9 + (int(fraction[:9].ljust(9, b"0")) if fraction else 0)


def _parts(name: bytes) -> list[bytes]:
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if name.startswith(b"/") or b".." in parts or b"\0" in name or len(parts) > _MAX_DEPTH or len(name) > 4096:
        raise ExtractionError("the archive holds a name that leads out of it")
    return parts


def untar(stream: IO[bytes], tree: Path, limits: TarLimits | None = None) -> None:
    """Unpack into the empty directory ``tree``. Raises :class:`ExtractionError`, or OSError for trouble of the host."""
    root = open_directory(tree)
    try:
        _Unpacking(root).all(entries(stream, limits or TarLimits()))
    finally:
        os.close(root)


class _Unpacking:
    """Makes the files of one tree, with the last directory kept open: an archive lists them one after another."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._at = (b"", os.dup(root))
        self._times: list[tuple[bytes, int]] = []
        self._kept_bytes = 0

    def all(self, found: Iterator[tuple[TarEntry, Callable[[int], bytes]]]) -> None:
        try:
            for entry, read in found:
                try:
                    self._make(entry, read)
                except OSError as error:
                    if error.errno in _OF_NAMES:
                        raise self._refused(entry, error) from error
                    raise
            for name, mtime_ns in reversed(self._times):  # last: making what is in a directory changes its time
                fd = open_hostile_directory(self._root, name or b".")
                try:
                    os.utime(fd, ns=(mtime_ns, mtime_ns))
                finally:
                    os.close(fd)
        finally:
            os.close(self._at[1])

    @staticmethod
    def _refused(entry: TarEntry, error: OSError) -> ExtractionError:
        shown = entry.name.decode("ascii", "backslashreplace")[:200]
        return ExtractionError(f"the archive cannot hold {shown}: {error.strerror}")

    def _parent(self, name: bytes) -> int:
        if self._at[0] != name:
            fd = open_hostile_directory(self._root, name or b".")
            os.close(self._at[1])
            self._at = (name, fd)
        return self._at[1]

    def _make(self, entry: TarEntry, read: Callable[[int], bytes]) -> None:
        above, _, name = entry.name.rpartition(b"/")
        if not name:
            self._directory(self._root, entry)
            return
        parent = self._parent(above)
        if entry.kind == b"5":
            os.mkdir(name, 0o700, dir_fd=parent)
            fd = open_hostile_directory(parent, name)
            try:
                self._directory(fd, entry)
            finally:
                os.close(fd)
        elif entry.kind == b"0":
            self._file(parent, name, entry, read)
        elif entry.kind == b"2":
            os.symlink(entry.link, name, dir_fd=parent)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        elif entry.kind == b"1":
            self._link(parent, name, entry)
        elif entry.whiteout:
            os.mknod(name, stat.S_IFCHR | (entry.mode & 0o777), 0, dir_fd=parent)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        elif entry.kind not in (b"3", b"4", b"6"):  # a base image's own /dev is hidden by the sandbox's
            raise ExtractionError(f"the archive holds an entry of the unknown type {entry.kind!r}")

    def _directory(self, fd: int, entry: TarEntry) -> None:
        if entry.kind != b"5":
            raise ExtractionError("the root of the archive is not a directory")
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        if entry.opaque:
            os.setxattr(fd, _OPAQUE, b"y")
        self._kept_bytes += len(entry.name)
        if self._kept_bytes > _MAX_KEPT_BYTES:
            raise ExtractionError(f"the names of the archive's directories have more than {_MAX_KEPT_BYTES >> 20} MiB")
        self._times.append((entry.name, entry.mtime_ns))

    @staticmethod
    def _file(parent: int, name: bytes, entry: TarEntry, read: Callable[[int], bytes]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            while data := read(_CHUNK):
                if data == _ZEROS[: len(data)]:
                    os.lseek(fd, len(data), os.SEEK_CUR)
                    continue
                left = memoryview(data)
                while left:
                    left = left[os.write(fd, left) :]
            os.ftruncate(fd, entry.size_bytes)
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode & 0o1777)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _link(self, parent: int, name: bytes, entry: TarEntry) -> None:
        above, _, first = b"/".join(_parts(entry.link)).rpartition(b"/")
        if not first:
            raise ExtractionError("the archive holds a hard link to nothing")
        source = open_hostile_directory(self._root, above or b".")
        try:
            os.link(first, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)


def untar_file(archive: Path, tree: Path, limits: TarLimits | None = None) -> None:
    """The same for a file that zstd compressed. Raises :class:`ExtractionError`, :class:`ToolMissingError`, DiskFullError."""
    try:
        with process.spawn(["zstd", "-dcq", "--", archive], stdout=_PIPE, stderr=_NULL) as child:
            untar(process.piped(child.stdout), tree, limits)
    except ExtractionError as error:
        raise ExtractionError(f"{archive.name}: {error.brief}", details=error.details) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"no room for {archive.name}", resolution="lxcbuild gc --hot") from error
        raise
