"""The connection below the ledger: SQLite set up for several processes, or PostgreSQL; migrations; errors in our words."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from lxcbuild.errors import DiskFullError, LedgerError
from lxcbuild.ledger import refusals
from lxcbuild.ledger.refusals import BUSY_S
from lxcbuild.ledger.revision import HEAD

_URL_HINT = "write --ledger postgresql://user@host/database"
_WRITE = "lxcbuild_write"
_MIGRATION_LOCK = 0x6C786362  # of PostgreSQL's advisory locks: "lxcb"


def connect_url(url: str) -> sa.Engine:
    """An engine for a PostgreSQL server by its URL (``postgresql://user@host/database``). Raises LedgerError."""
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError):
        raise LedgerError("the ledger's URL cannot be read", resolution=_URL_HINT) from None
    if parsed.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise LedgerError(f"a ledger cannot be kept in {parsed.drivername[:40]!r}", resolution=_URL_HINT)
    try:
        return sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            connect_args={"connect_timeout": BUSY_S, "application_name": "lxcbuild"},
        )
    except ModuleNotFoundError:
        raise LedgerError(
            "the PostgreSQL client library is not installed", resolution="pip install 'lxcbuild[postgresql]'"
        ) from None


def shown_url(url: str) -> str:
    """The URL for messages: without its password."""
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except (exc.ArgumentError, ValueError):
        return "(unreadable URL)"


def connect(path: Path) -> sa.Engine:
    """An engine for a SQLite file. Transactions begin as SQLite documents them, not as the driver guesses.

    The driver's own habit (no BEGIN before DDL) would make migrations non-atomic, so it is told to leave transactions
    alone; writers take the write lock at BEGIN, which is the only place where SQLite honours the busy timeout for sure.
    """
    engine = sa.create_engine(sa.URL.create("sqlite", database=os.fspath(path)), connect_args={"timeout": BUSY_S})
    may_write = os.access(path if path.exists() else path.parent, os.W_OK)

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        if may_write:
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        # KiB, taken as needed: the 2 MiB of the default make a large ledger's joins read the same pages again and again.
        cursor.execute("PRAGMA cache_size = -32768")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        write = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


@contextlib.contextmanager
def writing(engine: sa.Engine, path: Path | str) -> Iterator[sa.Connection]:
    """A transaction that writes: committed at the end of the block, rolled back on an error."""
    with errors_named(path), engine.execution_options(**{_WRITE: True}).begin() as connection:
        yield connection


@contextlib.contextmanager
def reading(engine: sa.Engine, path: Path | str) -> Iterator[sa.Connection]:
    """A transaction that reads: one consistent picture."""
    chosen = engine.execution_options(isolation_level="REPEATABLE READ") if is_server(engine) else engine
    with errors_named(path), chosen.begin() as connection:
        yield connection


def is_server(engine: sa.Engine) -> bool:
    """Whether it is PostgreSQL."""
    return engine.dialect.name == "postgresql"


def migrate(engine: sa.Engine, path: Path | str, lock: Path) -> None:
    """Bring the tables to :data:`HEAD`; at most one process does so, and the usual case imports no alembic."""
    if _revision(engine, path) == HEAD:
        return
    if is_server(engine):
        # Held until the transaction ends; whoever comes second finds everything done.
        with writing(engine, path) as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            _upgrade(connection, path)
        return
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with writing(engine, path) as connection:
            _upgrade(connection, path)


def _upgrade(connection: sa.Connection, path: Path | str) -> None:
    found = _revision_by(connection)
    if found == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", os.fspath(Path(__file__).parent / "migrations").replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise LedgerError(
            f"the ledger {path} was written by a newer lxcbuild (schema {found}, known here: {HEAD})",
            resolution="update lxcbuild, or use another --state-dir or --ledger",
        )
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def _revision(engine: sa.Engine, path: Path | str) -> str | None:
    """The schema's version as alembic recorded it; None in an empty database."""
    with reading(engine, path) as connection:
        return _revision_by(connection)


def _revision_by(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found


@contextlib.contextmanager
def errors_named(path: Path | str) -> Iterator[None]:
    """Turn the database's errors into ours, with what to do about each."""
    try:
        yield
    except exc.DBAPIError as error:
        if getattr(error.orig, "sqlite_errorname", None) is None:
            raise _named_by_server(error, path) from error
        raise refusals.named(error.orig, path) from error


def _named_by_server(error: exc.DBAPIError, path: Path | str) -> LedgerError | DiskFullError:
    """By SQLSTATE (PostgreSQL manual, appendix A); none where no server answered."""
    code = str(getattr(error.orig, "sqlstate", None) or "")
    said = f"{error.orig}".strip().splitlines()[:1]
    brief = f"the ledger {path} failed: {said[0] if said else 'no reason was given'}"
    if code == "53100":
        return DiskFullError(brief, resolution="free some space where the database lies")
    if not code or code.startswith(("08", "28", "3D", "57P")):
        return LedgerError(brief, resolution="does this answer? psql with the same URL")
    return LedgerError(brief, details=str(error))
