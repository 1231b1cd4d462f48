"""Cgroups of sandboxes: one directory in each hierarchy that matters, v1 and v2 behind one face.

``CgroupHost.detect()`` finds out what the host has; ``create`` makes ``lxcbuild-<tag>/<instance id>``; the cgroup is limited with
``set``, entered with ``enter`` or ``add``, measured with ``counters``, and ended with ``kill`` and ``remove``. What is written
where for which limit of a policy is decided in :mod:`lxcbuild.sandbox.limits.enforcement`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Collection, Mapping, MutableSet
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

from lxcbuild.errors import HostError, KernelError
from lxcbuild.linux.cgroups import version1, version2
from lxcbuild.linux.cgroups.detect import claimed, detect
from lxcbuild.linux.cgroups.fs import Hierarchy, Node, Version, check_name
from lxcbuild.linux.cgroups.tree import directories, make, pids_of, remove_if_empty, remove_tree

__all__ = ["DEVICES", "Cgroup", "CgroupHost", "Counters", "Hierarchy", "Version"]

#: The devices that a sandbox may open, in the words of v1's devices.allow, with their names. No "m": nothing inside may make
#: device nodes. Numbers: Documentation/admin-guide/devices.txt of the kernel; 136 are the slaves of pseudo-terminals.
DEVICES: Mapping[str, str] = {
    "c 1:3 rw": "null",
    "c 1:5 rw": "zero",
    "c 1:7 rw": "full",
    "c 1:8 rw": "random",
    "c 1:9 rw": "urandom",
    "c 5:0 rw": "tty",
    "c 5:2 rw": "ptmx",
    "c 136:* rw": "pts/*",
}
_CREATED = frozenset({"cpu", "cpuacct", "memory", "pids", "blkio", "io", "devices", "freezer"})
_DEATH_S = 10.0  # tasks in uninterruptible sleep may take a while to die; beyond this something is wrong with the host
_REMOVE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What a cgroup has used. ``sampled`` names the peaks for which this kernel keeps no high-water mark: they hold what was
    in use at the moment of reading, a lower bound."""

    cpu_s: float = 0.0
    throttled_s: float = 0.0
    peak_memory_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    peak_pids: int = 0
    oom_kills: int = 0
    pids_denied: int = 0
    memory_denied: int = 0
    sampled: frozenset[str] = frozenset()

    def since(self, earlier: Counters) -> Counters:
        """The difference to an earlier reading; peaks stay as they are now (see :meth:`Cgroup.reset_peaks`)."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if isinstance(value, int | float) and not name.startswith("peak_"):
                values[name] = max(value - getattr(earlier, name), 0)
        return Counters(**values)


class CgroupHost:
    """The hierarchies of this host, and cgroups of ours in them."""

    def __init__(self, hierarchies: Collection[Hierarchy]) -> None:
        self.hierarchies = tuple(hierarchies)
        self.controllers: Mapping[str, Hierarchy] = claimed(list(self.hierarchies))

    @classmethod
    def detect(cls) -> CgroupHost:
        """Look at this host; raises :class:`HostError` when it has no usable cgroup hierarchy."""
        found = detect(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
        host = cls(found)
        if not host.controllers:
            raise HostError(
                "this host has no cgroup hierarchy with controllers, so nothing can be limited",
                resolution="mount cgroup2 on /sys/fs/cgroup (systemd does), or start this container with its cgroups writable",
            )
        return host

    @property
    def layout(self) -> str:
        """``v1``, ``v2`` or ``hybrid`` (controllers on both sides)."""
        versions = {hierarchy.version for hierarchy in self.controllers.values()}
        return "hybrid" if len(versions) > 1 else next(iter(versions), Version.V2).value

    def version(self, controller: str) -> Version | None:
        """Which interface the controller is offered through; None when it is not offered."""
        hierarchy = self.controllers.get(controller)
        return hierarchy.version if hierarchy else None

    def count_io(self, numbers: str) -> bool:
        """Make sure that what cgroups read from and write to the disk ``major:minor`` is counted; False where it cannot be."""
        if self.version("io") is not None:
            return True  # v2's io.stat always counts
        hierarchy = self.controllers.get("blkio")
        if hierarchy is None:
            return False
        with Node(hierarchy, hierarchy.base) as top:
            return version1.count_io(top, numbers)

    def create(self, name: str, *, controllers: Collection[str] = _CREATED) -> Cgroup:
        """Make a cgroup in every hierarchy that holds one of the controllers; parents are made too.

        Raises :class:`KernelError` or :class:`HostError`; nothing is left behind then. A cgroup of that name must not exist.
        """
        check_name(name)
        wanted = [h for h in self.hierarchies if h.controllers & set(controllers)]
        cgroup = Cgroup(self, name, {})
        try:
            for hierarchy in wanted:
                cgroup.nodes[hierarchy] = make(hierarchy, name, frozenset(controllers))
        except BaseException:
            cgroup.remove(only_own=True)
            raise
        return cgroup

    def open(self, name: str) -> Cgroup:
        """A cgroup that exists in at least one hierarchy (also those without controllers of ours); raises FileNotFoundError."""
        check_name(name)
        nodes: dict[Hierarchy, Node] = {}
        for hierarchy in self.hierarchies:
            with contextlib.suppress(FileNotFoundError):
                nodes[hierarchy] = Node(hierarchy, hierarchy.directory(name))
        if not nodes:
            raise FileNotFoundError(errno.ENOENT, "no such cgroup", name)
        return Cgroup(self, name, nodes)

    def list(self, prefix: str) -> list[str]:
        """Names of all cgroups below the bases whose name starts with ``prefix``, in any hierarchy, parents before children.

        ``lxcbuild-<tag>`` gives that cgroup and the sandboxes in it; ``lxcbuild-`` those of all state directories.
        """
        found: MutableSet[str] = set()
        for hierarchy in self.hierarchies:
            for top in directories(hierarchy.base):
                if top.startswith(prefix.split("/", 1)[0]):
                    found.add(top)
                    found |= {f"{top}/{child}" for child in directories(hierarchy.base / top)}
        return sorted(name for name in found if name.startswith(prefix))


class Cgroup:
    """One cgroup in all its hierarchies. As a context manager it is killed and removed at the end of the block."""

    def __init__(self, host: CgroupHost, name: str, nodes: dict[Hierarchy, Node]) -> None:
        self.host = host
        self.name = name
        self.nodes = nodes
        self._peak_fd: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.remove()

    # -- limits --

    def node(self, controller: str) -> Node | None:
        """The directory that the controller's files are in; None when this cgroup has none for it."""
        hierarchy = self.host.controllers.get(controller)
        return self.nodes.get(hierarchy) if hierarchy else None

    def path(self, controller: str) -> Path:
        """The directory that the controller's files are in; raises KeyError when this cgroup has none for it."""
        return self.nodes[self.host.controllers[controller]].path

    def set(self, controller: str, file: str, value: str) -> None:
        """Write one control file; raises :class:`KernelError` when the kernel refuses the value or there is no such controller."""
        node = self.node(controller)
        if node is None:
            raise KernelError(f"cgroup {self.name} has no {controller} controller for {file}={value}")
        node.write(file, value)

    def get(self, controller: str, file: str) -> str | None:
        """The text of one control file; None when there is no such file or controller."""
        node = self.node(controller)
        return node.read(file) if node else None

    # -- processes --

    def enter(self) -> None:
        """Move the calling process in. It must be single-threaded: on v1 this is the quick way, 0.5 ms instead of 10 or more."""
        for hierarchy, node in self.nodes.items():
            if hierarchy.version is Version.V1:
                version1.enter(node)
            else:
                version2.add(node, 0)

    def add(self, pid: int) -> None:
        """Move a process with all its threads in. Its later children start here; those it already has stay where they are.

        The kernel makes the first of several movers wait for an RCU grace period (5 to 30 ms): prefer :meth:`enter`.
        """
        for hierarchy, node in self.nodes.items():
            if hierarchy.version is Version.V1:
                version1.add(node, pid)
            else:
                version2.add(node, pid)

    def pids(self) -> AbstractSet[int]:
        """All processes in the cgroup and below it, in any of its hierarchies."""
        return {pid for node in self.nodes.values() for pid in pids_of(node)}

    def kill(self, *, timeout_s: float = _DEATH_S) -> None:
        """Kill every process in it and below it and wait until they are gone. What they fork meanwhile dies too.

        Raises :class:`HostError` naming the processes that are still there after ``timeout_s``. The caller must not be inside.
        """
        deadline = time.monotonic() + timeout_s
        while pids := self.pids() - {0}:
            assert os.getpid() not in pids, "whoever freezes its own cgroup never wakes up to kill it"
            self._freeze(frozen=True)
            try:
                watched = self._kill_all(pids)
            finally:
                self._freeze(frozen=False)
            _await_death(watched, deadline)
            if time.monotonic() > deadline:
                raise HostError(
                    f"processes of cgroup {self.name} do not die: {', '.join(map(str, sorted(self.pids())))}",
                    resolution="they hang in the kernel (state D in ps): look at /proc/PID/stack",
                )

    def _kill_all(self, pids: AbstractSet[int]) -> list[int]:
        """Signal until a pass over the frozen group finds no new process; returns pidfds to wait on."""
        for node in self.nodes.values():
            if node.hierarchy.version is Version.V2:
                version2.kill(node)
        seen: MutableSet[int] = set()
        watched: list[int] = []
        while fresh := pids - seen:
            for pid in fresh:
                with contextlib.suppress(ProcessLookupError):
                    watched.append(os.pidfd_open(pid))
                    signal.pidfd_send_signal(watched[-1], signal.SIGKILL)
            seen |= fresh
            pids = self.pids() - {0}
        return watched

    def _freeze(self, *, frozen: bool) -> None:
        version1.freeze(self._v1(), frozen=frozen)
        if (unified := self._v2()) is not None:
            version2.freeze(unified, frozen=frozen)

    # -- counters --

    def counters(self) -> Counters:
        """Everything the kernel has counted so far for this cgroup and what is or was below it."""
        v1, v2 = self._v1(), self._v2()
        held = v2.hierarchy.controllers if v2 is not None else frozenset()
        sampled: MutableSet[str] = set()
        on = {name: v2 for name in held if v2 is not None}
        cpu = version2.cpu_s(on["cpu"]) if "cpu" in on else version1.cpu_s(v1)
        memory, pids = on.get("memory"), on.get("pids")
        read, written = version2.io_bytes(on["io"]) if "io" in on else version1.io_bytes(v1)
        return Counters(
            cpu_s=cpu,
            throttled_s=version2.throttled_s(on["cpu"]) if "cpu" in on else version1.throttled_s(v1),
            peak_memory_bytes=self._peak_memory(memory, sampled) if memory else version1.peak_memory_bytes(v1),
            read_bytes=read,
            written_bytes=written,
            peak_pids=self._peak_pids(sampled),
            oom_kills=version2.oom_kills(memory) if memory else version1.oom_kills(v1),
            pids_denied=version2.pids_denied(pids) if pids else version1.pids_denied(v1),
            memory_denied=version2.memory_denied(memory) if memory else version1.memory_denied(v1),
            sampled=frozenset(sampled),
        )

    def reset_peaks(self) -> bool:
        """Start the high-water mark of memory anew (for a new phase); False where the kernel cannot (v2 before Linux 6.12)."""
        memory = self.node("memory")
        if memory is None or memory.hierarchy.version is Version.V1:
            return version1.reset_peaks(self._v1())
        if self._peak_fd is None:
            self._peak_fd = version2.peak_descriptor(memory)
        return self._peak_fd is not None and version2.reset_peak(self._peak_fd)

    def _peak_memory(self, node: Node, sampled: MutableSet[str]) -> int:
        if self._peak_fd is not None:
            return int(os.pread(self._peak_fd, 64, 0))
        peak = node.number("memory.peak")  # since Linux 5.19
        if peak is None:
            sampled.add("peak_memory_bytes")
            peak = node.number("memory.current")
        return peak or 0

    def _peak_pids(self, sampled: MutableSet[str]) -> int:
        node = self.node("pids")
        if node is None:
            return 0
        peak = node.number("pids.peak")
        if peak is None:
            sampled.add("peak_pids")
            peak = node.number("pids.current")
        return peak or 0

    def _v1(self) -> dict[str, Node]:
        return {
            name: node
            for hierarchy, node in self.nodes.items()
            if hierarchy.version is Version.V1
            for name in hierarchy.controllers
        }

    def _v2(self) -> Node | None:
        return next((node for h, node in self.nodes.items() if h.version is Version.V2), None)

    # -- the end --

    def close(self) -> None:
        """Give the descriptors back and leave the cgroup where it is; a second call does nothing."""
        for node in self.nodes.values():
            node.close()
        if self._peak_fd is not None:
            os.close(self._peak_fd)
            self._peak_fd = None

    def remove(self, *, timeout_s: float = _REMOVE_S, only_own: bool = False) -> None:
        """Remove the directories, children first, in every hierarchy (also those that others made under our name).

        ``only_own`` leaves alone the hierarchies that this object has no directory in. Processes must be dead; the kernel may
        still be putting them away, so EBUSY is retried until ``timeout_s``; then :class:`HostError`. The parent goes too when it
        is empty. A second call does nothing.
        """
        self.close()
        deadline = time.monotonic() + timeout_s
        for hierarchy in list(self.nodes) if only_own else self.host.hierarchies:
            remove_tree(hierarchy.directory(self.name), deadline)
            if "/" in self.name:
                remove_if_empty(hierarchy.directory(self.name.rsplit("/", 1)[0]))


def _await_death(pidfds: Collection[int], deadline: float) -> None:
    """Wait until all processes have ended, or the deadline is over; closes the descriptors."""
    poller = select.poll()
    for fd in pidfds:
        poller.register(fd, select.POLLIN)
    waiting = set(pidfds)
    try:
        while waiting and (left := deadline - time.monotonic()) > 0:
            for fd, _ in poller.poll(left * 1000):
                poller.unregister(fd)
                waiting.discard(fd)
    finally:
        for fd in pidfds:
            os.close(fd)
