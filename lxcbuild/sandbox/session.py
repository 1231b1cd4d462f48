"""One conversation of the host with a runner: sends steps and files, owns the clocks, decides why a step ended.

Everything that comes from the runner is treated as hostile (:mod:`lxcbuild.sandbox.inside.protocol`); clocks and counters are the
host's own (:mod:`lxcbuild.sandbox.watch`). One poll loop per step, no threads.
"""

from __future__ import annotations

import functools
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec.structs import replace

from lxcbuild.errors import CancelledError, SandboxError
from lxcbuild.log import Logger
from lxcbuild.model import FailureClass
from lxcbuild.policy import Policy
from lxcbuild.sandbox.base import OutputSink, Step, StepResult, User
from lxcbuild.sandbox.inside import protocol
from lxcbuild.sandbox.inside.channel import Channel
from lxcbuild.sandbox.inside.protocol import Message, RunnerReady
from lxcbuild.sandbox.logs import LogCap
from lxcbuild.sandbox.terminal import Terminal
from lxcbuild.sandbox.watch import Probe, Reading, StepWatch

__all__ = ["RUNNER", "Probe", "Reading", "RunnerReady", "Session"]

log = Logger()

#: The script that runs as PID 1 inside: ``python3 -I -S RUNNER [FD | DEVICE]``; the default is descriptor 0.
RUNNER = Path(__file__).parent / "inside/runner.py"
#: Its other half, which it gets over the stream when it is up.
_RUNNER_STEP = Path(__file__).parent / "inside/runner_step.py"

#: Time for a step to end after SIGTERM, after SIGKILL from the runner, and after the backend's kill.
_TERM_GRACE_S, _KILL_GRACE_S, _DEATH_GRACE_S = 0.5, 1.0, 5.0
_ANSWER_S = 30.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HOMES = {User.BUILD: "/build", User.ROOT: "/root"}

_Stages = Iterator[tuple[Callable[[], None], float]]


