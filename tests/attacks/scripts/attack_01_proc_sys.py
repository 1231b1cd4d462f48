"""Write to settings of the kernel (their own content, so that success does no harm), and make them writable by remounting."""

import glob
import os
import sys

from tools import outcome, report, syscall, tried, write_to

MS_REMOUNT, MS_BIND = 32, 4096


def rewrite(path):
    with open(path, "rb") as file:
        content = file.read()
    write_to(path, content)


paths = sys.argv[1:] or [
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/domainname",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/shm_rmid_forced",
    "/proc/sys/kernel/msgmax",
    "/proc/sys/fs/mqueue/msg_max",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/swappiness",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/core/somaxconn",
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/irq/default_smp_affinity",
    "/proc/bus/pci/devices",
]
found = {path: outcome(rewrite, path) for path in paths}
if not sys.argv[1:]:
    # "?" asks sysrq for its help text only.
    found["/proc/sysrq-trigger"] = outcome(write_to, "/proc/sysrq-trigger", b"?")
    for place in ("/proc/sys", "/proc/sysrq-trigger", "/proc", "/"):
        found[f"remount {place}"] = tried("mount", b"none", place.encode(), None, MS_REMOUNT | MS_BIND, None)
    found["remount super /proc"] = tried("mount", b"none", b"/proc", None, MS_REMOUNT, None)
    found["umount /proc/sys"] = outcome(syscall, "umount2", b"/proc/sys", 2)
    found["second proc"] = tried("mount", b"proc", b"/tmp", b"proc", 0, None)
    found["writable"] = [
        path
        for path in glob.glob("/proc/sys/**", recursive=True)
        if os.path.isfile(path) and outcome(os.open, path, os.O_WRONLY) == "done"
    ]
report(found)
