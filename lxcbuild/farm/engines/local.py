"""The engine of one machine: each job in a process of its own, as many at once as memory and processors allow."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from msgspec.structs import replace

from lxcbuild import files
from lxcbuild.config.policies import machine_memory_bytes
from lxcbuild.errors import CancelledError
from lxcbuild.farm.engines.engine import Job, JobEvent, JobResult, Listener, WorkerInfo
from lxcbuild.farm.engines.subprocess_jobs import Stop, run_apart
from lxcbuild.farm.engines.worker import ContextFactory
from lxcbuild.plan.capacity import Need, room_of
from lxcbuild.state import slots
from lxcbuild.state.paths import MACHINE_SLOTS, StateDirs

NAME = "local"
#: More at once than any machine of today builds.
_MAX_THREADS = 1024


class LocalEngine:
    """See :class:`~lxcbuild.farm.engines.engine.Engine`. One worker, which is this machine. ``shares_state``: this is the head's
    machine and state directory, so that files need not travel through the store.

    ``jobs`` is how many processors may be kept busy, if more than there are is wanted. ``courteous``: bulk builds, which leave room
    to others of this machine; see :mod:`lxcbuild.state.slots`.
    """

    def __init__(
        self,
        dirs: StateDirs,
        build_context: ContextFactory,
        *,
        listener: Listener | None = None,
        jobs: int | None = None,
        courteous: bool = True,
        shares_state: bool = True,
        alive: Path | None = None,
        slots_directory: Path = MACHINE_SLOTS,
    ) -> None:
        self._dirs, self._build_context, self._listener = dirs, build_context, listener
        self._cpus = float(max(len(os.sched_getaffinity(0)), jobs or 0))
        self._courteous, self._alive, self._slots = courteous, alive, slots_directory
        self._shares_state = shares_state
        self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="job")
        self._lock = threading.Lock()
        self._running: dict[Stop, Need] = {}
        self._stopped = False

    @property
    def name(self) -> str:
        """For people."""
        return NAME

    def workers(self) -> tuple[WorkerInfo, ...]:
        """This machine, without what others build here. One processor is always left, politely used: a run must get on."""
        with self._lock:
            ours = tuple(self._running.values())
        others = [item for item in slots.held(self._slots) if item.pid != os.getpid()] if self._courteous else []
        cpus = max(self._cpus - sum(item.cpus for item in others), 1.0)
        room = room_of(
            memory_bytes=max(machine_memory_bytes() - sum(item.memory_bytes for item in others), 0),
            available_bytes=files.memory()["MemAvailable"],
            cpus=cpus,
            ours=ours,
        )
        return (WorkerInfo(name=NAME, cpus=room.cpus, memory_bytes=room.memory_bytes),)

    def submit(self, job: Job, *, worker: str) -> Future[JobResult]:
        """Start it."""
        assert worker == NAME, worker
        stop = Stop()
        with self._lock:
            self._running[stop] = Need(memory_bytes=job.memory_bytes, cpus=job.cpus)
            if self._stopped:
                stop.set()
        job = replace(job, courteous=self._courteous)
        return self._threads.submit(functools.partial(self._run, job, stop))

    def stop(self) -> None:
        """End all running jobs."""
        with self._lock:
            self._stopped = True
            for stop in self._running:
                stop.set()

    def close(self) -> None:
        """Stop, and wait for the end of everything."""
        self.stop()
        self._threads.shutdown(wait=True)

    def _run(self, job: Job, stop: Stop) -> JobResult:
        try:
            if stop.is_set:
                raise CancelledError("the job was stopped")
            with self._slot(job):
                return run_apart(
                    job,
                    dirs=self._dirs,
                    build_context=self._build_context,
                    shares_state=self._shares_state,
                    stop=stop,
                    listener=self._tell,
                    alive=self._alive,
                )
        finally:
            with self._lock:
                del self._running[stop]
            stop.close()

    @contextlib.contextmanager
    def _slot(self, job: Job) -> Iterator[None]:
        kind = slots.Kind.BULK if self._courteous else slots.Kind.INTERACTIVE
        with slots.hold(kind, memory_bytes=job.memory_bytes, cpus=job.cpus, directory=self._slots):
            yield

    def _tell(self, event: JobEvent) -> None:
        if self._listener is not None:
            self._listener(replace(event, worker=NAME))
