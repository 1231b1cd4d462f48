"""The orchestrator's side of the launcher pool: starts it once, asks it for launchers, and keeps one ready (see launcher.py)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from lxcbuild import process
from lxcbuild.errors import SandboxError
from lxcbuild.linux import ids
from lxcbuild.sandbox.start import launcher

#: python3-lxc belongs to the distribution's Python, which need not be the one that runs us.
PYTHON = "/usr/bin/python3"
_START_S = 30.0
_DEATH_S = 10.0


class LauncherHandle(Struct):
    """One launcher that waits for its job, with the id range that it has a user namespace for."""

    pid: int
    pidfd: int
    job: socket.socket  # it takes its job from the other end
    id_range: ids.IdRange

    def kill(self) -> None:
        """SIGKILL; the payload dies with it. Safe in any thread, also when it is dead already."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the process has ended; False when it has not within ``timeout_s``."""
        return wait_pidfd(self.pidfd, timeout_s)

    def open_init(self, *, guard_pid: int | None, netns: int) -> int | None:
        """A pidfd of the sandbox's PID 1: the launcher's only child beside the guard.

        Raises SandboxError when it is not in the network namespace with the inode ``netns``.
        """
        listing = Path(f"/proc/{self.pid}/task/{self.pid}/children")

        def children() -> list[str]:
            return [word for word in listing.read_text().split() if word != str(guard_pid)]

        try:
            (word,) = children()
            inside = Path(f"/proc/{word}/ns/net").stat().st_ino
            pidfd = os.pidfd_open(int(word))
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None  # a kernel without CONFIG_PROC_CHILDREN, or it is dead already: the cgroup tells
        if children() != [word]:  # the number may have been given to another process meanwhile
            os.close(pidfd)
            return None
        if inside != netns:
            os.close(pidfd)
            raise SandboxError("the sandbox is not in its network namespace", resolution="run: lxcbuild doctor")
        return pidfd

    def close(self) -> None:
        """Give the descriptors and the ids back; a launcher that got no job ends by itself."""
        os.close(self.pidfd)
        self.job.close()
        self.id_range.release()


def wait_pidfd(pidfd: int, timeout_s: float | None) -> bool:
    """Wait until the process of a pidfd has ended (pidfd_open(2)); False after ``timeout_s``."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


class _Child(Protocol):
    def poll(self) -> int | None:
        """The exit status, once there is one."""


class LauncherPool:
    """One launcher pool process, started when first needed or by ``warm``. Safe to share between threads."""

    def __init__(self, run: Path) -> None:
        self._run = run  # where the records of sandboxes lie: the launcher pool removes ours when we are killed
        self.way_out = True  # whether the next sandboxes will probably want a network device (see netns.py)
        self._lock = threading.Lock()
        self._owner_pid = os.getpid()
        self._resources = contextlib.ExitStack()
        self._control: socket.socket | None = None
        self._child: _Child | None = None
        self._ready = False
        self._spare: LauncherHandle | None = None

    def warm(self) -> None:
        """Start the launcher pool without waiting for it: the first sandbox then finds it up."""
        with self._lock:
            self._start()

    def prepare(self) -> None:
        """Have one launcher ready for the next sandbox. Raises what ``take`` raises."""
        if self._spare is not None:
            return
        made = self._make()
        with self._lock:
            if self._spare is None:
                self._spare = made
                return
        made.close()  # another thread was quicker

    def take(self) -> LauncherHandle:
        """The launcher that is ready, or a new one. Raises :class:`SandboxError` or :class:`NoIdRangeError`."""
        with self._lock:
            self._start()
            spare, self._spare = self._spare, None
        if spare is not None:
            if not spare.wait(0):
                return spare
            spare.close()
        return self._make()

    def _make(self) -> LauncherHandle:
        with contextlib.ExitStack() as stack:
            id_range = stack.enter_context(ids.acquire())
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(mine)
            try:
                with theirs, self._lock:
                    control = self._start()
                    launcher.send(control, {"op": "fork"}, [theirs.fileno()])
                    if not self._ready:
                        launcher.receive(control)
                        self._ready = True
                    message, fds = launcher.receive(control)
                launcher.send(mine, {"op": "warm", "id_base": id_range.start, "way_out": self.way_out})
            except (OSError, EOFError) as error:
                self.close()
                raise SandboxError(
                    "the launcher of sandboxes does not start",
                    details=f"{PYTHON} {launcher.__file__}: {error or 'it ended'}",
                    resolution=f"run: lxcbuild doctor (is python3-lxc installed for {PYTHON}?)",
                ) from error
            stack.pop_all()
        return LauncherHandle(message["pid"], fds[0], mine, id_range)

    def close(self) -> None:
        """End the launcher pool and every launcher that still lives. A second call does nothing."""
        with self._lock:
            spare, self._spare = self._spare, None
            self._control, self._child, self._ready = None, None, False
            self._resources.close()
        if spare is not None:
            spare.wait(_DEATH_S)
            spare.close()

    def _start(self) -> socket.socket:
        if (
            self._owner_pid != os.getpid()
        ):  # we are a fork of the owner: its launcher pool and spare are not ours to use or to end
            self._resources.pop_all()
            self._control, self._child, self._ready, self._spare = None, None, False, None
            self._owner_pid = os.getpid()
        if (
            self._child is not None and self._child.poll() is not None
        ):  # somebody killed it; its launchers are dead, too
            self._resources.close()
            self._control, self._child, self._ready = None, None, False
        if self._control is None:
            with contextlib.ExitStack() as stack:
                control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    control.settimeout(_START_S)
                    fd = theirs.fileno()
                    script = Path(launcher.__file__)
                    argv: list[str | Path] = [PYTHON, "-I", "-S", script, str(fd), str(os.getpid()), self._run]
                    self._child = stack.enter_context(process.spawn(argv, cwd=Path("/"), pass_fds=[fd]))
                # Closed first: the launcher pool ends by itself when its socket does.
                stack.enter_context(control)
                self._resources = stack.pop_all()
            self._control = control
        return self._control
