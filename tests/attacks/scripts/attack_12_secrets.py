"""Search everything that can be read of other processes for a planted secret; the argument is the secret backwards."""

import os
import re
import sys

from tools import report

secret = sys.argv[1][::-1].encode()
hits, read = [], []


def search(path, data):
    read.append(path)
    if secret in data:
        hits.append(path)


def memory(pid):
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for line in maps:
            span = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if span and "[v" not in line:
                start, end = (int(part, 16) for part in span.groups())
                if start < 2**63:
                    mem.seek(start)
                    try:
                        search(f"{pid}/mem", mem.read(min(end - start, 64 << 20)))
                    except OSError:
                        continue


search("own environment", repr(dict(os.environb)).encode())
for name in os.listdir("/proc") if len(sys.argv) < 3 else sys.argv[2:]:
    if not name.isdigit() or int(name) == os.getpid():
        continue
    for part in ("environ", "cmdline", "maps", "status", "mountinfo", "cgroup"):
        try:
            with open(f"/proc/{name}/{part}", "rb") as file:
                search(f"{name}/{part}", file.read())
        except OSError:
            continue
    try:
        memory(int(name))
    except OSError:
        pass
    try:
        for fd in os.listdir(f"/proc/{name}/fd"):
            search(f"{name}/fd/{fd}", os.readlink(f"/proc/{name}/fd/{fd}").encode())
    except OSError:
        pass
for folder, _, files in os.walk("/build") if len(sys.argv) < 3 else ():
    for file in files:
        with open(os.path.join(folder, file), "rb") as opened:
            search(os.path.join(folder, file), opened.read())
report({"hits": hits, "read": len(read)})
