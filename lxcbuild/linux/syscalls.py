"""System calls that Python does not wrap: thin, typed, one errno check. Standard library only, so that the launcher can import it.

Numbers from 424 on are the same on every architecture (Linux: scripts/syscall.tbl); glibc 2.36 wraps most of them, but not in
bullseye, so they all go through ``syscall(2)``.
"""

from __future__ import annotations

import ctypes
import errno
import os

# unshare(2), clone(2)
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
# mount(2)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
MNT_DETACH = 2
# open_tree(2), move_mount(2), mount_setattr(2)
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MOUNT_ATTR_IDMAP = 0x00100000
# openat2(2)
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 2, 4, 8, 16
# prctl(2)
PR_SET_PDEATHSIG = 1

_NR_OPEN_TREE, _NR_MOVE_MOUNT, _NR_OPENAT2, _NR_MOUNT_SETATTR = 428, 429, 437, 442

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.syncfs.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _checked(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Leave the given namespaces (unshare(2)); raises OSError."""
    _checked(_libc.unshare(flags), "unshare")


def setns(namespace_fd: int, kind: int) -> None:
    """Enter a namespace of the given CLONE_NEW kind (setns(2)); raises OSError."""
    _checked(_libc.setns(namespace_fd, kind), "setns")


def c_string(text: bytes) -> ctypes.Array[ctypes.c_char]:
    """Zero-terminated memory for a structure that holds a pointer; it lives as long as the result."""
    return ctypes.create_string_buffer(text)


def address_of(memory: ctypes.Array[ctypes.c_char]) -> int:
    """Where :func:`c_string` put it."""
    return ctypes.addressof(memory)


def mount(source: str, target: str, *, fstype: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2); raises OSError."""
    _checked(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            None if fstype is None else fstype.encode(),
            flags,
            None if data is None else os.fsencode(data),
        ),
        f"mount {fstype or 'bind'} on {target}",
    )


def umount(target: str) -> None:
    """Detach a mount (umount2 with MNT_DETACH); raises OSError."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def syncfs(fd: int) -> None:
    """Write the file system of ``fd`` back to its disk (syncfs(2)); raises OSError."""
    _checked(_libc.syncfs(fd), "syncfs")


def open_tree(path: str | os.PathLike[str], *, flags: int = OPEN_TREE_CLONE, dir_fd: int = AT_FDCWD) -> int:
    """A detached clone of the mount at ``path`` as a new, close-on-exec descriptor (open_tree(2)); raises OSError."""
    number, name = ctypes.c_long(_NR_OPEN_TREE), ctypes.c_char_p(os.fsencode(path))
    result = _libc.syscall(number, ctypes.c_int(dir_fd), name, ctypes.c_uint(flags | OPEN_TREE_CLOEXEC))
    return _checked(result, f"open_tree {os.fspath(path)}")


def mount_setattr(tree_fd: int, *, attr_set: int, userns_fd: int | None = None) -> None:
    """Set attributes of a detached mount, with ``userns_fd`` its id map too (mount_setattr(2)); raises OSError."""
    attr = _MountAttr(attr_set=attr_set)
    if userns_fd is not None:
        attr.attr_set |= MOUNT_ATTR_IDMAP
        attr.userns_fd = userns_fd
    size = ctypes.c_size_t(ctypes.sizeof(attr))
    number, name, flags = ctypes.c_long(_NR_MOUNT_SETATTR), ctypes.c_char_p(b""), ctypes.c_uint(AT_EMPTY_PATH)
    result = _libc.syscall(number, ctypes.c_int(tree_fd), name, flags, ctypes.byref(attr), size)
    _checked(result, "mount_setattr")


def move_mount(tree_fd: int, target_fd: int) -> None:
    """Attach a detached mount on what ``target_fd`` shows; no path is walked (move_mount(2)); raises OSError."""
    number, empty = ctypes.c_long(_NR_MOVE_MOUNT), ctypes.c_char_p(b"")
    flags = ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
    result = _libc.syscall(number, ctypes.c_int(tree_fd), empty, ctypes.c_int(target_fd), empty, flags)
    _checked(result, "move_mount")


def openat2(path: str | bytes, *, dir_fd: int, flags: int, resolve: int, mode: int = 0) -> int:
    """Open below ``dir_fd`` with the given RESOLVE_ flags, close-on-exec (openat2(2)); raises OSError."""
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve)
    number, size = ctypes.c_long(_NR_OPENAT2), ctypes.c_size_t(ctypes.sizeof(how))
    name = ctypes.c_char_p(os.fsencode(path))
    while True:
        result = _libc.syscall(number, ctypes.c_int(dir_fd), name, ctypes.byref(how), size)
        # EAGAIN: a rename elsewhere raced the kernel's check of ".." (openat2(2)); trying again is what the manual asks for.
        if result >= 0 or ctypes.get_errno() != errno.EAGAIN:
            return _checked(result, f"openat2 {path!r}")


def die_with_parent(signal_number: int) -> None:
    """Ask for ``signal_number`` when the parent thread ends (PR_SET_PDEATHSIG); the caller re-checks its parent afterwards."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl PR_SET_PDEATHSIG")
