"""The ledger's door: begin, phase, finish; find and recent.

A ``running`` row whose owner is dead (:mod:`lxcbuild.ledger.owners`) belongs to nobody any more: whoever opens the ledger next
turns it into a failure of class ``cancelled``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Self

from lxcbuild.errors import LedgerError, UnknownBuildError
from lxcbuild.files import Closing
from lxcbuild.ledger import costs, rows
from lxcbuild.ledger.costs import Cost
from lxcbuild.ledger.owners import FileOwners, Owners, ServerOwners
from lxcbuild.ledger.records import CANCELLED, RUNNING, BuildRecord, NewBuild, is_id_part, now
from lxcbuild.ledger.sql import Database, PostgresServer, Row, SqliteFile, Transaction
from lxcbuild.model import FailureClass, Outcome, PhaseRecord, Status
from lxcbuild.state.paths import StateDirs

#: What belongs to a build, with the column that orders it.
_CHILDREN = (("phase", "position"), ("artifact", "path"), ("note", "position"))
#: Which index comes first: the smallest answers. A project has few builds; a suite has many.
_INDEXES = (("name",), ("target", "failure_class"), ("target", "status"), ("failure_class",), ("status",), ("target",))


class Ledger(Closing):
    """One open ledger. Safe to use from several threads; several processes may have it open."""

    def __init__(self, database: Database, owners: Owners) -> None:
        self._database = database
        self._owners = owners

    @classmethod
    def open(cls, dirs: StateDirs) -> Self:
        """Open (or make) the ledger of a state directory, migrate it, and settle builds whose owner died.

        Raises LedgerError, or DiskFullError.
        """
        database: SqliteFile | PostgresServer
        if dirs.ledger_url is None:
            database = SqliteFile(dirs.ledger)
            ledger = cls(database, FileOwners(dirs.locks))
        else:
            database = PostgresServer(dirs.ledger_url)
            ledger = cls(database, ServerOwners(database))
        try:
            with database.refusals():
                database.migrate(dirs.locks / "ledger-migration")
                if database.may_write:
                    ledger.settle()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Give the database and the ownership of running builds back. Idempotent."""
        self._owners.close()
        self._database.close()

    def begin(self, build: NewBuild) -> None:
        """Record that a build runs, owned by this process."""
        with self._database.refusals():
            owner = self._owners.take()
        with self._database.writing() as transaction:
            transaction.insert("build", [{**rows.from_new(build), "owner": owner}])

    def learn(self, build_id: str, **facts: Any) -> None:
        """Record what became known on the way: version, backend, image_digest, limits_in_force, log_path, request."""
        with self._database.writing() as transaction:
            self._update(transaction, build_id, rows.from_facts(facts))

    def phase(self, build_id: str, record: PhaseRecord) -> None:
        """Add one finished phase to a running build."""
        query = "SELECT coalesce(max(position) + 1, 0) AS position FROM phase WHERE build_id = ?"
        with self._database.writing() as transaction:
            position = transaction.select(query, (build_id,))[0]["position"]
            transaction.insert("phase", [rows.from_phase(build_id, position, record)])

    def finish(self, outcome: Outcome) -> None:
        """Record how a build ended. The outcome is the whole truth: its phases replace those added on the way."""
        ended = {**rows.from_outcome(outcome), "ended_at": now(), "owner": None}
        with self._database.writing() as transaction:
            self._update(transaction, outcome.build_id, ended)
            _replace_children(transaction, outcome)

    def record(self, build: NewBuild, outcome: Outcome, facts: Mapping[str, Any]) -> bool:
        """Record a build that began and ended elsewhere, in one step; False when it is recorded already."""
        assert build.build_id == outcome.build_id, (build.build_id, outcome.build_id)
        row = {**rows.from_new(build), **rows.from_facts(facts), **rows.from_outcome(outcome)}
        row |= {"owner": None, "ended_at": now()}
        if outcome.phases:
            last = outcome.phases[-1]
            began = datetime.fromisoformat(last.started_at)
            row["ended_at"] = (began + timedelta(seconds=last.usage.wall_s)).isoformat(timespec="microseconds")
        which = (build.build_id,)
        with self._database.writing() as transaction:
            found = transaction.select("SELECT status FROM build WHERE id = ?", which)
            if found and found[0]["status"] != RUNNING:
                return False
            transaction.execute("DELETE FROM build WHERE id = ?", which)
            transaction.insert("build", [row])
            _replace_children(transaction, outcome)
        return True

    def settle(self) -> Sequence[str]:
        """Turn running builds whose owner died into cancelled ones; gives their ids. See the rule at the top."""
        with self._database.reading() as transaction:
            running = transaction.select("SELECT id, owner FROM build WHERE status = ?", (RUNNING,))
        dead = {owner for owner in {row["owner"] for row in running} if owner is None or not self._owners.alive(owner)}
        lost = [str(row["id"]) for row in running if row["owner"] in dead]
        for build_id in lost:
            with self._database.writing() as transaction:
                finished = transaction.select("SELECT name FROM phase WHERE build_id = ?", (build_id,))
                values = rows.orphaned([row["name"] for row in finished], now())
                transaction.update_builds(values, "id = ? AND status = ?", (build_id, RUNNING))
        for owner in dead - {None}:
            self._owners.forget(str(owner))
        return lost

    def _update(self, transaction: Transaction, build_id: str, values: Row) -> None:
        if transaction.update_builds(values, "id = ?", (build_id,)) != 1:
            raise LedgerError(f"the ledger {self._database.place} lost the build {build_id}")

    def find(self, part: str) -> BuildRecord:
        """The build of that id, or the only one whose id, or whose id's last word, begins so; raises UnknownBuildError."""
        found: Sequence[Row] = ()
        with self._database.reading() as transaction:
            if is_id_part(part):
                found = _beginning(transaction, "id", part) or _beginning(transaction, "word", part)
                found = [row for row in found if row["id"] == part] or found
            if len(found) == 1:
                return _detailed(transaction, found)[0]
        if found:
            raise UnknownBuildError(
                f"several builds match {part!r}",
                details="\n".join(f"{row['id']}  {row['name']} {row['version']}  {row['started_at']}" for row in found),
                resolution="give more of the id",
            )
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
        before: tuple[str, str] | None = None,
    ) -> list[BuildRecord]:
        """The newest builds that match everything given, newest first; ``details`` adds phases, artefacts and notes.

        ``before`` (beginning and id of the last one of a page) goes on from there.
        """
        conditions, values = _conditions(
            {"target": target, "name": name, "failure_class": failure_class, "status": status}
        )
        if before is not None:
            conditions += ["started_at <= ?", "(started_at < ? OR id < ?)"]
            values += [before[0], *before]
        query = f"SELECT * FROM build WHERE {' AND '.join(conditions or ['1 = 1'])} ORDER BY started_at DESC, id DESC"  # noqa: S608 - our own names
        if limit is not None:
            query += f" LIMIT {limit:d}"
        with self._database.reading() as transaction:
            found = transaction.select(query, values)
            return _detailed(transaction, found) if details else [rows.to_record(row) for row in found]

    def costs(self, names: Iterable[str]) -> dict[tuple[str, str], Cost]:
        """What earlier builds that ended well took, by project and target; see :mod:`lxcbuild.ledger.costs`."""
        with self._database.reading() as transaction:
            return costs.read(transaction, names)

    def layer_relations(self, names: Iterable[str]) -> dict[tuple[str, str], tuple[str, ...]]:
        """What build layers were asked for, by project and target; see :mod:`lxcbuild.ledger.costs`."""
        with self._database.reading() as transaction:
            return costs.relations(transaction, names)


