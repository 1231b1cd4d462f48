"""Opening paths that hostile code arranged: nothing is followed, nothing above or across a mount is reached (``openat2(2)``)."""

from __future__ import annotations

import os

from lxcbuild.linux.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)

#: What every path that a sandbox named is resolved with.
RESOLVE_HOSTILE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV


def open_directory(path: str | os.PathLike[str]) -> int:
    """A descriptor of a directory of ours; its last component must not be a link. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def open_hostile_directory(dir_fd: int, path: str | bytes) -> int:
    """A descriptor of the directory ``path`` below ``dir_fd``. Raises OSError: ELOOP for a link, EXDEV for a way out."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK
    return openat2(path, dir_fd=dir_fd, flags=flags, resolve=RESOLVE_HOSTILE)


def open_hostile_file(dir_fd: int, path: str | bytes) -> int:
    """A descriptor for reading ``path`` below ``dir_fd``, without waiting for the other end of a fifo. Raises OSError.

    The caller has looked at the file's type before (opening a device can have effects), and looks again at the descriptor.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    return openat2(path, dir_fd=dir_fd, flags=flags, resolve=RESOLVE_HOSTILE)
