"""Reach /sys: what is there, and writing the kernel's settings (their own content)."""

import os
import sys
from pathlib import Path

from tools import outcome, report, tried, write_to


def rewrite(path):
    with open(path, "rb") as file:
        content = file.read()
    if b"[" in content:  # a choice: the one in brackets is in force
        content = content[content.index(b"[") + 1 : content.index(b"]")]
    write_to(path, content)


report(
    {
        "entries": sorted(os.listdir("/sys")),
        "uevent_helper": outcome(write_to, "/sys/kernel/uevent_helper", b""),
        "hugepages": outcome(rewrite, "/sys/kernel/mm/transparent_hugepage/enabled"),
        "create": outcome(os.mkdir, "/sys/lxcbuild-attack") if "--create" in sys.argv else "EROFS",
        "mount": tried("mount", b"sysfs", b"/sys", b"sysfs", 0, None) if "--no-mount" not in sys.argv else "skipped",
        "types": sorted(
            {line.split(" - ")[1].split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
        ),
    }
)
