"""The writable layer of a dead sandbox: which paths differ from the image, and the whole of it as a new overlay lower.

Overlay's own marks are those of ``Documentation/filesystems/overlayfs.rst``: a whiteout is a character device 0:0 (or an empty
file with ``trusted.overlay.whiteout``), an opaque directory has ``trusted.overlay.opaque`` = ``y``, and what was copied up
from below carries ``trusted.overlay.origin``.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from lxcbuild.errors import ExtractionError
from lxcbuild.linux.paths import open_directory, open_hostile_directory, open_hostile_file
from lxcbuild.log import Logger
from lxcbuild.sandbox.base import ChangeKind, TreeChange
from lxcbuild.sandbox.staging import staged_directory

log = Logger()

_OPAQUE, _WHITEOUT, _ORIGIN = "trusted.overlay.opaque", "trusted.overlay.whiteout", "trusted.overlay.origin"
#: Deeper than any package; each level costs a descriptor or two.
_MAX_DEPTH = 200
_SENDFILE_BYTES = 1 << 30


def changes(upper_fd: int, *, prefixes: Sequence[str] = ("/",), max_entries: int = 200_000) -> Iterator[TreeChange]:
    """What the upper directory says about the paths below ``prefixes`` (absolute), directory by directory in name order.

    Directories that were only copied up for the sake of what is in them are no change. Paths are as the sandbox made them:
    hostile text, with surrogates where they are not UTF-8. Ends silently after ``max_entries`` entries, and does not look
    into directories nested deeper than 200.
    """
    wanted = [("/" + prefix.strip("/")).rstrip("/") + "/" for prefix in prefixes]
    walker = _Walk(wanted, max_entries)
    yield from walker.directory(upper_fd, "/", depth=0)


class _Walk:
    def __init__(self, wanted: list[str], max_entries: int) -> None:
        self._wanted = wanted
        self._left = max_entries

    def directory(self, dir_fd: int, path: str, *, depth: int) -> Iterator[TreeChange]:
        with os.scandir(dir_fd) as entries:
            found = sorted(entry.name for entry in itertools.islice(entries, self._left))
        for name in found:
            here = path + name
            inside = any((here + "/").startswith(prefix) for prefix in self._wanted)
            if not inside and not any(prefix.startswith(here + "/") for prefix in self._wanted):
                continue
            if self._left <= 0:
                return
            self._left -= 1
            info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                if inside:
                    deleted = _is_whiteout(dir_fd, name, info)
                    yield TreeChange(path=here, kind=ChangeKind.DELETED if deleted else ChangeKind.WRITTEN)
                continue
            below = open_hostile_directory(dir_fd, os.fsencode(name))
            try:
                marks = os.listxattr(below)
                if inside and (_OPAQUE in marks or _ORIGIN not in marks):
                    yield TreeChange(path=here, kind=ChangeKind.WRITTEN)
                if depth < _MAX_DEPTH:
                    yield from self.directory(below, here + "/", depth=depth + 1)
            finally:
                os.close(below)


def _is_whiteout(dir_fd: int, name: str, info: os.stat_result) -> bool:
    if stat.S_ISCHR(info.st_mode):
        return info.st_rdev == 0
    if not stat.S_ISREG(info.st_mode) or info.st_size:
        return False
    fd = open_hostile_file(dir_fd, os.fsencode(name))
    try:
        return _WHITEOUT in os.listxattr(fd)
    finally:
        os.close(fd)


def save_delta(
    upper_fd: int,
    destination: Path,
    *,
    id_start: int,
    id_count: int = 65536,
    trusted: bool = False,
    max_bytes: int | None = None,
) -> None:
    """Copy the upper directory to the new directory ``destination`` as an overlay lower.

    Owners are shifted from ``id_start`` back to 0. Kept: modes, modification times, symbolic and hard links, whiteouts,
    opaque marks. Dropped: every other extended attribute (overlay's redirect, metacopy and origin, file capabilities, ACLs,
    user attributes), set-user-id and set-group-id bits of files unless ``trusted``, sockets and fifos. ``destination`` is
    complete or not there. Raises :class:`ExtractionError` for owners outside the range, devices, mad nesting, and files of more
    than ``max_bytes`` together (by their sizes, holes included), and :class:`lxcbuild.errors.DiskFullError`.
    """
    with staged_directory(destination) as staging:
        target = open_directory(staging)
        try:
            copy = _Copy(target, id_start=id_start, id_count=id_count, trusted=trusted, max_bytes=max_bytes)
            copy.tree(upper_fd)
        finally:
            os.close(target)


class _Copy:
    """Copies one tree. Directory descriptors and names only, so that no path is ever resolved twice."""

    def __init__(self, root: int, *, id_start: int, id_count: int, trusted: bool, max_bytes: int | None) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._bytes = 0
        self._id_start = id_start
        self._id_count = id_count
        self._mode_mask = 0o7777 if trusted else 0o1777
        self._linked: dict[int, str] = {}  # inode number to the path of the first copy

    def tree(self, upper_fd: int) -> None:
        """Copy everything."""
        self._contents(upper_fd, self._root, "", depth=0)
        self._finish_directory(upper_fd, self._root, os.fstat(upper_fd))

    def _contents(self, source: int, target: int, prefix: str, *, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ExtractionError(f"the layer is nested deeper than {_MAX_DEPTH} directories")
        with os.scandir(source) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            info = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                self._directory(source, target, name, info, prefix, depth)
            elif stat.S_ISLNK(info.st_mode):
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
                os.chown(name, *self._owner(info, prefix + name), dir_fd=target, follow_symlinks=False)
                _set_times(name, info, dir_fd=target)
            elif stat.S_ISREG(info.st_mode):
                self._file(source, target, name, info, prefix)
            elif stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=target)
            elif stat.S_ISSOCK(info.st_mode) or stat.S_ISFIFO(info.st_mode):
                log.debug("delta.dropped", path=prefix + name)
            else:
                raise ExtractionError(f"the layer holds a device: /{prefix}{name}")

    def _directory(self, source: int, target: int, name: str, info: os.stat_result, prefix: str, depth: int) -> None:
        os.mkdir(name, 0o700, dir_fd=target)
        below = open_hostile_directory(source, os.fsencode(name))
        try:
            copy = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
            try:
                self._contents(below, copy, f"{prefix}{name}/", depth=depth + 1)
                self._finish_directory(below, copy, info)
            finally:
                os.close(copy)
        finally:
            os.close(below)

    def _finish_directory(self, source: int, copy: int, info: os.stat_result) -> None:
        """Owner, mode, mark and times; last, because making the contents changes the times."""
        os.fchown(copy, *self._owner(info, "a directory"))
        os.fchmod(
            copy, stat.S_IMODE(info.st_mode)
        )  # on directories the set-group-id bit only says which group files get
        if _OPAQUE in os.listxattr(source) and os.getxattr(source, _OPAQUE) == b"y":
            os.setxattr(copy, _OPAQUE, b"y")
        _set_times(copy, info)

    def _file(self, source: int, target: int, name: str, info: os.stat_result, prefix: str) -> None:
        first = self._linked.get(info.st_ino) if info.st_nlink > 1 else None
        if first is not None:
            os.link(first, name, src_dir_fd=self._root, dst_dir_fd=target, follow_symlinks=False)
            return
        self._bytes += info.st_size
        if self._max_bytes is not None and self._bytes > self._max_bytes:
            raise ExtractionError(f"the layer holds more than {self._max_bytes >> 20} MiB")
        fd = open_hostile_file(source, os.fsencode(name))
        try:
            if info.st_size == 0 and _WHITEOUT in os.listxattr(fd):
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=target)
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            out = os.open(name, flags, 0o600, dir_fd=target)
            try:
                _copy_data(fd, out, info)
                os.fchown(out, *self._owner(info, prefix + name))
                os.fchmod(out, info.st_mode & self._mode_mask)  # after chown, which clears set-id bits
                _set_times(out, info)
            finally:
                os.close(out)
        finally:
            os.close(fd)
        if info.st_nlink > 1:
            self._linked[info.st_ino] = prefix + name

    def _owner(self, info: os.stat_result, what: str) -> tuple[int, int]:
        uid, gid = info.st_uid - self._id_start, info.st_gid - self._id_start
        if not (0 <= uid < self._id_count and 0 <= gid < self._id_count):
            raise ExtractionError(
                f"{what} of the layer belongs to {info.st_uid}:{info.st_gid}, outside the sandbox's ids"
            )
        return uid, gid


def _set_times(what: int | str, info: os.stat_result, *, dir_fd: int | None = None) -> None:
    times = (info.st_mtime_ns, info.st_mtime_ns)
    if isinstance(what, int):
        os.utime(what, ns=times)
    else:
        os.utime(what, ns=times, dir_fd=dir_fd, follow_symlinks=False)


def _copy_data(source: int, target: int, info: os.stat_result) -> None:
    """Copy the bytes inside the kernel, leaving holes as holes."""
    size = info.st_size
    if info.st_blocks * 512 >= size:
        _send(source, target, 0, size)
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no more data
                raise
            break
        end = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(target, start, os.SEEK_SET)
        _send(source, target, start, end)
    os.ftruncate(target, size)


def _send(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        sent = os.sendfile(target, source, start, min(end - start, _SENDFILE_BYTES))
        if sent == 0:
            raise ExtractionError("a file of the layer changed while it was read")
        start += sent
