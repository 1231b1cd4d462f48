"""What a worker offers to a farm: its machine, or the share of it that it was given, and the base images that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace

from lxcbuild.farm.engine import Engine, Job, JobResult, WorkerInfo
from lxcbuild.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """At most so much of the machine: what a batch system has allotted. None: all of it."""

    cpus: float | None = None
    memory_bytes: int | None = None


class OfferedEngine:
    """An engine with one worker, which offers no more than a share, and says which images it has (``images``: digest by target)."""

    def __init__(self, engine: Engine, share: Share, images: Callable[[], Mapping[str, str]]) -> None:
        self._engine, self._share, self._images = engine, share, images

    @property
    def name(self) -> str:
        """That of the engine, and so of its worker."""
        return self._engine.name

    def workers(self) -> tuple[WorkerInfo, ...]:
        """The one worker, cut to the share; none while the machine is needed by others."""
        cpus, memory = self._share.cpus, self._share.memory_bytes
        return tuple(
            replace(
                info,
                cpus=info.cpus if cpus is None else min(info.cpus, cpus),
                memory_bytes=info.memory_bytes if memory is None else min(info.memory_bytes, memory),
                images=self._images(),
            )
            for info in self._engine.workers()
        )

    def submit(self, job: Job, *, worker: str) -> Future[JobResult]:
        """Run a job."""
        return self._engine.submit(job, worker=worker)

    def stop(self) -> None:
        """End all that runs."""
        self._engine.stop()

    def close(self) -> None:
        """Give everything back."""
        self._engine.close()