class Session:
    """Not re-entrant: one ``run``, ``interact`` or ``put`` at a time; ``cancel`` at any time from any thread.

    ``kill`` is the backend's way to kill the whole sandbox from outside; it is called when the runner does not stop a step
    by itself, when it breaks the protocol, and by ``cancel`` in the thread of its caller. It must be idempotent, quick and
    thread-safe. The session owns ``sock`` (the other end of the runner's descriptor 0).
    """

    def __init__(self, sock: socket.socket, *, kill: Callable[[], None]) -> None:
        self._channel = Channel(sock, kill=kill)

    @property
    def broken(self) -> str | None:
        """Why nothing more can be done in this session, once that is so."""
        return self._channel.broken

    def wait_ready(self, timeout_s: float, *, program: bytes | None = None) -> RunnerReady:
        """Wait for the runner's first message. Raises SandboxError when it does not come in time, or is not one.

        ``program`` is the system-call filter (an array of ``struct sock_filter``) that PID 1 loads before any step.
        """
        answer = self._answer(timeout_s)
        if not isinstance(answer, RunnerReady):
            self._channel.fail("the runner's first message is not 'ready'")
            self._channel.check()
        assert isinstance(answer, RunnerReady)
        encoded = None if program is None else protocol.encode_bytes(program)
        self._channel.tell("load", source=_RUNNER_STEP.read_text(), filter=encoded)
        self._channel.exchange(0, {})  # so that it is compiled there while the caller does something else here
        return answer

    def put(self, inside: str, data: bytes, *, mode: int = 0o644, user: User = User.BUILD) -> None:
        """Write one small file inside (parents are made, no link is followed). Raises SandboxError."""
        if len(data) > protocol.MAX_PUT_BYTES:
            raise SandboxError(f"{inside} is too large to be put into a sandbox: {len(data)} bytes")
        number = self._channel.ask("put", path=inside, mode=mode, user=str(user), data=protocol.encode_bytes(data))
        answer = self._answer(_ANSWER_S)
        if isinstance(answer, protocol.StepRefused) and answer.id == number:
            raise SandboxError(f"cannot write {inside} in the sandbox: {answer.text}")
        if answer != protocol.Done(number):
            self._channel.fail(f"an unexpected answer to put: {type(answer).__name__}")
            self._channel.check()

    def run(self, step: Step, *, policy: Policy, on_output: OutputSink, probe: Probe) -> StepResult:
        """Run one step to its end.

        Never raises for what happens inside: limits, a dead or lying runner and ``cancel`` are ``stopped_by`` of the
        result. What ``on_output`` and ``probe`` raise goes through, and the sandbox is killed then. Raises SandboxError for
        a session that was already broken.
        """
        if step.stdin is not None and len(step.stdin) > protocol.MAX_PUT_BYTES:
            raise SandboxError(f"the input of {step.argv[0]} is too large: {len(step.stdin)} bytes")
        exchange = _Exchange(self._channel, step, policy=policy, on_output=on_output, probe=probe)
        if self._channel.cancelled:
            return exchange.result(FailureClass.CANCELLED)
        return exchange.conduct(stdin=None if step.stdin is None else protocol.encode_bytes(step.stdin))

    def interact(self, step: Step, *, policy: Policy, probe: Probe) -> int:
        """Run one step joined to the caller's terminal (on a pseudo-terminal inside), or to its pipes when stdin is none.

        Returns the exit status, 128+n for a signal. Only a ``wall_s`` of the step itself limits its time. Raises SandboxError
        when the sandbox dies and CancelledError after ``cancel``.
        """
        free = replace(
            policy,
            time=replace(policy.time, wall_s=math.inf, silence_s=None, cpu_s=None),
            log=replace(policy.log, max_bytes=2**62, max_line_bytes=2**62),
        )
        with Terminal() as terminal:
            exchange = _Exchange(self._channel, step, policy=free, on_output=terminal.show, probe=probe)
            exchange.keyboard = terminal.fd
            if terminal.resize_fd is not None:
                exchange.others[terminal.resize_fd] = lambda: self._channel.tell("resize", **terminal.take_resize())
            result = exchange.conduct(pty=terminal.size(), keyboard=True)
        if result.stopped_by is FailureClass.CANCELLED:
            raise CancelledError("cancelled")
        if result.exit_status is None and result.signal is None:
            raise SandboxError(f"the sandbox died: {self.broken or result.stopped_by}")
        return result.exit_status if result.exit_status is not None else 128 + (result.signal or 0)

    def cancel(self) -> None:
        """End the running step as ``cancelled`` and kill the sandbox; safe in any thread, idempotent."""
        self._channel.cancel()

    def close(self) -> None:
        """Close the stream: the runner exits, and the kernel kills what is left inside. Idempotent."""
        self._channel.close()

    def _answer(self, timeout_s: float) -> Message:
        """Wait for the next message. Raises SandboxError, CancelledError."""
        deadline = time.monotonic() + timeout_s
        while not self._channel.inbox:
            self._channel.check()
            left = deadline - time.monotonic()
            if left <= 0:
                self._channel.fail(f"no answer within {timeout_s:g} s")
            else:
                self._channel.exchange(left, {})
        return self._channel.inbox.popleft()


