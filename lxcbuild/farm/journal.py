"""The journal of a run: what became of each job, appended and synced line by line, so that a run that was killed can go on.

The ledger says which builds there are; the journal says how far this run is: which jobs have failed and are not tried again, and
which jobs were added to the plan on the way. A half-written last line, which a power loss leaves, is no line.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lxcbuild.errors import DiskFullError, FarmError, InputError


class NoJournal:
    """Of the run of one command: nobody goes on with it."""

    directory: Path | None = None
    earlier: Sequence[Mapping[str, Any]] = ()

    def write(self, event: str, **facts: Any) -> None:
        """Keep nothing."""


class Journal(NoJournal):
    """One open journal; nobody else may have it open at the same time."""

    def __init__(self, directory: Path, *, resume: bool) -> None:
        """Raises InputError when another process runs the same plan. Without ``resume`` an older journal is put aside."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise InputError(
                "this plan is being run by another process at this moment", resolution="wait for it, or stop it"
            ) from None
        self.path = directory / "journal.jsonl"
        if not resume and self.path.exists():
            self.path.replace(directory / f"journal-{datetime.now(UTC):%Y%m%d-%H%M%S.%f}.jsonl")
        self.earlier = list(_entries(self.path))
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._end_half_line()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        os.close(self._lock)

    def write(self, event: str, **facts: Any) -> None:
        """Append one entry, on the disk when this returns; raises DiskFullError, FarmError."""
        data = json.dumps({"event": event, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts})
        try:
            os.write(self._fd, data.encode() + b"\n")
            os.fdatasync(self._fd)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(f"no space left for {self.path}", resolution="free some space") from error
            raise FarmError(f"the journal {self.path} cannot be written: {error}") from error

    def _end_half_line(self) -> None:
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")


def _entries(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("event"), str):
            yield entry
