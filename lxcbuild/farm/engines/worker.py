"""What a worker does with one job: builds it in its own state directory, leaves everything in the store, and tells the head.

The head's ledger is out of reach here. What builds ask of a ledger is answered from the job, and what they would write into one is
collected into the result.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from lxcbuild import __version__
from lxcbuild.builder.context import BuildContext
from lxcbuild.builder.failures import failure_of
from lxcbuild.builder.family import Family, FamilyOutcome
from lxcbuild.config.policies import machine_memory_bytes
from lxcbuild.errors import CancelledError, HostError, LxcbuildError, UnknownBuildError
from lxcbuild.events import BuildEnded, Event, Monitor, Output, Progress
from lxcbuild.farm import results
from lxcbuild.farm.artifacts import ArtifactStore, open_store
from lxcbuild.farm.engines.engine import (
    BuildReport,
    Job,
    JobEvent,
    JobResult,
    Listener,
    Provided,
    Raised,
    StoredFile,
)
from lxcbuild.ledger.records import BuildRecord, NewBuild
from lxcbuild.model import Outcome, Phase, Status
from lxcbuild.policy import Policy
from lxcbuild.state.paths import StateDirs

#: The share of the processor that a bulk build has beside others while there is not enough of it: a tenth.
_COURTESY = 10


class ContextFactory(Protocol):
    """Puts the build context of builds together; the command line hands its own over."""

    def __call__(self, dirs: StateDirs, monitor: Monitor, *, policy: str) -> AbstractContextManager[BuildContext]:
        """They are given back at the end of the block."""


class JobRecords(Struct):
    """Stands in for a ledger: knows what the job brings, and collects what the head will record."""

    provided: Mapping[str, BuildRecord]
    begun: dict[str, NewBuild] = field(default_factory=dict)
    learned: dict[str, dict[str, object]] = field(default_factory=dict)

    def begin(self, build: NewBuild) -> None:
        """Collect it."""
        self.begun[build.build_id] = build

    def learn(self, build_id: str, **facts: Any) -> None:
        """Collect it."""
        self.learned.setdefault(build_id, {}).update(facts)

    def find(self, part: str) -> BuildRecord:
        """What the job brings; raises UnknownBuildError."""
        if part not in self.provided:
            raise UnknownBuildError(f"the job brings no build {part[:40]!r}")
        return self.provided[part]

    def recent(
        self,
        *,
        limit: int | None = 20,
        target: str | None = None,
        status: str | None = None,
        name: str | None = None,
        details: bool = False,
    ) -> Sequence[BuildRecord]:
        """What the job brings."""
        del details
        fitting = [
            record
            for record in self.provided.values()
            if (name is None or record.name == name)
            and (status is None or record.status == status)
            and (target is None or str(record.target) == target)
        ]
        return sorted(fitting, key=lambda record: record.started_at, reverse=True)[:limit]


class _Teller(Struct):
    """Passes on what heads want to know; the output of builds stays in the log."""

    key: str
    listener: Listener | None
    ended: dict[str, Outcome] = field(default_factory=dict)

    def emit(self, event: Event) -> None:
        """Tell it."""
        if isinstance(event, BuildEnded):
            self.ended[event.outcome.build_id] = event.outcome
        if self.listener is not None and not isinstance(event, Output | Progress):
            self.listener(JobEvent(key=self.key, worker="", event=event))


def carry_out(
    job: Job, *, dirs: StateDirs, build_context: ContextFactory, shares_state: bool, listener: Listener | None = None
) -> JobResult:
    """Build a job in this process. ``shares_state``: the head has the same state directory, so that files need not travel.

    Never raises for what goes wrong with builds. An interruption ends them and is raised.
    """
    watch = _Watch.start()
    result = JobResult(key=job.key, run=job.run, attempt=job.attempt, worker="")
    store = open_store(job.store)
    try:
        made = _build(job, store, dirs=dirs, build_context=build_context, shares_state=shares_state, listener=listener)
    except CancelledError as error:
        raise KeyboardInterrupt from error
    except LxcbuildError as error:
        made = replace(result, failure=failure_of(error, Phase.RESOLVE))
    wall_s, cpu_s = watch.spent()
    made = replace(made, wall_s=wall_s, cpu_s=cpu_s)
    if not made.wanted:
        results.keep(store, made)
    return made


def _build(
    job: Job,
    store: ArtifactStore,
    *,
    dirs: StateDirs,
    build_context: ContextFactory,
    shares_state: bool,
    listener: Listener | None,
) -> JobResult:
    if job.lxcbuild_version != __version__:
        raise HostError(
            f"the head is lxcbuild {job.lxcbuild_version}, this worker is {__version__}",
            resolution="install the same version on both",
        )
    if not shares_state:
        for item in job.provided:
            _materialise(item, store, dirs)
    records = JobRecords({item.record.build_id: item.record for item in job.provided})
    teller = _Teller(job.key, listener)
    try:
        with build_context(dirs, teller, policy=job.policy) as context:
            own = replace(context, pins=job.pins, caps=job.caps, policy_for=_policies(context.policy_for, job))
            _check_images(job, own)
            family = Family(
                requests=job.requests, context=own, ledger=records, policy=job.policy, caps=lambda _: job.caps
            )
            made = family.build(made=records, failed=job.failed)
            if made.lacking:
                family.put_aside()
    except BaseException:
        _forget_logs(records, dirs)
        raise
    result = JobResult(key=job.key, run=job.run, attempt=job.attempt, worker="")
    if made.lacking:
        _forget_logs(records, dirs)
        # Who has asked begins anew, under another id: what is lacking is asked for as whatever a plan has in common.
        return replace(result, wanted=tuple(replace(item, request=None) for item in made.lacking))
    return replace(result, reports=tuple(_reports(made, records, store, dirs=dirs, shares_state=shares_state)))


def _forget_logs(records: JobRecords, dirs: StateDirs) -> None:
    """Nobody will record these builds."""
    for build_id in records.begun:
        (dirs.logs / f"{build_id}.log").unlink(missing_ok=True)


def _check_images(job: Job, context: BuildContext) -> None:
    if not job.image_digest:
        return
    digest = context.images.get(job.target).digest
    if digest != job.image_digest:
        raise HostError(
            f"the image of {job.target} is not the head's",
            details=f"here {digest}, there {job.image_digest}",
            resolution="copy the image: lxcbuild layers pull, or make it anew on the head and copy it",
        )


def _materialise(item: Provided, store: ArtifactStore, dirs: StateDirs) -> None:
    """Lay the packages of an earlier build where builds look for them; the directory appears whole."""
    place = dirs.artifacts / item.record.build_id
    if place.is_dir():
        return
    half_done = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        for file in item.files:
            store.get(file, half_done)
        with contextlib.suppress(
            OSError
        ):  # another job was quicker; what lies there is compared by hash when it is used
            half_done.rename(place)
    finally:
        shutil.rmtree(half_done, ignore_errors=True)


def _policies(policy_for: Callable[[str | None], Policy], job: Job) -> Callable[[str | None], Policy]:
    def changed(package: str | None) -> Policy:
        policy = raised_policy(policy_for(package), job.raised)
        if not job.courteous:
            return policy
        cpu = replace(policy.cpu, weight=max(1, policy.cpu.weight // _COURTESY))
        return replace(policy, cpu=cpu, best_effort=policy.best_effort | {"cpu.weight"})

    return changed


def raised_policy(policy: Policy, by: Raised) -> Policy:
    """The policy with more room, never more than three quarters of this machine's memory."""
    if max(by.memory, by.disk, by.pids) <= 1.0:
        return policy
    page = os.sysconf("SC_PAGE_SIZE")
    cap = max(machine_memory_bytes() * 3 // 4, policy.memory.max_bytes)
    memory = min(int(policy.memory.max_bytes * by.memory), cap) // page * page
    disk = min(int(policy.disk.max_bytes * by.disk), memory) // page * page
    limits = replace(policy.memory, max_bytes=memory, high_bytes=None if by.memory > 1 else policy.memory.high_bytes)
    return replace(
        policy,
        memory=limits,
        # A build that was given more room is not tried with still more by itself.
        disk=replace(policy.disk, max_bytes=disk, max_inodes=int(policy.disk.max_inodes * by.disk), retry_factor=1.0),
        pids_max=int(policy.pids_max * by.pids),
    )


def _reports(
    made: FamilyOutcome, records: JobRecords, store: ArtifactStore, *, dirs: StateDirs, shares_state: bool
) -> Iterator[BuildReport]:
    """What the head records: builds of this job, and none that was there before."""
    for outcome in (*made.asked, *made.others):
        if outcome.build_id not in records.begun:
            continue
        files: tuple[StoredFile, ...] = ()
        log = None
        if not shares_state:
            if outcome.status is Status.BUILT:
                files = tuple(store.put(path) for path in sorted((dirs.artifacts / outcome.build_id).iterdir()))
            if outcome.log_path is not None and outcome.log_path.is_file():
                log = store.put(outcome.log_path)
        yield BuildReport(
            new=records.begun[outcome.build_id],
            learned=records.learned.get(outcome.build_id, {}),
            outcome=outcome if shares_state else replace(outcome, dependencies=()),
            files=files,
            log=log,
        )


class _Watch(Struct):
    wall: float
    cpu: float

    @classmethod
    def start(cls) -> _Watch:
        return cls(time.monotonic(), time.process_time())

    def spent(self) -> tuple[float, float]:
        return time.monotonic() - self.wall, time.process_time() - self.cpu
