"""Make device nodes and open them; list every device node that can be seen."""

import os
import stat
import sys

from tools import outcome, report

WANTED = {
    "disk": (stat.S_IFBLK, 8, 0),
    "mem": (stat.S_IFCHR, 1, 1),
    "kvm": (stat.S_IFCHR, 10, 232),
    "null": (stat.S_IFCHR, 1, 3),
}
WANTED |= {"fuse": (stat.S_IFCHR, 10, 229), "tun": (stat.S_IFCHR, 10, 200), "loop": (stat.S_IFBLK, 7, 0)}


def make_and_open(path, kind, major, minor):
    os.mknod(path, kind | 0o666, os.makedev(major, minor))
    try:
        os.close(os.open(path, os.O_RDWR))
    finally:
        os.unlink(path)


places = sys.argv[1:] or ["/build", "/tmp", "/dev/shm", "/dev", "/var/tmp"]
only = ("null",) if sys.argv[1:] else WANTED
found = {
    f"{place}/{name}": outcome(make_and_open, f"{place}/x{name}", *WANTED[name]) for place in places for name in only
}
nodes = []
if not sys.argv[1:]:
    for folder, directories, files in os.walk("/"):
        directories[:] = [name for name in directories if os.path.join(folder, name) not in ("/proc", "/sys")]
        for name in files:
            path = os.path.join(folder, name)
            about = os.lstat(path)
            if stat.S_ISCHR(about.st_mode) or stat.S_ISBLK(about.st_mode):
                kind = "c" if stat.S_ISCHR(about.st_mode) else "b"
                nodes.append(f"{path} {kind} {os.major(about.st_rdev)}:{os.minor(about.st_rdev)}")
report({"made": found, "nodes": sorted(nodes)})
