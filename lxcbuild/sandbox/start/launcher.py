"""The small process behind each LXC sandbox: makes its mounts in a private namespace, starts the container, dies with its parent.

Run as a program by the distribution's own Python (python3-lxc belongs to it): ``/usr/bin/python3 -I -S launcher.py FD``. That
process is the *launchers*: it has everything imported, and forks one *launcher* per request, so that a sandbox never waits for a
Python to start. It ends when its socket closes or its parent dies, whichever comes first; launchers end with the launcher pool
(PR_SET_PDEATHSIG), payloads with their launcher (liblxc's own PR_SET_PDEATHSIG). So SIGKILL anywhere leaves nothing behind.

Messages are JSON on SOCK_SEQPACKET sockets, descriptors travel beside them (SCM_RIGHTS).

=========================  =====================================================  ===========================
socket                     message                                                descriptors
=========================  =====================================================  ===========================
to the launcher pool       ``{"op": "fork"}``                                     the launcher's job socket, and what it keeps
from the launcher pool     ``{"pid": N}``                                         pidfd of the launcher
to the launcher            ``{"op": "warm", "id_base": N, "way_out": bool}``      none
to the launcher            the job, see :class:`LaunchJob`                        the runner's socket, the lock of the id range,
                                                                                  the guard's line (see sinkhole.py)
from the launcher          ``{"event": "mounted", "netns", "guard"}``             merged tree, upper directory
from the launcher          ``{"event": "ended", "ok": bool, "error", "log"}``     none
=========================  =====================================================  ===========================
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":  # started by path, without site-packages: find our package and python3-lxc
    sys.path[:0] = [os.fspath(Path(__file__).resolve().parents[3])]
    sys.path.append("/usr/lib/python3/dist-packages")

from lxcbuild.linux import idmap, mounts, netns, syscalls
from lxcbuild.sandbox.inside import runner_code
from lxcbuild.sandbox.start import lxcconf
from lxcbuild.sandbox.start.job import LaunchJob
from lxcbuild.sandbox.start.namespaces import set_up
from lxcbuild.sandbox.start.tree import PLACE, make_tree

MESSAGE_BYTES = 1 << 17
_LAST_WORDS_S = 5.0
_LIBLXC_LOG = f"{PLACE}/l/log"


def send(sock: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """Send one message with descriptors."""
    socket.send_fds(sock, [json.dumps(message).encode()], fds or [])


def receive(sock: socket.socket, *, max_fds: int = 4) -> tuple[dict[str, Any], list[int]]:
    """Receive one message with descriptors (close-on-exec); raises EOFError when the other side is gone."""
    data, fds, _flags, _address = socket.recv_fds(sock, MESSAGE_BYTES, max_fds, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise EOFError
    return json.loads(data), fds


# -- the launcher pool ------------------------------------------------------------------------------------------------


def launchers(control: socket.socket, parent_pid: int) -> bool:
    """Fork launchers on request until the control socket closes or the parent dies; whether the parent is dead."""
    children: dict[int, int] = {}  # pidfd to pid
    poll = select.poll()
    poll.register(control, select.POLLIN)
    try:
        # A process descriptor, not PR_SET_PDEATHSIG: that would fire when the *thread* that started us ends (prctl(2)).
        parent = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        return True
    poll.register(parent, select.POLLIN)
    while True:
        for fd, _events in poll.poll():
            if fd == parent:
                return True
            if fd in children:
                os.waitpid(children.pop(fd), 0)
                poll.unregister(fd)
                os.close(fd)
            elif fd == control.fileno():
                try:
                    _message, fds = receive(control)
                except EOFError:
                    # A dying process loses its descriptors before it is reported dead.
                    return bool(select.select([parent], [], [], _LAST_WORDS_S)[0])
                pidfd = _fork_launcher(control, fds, children)
                poll.register(pidfd, select.POLLIN)


def clean_up_after(parent_pid: int, run: Path) -> None:
    """Remove what a killed orchestrator left: its sandboxes' cgroups, everything in them, their records, its scratch files.

    Only the launcher pool is sure to be there at that moment. Should it be killed too, ``lxcbuild gc`` does the same.
    """
    from lxcbuild.sandbox import registry  # 9 ms, here and below, when an orchestrator was killed
    from lxcbuild.state import claims
    from lxcbuild.state.paths import StateDirs

    dirs = StateDirs(run, run, run)
    for record in registry.list_instances(dirs):
        if record.owner_pid == parent_pid:
            registry.sweep(record)
    for path in registry.half_made(dirs, dead_pid=parent_pid):
        shutil.rmtree(path, ignore_errors=True)
    claims.sweep(run)


def _fork_launcher(control: socket.socket, fds: list[int], children: dict[int, int]) -> int:
    mine = os.getpid()
    pid = os.fork()
    if pid == 0:
        control.close()
        _become_launcher(fds[0], mine)
    for fd in fds:
        os.close(fd)
    pidfd = os.pidfd_open(pid)
    children[pidfd] = pid
    send(control, {"pid": pid}, [pidfd])
    return pidfd


# -- one launcher -----------------------------------------------------------------------------------------------


def _become_launcher(job_fd: int, nursery_pid: int) -> NoReturn:
    """The child of the launcher pool: never returns."""
    status = 1
    try:
        syscalls.die_with_parent(signal.SIGKILL)
        if os.getppid() != nursery_pid:  # it died before we asked to be told
            os._exit(1)
        os.setsid()
        with socket.socket(fileno=job_fd) as sock:
            try:
                warm, _ = receive(sock)
                # Two to five milliseconds that need not be spent when somebody waits: the map depends on nothing but the range.
                userns = idmap.open_userns(warm["id_base"])
                namespaces = netns.make(way_out=warm["way_out"])
                message, fds = receive(sock)
            except EOFError:
                os._exit(0)  # warmed for nothing
            _serve(sock, LaunchJob(**message), *fds, userns=userns, namespaces=namespaces)
            status = 0
    except BrokenPipeError:
        pass  # the orchestrator went away: so do we
    finally:
        os._exit(status)


def _serve(
    sock: socket.socket,
    job: LaunchJob,
    runner_fd: int,
    id_fd: int,
    guard_fd: int,
    *,
    userns: int,
    namespaces: netns.Namespaces,
) -> None:
    """Make the sandbox, run it to its end, say how it ended. The guard is forked first: it must hold none of our mounts."""
    try:
        started_at = time.monotonic()
        for path in job.cgroup_files:
            Path(path).write_text("0")
        # The build's own memory limit should not choose its keeper. Without CAP_SYS_RESOURCE (root in some containers) the
        # launcher stays at 0, and the payload is preferred all the same (lxc.proc.oom_score_adj).
        with contextlib.suppress(PermissionError):
            Path("/proc/self/oom_score_adj").write_text("-1000")
        entered_at = time.monotonic()
        namespaces, guard = set_up(namespaces, mode=job.network, proxy_hosts=job.proxy_hosts, line_fd=guard_fd)
        late = [os.open(path, os.O_WRONLY) for path in job.late_cgroup_files]  # out of sight in the new mount namespace
        merged, upper = make_tree(job, userns)
        for fd in late:
            os.write(fd, b"0")
            os.close(fd)
        timings = {"cgroups_s": entered_at - started_at, "tree_s": time.monotonic() - entered_at}
        told = {"event": "mounted", "timings": timings, "netns": namespaces.inode, "guard": guard}
        send(sock, told, [merged, upper])
        os.close(merged)
        os.close(upper)
        os.dup2(runner_fd, 0)
        os.close(runner_fd)
        ok, error = _run_container(sock, job, id_fd, namespaces.netns_fd), None
    except (OSError, mounts.BadMountPointError, ValueError) as problem:
        ok, error = False, f"{type(problem).__name__}: {problem}"
    except Exception:  # noqa: BLE001 - a bug of ours: this process has no other voice
        ok, error = False, traceback.format_exc()
    log = Path(_LIBLXC_LOG)
    text = log.read_text(errors="replace")[-8192:] if log.exists() else ""
    send(sock, {"event": "ended", "ok": ok, "error": error, "log": text})


def _run_container(sock: socket.socket, job: LaunchJob, id_fd: int, netns_fd: int) -> bool:
    """Start the container in the foreground: this process is its monitor until everything inside is dead."""
    import lxc

    # liblxc runs newuidmap and newgidmap when PATH leads to them (6 ms); as root it can write the maps itself.
    os.environ.clear()
    os.environ["PATH"] = f"{PLACE}/x"
    null = os.open("m/dev/null", os.O_RDWR)  # the sandbox's own: no descriptor of the host goes in
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    # liblxc closes every descriptor that it does not know. Those up to LISTEN_FDS stay (start.c, lxc_check_inherited); ours
    # are close-on-exec, so the payload never has them.
    _place(sock, id_fd, netns_fd)
    os.environ["LISTEN_FDS"] = str(lxcconf.NETNS_FD)
    config = Path(f"{PLACE}/l/config")
    config.write_text(lxcconf.render(job))
    if job.seccomp_profile:
        Path(lxcconf.SECCOMP_FILE).write_text(job.seccomp_profile)
    container = lxc.Container(job.name, f"{PLACE}/l")
    if not container.load_config(os.fspath(config)):
        raise ValueError("liblxc refused its configuration")
    command = ("/usr/bin/python3", "-I", "-S", lxcconf.RUNNER_INSIDE)
    return bool(container.start(useinit=False, daemonize=False, close_fds=True, cmd=command))


def _place(sock: socket.socket, id_fd: int, netns_fd: int) -> None:
    """Make the job socket descriptor 3, the id range's lock descriptor 4, and the network namespace's its fixed number."""
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (sock.detach(), id_fd, netns_fd)]
    for copy, number in zip(copies, (3, 4, lxcconf.NETNS_FD), strict=True):
        os.dup2(copy, number, inheritable=False)
    sock.__init__(fileno=3)  # type: ignore[misc]


def main() -> None:
    """The launcher pool's entry. Arguments: descriptor of the control socket, pid of the orchestrator, its run directory."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    parent_pid = int(sys.argv[2])
    import lxc  # noqa: F401 - launchers find it loaded

    runner_code.files()
    gc.freeze()  # forked launchers share these pages for good
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the orchestrator's to handle
    try:
        send(control, {"event": "ready"})
        orphaned = os.getppid() != parent_pid or launchers(control, parent_pid)
    except (BrokenPipeError, ConnectionResetError):  # it closed its end: by dying, or because it needs us no more
        orphaned = not _outlives_us(parent_pid)
    if orphaned:
        clean_up_after(parent_pid, Path(sys.argv[3]))


def _outlives_us(pid: int) -> bool:
    """Whether a process that closed its end of our socket goes on; a dying one loses its descriptors before it is reported dead."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not select.select([pidfd], [], [], _LAST_WORDS_S)[0]
    finally:
        os.close(pidfd)


if __name__ == "__main__":
    main()
