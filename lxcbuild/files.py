"""Files of this host: digests, files that are written whole, and what the kernel says of memory. Standard library only."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import IO, Self

from lxcbuild.errors import DiskFullError

_BLOCK_BYTES = 1 << 20


class Closing:
    """What has ``close``, and closes at the end of its ``with`` block."""

    def close(self) -> None:
        """Give everything back."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits. Raises OSError."""
    return digest_of(path, "sha256")


def digest_of(path: Path, algorithm: str) -> str:
    """A file's digest by any algorithm that hashlib knows, in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def write_whole(path: Path, data: bytes | str | IO[bytes], *, durable: bool, mode: int | None = None) -> None:
    """Write a file, or replace one, so that readers see all of it or nothing. Texts become UTF-8; a stream is read to its end.

    ``durable`` files are on the disk, with their name, when this returns: rename(2) is atomic, but only what was synced survives
    a loss of power. ``mode`` is set whatever the umask is; without it the umask decides. Raises :class:`DiskFullError`, OSError.
    """
    fresh = path.with_name(f".new-{os.urandom(8).hex()}")
    try:
        fd = os.open(
            fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else mode & 0o600
        )
        try:
            with os.fdopen(fd, "wb") as file:
                if isinstance(data, bytes | str):
                    file.write(data.encode() if isinstance(data, str) else data)
                else:
                    shutil.copyfileobj(data, file, _BLOCK_BYTES)
                if mode is not None:
                    os.fchmod(fd, mode)
                if durable:
                    file.flush()
                    os.fsync(fd)
            fresh.rename(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        if durable:
            sync_directory(path.parent)
    except OSError as error:
        raise disk_full_or(error, path) from error


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def disk_full_or(error: OSError, path: Path) -> Exception:
    """ENOSPC and EDQUOT as :class:`DiskFullError`; any other error as it is. ``path`` is what was to be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"no room left on the disk that holds {path.parent}",
            resolution="free some space there (lxcbuild gc helps), or choose another place with --state-dir",
        )
    return error


def memory() -> dict[str, int]:
    """This host's memory in bytes by the kernel's names, such as MemTotal, MemAvailable and SwapTotal (proc_meminfo(5))."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text("ascii").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"]}
