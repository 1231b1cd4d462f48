"""Mount and unmount by the old and the new interface."""

import os
import sys
from pathlib import Path

from tools import in_child, report, syscall, tried

AT_FDCWD = -100
PLACE = next((word for word in sys.argv[1:] if word.startswith("/")), "/tmp/mounts")
MS_BIND, MS_MOVE, MS_REMOUNT, MS_SHARED = 4096, 8192, 32, 1 << 20

for name in ("a", "b", "c", "d"):
    os.makedirs(f"{PLACE}/{name}", exist_ok=True)
overlay = f"lowerdir={PLACE}/a,upperdir={PLACE}/b,workdir={PLACE}/c".encode()
A, D = f"{PLACE}/a".encode(), f"{PLACE}/d".encode()


def new_interface():
    context = syscall("fsopen", b"tmpfs", 0)
    syscall("fsconfig", context, 6, None, None, 0)
    tree = syscall("fsmount", context, 0, 0)
    syscall("move_mount", tree, b"", AT_FDCWD, D, 4)


found = {
    "tmpfs": tried("mount", b"none", D, b"tmpfs", 0, None),
    "proc": tried("mount", b"proc", D, b"proc", 0, None),
    "overlay": tried("mount", b"overlay", D, b"overlay", 0, overlay),
    "bind": tried("mount", b"/etc", D, None, MS_BIND, None),
    "new interface": in_child(new_interface),
    "open_tree": tried("open_tree", AT_FDCWD, A, 1),
}
if "--safe" not in sys.argv:
    found |= {
        "unmount a mask": tried("umount2", b"/proc/kallsyms", 0),
        "unmount a mask, lazily": tried("umount2", b"/proc/kallsyms", 2),
        "remount /dev": tried("mount", b"none", b"/dev", None, MS_REMOUNT | MS_BIND, None),
        "share /": tried("mount", b"none", b"/", None, MS_SHARED, None),
        "move /dev": tried("mount", b"/dev", D, None, MS_MOVE, None),
        "pivot_root": tried("pivot_root", A, A),
        "mount_setattr": tried("mount_setattr", AT_FDCWD, b"/dev", 0, bytes(32), 32),
        "fspick": tried("fspick", AT_FDCWD, b"/proc", 0),
        "fsopen sysfs": tried("fsopen", b"sysfs", 0),
        "mask is still there": os.stat("/proc/kallsyms").st_size == 0 and Path("/proc/kallsyms").read_text() == "",
    }
report(found)
