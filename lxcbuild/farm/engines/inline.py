"""The engine of this process: one job at a time, without a worker, a store or a plan on disk.

A build that needs others is paused while they are built, and goes on where it was. Everything is recorded as it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from msgspec.structs import replace

from lxcbuild.builder.context import BuildContext
from lxcbuild.builder.family import Family
from lxcbuild.builder.request import MissingRelease
from lxcbuild.errors import LxcbuildError
from lxcbuild.farm.engines.engine import Job, JobResult, WorkerInfo
from lxcbuild.farm.engines.worker import JobRecords
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Target
from lxcbuild.plan.dependencies import components
from lxcbuild.pypi.versions.version_caps import Ceilings

NAME = "inline"


class InlineEngine:
    """See :class:`~lxcbuild.farm.engines.engine.Engine`. ``submit`` returns when the job has ended or needs something.

    An interruption is raised by it, not by the future. ``errors`` has what ended builds, by their ids; ``others`` are the builds
    that the job which was asked for needed.
    """

    def __init__(self, context: BuildContext, ledger: Ledger, caps: Callable[[Target], Ceilings]) -> None:
        self._context, self._ledger, self._caps = context, ledger, caps
        self._paused: dict[str, Family] = {}
        self.errors: dict[str, LxcbuildError] = {}

    @property
    def name(self) -> str:
        """For people."""
        return NAME

    def workers(self) -> tuple[WorkerInfo, ...]:
        """This process, whatever a job needs."""
        return (WorkerInfo(name=NAME, cpus=1.0, memory_bytes=0),)

    def submit(self, job: Job, *, worker: str) -> Future[JobResult]:
        """Build it now."""
        assert worker == NAME, worker
        done: Future[JobResult] = Future()
        done.set_result(self._build(job))
        return done

    def stop(self) -> None:
        """Nothing runs while somebody else can call this."""

    def close(self) -> None:
        """Cancel what is paused."""
        while self._paused:
            self._paused.popitem()[1].cancel()

    def _build(self, job: Job) -> JobResult:
        family = self._paused.pop(job.key, None)
        if family is None:
            context = replace(self._context, pins=job.pins)
            family = Family(
                requests=job.requests, context=context, ledger=self._ledger, policy=job.policy, caps=self._caps
            )
        made = family.build(
            made=JobRecords({item.record.build_id: item.record for item in job.provided}), failed=job.failed
        )
        result = JobResult(key=job.key, run=job.run, attempt=job.attempt, worker=NAME)
        if made.lacking:
            self._paused[job.key] = family
            return replace(result, wanted=_first(made.lacking), pins=made.pins)
        self.errors |= made.errors
        return replace(result, recorded=(*made.asked, *made.others))


def _first(lacking: Sequence[MissingRelease]) -> tuple[MissingRelease, ...]:
    """What needs nothing else of it: a release, or several that need each other. What comes of it may change the rest."""
    names = {item.name: item for item in lacking}
    first = components({name: names.keys() & set(item.needs) for name, item in names.items()})[0]
    return tuple(names[name] for name in first)
