"""Runs one job in a process of its own: whatever happens to that process, others do not notice.

A server process that has everything imported is forked for each job (multiprocessing's forkserver), so a job pays for no start of
Python. The process ends when its head does: nobody would take its result, and a head that is started anew builds the same again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType
from typing import Any

from msgspec.structs import replace

from lxcbuild.errors import CancelledError, LxcbuildError, WorkerLostError
from lxcbuild.farm.engines.engine import Job, JobEvent, JobResult, Listener
from lxcbuild.farm.engines.worker import ContextFactory, carry_out
from lxcbuild.state import locks
from lxcbuild.state.paths import StateDirs

#: How long a stopped job may take to give everything back.
_STOP_S = 20.0
_NICE = 10
#: The kernel's score for who is killed first when the whole machine is out of memory (proc(5)): bulk builds before others.
_OOM_SCORE = 500
#: multiprocessing looks at all its children whenever it starts one.
_starting = threading.Lock()


class Stop:
    """Tells a running job to stop; may be set from any thread, at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read, self._write = os.pipe2(os.O_CLOEXEC)
        self.is_set = False

    def set(self) -> None:
        """Stop it. Idempotent."""
        with self._lock:
            if not self.is_set and self._write >= 0:
                self.is_set = True
                os.write(self._write, b"s")

    def fileno(self) -> int:
        """Readable once it is set."""
        return self._read

    def close(self) -> None:
        """Give the pipe back."""
        with self._lock:
            for fd in (self._read, self._write):
                if fd >= 0:
                    os.close(fd)
            self._read = self._write = -1


def context(build_context: ContextFactory) -> ForkServerContext:
    """The process factory; the server is started with the first process and imports what jobs need."""
    made = multiprocessing.get_context("forkserver")
    modules = [__name__, getattr(build_context, "__module__", __name__)]
    # Imported by builds when they get there: once in the server instead of once in each job.
    modules += ["lxcbuild.builder.family", "lxcbuild.farm.engines.warm", "lxcbuild.pypi.index.client"]
    made.set_forkserver_preload(modules)
    return made


def run_apart(
    job: Job,
    *,
    dirs: StateDirs,
    build_context: ContextFactory,
    shares_state: bool,
    stop: Stop,
    listener: Listener | None = None,
    alive: Path | None = None,
) -> JobResult:
    """Build a job in a new process and wait for it; several threads may do so at once.

    ``alive`` is a file that the process holds a shared lock on as long as it lives. Raises WorkerLostError when the process dies,
    CancelledError when it was stopped, and what :func:`~lxcbuild.farm.engines.worker.carry_out` raises.
    """
    factory = context(build_context)
    ours, theirs = factory.Pipe()
    process = factory.Process(
        target=_main,
        args=(theirs, job, dirs, build_context),
        kwargs={"shares_state": shares_state, "alive": alive},
        name=f"lxcbuild worker {job.key}",
        daemon=False,
    )
    with _starting:
        process.start()
    theirs.close()
    try:
        return _await(ours, process.sentinel, stop, listener)
    except EOFError:
        process.join(_STOP_S)
        raise WorkerLostError(
            f"the worker process of {job.key} died ({_how(process.exitcode)})",
            resolution="look at the kernel's log (dmesg): was it out of memory?",
        ) from None
    finally:
        ours.close()
        process.join(_STOP_S)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def _await(ours: Connection, sentinel: int, stop: Stop, listener: Listener | None) -> JobResult:
    asked = stop.fileno()
    waiting: list[Any] = [ours, asked, sentinel]
    while True:
        ready = wait(waiting, timeout=_STOP_S if asked not in waiting else None)
        if not ready:
            raise CancelledError("the job was stopped")
        if asked in ready:
            waiting.remove(asked)
            with contextlib.suppress(OSError):
                ours.send("stop")
        if ours in ready:
            message = ours.recv()  # what the dead process had still said is read before its end shows
            if isinstance(message, JobEvent):
                if listener is not None:
                    listener(message)
            elif isinstance(message, JobResult):
                return message
            else:
                assert isinstance(message, BaseException), message
                raise message
        elif sentinel in ready:
            raise EOFError


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"signal {signal.Signals(-exitcode).name}"
    return f"exit status {exitcode}"


# -- in the process --------------------------------------------------------------------------------------------------


def _main(
    theirs: Connection,
    job: Job,
    dirs: StateDirs,
    build_context: ContextFactory,
    *,
    shares_state: bool,
    alive: Path | None,
) -> None:
    # Ctrl-C on the terminal is the head's to hear.
    os.setpgid(0, 0)
    if job.courteous:
        os.nice(_NICE)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    if alive is not None:
        locks.take_shared(alive)  # given back by the end of this process
    interrupt, finished = _interruptible(), threading.Event()
    lock = threading.Lock()

    def say(message: object) -> None:
        # A head that is gone hears nothing; the thread below ends the job then.
        with lock, contextlib.suppress(OSError):
            theirs.send(message)

    threading.Thread(target=_obey, args=(theirs, interrupt, finished), daemon=True, name="head").start()
    try:
        result: object = carry_out(job, dirs=dirs, build_context=build_context, shares_state=shares_state, listener=say)
    except KeyboardInterrupt:
        result = CancelledError("the job was stopped")
    except LxcbuildError as error:
        result = error
    if isinstance(result, JobResult):
        result = replace(result, worker=f"{os.uname().nodename}:{os.getpid()}")
    finished.set()
    say(result)


def _interruptible() -> Callable[[], None]:
    """One interruption unwinds the job; more would only disturb that."""

    def once(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, once)
    main = threading.main_thread().ident
    assert main is not None
    return lambda: signal.pthread_kill(main, signal.SIGINT)


def _obey(theirs: Connection, interrupt: Callable[[], None], finished: threading.Event) -> None:
    """Wait for the head's word, or for its end."""
    with contextlib.suppress(EOFError, OSError):
        theirs.recv()
    if not finished.is_set():
        interrupt()
