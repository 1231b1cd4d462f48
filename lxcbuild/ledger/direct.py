"""The ledger's door for single builds, by Python's own SQLite alone: SQLAlchemy takes longer to load than the rest of a build's
own work on the host.

Same file, same locks, same rows (:mod:`lxcbuild.ledger.rows`) as :class:`lxcbuild.ledger.store.Ledger`, which makes the tables,
migrates them, asks everything else, and is used instead where the ledger is on a server. That both write and read the same is
tested in ``tests/unit/ledger/test_doors.py``; no SQL in words may stand anywhere else.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Protocol, Self

from lxcbuild.errors import LedgerError, UnknownBuildError
from lxcbuild.ledger import refusals, rows
from lxcbuild.ledger.owners import FileOwners
from lxcbuild.ledger.records import RUNNING, BuildRecord, NewBuild, now
from lxcbuild.ledger.revision import HEAD
from lxcbuild.ledger.terms import Term, terms
from lxcbuild.model import Outcome, PhaseRecord
from lxcbuild.state.paths import StateDirs

#: The columns that hold JSON.
JSON_COLUMNS = frozenset({"layers", "limits_in_force", "request"})
#: What belongs to a build, with the column that orders it.
_CHILDREN = (("phase", "position"), ("artifact", "path"), ("note", "position"))
_Row = Mapping[str, Any]


class BuildLedger(Protocol):
    """What a command that builds needs of a ledger."""

    def begin(self, build: NewBuild) -> None:
        """Record that a build runs, owned by this process."""

    def learn(self, build_id: str, **facts: Any) -> None:
        """Record what became known on the way."""

    def phase(self, build_id: str, record: PhaseRecord) -> None:
        """Add one finished phase to a running build."""

    def finish(self, outcome: Outcome) -> None:
        """Record how a build ended; its phases replace those added on the way."""

    def find(self, part: str) -> BuildRecord:
        """The build of that whole id; raises UnknownBuildError."""

    def recent(
        self,
        *,
        limit: int | None = 20,
        target: str | None = None,
        status: str | None = None,
        name: str | None = None,
        failure_class: str | None = None,
        details: bool = False,
    ) -> Sequence[BuildRecord]:
        """The newest builds that match everything given, newest first."""

    def settle(self) -> Sequence[str]:
        """Turn running builds whose owner died into cancelled ones; gives their ids."""

    def close(self) -> None:
        """Give the database and the ownership of running builds back. Idempotent."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_for_builds(dirs: StateDirs) -> BuildLedger:
    """The ledger of a state directory, migrated, with the builds of dead owners settled. Raises LedgerError, or DiskFullError."""
    if dirs.ledger_url is None and is_current(dirs.ledger):
        return DirectLedger.open(dirs)
    from lxcbuild.ledger.store import Ledger

    ledger = Ledger.open(dirs)
    if dirs.ledger_url is not None:
        return ledger
    ledger.close()
    return DirectLedger.open(dirs)


def is_current(path: Path) -> bool:
    """Whether a file is a ledger that needs no migration. What cannot be read is not: the other door says why."""
    if not path.exists():
        return False
    try:
        connection = sqlite3.connect(path, timeout=refusals.BUSY_S)
        try:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        finally:
            connection.close()
    except sqlite3.Error:
        return False
    return found == [(HEAD,)]