class _Exchange:
    """One step from its request to its result."""

    def __init__(self, channel: Channel, step: Step, *, policy: Policy, on_output: OutputSink, probe: Probe) -> None:
        self.keyboard: int | None = None
        self.others: dict[int, Callable[[], None]] = {}  # more descriptors of the host to listen to
        self._channel = channel
        self._step = step
        self._number = 0
        self._can_type = True
        self._on_output = on_output
        self._probe = probe
        self._cap = LogCap(policy.log)
        self._watch = StepWatch(step, policy=policy, now=time.monotonic(), first=probe())
        self._stopping: FailureClass | None = None
        self._stages: _Stages = iter(())
        self._stage_due = math.inf
        self._exited: protocol.Exited | None = None
        self._refused: protocol.StepRefused | None = None

    def conduct(self, **extra: object) -> StepResult:
        """Send the request with its ``extra`` fields and exchange messages until the step is over."""
        step, channel = self._step, self._channel
        env = {"PATH": _PATH, "HOME": _HOMES[step.user], "LANG": "C.UTF-8", "TMPDIR": "/tmp", **step.env}  # noqa: S108
        self._number = channel.ask("run", argv=list(step.argv), env=env, cwd=step.cwd, user=str(step.user), **extra)
        try:
            while self._exited is None and self._refused is None and not channel.broken:
                self._turn()
                while channel.inbox:
                    self._take(channel.inbox.popleft())
            self._deliver(self._cap.finish())
            return self.result(FailureClass.CANCELLED if channel.cancelled else self._stopping)
        except BaseException:
            channel.fail("interrupted")
            raise

    def result(self, stopped_by: FailureClass | None) -> StepResult:
        """What there is to say now."""
        now = time.monotonic()
        self._watch.measured(now, self._probe())
        exited = self._exited
        if stopped_by is None and (exited is None or exited.status != 0):
            stopped_by = self._watch.verdict() or (None if exited else FailureClass.SANDBOX_FAILED)
        return StepResult(
            exit_status=exited.status if exited else None,
            signal=exited.signal if exited else None,
            stopped_by=stopped_by,
            usage=self._watch.usage(now),
            output_bytes=self._cap.total_bytes,
            output_truncated=self._cap.truncated,
        )

    def _turn(self) -> None:
        """Look at clocks and counters, then wait for what comes next."""
        now = time.monotonic()
        if self._watch.sample_due(now):
            self._watch.measured(now, self._probe())
        self._decide(now)
        wait_s = min(self._watch.wait_s(now) if self._stopping is None else 1.0, self._stage_due - now)
        others = dict(self.others)
        if self.keyboard is not None and self._can_type:
            others[self.keyboard] = functools.partial(self._typed, self.keyboard)
        self._channel.exchange(max(0.0, wait_s), others)

    # -- what comes in --------------------------------------------------------------------------------------------

    def _take(self, message: Message) -> None:
        if isinstance(message, protocol.StepOutput):
            if message.data:
                self._watch.heard(time.monotonic())
                self._deliver(self._cap.feed(message.data))
        elif isinstance(message, protocol.Took):
            self._can_type = True
        elif isinstance(message, protocol.Exited) and message.id == self._number:
            self._exited = message
        elif isinstance(message, protocol.StepRefused) and message.id == self._number:
            self._refused = message
            log.warning("step.refused", text=message.text)
        else:
            self._channel.fail(f"an unexpected message: {type(message).__name__}")

    def _deliver(self, data: bytes) -> None:
        if data:
            self._on_output(data)

    def _typed(self, keyboard: int) -> None:
        data = os.read(keyboard, 16384)
        self._can_type = False  # until the runner says that the step took it
        if not data:
            self.keyboard = None
        self._channel.tell("stdin", data=protocol.encode_bytes(data), end=not data)

    # -- stopping -------------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        """Begin to stop the step when a limit is passed, and go on to the next means when the last one did not help."""
        if self._channel.cancelled:
            if self._stopping is not FailureClass.CANCELLED:
                self._stop(FailureClass.CANCELLED, now, self._hard_stages())
        elif self._stopping is None:
            why = FailureClass.LOG_FLOOD if self._cap.flooded else self._watch.overdue(now)
            if why is not None:
                self._stop(why, now, self._soft_stages())
            elif (why := self._watch.hopeless()) is not None:
                self._stop(why, now, self._hard_stages())
        while now >= self._stage_due:
            act, grace_s = next(self._stages)
            act()
            self._stage_due = now + grace_s

    def _stop(self, why: FailureClass, now: float, stages: _Stages) -> None:
        self._stopping, self._stages, self._stage_due = why, stages, now
        log.debug("step.stop", why=str(why), argv=self._step.argv)

    def _soft_stages(self) -> _Stages:
        yield lambda: self._channel.tell("signal", signal=int(signal.SIGTERM)), _TERM_GRACE_S
        yield lambda: self._channel.tell("kill"), _KILL_GRACE_S
        yield from self._hard_stages()

    def _hard_stages(self) -> _Stages:
        yield self._channel.kill, _DEATH_GRACE_S
        yield lambda: self._channel.fail("the sandbox survived its kill"), math.inf
