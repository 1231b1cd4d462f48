"""What a watcher knows: which releases of each tracked project were there, and which are still to be built.

One SQLite file, so that a page and what is new on it are kept together or not at all: a watcher that dies at any moment forgets
no release and, because the builds themselves are in the ledger, builds none twice.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct, field

from lxcbuild.errors import DiskFullError, LedgerError
from lxcbuild.pypi.index.changes import NewRelease

_FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS project (
    name TEXT PRIMARY KEY, looked_at REAL NOT NULL, serials TEXT NOT NULL, known TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS release (
    name TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL, uploaded_at TEXT,
    seen_at REAL NOT NULL, ended_at REAL, result TEXT,
    PRIMARY KEY (name, version)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS release_waiting ON release (seen_at) WHERE ended_at IS NULL;
"""


class Seen(Struct, frozen=True, kw_only=True):
    """A project as it was last looked at: serials by index, and digests by version (see :mod:`lxcbuild.pypi.index.changes`)."""

    serials: Mapping[str, int] = field(default_factory=dict)
    known: Mapping[str, str] = field(default_factory=dict)


class WatchState:
    """One open state file. Safe to use from several threads; raises LedgerError, DiskFullError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._named():
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
            try:
                self._prepare(path)
            except BaseException:
                self._database.close()
                raise

    def _prepare(self, path: Path) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        # After a power loss the last looks may be gone; they are then taken again.
        self._database.execute("PRAGMA synchronous = NORMAL")
        found = self._database.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, _FORMAT):
            raise LedgerError(
                f"{path} was written by a newer lxcbuild", resolution="update lxcbuild, or use another --state-dir"
            )
        self._database.executescript(f"{_SCHEMA} PRAGMA user_version = {_FORMAT};")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()

    def seen(self, names: Iterable[str]) -> dict[str, Seen]:
        """What is known of those of ``names`` that were looked at before; the one looked at longest ago comes first."""
        wanted = frozenset(names)
        with self._named():
            rows = self._database.execute("SELECT name, serials, known FROM project ORDER BY looked_at").fetchall()
        return {name: _seen(serials, known) for name, serials, known in rows if name in wanted}

    def find(self, name: str) -> Seen | None:
        """What is known of one project; None when it was never looked at."""
        with self._named():
            row = self._database.execute("SELECT serials, known FROM project WHERE name = ?", (name,)).fetchone()
        return _seen(*row) if row is not None else None

    def look(self, name: str, now_seen: Seen, *, fresh: Sequence[NewRelease]) -> None:
        """Keep what a project has now, and that its ``fresh`` releases are to be built."""
        now = time.time()
        with self._writing() as database:
            database.execute(
                "INSERT OR REPLACE INTO project VALUES (?, ?, ?, ?)",
                (name, now, json.dumps(dict(now_seen.serials)), json.dumps(dict(now_seen.known))),
            )
            database.executemany(
                "INSERT OR REPLACE INTO release (name, version, digest, uploaded_at, seen_at) VALUES (?, ?, ?, ?, ?)",
                [(each.name, each.version, each.digest, each.uploaded_at, now) for each in fresh],
            )

    def waiting(self) -> list[NewRelease]:
        """The releases that are still to be built, in the order in which they were seen."""
        query = "SELECT name, version, digest, uploaded_at FROM release WHERE ended_at IS NULL ORDER BY seen_at"
        with self._named():
            rows = self._database.execute(query).fetchall()
        return [NewRelease(name=row[0], version=row[1], digest=row[2], uploaded_at=row[3]) for row in rows]

    def end(self, release: NewRelease, result: str) -> None:
        """A release needs no more work; ``result`` is how its builds ended. One that was replaced meanwhile still waits."""
        with self._writing() as database:
            database.execute(
                "UPDATE release SET ended_at = ?, result = ? WHERE name = ? AND version = ? AND digest = ?",
                (time.time(), result, release.name, release.version, release.digest),
            )

    def results(self) -> Counter[str]:
        """How many releases ended how."""
        query = "SELECT result, count(*) FROM release WHERE ended_at IS NOT NULL GROUP BY result"
        with self._named():
            return Counter(dict(self._database.execute(query).fetchall()))

    def slowest_s(self) -> float:
        """The longest time in seconds from the moment when a release was seen to the end of its builds."""
        with self._named():
            found = self._database.execute("SELECT max(ended_at - seen_at) FROM release").fetchone()[0]
        return float(found or 0.0)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._named():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
                raise DiskFullError(
                    f"no space left for {self._path}", resolution="free some space, or choose another --state-dir"
                ) from error
            raise LedgerError(
                f"{self._path} cannot be used: {error}",
                resolution=f"if it is damaged, move it away (mv {self._path} ...): what is known of the index is lost, no builds",
            ) from error


def _seen(serials: str, known: str) -> Seen:
    return Seen(serials=json.loads(serials), known=json.loads(known))