class DirectLedger:
    """One open SQLite ledger of the current schema. Safe to use from several threads; several processes may have it open."""

    def __init__(self, dirs: StateDirs, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._path = dirs.ledger
        self._owners = FileOwners(dirs.locks)
        self._lock = threading.Lock()

    @classmethod
    def open(cls, dirs: StateDirs) -> Self:
        """Open a ledger that :func:`is_current`, and settle builds whose owner died. Raises LedgerError, or DiskFullError."""
        may_write = os.access(dirs.ledger, os.W_OK)
        with _named(dirs.ledger):
            # Transactions are ours to begin, as in database.connect(), which sets the same up.
            connection = sqlite3.connect(
                dirs.ledger, timeout=refusals.BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                if may_write:
                    connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA foreign_keys = ON")
                connection.row_factory = sqlite3.Row
                ledger = cls(dirs, connection)
                if may_write:
                    ledger.settle()
            except BaseException:
                connection.close()
                raise
        return ledger

    def close(self) -> None:
        """See :meth:`BuildLedger.close`."""
        self._owners.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, build: NewBuild) -> None:
        """See :meth:`BuildLedger.begin`."""
        with refusals.os_errors(self._path):
            owner = self._owners.take()
        with self._transaction(writes=True) as connection:
            _insert(connection, "build", [{**rows.from_new(build), "owner": owner}])

    def learn(self, build_id: str, **facts: Any) -> None:
        """See :meth:`BuildLedger.learn`."""
        with self._transaction(writes=True) as connection:
            self._update(connection, build_id, rows.from_facts(facts))

    def phase(self, build_id: str, record: PhaseRecord) -> None:
        """See :meth:`BuildLedger.phase`."""
        with self._transaction(writes=True) as connection:
            query = "SELECT coalesce(max(position) + 1, 0) FROM phase WHERE build_id = ?"
            (position,) = connection.execute(query, (build_id,)).fetchone()
            _insert(connection, "phase", [rows.from_phase(build_id, position, record)])

    def finish(self, outcome: Outcome) -> None:
        """See :meth:`BuildLedger.finish`."""
        build_id = outcome.build_id
        with self._transaction(writes=True) as connection:
            self._update(connection, build_id, {**rows.from_outcome(outcome), "ended_at": now(), "owner": None})
            for table, children in rows.children(outcome).items():
                connection.execute(f"DELETE FROM {table} WHERE build_id = ?", (build_id,))  # noqa: S608 - our own names
                _insert(connection, table, children)

    def settle(self) -> Sequence[str]:
        """See :meth:`BuildLedger.settle`."""
        with self._transaction() as connection:
            running = connection.execute("SELECT id, owner FROM build WHERE status = ?", (RUNNING,)).fetchall()
        dead = {owner for owner in {row["owner"] for row in running} if owner is None or not self._owners.alive(owner)}
        lost = [str(row["id"]) for row in running if row["owner"] in dead]
        for build_id in lost:
            with self._transaction(writes=True) as connection:
                finished = connection.execute("SELECT name FROM phase WHERE build_id = ?", (build_id,)).fetchall()
                values = rows.orphaned([row["name"] for row in finished], now())
                _set(connection, values, "id = ? AND status = ?", (build_id, RUNNING))
        for owner in dead - {None}:
            self._owners.forget(str(owner))
        return lost

    def find(self, part: str) -> BuildRecord:
        """See :meth:`BuildLedger.find`."""
        with self._transaction() as connection:
            found = connection.execute("SELECT * FROM build WHERE id = ?", (part,)).fetchall()
            if found:
                return _detailed(connection, found)[0]
        raise UnknownBuildError(
            f"the ledger knows no build {part[:40]!r}", resolution="list the recorded ones: lxcbuild history"
        )

    def recent(
        self,
        *,
        limit: int | None = 20,
        target: str | None = None,
        status: str | None = None,
        name: str | None = None,
        failure_class: str | None = None,
        details: bool = False,
    ) -> Sequence[BuildRecord]:
        """See :meth:`BuildLedger.recent`."""
        asked = terms(target=target, status=status, name=name, failure_class=failure_class)
        where = f"WHERE {' AND '.join(map(_condition, asked))} " if asked else ""
        query = f"SELECT * FROM build {where}ORDER BY started_at DESC, id DESC LIMIT ?"  # noqa: S608 - our own names
        with self._transaction() as connection:
            values = (*(term.value for term in asked), -1 if limit is None else limit)
            found = connection.execute(query, values).fetchall()
            return _detailed(connection, found) if details else [rows.to_record(_columns(row)) for row in found]

    def _update(self, connection: sqlite3.Connection, build_id: str, values: _Row) -> None:
        if _set(connection, values, "id = ?", (build_id,)) != 1:
            raise LedgerError(f"the ledger {self._path} lost the build {build_id}")

    @contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
        """Committed at the end of the block, rolled back on an error. Writers take the write lock at once (see database.py)."""
        with self._lock, _named(self._path):
            self._connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite may have rolled it back itself, as when the disk is full
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        with refusals.os_errors(path):
            yield
    except sqlite3.Error as error:
        raise refusals.named(error, path) from error


def _insert(connection: sqlite3.Connection, table: str, new: Sequence[_Row]) -> None:
    if new:
        names = list(new[0])
        query = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - our own names
        connection.executemany(query, ([_value(name, row[name]) for name in names] for row in new))


def _set(connection: sqlite3.Connection, values: _Row, where: str, which: Sequence[str]) -> int:
    """How many builds were changed."""
    query = f"UPDATE build SET {', '.join(f'{name} = ?' for name in values)} WHERE {where}"  # noqa: S608 - our own names
    return connection.execute(query, [*(_value(name, value) for name, value in values.items()), *which]).rowcount


def _condition(term: Term) -> str:
    column = term.column if term.indexed else f"'' || {term.column}"
    return f"{column} {'!=' if term.differs else '='} ?"


def _value(column: str, value: Any) -> Any:
    return json.dumps(value) if column in JSON_COLUMNS else value


def _columns(row: sqlite3.Row) -> SimpleNamespace:
    names = row.keys()
    found = {name: json.loads(row[name] or "null") if name in JSON_COLUMNS else row[name] for name in names}
    return SimpleNamespace(**found)


def _detailed(connection: sqlite3.Connection, found: Iterable[sqlite3.Row]) -> list[BuildRecord]:
    records = []
    for row in found:
        children = {
            table: [
                _columns(child)
                for child in connection.execute(
                    f"SELECT * FROM {table} WHERE build_id = ? ORDER BY {order}",  # noqa: S608 - our own names
                    (row["id"],),
                )
            ]
            for table, order in _CHILDREN
        }
        records.append(rows.to_record(_columns(row), **children))
    return records
