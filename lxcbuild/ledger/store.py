"""The ledger's door: begin, phase, finish; find and recent.

A ``running`` row whose owner is dead (:mod:`lxcbuild.ledger.owners`) belongs to nobody any more: whoever opens the ledger next
turns it into a failure of class ``cancelled``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from lxcbuild.errors import LedgerError, UnknownBuildError
from lxcbuild.ledger import costs, questions, rows, schema, sql
from lxcbuild.ledger.costs import Cost
from lxcbuild.ledger.owners import FileOwners, Owners
from lxcbuild.ledger.records import RUNNING, BuildRecord, NewBuild, is_id_part, now
from lxcbuild.ledger.refusals import os_errors
from lxcbuild.ledger.serverowners import ServerOwners
from lxcbuild.model import Outcome, PhaseRecord
from lxcbuild.state.paths import StateDirs

_CHUNK = 500  # ids in one IN (...): below every database's limit


class Ledger:
    """One open ledger. Safe to use from several threads; several processes may have it open."""

    def __init__(self, dirs: StateDirs, engine: sa.Engine) -> None:
        self._engine = engine
        self._owners: Owners
        self._path: Path | str = dirs.ledger
        if dirs.ledger_url is None:
            self._owners = FileOwners(dirs.locks)
        else:
            self._owners = ServerOwners(engine)
            self._path = sql.shown_url(dirs.ledger_url)

    @classmethod
    def open(cls, dirs: StateDirs) -> Self:
        """Open (or make) the ledger of a state directory, migrate it, and settle builds whose owner died.

        Raises LedgerError, or DiskFullError.
        """
        place = dirs.ledger if dirs.ledger_url is None else sql.shown_url(dirs.ledger_url)
        with os_errors(dirs.ledger):
            if dirs.ledger_url is not None:
                engine = sql.connect_url(dirs.ledger_url)
            else:
                if not dirs.ledger.exists():
                    dirs.lib.mkdir(parents=True, exist_ok=True)
                engine = sql.connect(dirs.ledger)
            try:
                sql.migrate(engine, place, dirs.locks / "ledger-migration")
                ledger = cls(dirs, engine)
                if dirs.ledger_url is not None or os.access(dirs.ledger, os.W_OK):
                    ledger.settle()
            except BaseException:
                engine.dispose()
                raise
        return ledger

    def close(self) -> None:
        """Give the database and the ownership of running builds back. Idempotent."""
        self._owners.close()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- writing ------------------------------------------------------------------------------------------------

    def begin(self, build: NewBuild) -> None:
        """Record that a build runs, owned by this process."""
        with os_errors(self._path), sql.errors_named(self._path):
            owner = self._owners.take()
        with self._writing() as connection:
            connection.execute(sa.insert(schema.build), [{**rows.from_new(build), "owner": owner}])

    def learn(self, build_id: str, **facts: Any) -> None:
        """Record what became known on the way: version, backend, image_digest, limits_in_force, log_path, request."""
        with self._writing() as connection:
            found = connection.execute(
                sa.update(schema.build).where(schema.build.c.id == build_id).values(**rows.from_facts(facts))
            )
            self._expect_one(found.rowcount, build_id)

    def phase(self, build_id: str, record: PhaseRecord) -> None:
        """Add one finished phase to a running build."""
        table = schema.phase
        with self._writing() as connection:
            last = connection.scalar(sa.select(sa.func.max(table.c.position)).where(table.c.build_id == build_id))
            position = 0 if last is None else last + 1
            connection.execute(sa.insert(table), [rows.from_phase(build_id, position, record)])

    def finish(self, outcome: Outcome) -> None:
        """Record how a build ended. The outcome is the whole truth: its phases replace those added on the way."""
        build_id = outcome.build_id
        with self._writing() as connection:
            found = connection.execute(
                sa.update(schema.build)
                .where(schema.build.c.id == build_id)
                .values(**rows.from_outcome(outcome), ended_at=now(), owner=None)
            )
            self._expect_one(found.rowcount, build_id)
            self._add_children(connection, outcome)

    def record(self, build: NewBuild, outcome: Outcome, facts: Mapping[str, Any]) -> bool:
        """Record a build that began and ended elsewhere, in one step; False when it is recorded already."""
        assert build.build_id == outcome.build_id, (build.build_id, outcome.build_id)
        row = {
            **rows.from_new(build),
            **rows.clean(facts),
            **rows.from_outcome(outcome),
            "ended_at": now(),
            "owner": None,
        }
        if outcome.phases:
            last = outcome.phases[-1]
            began = datetime.fromisoformat(last.started_at)
            row["ended_at"] = (began + timedelta(seconds=last.usage.wall_s)).isoformat(timespec="microseconds")
        with self._writing() as connection:
            found = connection.scalar(sa.select(schema.build.c.status).where(schema.build.c.id == build.build_id))
            if found not in (None, RUNNING):
                return False
            connection.execute(sa.delete(schema.build).where(schema.build.c.id == build.build_id))
            connection.execute(sa.insert(schema.build), [row])
            self._add_children(connection, outcome)
        return True

    @staticmethod
    def _add_children(connection: sa.Connection, outcome: Outcome) -> None:
        for name, new in rows.children(outcome).items():
            table = schema.metadata.tables[name]
            connection.execute(sa.delete(table).where(table.c.build_id == outcome.build_id))
            if new:
                connection.execute(sa.insert(table), new)

    def costs(self, names: Iterable[str]) -> dict[tuple[str, str], Cost]:
        """What earlier builds that ended well took, by project and target; see :mod:`lxcbuild.ledger.costs`."""
        with self._reading() as connection:
            return costs.read(connection, names)

    def layer_relations(self, names: Iterable[str]) -> dict[tuple[str, str], tuple[str, ...]]:
        """What build layers were asked for, by project and target; see :mod:`lxcbuild.ledger.costs`."""
        with self._reading() as connection:
            return costs.relations(connection, names)

    def settle(self) -> Sequence[str]:
        """Turn running builds whose owner died into cancelled ones; gives their ids. See the rule at the top."""
        table = schema.build
        with self._reading() as connection:
            running = connection.execute(sa.select(table.c.id, table.c.owner).where(table.c.status == RUNNING)).all()
        with sql.errors_named(self._path):
            dead = {owner for owner in {row.owner for row in running} if owner is None or not self._owners.alive(owner)}
        lost = [row.id for row in running if row.owner in dead]
        for build_id in lost:
            with self._writing() as connection:
                phases = sa.select(schema.phase.c.name).where(schema.phase.c.build_id == build_id)
                finished = connection.scalars(phases).all()
                mine = (table.c.id == build_id) & (table.c.status == RUNNING)
                connection.execute(sa.update(table).where(mine).values(**rows.orphaned(finished, now())))
        for owner in dead - {None}:
            self._owners.forget(str(owner))
        return lost

    # -- reading ------------------------------------------------------------------------------------------------

    def find(self, part: str) -> BuildRecord:
        """The build of that id, or the only one whose id, or whose id's last word, begins so; raises UnknownBuildError."""
        table = schema.build
        found: Sequence[sa.Row[Any]] = ()
        with self._reading() as connection:
            if is_id_part(part):
                found = connection.execute(self._beginning(table.c.id, part)).all()
                found = found or connection.execute(self._beginning(table.c.word, part)).all()
                found = [row for row in found if row.id == part] or found
            if len(found) == 1:
                return self._detailed(connection, found)[0]
        if found:
            raise UnknownBuildError(
                f"several builds match {part!r}",
                details="\n".join(f"{row.id}  {row.name} {row.version}  {row.started_at}" for row in found),
                resolution="give more of the id",
            )
        raise UnknownBuildError(
            f"the ledger knows no build {part[:40]!r}", resolution="list the recorded ones: lxcbuild history"
        )

    def _beginning(self, column: sa.ColumnElement[str], part: str) -> sa.Select[Any]:
        """Some builds where that column begins so. A range uses an index; "~" sorts behind everything that an id holds."""
        by_bytes = sa.collate(column, "C") if sql.is_server(self._engine) else column
        # No order: sorting everything that begins with "2" by time would read it all.
        return sa.select(schema.build).where(by_bytes >= part, by_bytes < part + "~").order_by(by_bytes).limit(5)

    def recent(
        self,
        *,
        limit: int | None = 20,
        target: str | None = None,
        status: str | None = None,
        name: str | None = None,
        failure_class: str | None = None,
        details: bool = False,
        before: tuple[str, str] | None = None,
    ) -> list[BuildRecord]:
        """The newest builds that match everything given, newest first; ``details`` adds phases, artefacts and notes.

        ``before`` (beginning and id of the last one of a page) goes on from there.
        """
        query = questions.recent(
            limit=limit, target=target, status=status, name=name, failure_class=failure_class, before=before
        )
        with self._reading() as connection:
            found = connection.execute(query).all()
            return self._detailed(connection, found) if details else [rows.to_record(row) for row in found]

    @staticmethod
    def _detailed(connection: sa.Connection, found: Sequence[sa.Row[Any]]) -> list[BuildRecord]:
        children: dict[str, dict[str, list[Any]]] = {row.id: {"phase": [], "artifact": [], "note": []} for row in found}
        for ids in _chunks([row.id for row in found]):
            for table, order in (
                (schema.phase, schema.phase.c.position),
                (schema.artifact, schema.artifact.c.path),
                (schema.note, schema.note.c.position),
            ):
                for row in connection.execute(sa.select(table).where(table.c.build_id.in_(ids)).order_by(order)):
                    children[row.build_id][table.name].append(row)
        return [rows.to_record(row, **children[row.id]) for row in found]

    # -- inner --------------------------------------------------------------------------------------------------

    def _expect_one(self, count: int, build_id: str) -> None:
        if count != 1:
            raise LedgerError(f"the ledger {self._path} lost the build {build_id}")

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with sql.writing(self._engine, self._path) as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with sql.reading(self._engine, self._path) as connection:
            yield connection


def _chunks(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))
