"""What a worker offers to a farm: its machine, or the share of it that it was given, and the base images that it has."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from lxcbuild.errors import DiskFullError
from lxcbuild.farm.engines.engine import Engine, Job, JobResult, WorkerInfo

#: A worker with less than this on the disks of its state takes no job: packages, logs and downloads would not fit.
LEAST_DISK_BYTES = 256 << 20


class Share(Struct, frozen=True, kw_only=True):
    """At most so much of the machine: what a batch system has allotted. None: all of it."""

    cpus: float | None = None
    memory_bytes: int | None = None


class OfferedEngine:
    """An engine with one worker, which offers no more than a share, and says which images it has (``images``: digest by target).

    ``disks`` are directories that builds fill.
    """

    def __init__(
        self, engine: Engine, share: Share, images: Callable[[], Mapping[str, str]], *, disks: Sequence[Path] = ()
    ) -> None:
        self._engine, self._share, self._images, self._disks = engine, share, images, disks

    @property
    def name(self) -> str:
        """That of the engine, and so of its worker."""
        return self._engine.name

    def workers(self) -> tuple[WorkerInfo, ...]:
        """The one worker, cut to the share; none while the machine is needed by others. Raises DiskFullError."""
        for place in self._disks:
            check_disk(place)
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


def check_disk(place: Path) -> None:
    """Raise DiskFullError unless there is room for builds where ``place`` is."""
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < LEAST_DISK_BYTES:
        raise DiskFullError(
            f"its disk is full: {free_bytes >> 20} MiB left in {place}, and {LEAST_DISK_BYTES >> 20} are wanted",
            resolution="free some space there (lxcbuild gc helps)",
        )
