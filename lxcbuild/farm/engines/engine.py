"""The seam of the farm: what a build job is, what comes back, and what can run jobs. Plain values that pickle.

The head decides which job runs where and when (:mod:`lxcbuild.plan.schedule`), and is the only writer of the ledger. An engine
carries jobs to workers and results back, as an executor of :mod:`concurrent.futures` does. A worker gets all that it needs in the
job, and leaves packages, logs and the result itself in a store (:mod:`lxcbuild.farm.artifacts`), so that a head that dies loses
no finished build.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Protocol

from msgspec import Struct, field

from lxcbuild import __version__
from lxcbuild.builder.request import BuildRequest, MissingRelease
from lxcbuild.events import BuildEnded, BuildPutAside, BuildStarted, Note, PhaseEnded, PhaseStarted
from lxcbuild.ledger.records import BuildRecord, NewBuild
from lxcbuild.model import Failure, Outcome, Target
from lxcbuild.pypi.versions.version_caps import Ceilings

#: What a worker tells while it works. Output of builds stays where it is: in the log.
WorkerEvent = BuildStarted | PhaseStarted | PhaseEnded | Note | BuildEnded | BuildPutAside


class StoredFile(Struct, frozen=True, kw_only=True):
    """One file in the store, found by its content; ``name`` is what it is called where it is used."""

    name: str
    sha256: str
    size_bytes: int


class Provided(Struct, frozen=True, kw_only=True):
    """An earlier build that a job needs: its record as the head's ledger has it, and its packages in the store."""

    record: BuildRecord
    files: tuple[StoredFile, ...]


class Raised(Struct, frozen=True, kw_only=True):
    """By how much the policy's limits are raised for a second attempt; 1.0: not."""

    memory: float = 1.0
    disk: float = 1.0
    pids: float = 1.0


class Job(Struct, frozen=True, kw_only=True):
    """One build, or several that need each other and are built as one. ``key`` is its name in the plan.

    ``pins`` are the versions that the plan chose of everything that the job needs, by project; ``provided`` are those of them
    that are built already, with all that they need themselves. ``store`` is a URL or an absolute path. ``image_digest``: the base
    image that the head resolved for, "" when it does not matter. ``courteous``: a bulk build, which lets others go first.
    ``caps``: what the run has tried so far and cannot build. ``failed``: builds of what the job needs that have failed in this run.
    """

    key: str
    run: str
    target: Target
    requests: tuple[BuildRequest, ...]
    policy: str
    store: str
    attempt: int = 1
    raised: Raised = field(default_factory=Raised)
    pins: Mapping[str, str] = field(default_factory=dict)
    provided: tuple[Provided, ...] = ()
    memory_bytes: int = 0  # what it is expected to need
    cpus: float = 1.0
    seconds: float = 0.0  # how long it is expected to take
    image_digest: str = ""
    lxcbuild_version: str = __version__
    courteous: bool = True
    caps: Ceilings = field(default_factory=dict)
    failed: Mapping[tuple[str, str], Outcome] = field(default_factory=dict)  # by project and version


class BuildReport(Struct, frozen=True, kw_only=True):
    """One build as the head records it: how it began, what was learned on the way, how it ended, and its files in the store.

    Paths of the outcome are the worker's; the head replaces them by its own.
    """

    new: NewBuild
    learned: Mapping[str, object]
    outcome: Outcome
    files: tuple[StoredFile, ...] = ()
    log: StoredFile | None = None


class JobResult(Struct, frozen=True, kw_only=True):
    """What became of a job: reports of its builds, or what has to be built before (``wanted``; then there are no reports).

    ``recorded`` are builds that the ledger has already, because the engine wrote them there as they went. ``pins`` are the
    versions that were chosen together with what is wanted. ``failure`` is set when the job failed before there was any build to
    report, for example on a worker that cannot build.
    """

    key: str
    run: str
    attempt: int
    worker: str
    reports: tuple[BuildReport, ...] = ()
    recorded: tuple[Outcome, ...] = ()
    wanted: tuple[MissingRelease, ...] = ()
    pins: Mapping[str, str] = field(default_factory=dict)
    failure: Failure | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0  # of the worker process itself, without programs and sandboxes

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """How its builds ended: those that were asked for first, in the order of the job's requests."""
        return (*self.recorded, *(report.outcome for report in self.reports))


class WorkerInfo(Struct, frozen=True, kw_only=True):
    """What one worker offers at this moment. ``name`` is unique in its engine; ``memory_bytes`` is what builds may use of it,
    the host's reserve and everything else that runs there taken off."""

    name: str
    cpus: float
    memory_bytes: int
    lxcbuild_version: str = __version__
    images: Mapping[str, str] = field(default_factory=dict)  # digest by target; empty: not known


class JobEvent(Struct, frozen=True, kw_only=True):
    """Something happened in a job while it runs."""

    key: str
    worker: str
    event: WorkerEvent


Listener = Callable[[JobEvent], None]


class Engine(Protocol):
    """Runs jobs. Used by one thread (the head's); futures may end, and listeners be called, in any thread.

    A future's result is a :class:`JobResult`. It raises :class:`~lxcbuild.errors.WorkerLostError` when the worker died or went
    away before it answered (the head tries again), and ``concurrent.futures.CancelledError`` after :meth:`stop`.
    """

    @property
    def name(self) -> str:
        """For people: ``local``, ``dask``."""

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Who can work at this moment; asked before every decision, so answered from memory."""

    def submit(self, job: Job, *, worker: str) -> Future[JobResult]:
        """Run a job on that worker. The head has made sure that it fits."""

    def stop(self) -> None:
        """End all running jobs now; their futures end. Idempotent."""

    def close(self) -> None:
        """Give everything back; running jobs are stopped. Idempotent."""
