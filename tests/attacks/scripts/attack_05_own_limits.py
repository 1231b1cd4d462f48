"""Raise the build's own limits, leave its cgroup, become harder to kill, take more than its share of a processor."""

import ctypes
import os
import resource
import struct
from pathlib import Path

from tools import in_child, libc, outcome, report, tried, write_to

found = {
    "cgroup paths": sorted(
        {line.strip().split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    )
}
found["cgroup file systems"] = [
    line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line
]
for path in ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cgroup.procs"):
    found[path] = outcome(write_to, path, b"0")
for score in (-1000, 0, 499):
    found[f"oom_score_adj {score}"] = outcome(write_to, "/proc/self/oom_score_adj", str(score).encode())
for name in ("NOFILE", "MEMLOCK", "CORE", "NICE", "RTPRIO", "MSGQUEUE"):
    limit = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(limit)[1]
    higher = (hard + 1, hard + 1) if hard != resource.RLIM_INFINITY else None
    found[f"rlimit {name}"] = in_child(resource.setrlimit, limit, higher) if higher else "unlimited"
found["nice -5"] = in_child(os.setpriority, os.PRIO_PROCESS, 0, -5)
found["SCHED_FIFO"] = in_child(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
# struct sched_attr: SCHED_DEADLINE, 1 ms of every 10.
deadline = struct.pack("=IIQiIQQQ", 48, 6, 0, 0, 0, 10**6, 10**7, 10**7)
found["SCHED_DEADLINE"] = tried("sched_setattr", 0, deadline, 0)
found["ioprio real-time"] = tried("ioprio_set", 1, 0, (1 << 13) | 0)
room = ctypes.create_string_buffer(1 << 20)
found["mlock 1 MiB"] = "done" if libc.mlock(room, len(room)) == 0 else "refused"
report(found)
