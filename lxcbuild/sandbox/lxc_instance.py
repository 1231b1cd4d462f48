"""One LXC container's life: id range, cgroups, launcher, the runner's session, extraction."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from lxcbuild.errors import CancelledError, HostError, LxcbuildError, SandboxError
from lxcbuild.files import Closing
from lxcbuild.linux.cgroups.cgroup import Cgroup, CgroupHost, Counters
from lxcbuild.linux.cgroups.fs import Version
from lxcbuild.model import Usage
from lxcbuild.policy import OutputLimits
from lxcbuild.sandbox import extract as extraction
from lxcbuild.sandbox import seccomp
from lxcbuild.sandbox.background import BackgroundWork
from lxcbuild.sandbox.base import ExtractedFile, InstanceSpec, OutputSink, Step, StepResult, TreeChange, User
from lxcbuild.sandbox.inside import compiled
from lxcbuild.sandbox.limits import enforcement
from lxcbuild.sandbox.network import network
from lxcbuild.sandbox.registry import Registration
from lxcbuild.sandbox.session import Session
from lxcbuild.sandbox.start import launcher, lxcconf
from lxcbuild.sandbox.start.job import LaunchJob
from lxcbuild.sandbox.start.launcher_pool import LauncherHandle, LauncherPool, wait_pidfd
from lxcbuild.sandbox.watch import Reading
from lxcbuild.state.paths import StateDirs

_START_S = 60.0
_DEATH_S = 10.0
#: Room in the tmpfs for what is ours: /dev, mount points, the runner, liblxc's log.
_OWN_BYTES, _OWN_INODES = 1 << 20, 128


class LxcInstance(Closing):
    """One container's life; see :class:`lxcbuild.sandbox.base.Instance` for the meaning of each call."""

    def __init__(
        self,
        spec: InstanceSpec,
        *,
        dirs: StateDirs,
        plan: enforcement.LimitPlan,
        host: CgroupHost,
        launchers: LauncherPool,
        background: BackgroundWork,
    ) -> None:
        self.spec = spec
        self._dirs = dirs
        self._launchers = launchers
        self._background = background
        self._resources = contextlib.ExitStack()
        self._plan = plan
        self._host = host
        self._limits: Mapping[str, object] = {}
        self._launcher: LauncherHandle | None = None
        self._session: Session | None = None
        self._guard_line: network.GuardLine | None = None
        self._guard_pid: int | None = None
        self._netns = 0
        self._init_pidfd: int | None = None
        self._cgroup: Cgroup | None = None
        self._merged_fd = self._upper_fd = -1
        self._id_start = -1
        self._began_at = time.monotonic()
        self._peak_disk_bytes = 0
        self._cancelled = threading.Event()
        self._guard = threading.Lock()
        self._final: Usage | None = None
        self._closed = False
        self._filters = seccomp.filters(spec.policy.seccomp)

    # -- life --

    def start(self) -> None:
        """Make and boot it; returns when the runner inside answers. Raises SandboxError or HostError."""
        assert self._session is None, "an instance is started once"
        self._began_at = time.monotonic()
        with contextlib.ExitStack() as stack:
            # Everything is given back in the reverse order: processes, then descriptors, cgroups, ids, and last the record.
            registration = Registration.create(self._dirs, self.spec.instance_id)
            stack.callback(registration.release)
            handle = self._launcher = self._launchers.take()
            self._id_start = handle.id_range.start
            stack.callback(handle.close)
            stack.callback(self._forget)
            self._check_cancelled()
            registration.update(launcher_pid=handle.pid, id_start=self._id_start)
            group = self._host.create(registration.record.cgroup, controllers=self._plan.controllers)
            cgroup = self._cgroup = stack.enter_context(group)
            stack.callback(_reap, handle)
            self._plan = enforcement.enforce(self._plan, cgroup)
            self._launchers.way_out = self.spec.policy.network in network.GUARDED  # as this one, so the next ones
            line = self._guard_line = network.GuardLine()
            stack.callback(line.close)
            runner_end = self._send_job(handle, cgroup, line)
            session = self._session = Session(runner_end, kill=self._kill)
            stack.callback(session.close)
            self._check_cancelled()  # a cancel that came before this line found no session
            self._receive_tree(handle, stack)
            self._wait_ready(session, handle)
            self._init_pidfd = handle.open_init(guard_pid=self._guard_pid, netns=self._netns)
            if self._init_pidfd is not None:
                stack.callback(os.close, self._init_pidfd)
            self._limits = {
                **enforcement.read_back(self._plan, cgroup),
                **enforcement.read_back_disk(self._plan, self._upper_fd),
            }
            self._resources = stack.pop_all()

    @property
    def limits_in_force(self) -> Mapping[str, object]:
        """Limits as read back from the kernel after start."""
        return self._limits

    def put(self, inside: str, data: bytes, *, mode: int = 0o644, user: User = User.BUILD) -> None:
        """Write one small file inside."""
        self._live().put(inside, data, mode=mode, user=user)

    def run(self, step: Step, on_output: OutputSink) -> StepResult:
        """Run one command to its end."""
        session, mode = self._live(), self.spec.policy.network
        step = replace(step, env={**network.environment(mode), **step.env})
        result = session.run(step, policy=self.spec.policy, on_output=on_output, probe=self._probe)
        if mode not in network.GUARDED:
            return result
        if self._guard_line is None:
            raise SandboxError("the sandbox's network has no guard")
        return self._guard_line.complete(result)

    def interact(self, step: Step) -> int:
        """Run one command on a pseudo-terminal inside, joined to the caller's terminal."""
        step = replace(step, env={**network.environment(self.spec.policy.network), **step.env})
        return self._live().interact(step, policy=self.spec.policy, probe=self._probe)

    def cancel(self) -> None:
        """Kill everything inside at once; from any thread."""
        self._cancelled.set()
        if (session := self._session) is not None:
            session.cancel()
        else:
            self._kill()

    def stop(self) -> Usage:
        """Kill everything inside, wait until it is dead, return what the whole life cost. A second call returns the same."""
        if self._final is None:
            self._live()
            self._kill()
            self._await_death()
            self._final = self._probe().usage
        return self._final

    # -- after death --

    def extract(self, inside_dir: str, destination: Path, limits: OutputLimits) -> Sequence[ExtractedFile]:
        """Copy regular files out; only after ``stop``."""
        return extraction.extract(self._dead(self._merged_fd), inside_dir, destination, limits)

    def changes(self, *, prefixes: Sequence[str] = ("/",)) -> Iterable[TreeChange]:
        """What the writable layer holds below the prefixes; only after ``stop``."""
        return extraction.changes(self._dead(self._upper_fd), prefixes=prefixes)

    def save_delta(self, destination: Path, *, max_bytes: int | None = None) -> None:
        """Copy the writable layer to a new directory as an overlay lower; only after ``stop``."""
        upper = self._dead(self._upper_fd)
        extraction.save_delta(upper, destination, id_start=self._id_start, max_bytes=max_bytes)

    def close(self) -> None:
        """Give everything back: the caller waits for the kill only, the rest is done behind. Idempotent."""
        if self._closed:
            return
        self._kill()
        self._forget()
        resources = self._resources.pop_all()
        self._background.run(self.spec.instance_id, resources.close)

    # -- parts of start --

    def _send_job(self, handle: LauncherHandle, cgroup: Cgroup, line: network.GuardLine) -> socket.socket:
        """Hand the job over; returns our end of the runner's socket."""
        limits = self.spec.policy.disk
        early, late = _cgroup_files(cgroup)
        runner = compiled.find(self._dirs, self.spec.lowers[-1])
        job = LaunchJob(
            name=f"{self._dirs.tag}-{self.spec.instance_id}",
            hostname=self.spec.hostname,
            id_base=self._id_start,
            lowers=[os.fspath(path.resolve()) for path in self.spec.lowers],
            binds=[(os.fspath(bind.host.resolve()), bind.inside) for bind in self.spec.binds],
            tmpfs_bytes=limits.max_bytes
            + _OWN_BYTES
            + sum(b.host.stat().st_size for b in self.spec.binds if b.host.is_file()),
            tmpfs_inodes=limits.max_inodes + _OWN_INODES,
            network=self.spec.policy.network.value,
            proxy_hosts=list(self.spec.policy.proxy_hosts),
            seccomp_profile=self._filters.first_text if self._filters else None,
            cgroup_files=early,
            late_cgroup_files=late,
            runner=None if runner is None else os.fspath(runner),
        )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs, line.theirs:
            try:
                fds = [theirs.fileno(), handle.id_range.fd, line.theirs.fileno()]
                socket.send_fds(handle.job, [job.encode()], fds)
            except OSError as error:
                ours.close()
                raise SandboxError("the launcher of the sandbox died before it began", details=str(error)) from error
        return ours

    def _receive_tree(self, handle: LauncherHandle, stack: contextlib.ExitStack) -> None:
        message, fds = self._message(handle, _START_S)
        for fd in fds:
            stack.callback(os.close, fd)
        if message.get("event") != "mounted":
            raise self._failure(message)
        self._merged_fd, self._upper_fd = fds
        self._netns, self._guard_pid = message["netns"], message["guard"]

    def _wait_ready(self, session: Session, handle: LauncherHandle) -> None:
        try:
            ready = session.wait_ready(_START_S, program=self._filters.program if self._filters else None)
        except SandboxError as error:
            message, _ = self._message(handle, 1.0)
            raise self._failure(message, error) from error
        # Said by our runner before anything hostile has run: no belt may be missing without a word.
        capabilities = sum(1 << number for number in lxcconf.ROOT_CAPABILITIES.values())
        filtered = 2 if self._filters else 0  # SECCOMP_MODE_FILTER
        found = {
            "no_new_privs": ready.no_new_privs,
            "seccomp": ready.seccomp,
            "capabilities": ready.cap_bnd | ready.cap_eff,
        }
        wanted = {"no_new_privs": 1, "seccomp": filtered, "capabilities": capabilities}
        if found != wanted:
            raise SandboxError("the sandbox is not confined as it should be", details=f"wanted {wanted}, found {found}")

    def _message(self, handle: LauncherHandle, timeout_s: float) -> tuple[dict[str, Any], list[int]]:
        """The launcher's next message; an empty one when it has died or stays silent."""
        handle.job.settimeout(timeout_s)
        try:
            return launcher.receive(handle.job)
        except (EOFError, OSError):
            return {}, []

    def _failure(self, message: Mapping[str, Any], error: SandboxError | None = None) -> LxcbuildError:
        if self._cancelled.is_set():
            return CancelledError("cancelled")
        reason = message.get("error") or (error.brief if error else "its launcher ended")
        details = [str(reason), error.details if error else None, message.get("log")]
        return SandboxError(
            f"the sandbox did not start: {str(reason).strip().splitlines()[-1][:200]}",
            details="\n".join(part for part in details if part),
            resolution="run: lxcbuild doctor",
        )

    # -- death --

    def _kill(self) -> None:
        """SIGKILL for PID 1, and with it everything inside, and for the launcher. Does not wait; from any thread."""
        with self._guard:
            if self._init_pidfd is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._init_pidfd, signal.SIGKILL)
            if self._launcher is not None:
                self._launcher.kill()

    def _forget(self) -> None:
        """Before descriptors are closed: a late ``cancel`` must not use a number that means another process by then."""
        with self._guard:
            self._init_pidfd = self._launcher = None
            self._closed = True

    def _await_death(self) -> None:
        """Wait until nothing of the sandbox lives: PID 1 is gone only after all others (pid_namespaces(7))."""
        if self._init_pidfd is None or not wait_pidfd(self._init_pidfd, _DEATH_S):
            self._own_cgroup().kill(timeout_s=_DEATH_S)

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise CancelledError("cancelled")

    def _live(self) -> Session:
        if self._session is None or self._closed:
            raise SandboxError("the sandbox is not running")
        return self._session

    def _own_cgroup(self) -> Cgroup:
        if self._cgroup is None:
            raise SandboxError("the sandbox has not been started")
        return self._cgroup

    def _dead(self, fd: int) -> int:
        if self._final is None:
            raise SandboxError("a sandbox is stopped before what it left is read")
        return fd

    # -- counters --

    def _probe(self) -> Reading:
        """What the kernel says now."""
        counters: Counters = self._own_cgroup().counters()
        room = os.fstatvfs(self._upper_fd)
        self._peak_disk_bytes = max(self._peak_disk_bytes, (room.f_blocks - room.f_bfree) * room.f_frsize)
        usage = Usage(
            wall_s=time.monotonic() - self._began_at,
            cpu_s=counters.cpu_s,
            peak_memory_bytes=counters.peak_memory_bytes,
            read_bytes=counters.read_bytes,
            written_bytes=counters.written_bytes,
            peak_pids=counters.peak_pids,
            throttled_s=counters.throttled_s,
            oom_kills=counters.oom_kills,
            pids_denied=counters.pids_denied,
            peak_disk_bytes=self._peak_disk_bytes,
        )
        return Reading(
            usage=usage,
            disk_total_bytes=room.f_blocks * room.f_frsize,
            disk_free_bytes=room.f_bfree * room.f_frsize,
            disk_total_inodes=room.f_files,
            disk_free_inodes=room.f_ffree,
        )


def _reap(handle: LauncherHandle) -> None:
    """Kill the launcher and wait for it; its payload and its mounts go with it."""
    handle.kill()
    if not handle.wait(_DEATH_S):
        raise HostError(f"the launcher {handle.pid} does not die", resolution="run: lxcbuild doctor --leftovers")


def _cgroup_files(cgroup: Cgroup) -> tuple[list[str], list[str]]:
    """Where the launcher writes "0" to enter the build's cgroups: at once, and after it has made device nodes.

    v1's ``tasks`` moves one thread without the lock on whole thread groups that ``cgroup.procs`` takes (5 to 15 ms).
    """
    early: list[str] = []
    late: list[str] = []
    for hierarchy, node in cgroup.nodes.items():
        file = os.fspath(node.path / ("tasks" if hierarchy.version is Version.V1 else "cgroup.procs"))
        (late if "devices" in hierarchy.controllers else early).append(file)
    return early, late
