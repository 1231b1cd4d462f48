"""Which block device lies below a directory, and what its I/O scheduler is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from msgspec import Struct

_SYS = Path("/sys/dev/block")


class BlockDevice(Struct, frozen=True):
    """A whole disk: I/O limits of cgroups apply to disks, not to partitions."""

    major: int
    minor: int
    name: str
    scheduler: str | None  # "bfq", "mq-deadline", "none" ...; None when it has no queue of its own

    @property
    def numbers(self) -> str:
        """``major:minor``, the key of every I/O control file."""
        return f"{self.major}:{self.minor}"


def by_numbers(major: int, minor: int, *, sys: Path = _SYS) -> BlockDevice | None:
    """The disk with these numbers, or that the partition with these numbers is part of; None when there is none."""
    place = sys / f"{major}:{minor}"
    if not place.exists():
        return None
    real = place.resolve()
    if (real / "partition").exists():
        real = real.parent
    parent_major, parent_minor = (int(word) for word in (real / "dev").read_text().split(":"))
    return BlockDevice(parent_major, parent_minor, real.name, _scheduler(real / "queue" / "scheduler"))


def by_path(path: Path) -> BlockDevice | None:
    """The disk of a device node such as ``/dev/sda``; None when it is no block device."""
    try:
        status = path.stat()
    except OSError:
        return None
    if not stat.S_ISBLK(status.st_mode):
        return None
    return by_numbers(os.major(status.st_rdev), os.minor(status.st_rdev))


def below(directory: Path) -> BlockDevice | None:
    """The disk that the file system of a directory (or of its nearest parent that exists) is on; None for tmpfs, overlay, NFS.

    File systems with numbers of their own (btrfs, ZFS) are found through the mount's source in ``/proc/self/mountinfo``.
    """
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    device = place.stat().st_dev
    found = by_numbers(os.major(device), os.minor(device))
    return found if found is not None else by_path(Path(_source(place)))


def _source(place: Path) -> str:
    """The source of the mount that holds a path: the longest mount point that is a parent of it, the last one if stacked."""
    best, source = "", ""
    text = os.fspath(place.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        point = head.split(" ")[4]
        if (text == point or text.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, source = point, tail.split(" ")[1]
    return source


def _scheduler(file: Path) -> str | None:
    try:
        words = file.read_text().split()
    except OSError:
        return None
    return next((word[1:-1] for word in words if word.startswith("[")), None)
