"""SQL on SQLite (the standard library's) and on PostgreSQL (psycopg): transactions, migrations, refusals in our words.

Queries are the same for both and have ``?`` where a value goes; what differs stands in the two classes at the end, and in
``migrations/*.postgresql.sql``. psycopg is loaded where a server is asked for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lxcbuild.errors import DiskFullError, LedgerError

#: For how long a writer waits for others, in seconds.
BUSY_S = 30
MIGRATIONS = Path(__file__).parent / "migrations"
Row = Mapping[str, Any]
_CHUNK = 500  # values in one IN (...): below every database's limit
_MIGRATION_LOCK = 0x6C786362  # of PostgreSQL's advisory locks: "lxcb"
_URL_HINT = "write --ledger postgresql://user@host/database"


class Transaction:
    """What can be asked and changed in one transaction. Names of tables and columns are ours, never data."""

    def __init__(self, connection: Any, kind: str) -> None:  # of either driver: DB-API, with execute()
        self._connection = connection
        self.kind = kind

    def select(self, query: str, values: Sequence[object] = ()) -> Sequence[Row]:
        """All rows of an answer, with their columns by name."""
        rows: Sequence[Row] = self._connection.execute(self._marked(query), values).fetchall()
        return rows

    def select_among(self, query: str, wanted: Sequence[str], *more: object) -> Iterator[Row]:
        """All rows for the values wanted, some at a time: they stand first in the query, as ``IN (*)``."""
        for start in range(0, len(wanted), _CHUNK):
            some = wanted[start : start + _CHUNK]
            yield from self.select(query.replace("(*)", f"({_marks(len(some))})"), [*some, *more])

    def execute(self, query: str, values: Sequence[object] = ()) -> int:
        """How many rows were changed."""
        changed: int = self._connection.execute(self._marked(query), values).rowcount
        return changed

    def insert(self, table: str, new: Sequence[Row]) -> None:
        """Add rows, which all have the columns of the first."""
        if new:
            query = f"INSERT INTO {table} ({', '.join(new[0])}) VALUES ({_marks(len(new[0]))})"  # noqa: S608 - our own names
            self._connection.cursor().executemany(self._marked(query), [tuple(row.values()) for row in new])

    def update_builds(self, changed: Row, where: str, values: Sequence[object]) -> int:
        """Change the builds for which the condition holds; gives their number."""
        columns = ", ".join(f"{name} = ?" for name in changed)
        return self.execute(f"UPDATE build SET {columns} WHERE {where}", [*changed.values(), *values])  # noqa: S608 - as above

    def _marked(self, query: str) -> str:
        return query if self.kind == "sqlite" else query.replace("%", "%%").replace("?", "%s")


def _marks(count: int) -> str:
    return ", ".join("?" * count)


class Database(ABC):
    """One open database. Safe to use from several threads, one transaction at a time; several processes may have it open."""

    kind: str
    may_write = True
    _read, _write = "BEGIN", "BEGIN"
    _versioned: str  # a query that gives a row where the version's table exists

    def __init__(self, place: Path | str, driver_error: type[Exception]) -> None:
        self.place = place  # as messages name it
        self._driver_error = driver_error
        self._connection: Any = None  # of the driver
        self._lock = threading.Lock()

    def reading(self) -> contextlib.AbstractContextManager[Transaction]:
        """A transaction that reads: one consistent picture."""
        return self._transaction(self._read)

    def writing(self) -> contextlib.AbstractContextManager[Transaction]:
        """A transaction that writes: committed at the end of the block, rolled back on an error."""
        return self._transaction(self._write)

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[Transaction]:
        with self.refusals(), self._lock:
            try:
                self._begin(begin)
                yield Transaction(self._connection, self.kind)
                self._connection.commit()
            except BaseException:
                if self._connection is not None:
                    with contextlib.suppress(
                        self._driver_error
                    ):  # of a connection that is gone: the first error counts
                        self._connection.rollback()
                raise

    def _begin(self, statement: str) -> None:
        self._connection.execute(statement)

    def close(self) -> None:
        """Give the connection back. Idempotent."""
        if self._connection is not None:
            self._connection.close()

    @contextlib.contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn what the database and the file system refuse into ledger errors."""
        try:
            yield
        except self._driver_error as error:
            raise self._named(error) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _disk_full(self.place) from error
            raise LedgerError(
                f"the ledger {self.place} cannot be opened: {error.strerror}: {error.filename}",
                resolution="run the same command with sudo, or choose another --state-dir",
            ) from error

    def migrate(self, lock: Path) -> None:
        """Bring the tables up to the newest migration; at most one process does so."""
        files = {path.name[:4]: path for path in sorted(MIGRATIONS.glob("*.sql")) if not path.suffixes[:-1]}
        with self.reading() as transaction:
            found = self._version(transaction)
        if found == max(files):
            return
        with self._migrating(lock) as transaction:
            found = self._version(transaction)
            if found is not None and found not in files:
                raise LedgerError(
                    f"the ledger {self.place} was written by a newer lxcbuild (schema {found}, known here: {max(files)})",
                    resolution="update lxcbuild, or use another --state-dir or --ledger",
                )
            for version, path in files.items():
                if found is None or version > found:
                    self._run(transaction, path)
                    transaction.execute("DELETE FROM alembic_version")
                    transaction.execute("INSERT INTO alembic_version (version_num) VALUES (?)", (version,))

    def _run(self, transaction: Transaction, path: Path) -> None:
        own = path.with_suffix(f".{self.kind}.sql")
        for file in (path, own) if own.exists() else (path,):
            for statement in file.read_text(encoding="utf-8").split(";\n"):
                if statement.strip():
                    transaction.execute(statement)

    def _version(self, transaction: Transaction) -> str | None:
        """The schema's version; None in an empty database."""
        if not transaction.select(self._versioned):
            return None
        found = transaction.select("SELECT version_num FROM alembic_version")
        return str(found[0]["version_num"]) if found else None

    @abstractmethod
    def _migrating(self, lock: Path) -> contextlib.AbstractContextManager[Transaction]:
        """A transaction that writes, for one process at a time."""

    @abstractmethod
    def _named(self, error: Exception) -> LedgerError | DiskFullError:
        """Our error for one of the driver's, with what to do about it."""


