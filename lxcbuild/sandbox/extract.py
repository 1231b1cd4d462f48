"""Taking files out of a sandbox in which nothing lives any more: regular files only, bounded, copied to new inodes, sealed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from lxcbuild.errors import ExtractionError
from lxcbuild.linux.paths import open_hostile_directory, open_hostile_file
from lxcbuild.policy import OutputLimits
from lxcbuild.sandbox.base import ExtractedFile
from lxcbuild.sandbox.delta import changes, save_delta
from lxcbuild.sandbox.staging import staged_directory
from lxcbuild.text import for_log, one_line

__all__ = ["changes", "extract", "save_delta"]

_COPY_BYTES = 1 << 18


def extract(root_fd: int, inside_dir: str, destination: Path, limits: OutputLimits) -> list[ExtractedFile]:
    """Copy the regular files below ``inside_dir`` of the tree ``root_fd`` to the new directory ``destination``.

    Files get mode 0644, the caller's owner and no extended attribute; the hashes are of the bytes as they were written.
    Directories appear only where a file is in them. ``destination`` must not exist, or be an empty directory; it is complete
    or not there. A missing ``inside_dir`` means that nothing was left. Raises :class:`ExtractionError` for anything but plain
    files with tame names within ``limits``, and :class:`lxcbuild.errors.DiskFullError`.
    """
    try:
        source_fd = open_hostile_directory(root_fd, inside_dir.strip("/") or ".")
    except FileNotFoundError:
        source_fd = None
    except OSError as error:
        raise ExtractionError(f"{inside_dir} of the sandbox is not a plain directory ({error.strerror})") from None
    with contextlib.ExitStack() as stack:
        if source_fd is not None:
            stack.callback(os.close, source_fd)
        staging = stack.enter_context(staged_directory(destination))
        if source_fd is None:
            return []
        return _Extraction(staging, destination, limits).directory(source_fd, "")


class _Extraction:
    """Counts what has been taken so far."""

    def __init__(self, staging: Path, destination: Path, limits: OutputLimits) -> None:
        self._staging = staging
        self._destination = destination
        self._limits = limits
        self._entries = 0
        self._bytes = 0

    def directory(self, dir_fd: int, prefix: str) -> list[ExtractedFile]:
        """Take everything below one directory; ``prefix`` is empty or ends in a slash."""
        if prefix.count("/") >= self._limits.max_depth:
            raise ExtractionError(f"the output is nested deeper than {self._limits.max_depth} directories")
        taken: list[ExtractedFile] = []
        for raw in self._names(dir_fd):
            name = prefix + _checked_name(raw)
            info = os.stat(raw, dir_fd=dir_fd, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                below = self._open(dir_fd, raw, name, directory=True)
                try:
                    taken += self.directory(below, f"{name}/")
                finally:
                    os.close(below)
            elif stat.S_ISREG(info.st_mode):
                fd = self._open(dir_fd, raw, name, directory=False)
                try:
                    taken.append(self._file(fd, name))
                finally:
                    os.close(fd)
            else:
                raise ExtractionError(f"the output holds {_kind(info.st_mode)}: {name}")
        return taken

    def _names(self, dir_fd: int) -> list[bytes]:
        """The directory's names, sorted; stops reading as soon as there are too many."""
        names = []
        with os.scandir(dir_fd) as entries:
            for entry in entries:
                self._entries += 1
                if self._entries > self._limits.max_files:
                    raise ExtractionError(f"the output holds more than {self._limits.max_files} files and directories")
                names.append(os.fsencode(entry.name))
        return sorted(names)

    def _open(self, dir_fd: int, raw: bytes, name: str, *, directory: bool) -> int:
        try:
            return open_hostile_directory(dir_fd, raw) if directory else open_hostile_file(dir_fd, raw)
        except OSError as error:
            raise ExtractionError(f"the output cannot be read: {name} ({error.strerror})") from None

    def _file(self, fd: int, name: str) -> ExtractedFile:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ExtractionError(f"the output holds {_kind(info.st_mode)}: {name}")
        if info.st_nlink != 1:
            raise ExtractionError(f"the output holds a hard link: {name}")
        if info.st_size > self._limits.max_file_bytes:
            raise ExtractionError(f"{name} is larger than {self._limits.max_file_bytes} bytes: {info.st_size}")
        self._bytes += info.st_size
        if self._bytes > self._limits.max_bytes:
            raise ExtractionError(f"the output is larger than {self._limits.max_bytes} bytes")
        target = self._staging / name
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(out, 0o644)
            digest = _copy_hashed(fd, out, size_bytes=info.st_size, name=name)
        finally:
            os.close(out)
        return ExtractedFile(name=name, path=self._destination / name, sha256=digest, size_bytes=info.st_size)


def _checked_name(raw: bytes) -> str:
    """A file name without anything that a terminal, shell, or reader could take for something else."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    if (
        not name
        or len(raw) > 255
        or for_log(name) != name
        or "\n" in name
        or "\t" in name
        or name.startswith(("-", ".."))
    ):
        raise ExtractionError(f"the output holds a file with a bad name: {one_line(raw)}")
    return name


def _kind(mode: int) -> str:
    """What a file that is not regular is called."""
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a fifo",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
        stat.S_IFDIR: "a directory",
    }
    return kinds.get(stat.S_IFMT(mode), "a file of unknown type")


def _copy_hashed(source: int, target: int, *, size_bytes: int, name: str) -> str:
    """Copy, leaving holes as holes; the SHA-256 of all ``size_bytes`` bytes. Raises ExtractionError for a size that changes."""
    digest = hashlib.sha256()
    zeros = bytes(_COPY_BYTES)
    at = 0
    while data := os.read(source, _COPY_BYTES):
        digest.update(data)
        at += len(data)
        if at > size_bytes:
            break
        if data == zeros[: len(data)]:
            os.lseek(target, len(data), os.SEEK_CUR)
            continue
        left = memoryview(data)
        while left:
            left = left[os.write(target, left) :]
    if at != size_bytes:
        raise ExtractionError(f"{name} changed while it was read")
    os.ftruncate(target, size_bytes)
    return digest.hexdigest()
