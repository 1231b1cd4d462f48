"""Overwrite what runs as PID 1: its program through /proc, the runner's script, its interpreter (as CVE-2019-5736 did)."""

import os
import sys

from tools import outcome, report, write_to

found = {}
for path in sys.argv[1:] or ("/proc/1/exe", "/dev/.runner", "/proc/1/root/dev/.runner", "/proc/1/cwd/dev/.runner"):
    found[f"write {path}"] = outcome(write_to, path, b"#!", os.O_WRONLY)
    found[f"truncate {path}"] = outcome(os.truncate, path, 0)
if not sys.argv[1:]:
    found["replace the runner"] = outcome(os.rename, "/tmp", "/dev/.runner")
    found["remove the runner"] = outcome(os.unlink, "/dev/.runner")
    found["map the runner"] = outcome(os.open, "/dev/.runner", os.O_RDWR)
    real = os.path.realpath("/usr/bin/python3")
    found["interpreter"] = outcome(write_to, real, b"#!", os.O_WRONLY)
    found["memory of PID 1"] = outcome(write_to, "/proc/1/mem", b"x")
report(found)
