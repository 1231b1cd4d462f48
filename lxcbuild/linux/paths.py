"""Opening paths that hostile code arranged: ``openat2`` with resolution flags, directory-relative reading and removing.

A leaf: standard library and :mod:`ctypes` only. ``openat2(2)`` is in the kernel since 5.6; flags are from ``linux/openat2.h``.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from lxcbuild.errors import KernelError

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

#: What every path that a sandbox named is opened with: no link is followed, no mount is crossed, nothing above is reached.
RESOLVE_HOSTILE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV

_NR_OPENAT2 = 437  # the same on every architecture (asm-generic and x86)
_AGAIN_TRIES = 16

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    """``struct open_how``."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(dir_fd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = RESOLVE_HOSTILE) -> int:
    """Open ``path`` relative to ``dir_fd`` and return a close-on-exec descriptor.

    Raises OSError as :func:`os.open` does (ELOOP for a symbolic link, EXDEV for a mount or a way out), and
    :class:`KernelError` on a kernel without ``openat2``. EAGAIN (a rename raced with ``..``) is tried again a few times.
    """
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError("embedded null byte")
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(_AGAIN_TRIES):
        fd = _syscall(
            ctypes.c_long(_NR_OPENAT2),
            ctypes.c_int(dir_fd),
            ctypes.c_char_p(raw),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            raise KernelError(
                "openat2 is not supported by this kernel", resolution="boot a kernel of 5.12 or newer"
            ) from None
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), os.fsdecode(raw))


def open_directory(path: Path | str) -> int:
    """A descriptor of a directory of ours (its own last component is not followed when it is a link)."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def open_beneath(dir_fd: int, path: str | bytes) -> int:
    """A descriptor of the directory ``path`` below ``dir_fd``, with no link followed and no mount crossed."""
    return openat2(dir_fd, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK)


def remove_tree(dir_fd: int, name: str | bytes) -> None:
    """Remove ``name`` below ``dir_fd`` with all that it holds, however deep; never follows a link, never crosses a mount.

    A name that does not exist is no error. Iterative, one descriptor per level is avoided by moving each nested directory
    up to ``dir_fd`` first, so that 100,000 nested directories cost neither stack nor descriptors.
    """
    try:
        os.unlink(name, dir_fd=dir_fd)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        pass
    serial = 0
    pending = [os.fsencode(name)]
    while pending:
        current = pending[-1]
        fd = openat2(dir_fd, current, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with os.scandir(fd) as entries:
                found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
            deeper = []
            for child, is_dir in found:
                if not is_dir:
                    os.unlink(child, dir_fd=fd)
                    continue
                try:
                    os.rmdir(child, dir_fd=fd)
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:
                        raise
                    serial += 1
                    lifted = b".removing-%d-%d" % (os.getpid(), serial)
                    os.rename(child, lifted, src_dir_fd=fd, dst_dir_fd=dir_fd)
                    deeper.append(lifted)
        finally:
            os.close(fd)
        pending.pop()
        os.rmdir(current, dir_fd=dir_fd)
        pending.extend(deeper)
