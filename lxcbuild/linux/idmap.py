"""User namespaces that exist only as a map of ids, for id-mapped mounts. Standard library only."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from lxcbuild.linux import syscalls

ID_COUNT = 65536


def map_line(base: int, *, count: int = ID_COUNT) -> str:
    """The uid_map line that gives inner ids 0..count-1 the host ids from ``base`` on (user_namespaces(7))."""
    return f"0 {base} {count}\n"


def open_userns(base: int, *, count: int = ID_COUNT) -> int:
    """A descriptor of a new user namespace whose inner ids 0.. are the host ids from ``base`` on.

    A short-lived child makes the namespace; the descriptor keeps it. Must be called from a single-threaded process.
    Raises OSError.
    """
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _hold_namespace(ready_read, ready_write, done_read, done_write)
    os.close(ready_write)
    os.close(done_read)
    try:
        if os.read(ready_read, 1) != b"+":
            raise OSError("a child could not make a user namespace (see user.max_user_namespaces)")
        process = Path("/proc") / str(pid)
        for name in ("uid_map", "gid_map"):
            (process / name).write_text(map_line(base, count=count))
        return os.open(process / "ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(done_write)
        os.close(ready_read)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _hold_namespace(ready_read: int, ready_write: int, done_read: int, done_write: int) -> None:
    """The child: never returns."""
    try:
        os.close(ready_read)
        os.close(done_write)
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(ready_write, b"+")
        os.read(done_read, 1)
    finally:
        os._exit(0)
