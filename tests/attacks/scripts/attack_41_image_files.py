"""Change the image from inside by every path to it: files, directories, metadata, links, maps, other mounts of it."""

import mmap
import os
from pathlib import Path

from tools import outcome, report, tried, write_to

MS_REMOUNT = 32


def map_and_write(path):
    fd = os.open(path, os.O_RDONLY)
    view = mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE)
    view[:4] = b"evil"


def shared_map(path):
    fd = os.open(path, os.O_RDWR)
    mmap.mmap(fd, os.fstat(fd).st_size, flags=mmap.MAP_SHARED)[:4] = b"evil"


python = os.path.realpath("/usr/bin/python3")
spare = "/usr/bin/perl" if os.path.exists("/usr/bin/perl") else "/usr/bin/sort"
report(
    {
        "write": outcome(write_to, "/etc/passwd", b"evil"),
        "append": outcome(write_to, "/etc/os-release", b"evil", os.O_WRONLY | os.O_APPEND),
        "truncate": outcome(os.truncate, "/etc/group", 0),
        "chmod": outcome(os.chmod, spare, 0o4777),
        "chown": outcome(os.chown, spare, 1000, 1000),
        "unlink": outcome(os.unlink, "/etc/debian_version"),
        "rename": outcome(os.rename, "/etc/issue", "/etc/issue.evil"),
        "create": outcome(os.mkdir, "/usr/evil"),
        "utime": outcome(os.utime, "/usr", (0, 0)),
        "link": outcome(os.link, "/etc/hostname", "/tmp/linked"),
        "xattr": outcome(os.setxattr, "/etc", "user.evil", b"x"),
        "shared map": outcome(shared_map, "/etc/services" if os.path.exists("/etc/services") else "/etc/shells"),
        "private map": outcome(map_and_write, python),
        "remount": tried("mount", b"none", b"/", None, MS_REMOUNT, b"lowerdir=/tmp"),
        "trusted xattr": outcome(os.setxattr, "/usr", "trusted.overlay.redirect", b"/"),
        "lower paths": sorted(
            word for word in Path("/proc/self/mountinfo").read_text().split() if "lowerdir=/" in word
        ),
    }
)
