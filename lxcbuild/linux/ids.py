"""Disjoint ranges of 65,536 subordinate ids, one per running sandbox, shared fairly by every process of this machine.

Root's ranges in ``/etc/subuid`` and ``/etc/subgid`` (subuid(5)) are cut into slots. A slot is held by an exclusive flock on its
file in one machine-wide directory: two state directories share the ids of one machine. The kernel drops the lock when its
holder dies, however it dies. A slot that was given back a moment ago, or whose holder died, is handed out again only when no
process of this machine runs with an id of it any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

from lxcbuild.errors import NoIdRangeError

RANGE = 65536
SLOT_DIRECTORY = Path("/run/lxcbuild-ids")
QUARANTINE_S = 10.0
_STAMP_BYTES = 24
_SUGGESTED = 1024  # slots in the line that we advise to add


class Interval(Struct, frozen=True):
    """Ids from ``start`` to ``start + count - 1``."""

    start: int
    count: int

    @property
    def end(self) -> int:
        """The first id after the interval."""
        return self.start + self.count


def parse_subids(text: str, *, names: frozenset[str]) -> tuple[list[Interval], list[Interval]]:
    """Intervals of a subuid(5) file: those of the user called by any of ``names``, and those of everybody else.

    Lines that are not ``name:start:count`` are skipped, as shadow's tools skip them.
    """
    mine: list[Interval] = []
    others: list[Interval] = []
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal() and int(parts[2]) > 0:
            (mine if parts[0] in names else others).append(Interval(int(parts[1]), int(parts[2])))
    return mine, others


def slots(uids: Iterable[Interval], gids: Iterable[Interval]) -> list[range]:
    """First ids of all whole slots that are ours both as uid and as gid, as disjoint progressions."""
    found: list[range] = []
    gid_intervals = _merged(gids)
    for uid in _merged(uids):
        for gid in gid_intervals:
            low, high = max(uid.start, gid.start, 1), min(uid.end, gid.end, 2**32 - 1)
            if high - low >= RANGE:
                found.append(range(low, high - RANGE + 1, RANGE))
    return found


def _merged(intervals: Iterable[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for interval in sorted(intervals, key=lambda i: i.start):
        if merged and interval.start <= merged[-1].end:
            last = merged.pop()
            merged.append(Interval(last.start, max(last.end, interval.end) - last.start))
        else:
            merged.append(interval)
    return merged


class IdRange:
    """A held range: ``start`` and ``count`` are valid for uids and gids alike. Close it when everything in it is dead.

    ``fd`` is the lock: a helper process that inherits it keeps the range reserved even when this process is killed.
    """

    __slots__ = ("_fd", "start")

    count = RANGE

    def __init__(self, start: int, fd: int) -> None:
        self.start = start
        self._fd = fd

    @property
    def fd(self) -> int:
        """The descriptor that holds the lock."""
        return self._fd

    def release(self) -> None:
        """Give the range back; a second call does nothing."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            _stamp(fd, time.clock_gettime(time.CLOCK_BOOTTIME))
        finally:
            # Closing alone would not unlock while a child still has the descriptor, and whoever still has it may be alive.
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"IdRange({self.start}, {self.count})"


class _Configured:
    """The slots of the system's files, without those that touch what the files give to other users as well."""

    def __init__(self, progressions: list[range], foreign: list[Interval]) -> None:
        self._progressions = progressions
        self._foreign = foreign
        self.total = sum(map(len, progressions))

    def starts(self, *, first: int = 0) -> Iterator[int]:
        """Every slot once, beginning at the given place (counted from 0)."""
        for place in itertools.chain(range(first, self.total), range(first)):
            start = self._at(place)
            if all(start + RANGE <= other.start or other.end <= start for other in self._foreign):
                yield start

    def _at(self, place: int) -> int:
        for progression in self._progressions:
            if place < len(progression):
                return progression[place]
            place -= len(progression)
        raise AssertionError(place)


