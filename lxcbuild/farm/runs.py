"""What goes into a run, who is told of it, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from lxcbuild.builder.ready import Ready
from lxcbuild.model import Failure, Outcome
from lxcbuild.plan.schedule import Start, State


class Watcher(Protocol):
    """Who is told how the run goes; from the head's thread. See :class:`~lxcbuild.farm.progress.Progress`."""

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


Publish = Callable[[str, Sequence[Ready]], None]
