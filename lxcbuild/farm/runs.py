"""What goes into a run, who is told of it, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct, field

from lxcbuild.builder.ready import Ready
from lxcbuild.model import Failure, Outcome, Status
from lxcbuild.plan.document import Plan, PlannedJob
from lxcbuild.plan.schedule import Start, State


class Watcher(Protocol):
    """Who is told how the run goes; from the head's thread. See :class:`~lxcbuild.farm.progress.RunProgress`."""

    def known(self, key: str, seconds: float) -> None:
        """A job belongs to the run."""

    def started(self, start: Start, seconds: float) -> None:
        """A job runs."""

    def stopped(self, key: str) -> None:
        """A job does not run any more, and has not ended."""

    def built(self, key: str, *, reused: bool) -> None:
        """A job has ended well."""

    def failed(self, key: str, failure: Failure, *, earlier: bool) -> None:
        """A job has ended badly; ``earlier``: before this run was interrupted and resumed."""

    def pruned(self, key: str, *, earlier: bool) -> None:
        """A job can never be built; ``earlier`` as for ``failed``."""

    def note(self, text: str) -> None:
        """Something that people should know."""


class Settings(Struct, frozen=True, kw_only=True):
    """How a run is done. ``limit``: at most so many jobs at once; None: as many as fit."""

    run: str
    store: str
    policy: str = "default"
    limit: int | None = None
    keep_going: bool = True
    rebuild: bool = False
    check_images: bool = False  # on workers of other machines
    attended: bool = False  # the builds that wait are kept, and end by themselves; nothing is tried a second time


class Tally(Struct, kw_only=True):
    """How a run has ended, by job. ``interrupted``: jobs are left that were neither built nor tried to the end."""

    states: Mapping[str, State]
    failures: Mapping[str, Failure]
    builds: Mapping[str, tuple[Ready, ...]]
    reused: frozenset[str]
    interrupted: bool
    worker_cpu_s: float  # of the worker processes, without programs and sandboxes
    worker_jobs: int
    outcomes: Mapping[str, tuple[Outcome, ...]]  # of the builds of each job's last attempt, where it came to builds


class Made(Struct):
    """What a run has come to so far, by job. ``outcomes`` are those of the builds of each job's last attempt, in its order."""

    builds: dict[str, tuple[Ready, ...]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    outcomes: dict[str, tuple[Outcome, ...]] = field(default_factory=dict)
    # kept up to date, because it is asked for with every job: which build came of a release
    _releases: dict[tuple[str, str, str], Ready] = field(default_factory=dict)

    def add(self, key: str, ready: tuple[Ready, ...]) -> None:
        """A job has ended well."""
        self.builds[key] = ready
        self._releases.update({(str(r.record.target), r.record.name, r.record.version): r for r in ready})

    def all_of(self, job: PlannedJob) -> tuple[Ready, ...] | None:
        """The builds of a job whose members were all built as part of other jobs of this run."""
        found = [self._releases.get((job.target, m.name, m.version)) for m in job.members]
        return None if None in found else tuple(r for r in found if r is not None)

    def builds_for(self, target: str, below: Sequence[str], chosen: Mapping[str, str]) -> Iterable[Ready]:
        """What a job may use: builds of what it needs, and of the versions that were chosen with it."""
        with_it = [self._releases.get((target, name, version)) for name, version in chosen.items()]
        found = [
            *(ready for key in below for ready in self.builds.get(key, ())),
            *(r for r in with_it if r is not None),
        ]
        return {ready.record.build_id: ready for ready in found}.values()

    def failed_among(self, keys: Sequence[str], plan: Plan) -> dict[tuple[str, str], Outcome]:
        """Builds of these jobs that have failed, by project and version."""
        return {
            (member.name, member.version): outcome
            for key in keys
            if key in self.failures
            for member, outcome in zip(plan.jobs[key].members, self.outcomes[key], strict=False)
            if outcome.status is Status.FAILED
        }


Publish = Callable[[str, Sequence[Ready]], None]