class IdAllocator:
    """Hands out ranges. Cheap to make; reads the two files of the system each time, so that edits count at once."""

    def __init__(
        self,
        *,
        subuid: Path = Path("/etc/subuid"),
        subgid: Path = Path("/etc/subgid"),
        directory: Path = SLOT_DIRECTORY,
        names: frozenset[str] = frozenset({"root", "0"}),
    ) -> None:
        self._subuid = subuid
        self._subgid = subgid
        self._directory = directory
        self._names = names

    def acquire(self) -> IdRange:
        """A range that nobody of this machine uses. Raises :class:`NoIdRangeError` when none is configured or free."""
        configured = self._configured()
        if not configured.total:
            raise self._none_configured()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        doubtful: list[int] = []
        usable = 0
        for start in configured.starts(first=secrets.randbelow(configured.total)):
            usable += 1
            if (fd := self._lock(start)) is None:
                continue
            if _rested(fd):
                return self._hold(start, fd)
            os.close(fd)
            doubtful.append(start)
        if not usable:
            raise self._none_configured()
        return self._acquire_doubtful(doubtful, usable)

    def starts(self) -> list[int]:
        """First ids of all slots that the system's files give us."""
        return sorted(self._configured().starts())

    def _configured(self) -> _Configured:
        uids, uid_others = parse_subids(_text(self._subuid), names=self._names)
        gids, gid_others = parse_subids(_text(self._subgid), names=self._names)
        return _Configured(slots(uids, gids), uid_others + gid_others)

    def in_use(self) -> int:
        """How many ranges are held at this moment."""
        held = 0
        for start in self.starts():
            if not self._file(start).exists():
                continue
            fd = self._lock(start)
            held += fd is None
            if fd is not None:
                os.close(fd)
        return held

    def _acquire_doubtful(self, doubtful: list[int], total: int) -> IdRange:
        """Take a slot of the quarantine if no process runs with its ids: what has no process can make none."""
        busy = _ids_of_processes() if doubtful else set()
        for start in doubtful:
            if any(start <= uid < start + RANGE for uid in busy):
                continue
            if (fd := self._lock(start)) is not None:
                return self._hold(start, fd)
        raise NoIdRangeError(
            f"all {total} ranges of {RANGE} ids are in use ({total - len(doubtful)} by running sandboxes,"
            f" {len(doubtful)} by processes that outlived theirs)",
            resolution=f"run fewer builds at once, or add ids: {self._fix()}",
        )

    def _file(self, start: int) -> Path:
        return self._directory / str(start)

    def _lock(self, start: int) -> int | None:
        fd = os.open(self._file(start), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def _hold(self, start: int, fd: int) -> IdRange:
        _stamp(fd, None)
        return IdRange(start, fd)

    def _none_configured(self) -> NoIdRangeError:
        missing = " and ".join(os.fspath(p) for p in (self._subuid, self._subgid) if not self._has_entry(p))
        reason = f"{missing} give it none" if missing else "the two files share no block of 65,536 that is root's alone"
        return NoIdRangeError(f"root has no range of subordinate ids: {reason}", resolution=self._fix())

    def _has_entry(self, path: Path) -> bool:
        mine, _ = parse_subids(_text(path), names=self._names)
        return any(interval.count >= RANGE for interval in mine)

    def _fix(self) -> str:
        """The command that appends a range above all that is given away."""
        ends = [100000]
        for path in (self._subuid, self._subgid):
            mine, others = parse_subids(_text(path), names=self._names)
            ends += [interval.end for interval in mine + others]
        start = -(-max(ends) // RANGE) * RANGE if max(ends) > 100000 else 100000
        return f"echo root:{start}:{RANGE * _SUGGESTED} | sudo tee -a {self._subuid} {self._subgid}"


def acquire() -> IdRange:
    """A range of this machine for one sandbox; see :meth:`IdAllocator.acquire`."""
    return IdAllocator().acquire()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _stamp(fd: int, released_boottime_s: float | None) -> None:
    """Record in the slot's file when it was given back (seconds since boot), or that it is held.

    Always of the same length: no ftruncate, which takes longer than all the rest where /run is on a disk.
    """
    text = b"held" if released_boottime_s is None else b"%.3f" % released_boottime_s
    os.pwrite(fd, text.ljust(_STAMP_BYTES), 0)


def _rested(fd: int) -> bool:
    """Whether a slot that we hold the lock of may be used at once: never used, or given back long enough ago.

    A slot that says "held" although its lock was free belonged to a process that was killed: its rest begins now.
    """
    text = os.pread(fd, _STAMP_BYTES, 0)
    if not text:
        return True
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        return now - float(text) > QUARANTINE_S
    except ValueError:
        _stamp(fd, now)
        return False


def _ids_of_processes() -> set[int]:
    """Every uid and gid (real, effective, saved, file system) that some process of this machine runs with."""
    found: set[int] = set()
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(entry.path, "status").read_bytes().splitlines():
                if line.startswith((b"Uid:", b"Gid:")):
                    found.update(int(word) for word in line.split()[1:])
    return found
