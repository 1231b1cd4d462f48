"""The launcher's part of a sandbox's network: brings the namespace into the policy's mode, forks its guard.

Standard library only.
"""

from __future__ import annotations

import os
import socket

from lxcbuild.linux import netns
from lxcbuild.sandbox.network import sinkhole


def _choose(warmed: netns.Namespaces, mode: str) -> netns.Namespaces:
    """The ground for a mode: the one that was made ahead of time, or another one, where lo must never have been up."""
    if mode != "none" or warmed.tun_fd is None:
        return warmed
    warmed.close()
    return netns.make(way_out=False)


def set_up(
    warmed: netns.Namespaces, *, mode: str, proxy_hosts: list[str], line_fd: int
) -> tuple[netns.Namespaces, int | None]:
    """Leave of the ground what the mode wants; returns the ground and the pid of the guard, in modes that have one.

    ``line_fd`` is the guard's line to the orchestrator. Raises OSError.
    """
    with socket.socket(fileno=line_fd) as line:
        guard = None
        namespaces = _choose(warmed, mode)
        guarded = mode in ("sinkhole", "proxy")
        if mode != "none" and (namespaces.tun_fd is None or not guarded):
            namespaces.enliven(way_out=guarded)
        if guarded:
            guard = _fork_guard(namespaces, line, proxy_hosts=proxy_hosts if mode == "proxy" else None)
    namespaces.close(keep_namespace=True)
    return namespaces, guard


def _fork_guard(namespaces: netns.Namespaces, line: socket.socket, *, proxy_hosts: list[str] | None) -> int:
    listener = None
    if proxy_hosts is not None:
        listener = namespaces.listen(sinkhole.PROXY_PORT, backlog=sinkhole.PROXY_BACKLOG)
    launcher_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _close_all_but(line.fileno(), *namespaces.descriptors, *([] if listener is None else [listener.fileno()]))
        sinkhole.become_guard(namespaces, line, launcher_pid=launcher_pid, listener=listener, hosts=proxy_hosts or [])
    if listener is not None:
        listener.close()
    return pid


def _close_all_but(*keep: int) -> None:
    """Nothing of the launcher's may live on in the guard: not the lock of the id range, not the line to the orchestrator."""
    low = 0
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
