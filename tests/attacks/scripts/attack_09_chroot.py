"""Out of the root: by chroot below an open directory, and by "..". The argument names a file that only the world outside has."""

import os
import sys

from tools import outcome, report

canary = sys.argv[1]
if len(sys.argv) > 2:  # a cell without our guards
    os.chroot(sys.argv[2])
    os.chdir("/")


def look(at):
    """Whether the canary is below the directory descriptor."""
    try:
        os.close(os.open(canary.lstrip("/"), os.O_RDONLY, dir_fd=at))
    except OSError:
        return False
    return True


def climb():
    for _ in range(64):
        os.chdir("..")
    return look(os.open(".", os.O_RDONLY | os.O_DIRECTORY))


found = {"dots": look(os.open("/" + "../" * 64, os.O_RDONLY | os.O_DIRECTORY))}
os.makedirs("/tmp/cell", exist_ok=True)
outside = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
found["chroot"] = outcome(os.chroot, "/tmp/cell")
os.fchdir(outside)
found["climbed"] = climb()
found["root is its own parent"] = os.stat("/").st_ino == os.stat("/..").st_ino
report(found)
