"""Read what tells about the host's kernel, its memory and its keys: each file is absent, refused, empty, zeroed, or it tells."""

import errno
import os

from tools import report

NAMES = (
    "kcore", "keys", "key-users", "kallsyms", "kmsg", "modules", "timer_list", "sched_debug", "latency_stats", "slabinfo",
    "vmallocinfo", "kpagecount", "kpageflags", "kpagecgroup", "iomem", "ioports", "pagetypeinfo", "cmdline", "interrupts",
    "partitions", "mtrr", "bootconfig", "config.gz", "sysvipc/shm", "acpi", "asound", "scsi", "1/stack", "1/mem", "1/maps",
    "1/environ", "1/auxv", "1/syscall", "1/kpageflags", "vmcore",
)  # fmt: skip


def look(path):
    try:
        if os.path.isdir(path):
            return "empty" if not os.listdir(path) else "tells"
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            data = os.read(fd, 65536)
        finally:
            os.close(fd)
    except OSError as error:
        return errno.errorcode[error.errno]
    if not data:
        return "empty"
    lines = data.splitlines()
    if path.endswith("kallsyms"):
        return "zeroed" if all(line.startswith(b"0000000000000000") for line in lines[:100]) else "tells"
    if path.endswith("sysvipc/shm"):
        return "empty" if len(lines) == 1 else "tells"
    return "tells"


report({name: look(f"/proc/{name}") for name in NAMES})
