"""Who am I, and what do I see of a neighbour? The argument is a word of our own, left where a neighbour could find it.

More arguments are the places to leave it in.
"""

import os
import sys
from pathlib import Path

from tools import report

word = sys.argv[1]
places = sys.argv[2:] or ["/tmp", "/var/tmp", "/dev/shm", "/out", "/build"]
for folder in places:
    with open(f"{folder}/{word}", "w") as file:
        file.write(word)
report(
    {
        "uid_map": Path("/proc/self/uid_map").read_text().split(),
        "namespaces": {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")},
        "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "words": sorted(name for folder in places for name in os.listdir(folder) if name.startswith("word-")),
        "devices": {folder: os.stat(folder).st_dev for folder in ("/", "/tmp", "/dev/shm", "/dev", "/proc")},
    }
)
