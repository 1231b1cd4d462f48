"""cgroup v1: what is different per controller. Documentation/admin-guide/cgroup-v1/*.rst of the kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from lxcbuild.linux.cgroups.fs import Node, flat_keyed

Nodes = Mapping[str, Node]  # controller to node; co-mounted controllers share one


def initialise(node: Node, parent: Node) -> None:
    """Make a fresh cgroup fit for processes: a cpuset takes none before cpus and mems are set; memory must count its subtree."""
    controllers = node.hierarchy.controllers
    if "cpuset" in controllers:
        for file in ("cpuset.cpus", "cpuset.mems"):
            if not node.read(file):
                node.write(file, parent.read(file) or parent.read(file.replace("cpuset.", "cpuset.effective_")) or "0")
    if "memory" in controllers and node.read("memory.use_hierarchy") == "0":
        node.write("memory.use_hierarchy", "1")


def enter(node: Node) -> None:
    """Move the calling thread in; the caller must be single-threaded.

    ``tasks`` with "0" is the only way that skips the lock over all thread groups, whose first writer waits for an RCU grace
    period, 5 to 30 ms (cgroup_procs_write_start in kernel/cgroup/cgroup.c).
    """
    node.write("tasks", "0")


def add(node: Node, pid: int) -> None:
    """Move a whole process in."""
    node.write("cgroup.procs", str(pid))


def cpu_s(nodes: Nodes) -> float:
    """CPU seconds of the subtree (cpuacct.usage is in nanoseconds)."""
    return ((nodes["cpuacct"].number("cpuacct.usage") if "cpuacct" in nodes else None) or 0) / 1e9


def throttled_s(nodes: Nodes) -> float:
    """Seconds that the quota held runnable tasks back (cpu.stat, nanoseconds, this cgroup's own quota)."""
    return flat_keyed(nodes["cpu"].read("cpu.stat")).get("throttled_time", 0) / 1e9 if "cpu" in nodes else 0.0


def peak_memory_bytes(nodes: Nodes) -> int:
    """High-water mark of memory, page cache and tmpfs included."""
    return (nodes["memory"].number("memory.max_usage_in_bytes") if "memory" in nodes else None) or 0


def oom_kills(nodes: Nodes) -> int:
    """Processes that the kernel killed for memory: v1 counts them in the victim's own cgroup only, so the subtree is summed."""
    if "memory" not in nodes:
        return 0
    return sum(flat_keyed(node.read("memory.oom_control")).get("oom_kill", 0) for node in nodes["memory"].walk())


def memory_denied(nodes: Nodes) -> int:
    """How often a limit was hit and pages had to be reclaimed.

    With swap forbidden, the limit of memory and swap together is hit first, and kernels since 6.13 do not count those hits.
    """
    if "memory" not in nodes:
        return 0
    return sum(nodes["memory"].number(file) or 0 for file in ("memory.failcnt", "memory.memsw.failcnt"))


def pids_denied(nodes: Nodes) -> int:
    """Forks that were refused: v1 counts them in the cgroup of the one who forked, so the subtree is summed."""
    if "pids" not in nodes:
        return 0
    return sum(flat_keyed(node.read("pids.events")).get("max", 0) for node in nodes["pids"].walk())


def peak_pids(nodes: Nodes) -> int | None:
    """High-water mark of tasks (pids.peak, since Linux 6.11); None where the kernel keeps none."""
    return nodes["pids"].number("pids.peak") if "pids" in nodes else None


def io_bytes(nodes: Nodes) -> tuple[int, int]:
    """Bytes read from and written to block devices by the subtree.

    Two counters exist; which of them moves depends on the I/O scheduler and the kernel, so the larger one counts. Written pages
    of the page cache are charged to the root in v1 (blkio-controller.rst: writeback is not attributed): only direct and
    synchronous writes show here.
    """
    if "blkio" not in nodes:
        return 0, 0
    best = (0, 0)
    for file in ("blkio.throttle.io_service_bytes_recursive", "blkio.bfq.io_service_bytes_recursive"):
        read = written = 0
        for line in (nodes["blkio"].read(file) or "").splitlines():
            words = line.split()
            if len(words) == 3 and words[1] == "Read":
                read += int(words[2])
            elif len(words) == 3 and words[1] == "Write":
                written += int(words[2])
        best = max(best, (read, written), key=sum)
    return best


def count_io(top: Node, numbers: str) -> bool:
    """Have the kernel count the I/O of all cgroups on the disk ``major:minor``, until the disk goes away; whether it does.

    Since Linux 6.10 nothing is counted before the first rate of the disk is written (blk_throtl_activated in
    block/blk-throttle.h). "0" is such a rate and means none. It is written only where there is no counter, hence no rate yet.
    """

    def counted() -> bool:
        text = top.read("blkio.throttle.io_service_bytes") or ""
        return any(line.startswith(f"{numbers} ") for line in text.splitlines())

    if not counted():
        with contextlib.suppress(OSError):  # somebody else's container: its disks are counted by its host, or not
            top.write_raw("blkio.throttle.read_bps_device", f"{numbers} 0")
    return counted()


def reset_peaks(nodes: Nodes) -> bool:
    """Start the high-water mark of memory anew from what is in use now; says whether that was possible."""
    if "memory" not in nodes:
        return False
    nodes["memory"].write("memory.max_usage_in_bytes", "0")
    return True


def freeze(nodes: Nodes, *, frozen: bool) -> None:
    """Ask the freezer to stop or resume the subtree; does not wait."""
    if "freezer" in nodes:
        nodes["freezer"].write("freezer.state", "FROZEN" if frozen else "THAWED")
