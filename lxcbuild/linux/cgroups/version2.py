"""cgroup v2: delegation of controllers, counters, kill. Documentation/admin-guide/cgroup-v2.rst of the kernel.

All functions work on a directory of files, so a tree of plain files will do for a test of their logic.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from lxcbuild.errors import HostError, KernelError
from lxcbuild.linux.cgroups.fs import Node, flat_keyed, nested_keyed


def delegate(node: Node, wanted: Iterable[str]) -> None:
    """Let the children of this cgroup use the controllers; does nothing for those that they may use already.

    Raises :class:`HostError` when the cgroup holds processes: a cgroup other than the real root cannot both hold processes and
    pass controllers on ("no internal processes" rule). That is the state of a container's own root.
    """
    active = set((node.read("cgroup.subtree_control") or "").split())
    missing = sorted(set(wanted) - active)
    if not missing:
        return
    try:
        node.write_raw("cgroup.subtree_control", " ".join(f"+{name}" for name in missing))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise HostError(
                f"cgroup {node.path} holds processes, so it cannot hand its controllers ({', '.join(missing)}) to sandboxes",
                details="cgroup v2 forbids processes in a cgroup that delegates controllers, except in the root of the host",
                resolution=f"move them to a leaf: mkdir {node.path}/init; "
                f"for p in $(cat {node.path}/cgroup.procs); do echo $p > {node.path}/init/cgroup.procs; done",
            ) from error
        offered = (node.read("cgroup.controllers") or "").split()
        absent = [name for name in missing if name not in offered]
        raise KernelError(
            f"the kernel refused the controllers {', '.join(missing)} for the children of {node.path}:"
            f" {errno.errorcode.get(error.errno or 0, error)}",
            details=f"not offered here: {', '.join(absent)}" if absent else None,
        ) from error


def add(node: Node, pid: int) -> None:
    """Move a whole process in (0: the caller)."""
    node.write("cgroup.procs", str(pid))


def cpu_s(node: Node) -> float:
    """CPU seconds of the subtree."""
    return flat_keyed(node.read("cpu.stat")).get("usage_usec", 0) / 1e6


def throttled_s(node: Node) -> float:
    """Seconds that the quota held runnable tasks back."""
    return flat_keyed(node.read("cpu.stat")).get("throttled_usec", 0) / 1e6


def oom_kills(node: Node) -> int:
    """Processes of the subtree that the kernel killed for memory."""
    return flat_keyed(node.read("memory.events")).get("oom_kill", 0)


def memory_denied(node: Node) -> int:
    """How often the subtree was about to go over its limit."""
    return flat_keyed(node.read("memory.events")).get("max", 0)


def pids_denied(node: Node) -> int:
    """Forks that the subtree was refused."""
    return flat_keyed(node.read("pids.events")).get("max", 0)


def io_bytes(node: Node) -> tuple[int, int]:
    """Bytes read from and written to block devices by the subtree, written pages of the page cache included."""
    devices = nested_keyed(node.read("io.stat")).values()
    return sum(int(d.get("rbytes", 0)) for d in devices), sum(int(d.get("wbytes", 0)) for d in devices)


def peak_descriptor(node: Node) -> int | None:
    """A descriptor of ``memory.peak`` that can be reset for its own reader (Linux 6.12); None on older kernels."""
    try:
        return node.open("memory.peak", os.O_RDWR)
    except (FileNotFoundError, PermissionError):
        return None


def reset_peak(descriptor: int) -> bool:
    """Start the high-water mark that this descriptor reads anew; False where the kernel cannot (before 6.12)."""
    try:
        os.pwrite(descriptor, b"1", 0)
    except OSError:
        return False
    return True


def kill(node: Node) -> bool:
    """Kill the whole subtree at once (``cgroup.kill``, Linux 5.14); False where the kernel cannot."""
    try:
        node.write_raw("cgroup.kill", "1")
    except FileNotFoundError:
        return False
    return True


def freeze(node: Node, *, frozen: bool) -> None:
    """Ask the kernel to stop or resume the subtree (Linux 5.2); does not wait."""
    if node.has("cgroup.freeze"):
        node.write("cgroup.freeze", "1" if frozen else "0")