def _beginning(transaction: Transaction, column: str, part: str) -> Sequence[Row]:
    """Some builds where that column begins so. A range uses an index; "~" sorts behind everything that an id holds."""
    by_bytes = f'{column} COLLATE "C"' if transaction.kind == "postgresql" else column
    # Not by time: sorting everything that begins with "2" would read it all.
    query = f"SELECT * FROM build WHERE {by_bytes} >= ? AND {by_bytes} < ? ORDER BY {by_bytes} LIMIT 5"  # noqa: S608 - our own names
    return transaction.select(query, (part, part + "~"))


def _conditions(asked: Mapping[str, str | None]) -> tuple[list[str], list[str]]:
    """What has to hold of each column, so that one index answers, whatever the planner guesses; and the values.

    A column that is not to be looked up in an index is hidden in an expression: what is no column by itself keeps planners without
    statistics from a worse index.
    """
    equal = {column: value for column, value in asked.items() if value is not None}
    cancelled = FailureClass.CANCELLED.value
    status = equal.get("status")
    if status == CANCELLED:
        del equal["status"]
        equal["failure_class"] = cancelled if equal.get("failure_class", cancelled) == cancelled else ""
    chosen = next((index for index in _INDEXES if set(index) <= equal.keys()), ())
    conditions = [f"{column} = ?" if column in chosen else f"'' || {column} = ?" for column in equal]
    if status == Status.FAILED.value:
        return [*conditions, "failure_class != ?"], [*equal.values(), cancelled]
    return conditions, list(equal.values())


def _replace_children(transaction: Transaction, outcome: Outcome) -> None:
    for table, new in rows.children(outcome).items():
        transaction.execute(f"DELETE FROM {table} WHERE build_id = ?", (outcome.build_id,))  # noqa: S608 - our own names
        transaction.insert(table, new)


def _detailed(transaction: Transaction, found: Sequence[Row]) -> list[BuildRecord]:
    children: dict[str, dict[str, list[Row]]] = {row["id"]: {table: [] for table, _ in _CHILDREN} for row in found}
    for table, order in _CHILDREN:
        query = f"SELECT * FROM {table} WHERE build_id IN (*) ORDER BY build_id, {order}"  # noqa: S608 - our own names
        for row in transaction.select_among(query, list(children)):
            children[row["build_id"]][table].append(row)
    return [rows.to_record(row, **children[row["id"]]) for row in found]