class SqliteFile(Database):
    """A SQLite file, set up for several processes.

    Transactions begin as SQLite documents them, not as the driver guesses, so that migrations are atomic. Writers take the write
    lock at BEGIN, which is the only place where SQLite honours the busy timeout for sure.
    """

    kind = "sqlite"
    _write = "BEGIN IMMEDIATE"
    _versioned = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"

    def __init__(self, path: Path) -> None:
        super().__init__(path, sqlite3.Error)
        with self.refusals():
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
            self.may_write = os.access(path if path.exists() else path.parent, os.W_OK)
            self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                self._connection.row_factory = sqlite3.Row
                if self.may_write:
                    self._connection.execute("PRAGMA journal_mode = WAL")
                # KiB, taken as needed: the 2 MiB of the default make a large ledger's joins read the same pages again and again.
                for setting in ("synchronous = NORMAL", "foreign_keys = ON", "cache_size = -32768"):
                    self._connection.execute(f"PRAGMA {setting}")
            except BaseException:
                self._connection.close()
                raise

    @contextlib.contextmanager
    def _migrating(self, lock: Path) -> Iterator[Transaction]:
        # A migration may take longer than writers wait.
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with self.writing() as transaction:
                yield transaction

    def _named(self, error: Exception) -> LedgerError | DiskFullError:
        """By SQLite's name of it (sqlite.org/rescode.html)."""
        code, path = str(getattr(error, "sqlite_errorname", "")), self.place
        if code == "SQLITE_FULL":
            return _disk_full(path)
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return LedgerError(
                f"the ledger {path} is damaged: {error}",
                resolution=f"move it away (mv {path} {path}.damaged): a new one is made; packages and logs are not in it",
            )
        if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
            return LedgerError(
                f"the ledger {path} cannot be opened: {error}", resolution="run the same command with sudo"
            )
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return LedgerError(
                f"the ledger {path} was busy for {BUSY_S} s: {error}", resolution=f"see who holds it: fuser -v {path}"
            )
        return LedgerError(f"the ledger {path} failed: {error}", details=str(error))


