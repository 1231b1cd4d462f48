"""Mounts by descriptor: id-mapped clones, mount points that no symbolic link can lead astray. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lxcbuild.linux import syscalls

#: How far a name may lead when it comes from an image: never out of the tree, never through a link.
INSIDE = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW

READ_ONLY = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV


class BadMountPointError(Exception):
    """A place where something must be mounted is not the plain directory or file that it has to be."""


def split_inside(path: str) -> tuple[str, ...]:
    """The parts of an absolute inner path; raises ValueError for relative paths, ``..``, and the root itself."""
    parts = tuple(part for part in path.split("/") if part)
    if not path.startswith("/") or not parts or any(part in {".", ".."} or "\0" in part for part in parts):
        raise ValueError(f"{path!r} is not an absolute path inside a sandbox")
    return parts


def clone(path: str | os.PathLike[str], *, attributes: int, userns_fd: int | None = None) -> int:
    """A detached copy of one mount (never of those below it) with the given attributes and id map; raises OSError."""
    tree = syscalls.open_tree(path)
    try:
        syscalls.mount_setattr(tree, attr_set=attributes, userns_fd=userns_fd)
    except OSError as error:
        os.close(tree)
        if userns_fd is not None and error.errno == errno.EINVAL:
            # mount_setattr(2): EINVAL when the file system cannot be id-mapped; ext4, xfs: Linux 5.12 on; tmpfs: 6.3 on.
            raise OSError(
                error.errno, f"the file system of {os.fspath(path)} cannot be id-mapped by this kernel"
            ) from error
        raise
    return tree


def make_dir(root_fd: int, parts: Iterable[str], *, owner: int, mode: int | None = None) -> int:
    """Open the directory below ``root_fd``, making what is missing, and return an O_PATH descriptor.

    New directories belong to ``owner`` (uid and gid of the host); with ``mode`` the last one gets owner and mode in any case.
    Raises :class:`BadMountPointError` when a part exists and is a link or a file.
    """
    current = os.dup(root_fd)
    walked = ""
    for part in parts:
        walked += f"/{part}"
        try:
            made = False
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=current)
                made = True
            try:
                below = syscalls.openat2(part, dir_fd=current, flags=_DIR, resolve=INSIDE)
            except OSError as error:
                raise BadMountPointError(
                    f"{walked} of the image is not a plain directory ({error.strerror})"
                ) from error
            if made:
                os.chown(part, owner, owner, dir_fd=current, follow_symlinks=False)
        finally:
            os.close(current)
        current = below
    if mode is not None:
        # /proc/self/fd leads to exactly what the descriptor shows: chmod has no form for O_PATH descriptors on older kernels.
        magic = f"/proc/self/fd/{current}"
        os.chown(magic, owner, owner)
        Path(magic).chmod(mode)
    return current


def make_file(parent_fd: int, name: str, *, owner: int) -> int:
    """Open the regular file ``name`` below ``parent_fd`` as a mount point, making it empty when missing (O_PATH)."""
    with contextlib.suppress(FileExistsError):
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=parent_fd)
        os.fchown(fd, owner, owner)
        os.close(fd)
    fd = syscalls.openat2(name, dir_fd=parent_fd, flags=os.O_PATH | os.O_NOFOLLOW, resolve=INSIDE)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadMountPointError(f"{name} of the image is not a plain file")
    return fd


def attach(tree_fd: int, target_fd: int) -> None:
    """Attach a detached mount and close both descriptors; raises OSError."""
    try:
        syscalls.move_mount(tree_fd, target_fd)
    finally:
        os.close(tree_fd)
        os.close(target_fd)


def make_private() -> None:
    """Enter a new mount namespace from which nothing propagates to the host and into which nothing comes; raises OSError."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)


@dataclass(frozen=True)
class MountEntry:
    """One line of mountinfo that matters to us (proc_pid_mountinfo(5))."""

    mount_point: str
    fstype: str
    source: str
    options: str


def mount_table(pid: int | str = "self") -> list[MountEntry]:
    """The mounts that process ``pid`` sees."""
    entries = []
    for line in (Path("/proc") / str(pid) / "mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields, (fstype, source, *super_options) = left.split(" "), right.split(" ")
        point = fields[4].encode().decode("unicode_escape")
        entries.append(MountEntry(point, fstype, source, ",".join([fields[5], *super_options])))
    return entries