class PostgresServer(Database):
    """A database of a PostgreSQL server by its URL (``postgresql://user@host/database``)."""

    kind = "postgresql"
    _read, _write = "BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN ISOLATION LEVEL READ COMMITTED"
    _versioned = "SELECT relname FROM pg_class WHERE oid = to_regclass('alembic_version')"

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        if not rest or not re.fullmatch(r"[\w+]+", scheme):
            raise LedgerError("the ledger's URL cannot be read", resolution=_URL_HINT)
        if scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise LedgerError(f"a ledger cannot be kept in {scheme[:40]!r}", resolution=_URL_HINT)
        try:
            import psycopg
            from psycopg.conninfo import conninfo_to_dict
        except ImportError:
            raise LedgerError(
                "the PostgreSQL client library is not installed", resolution="pip install 'lxcbuild[postgresql]'"
            ) from None
        super().__init__(shown_url(url), psycopg.Error)
        try:
            self._where: dict[str, Any] = conninfo_to_dict(f"postgresql://{rest}")
            for port in str(self._where.get("port", "")).split(","):
                int(port or 0)
        except (psycopg.Error, ValueError):  # which may quote the password
            raise LedgerError("the ledger's URL cannot be read", resolution=_URL_HINT) from None

    def connect(self) -> Any:
        """Another connection, which begins no transaction by itself."""
        import psycopg
        from psycopg.rows import dict_row
        from psycopg.types.string import TextLoader

        settings = {**self._where, "connect_timeout": BUSY_S, "application_name": "lxcbuild"}
        # Nothing prepared on the server: a newer lxcbuild may add columns meanwhile, and plans shall know the values.
        made = psycopg.connect(**settings, autocommit=True, prepare_threshold=None, row_factory=dict_row)
        made.adapters.register_loader("json", TextLoader)  # as SQLite gives it
        return made

    def _begin(self, statement: str) -> None:
        if self._connection is not None:
            try:
                return super()._begin(statement)
            except self._driver_error:
                if not self._connection.closed:
                    raise
        # The first time, or after the server, or what lies between, has ended an idle connection.
        self._connection = self.connect()
        return super()._begin(statement)

    @contextlib.contextmanager
    def _migrating(self, lock: Path) -> Iterator[Transaction]:
        del lock  # the server has one, held until the transaction ends
        with self.writing() as transaction:
            transaction.select("SELECT pg_advisory_xact_lock(?)", (_MIGRATION_LOCK,))
            yield transaction

    def _named(self, error: Exception) -> LedgerError | DiskFullError:
        """By SQLSTATE (PostgreSQL manual, appendix A); none where no server answered."""
        code = str(getattr(error, "sqlstate", None) or "")
        said = f"{error}".strip().splitlines()[:1]
        brief = f"the ledger {self.place} failed: {said[0] if said else 'no reason was given'}"
        if code == "53100":
            return DiskFullError(brief, resolution="free some space where the database lies")
        if not code or code.startswith(("08", "28", "3D", "57P")):
            return LedgerError(brief, resolution="check that psql connects with the same URL")
        return LedgerError(brief, details=str(error))


def shown_url(url: str) -> str:
    """The URL for messages: without its password."""
    scheme, found, rest = url.partition("://")
    if not found:
        return "(unreadable URL)"
    user, at, where = rest.rpartition("@")
    name, colon, _ = user.partition(":")
    return re.sub("password=[^&]*", "password=***", f"{scheme}://{name}{':***' if colon else ''}{at}{where}")


def _disk_full(path: Path | str) -> DiskFullError:
    return DiskFullError(
        f"no space left for the ledger {path}", resolution="free some space, or choose another --state-dir"
    )
