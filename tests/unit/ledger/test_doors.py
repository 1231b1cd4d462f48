"""The ledger's two doors, SQLAlchemy's and the direct one, write and read the same; builds load only the direct one."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lxcbuild.errors import LedgerError, UnknownBuildError
from lxcbuild.ledger import direct, questions, schema
from lxcbuild.ledger.direct import BuildLedger, DirectLedger, open_for_builds
from lxcbuild.ledger.records import STATUSES
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Artifact, Failure, FailureClass, Phase, Status, Target
from lxcbuild.state.paths import StateDirs
from tests.unit.ledger.test_ledger import BOOKWORM, outcome, phase, started

TRIXIE = Target("debian", "trixie")
DOORS: list[Callable[[StateDirs], BuildLedger]] = [Ledger.open, open_for_builds]
HOSTILE = "a\0b\ud800c\n'; DROP TABLE build; --" + "x" * 100_000


def failed(which: FailureClass, brief: str = "it failed") -> Failure:
    return Failure(failure_class=which, phase=Phase.COMPILE, brief=brief, details=HOSTILE, resolution="do it again")


def fill(ledger: BuildLedger) -> None:
    """Builds of every kind, with everything that a row can hold."""
    ends = [None, None, failed(FailureClass.OOM), failed(FailureClass.CANCELLED), failed(FailureClass.TIMEOUT, HOSTILE)]
    for number, (name, target, end) in enumerate(itertools.product(("idna", "a-b"), (BOOKWORM, TRIXIE), ends)):
        build_id = f"20260101-000000-{number:08x}"
        at = f"2026-01-01T00:00:{number % 7:02d}.000000+00:00"  # some begin at the same moment
        ledger.begin(started(build_id, name=name, target=target, at=at))
        ledger.phase(build_id, phase(Phase.RESOLVE))
        facts: dict[str, Any] = {"request": {"source": {"sha256": "ab", "url": None}, "hashes": [["sha256", HOSTILE]]}}
        ledger.learn(
            build_id, backend="lxc", log_path=Path("/logs/y"), version="1", limits_in_force={"a": [1.5]}, **facts
        )
        ended = replace(outcome(build_id, end), name=name, target=target, notes=(HOSTILE, "b"))
        artifacts = (Artifact(path=Path("/out/b.dsc"), sha256="1" * 64, size_bytes=2**40), *ended.artifacts)
        ledger.finish(replace(ended, artifacts=artifacts))
    ledger.begin(started("20260101-000000-ffffffff", at="2026-01-01T00:00:09.000000+00:00"))
    ledger.finish(replace(outcome("20260101-000000-ffffffff"), status=Status.OFFICIAL, artifacts=(), phases=()))


def dump(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything in the file, but when builds ended."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE build SET ended_at = 'x' WHERE ended_at IS NOT NULL")
        return {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall()
            for name in schema.metadata.tables
        }


def test_both_doors_write_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for number, door in enumerate(DOORS):
        dirs = StateDirs.choose(tmp_path / str(number))
        with door(dirs) as ledger:
            fill(ledger)
        found.append(dump(dirs.ledger))
    assert found[0] == found[1]
    assert len(found[0]["build"]) == 21
    assert len(found[0]["artifact"]) == 40


def test_both_doors_read_the_same(fresh_state: StateDirs) -> None:
    with open_for_builds(fresh_state) as ledger:
        fill(ledger)
    with Ledger.open(fresh_state) as one, DirectLedger.open(fresh_state) as other:
        for limit, target, status, name, which, details in itertools.product(
            (None, 3),
            (None, str(BOOKWORM)),
            (None, *STATUSES),
            (None, "idna"),
            (None, "oom", "cancelled"),
            (False, True),
        ):
            asked: dict[str, Any] = {"limit": limit, "target": target, "status": status, "name": name}
            asked |= {"failure_class": which, "details": details}
            assert list(other.recent(**asked)) == one.recent(**asked), asked
        record = other.find("20260101-000000-00000002")
        assert record == one.find("20260101-000000-00000002")
        assert record.failure is not None
        with pytest.raises(UnknownBuildError):
            other.find("20260101-000000")


def test_the_same_index_answers_both(fresh_state: StateDirs) -> None:
    with open_for_builds(fresh_state) as ledger:
        fill(ledger)
    engine = sa.create_engine(f"sqlite:///{fresh_state.ledger}")
    seen: list[str] = []
    with DirectLedger.open(fresh_state) as ledger, engine.connect() as connection:
        ledger._connection.set_trace_callback(seen.append)
        for asked in (
            {"name": "idna", "target": str(BOOKWORM), "status": "built"},
            {"status": "failed"},
            {"status": "cancelled"},
        ):
            seen.clear()
            ledger.recent(limit=20, **asked)  # type: ignore[arg-type]
            mine = next(query for query in seen if query.startswith("SELECT"))
            theirs = questions.recent(limit=20, **asked).compile(engine, compile_kwargs={"literal_binds": True})
            plans = [
                [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")]
                for query in (mine, str(theirs))
            ]
            assert plans[0] == plans[1]
            assert "USING INDEX" in plans[0][0]
    engine.dispose()


def test_the_direct_door_knows_the_tables_of_the_schema() -> None:
    tables = schema.metadata.tables
    json = {column.name for table in tables.values() for column in table.columns if isinstance(column.type, sa.JSON)}
    assert json == direct.JSON_COLUMNS
    assert {"build"} | {name for name, _ in direct._CHILDREN} == set(tables)
    # Of these types the driver's own values are right; another one would need a conversion in direct.py.
    plain = (sa.String, sa.Integer, sa.Float, sa.Boolean, sa.JSON)
    assert all(isinstance(column.type, plain) for table in tables.values() for column in table.columns)


def test_an_older_ledger_is_migrated_before_builds_write_to_it(fresh_state: StateDirs) -> None:
    Ledger.open(fresh_state).close()
    assert direct.is_current(fresh_state.ledger)
    with sqlite3.connect(fresh_state.ledger) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE TABLE%'").fetchall():
            connection.execute(f"DROP TABLE {name}")
    assert not direct.is_current(fresh_state.ledger)
    with open_for_builds(fresh_state) as ledger:
        fill(ledger)
        assert len(ledger.recent(limit=None)) == 21


def _die(dirs: StateDirs) -> None:
    ledger = open_for_builds(dirs)
    ledger.begin(started("20260101-000000-0000dead"))
    ledger.phase("20260101-000000-0000dead", phase(Phase.RESOLVE))
    os.kill(os.getpid(), signal.SIGKILL)


def test_builds_of_a_killed_process_are_settled_and_those_of_living_ones_are_not(fresh_state: StateDirs) -> None:
    dead = multiprocessing.get_context("spawn").Process(target=_die, args=(fresh_state,))
    with open_for_builds(fresh_state) as living:
        living.begin(started("20260101-000000-0000aaaa"))
        dead.start()
        dead.join()
        assert dead.exitcode == -9
        with DirectLedger.open(fresh_state) as ledger:
            assert ledger.find("20260101-000000-0000aaaa").status == "running"
            lost = ledger.find("20260101-000000-0000dead")
        assert lost.status == "cancelled"
        assert lost.failure is not None
        assert lost.failure.phase is Phase.FETCH
    assert list(fresh_state.locks.glob("owner-*")) == []


def _write(dirs: StateDirs, number: int) -> None:
    with DOORS[number % 2](dirs) as ledger:
        for each in range(25):
            build_id = f"20260101-00000{number}-{each:08x}"
            ledger.begin(started(build_id))
            ledger.phase(build_id, phase(Phase.RESOLVE))
            ledger.finish(outcome(build_id))


def test_processes_write_at_once_through_both_doors(fresh_state: StateDirs) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(fresh_state, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    with open_for_builds(fresh_state) as ledger:
        assert len(ledger.recent(limit=None, status="built", details=True)) == 100


def test_an_error_takes_back_the_whole_step(fresh_state: StateDirs) -> None:
    with open_for_builds(fresh_state) as ledger:
        with pytest.raises(LedgerError, match="lost the build"):
            ledger.finish(outcome("20260101-000000-00000000"))
        ledger.begin(started("20260101-000000-00000000"))
        with pytest.raises(LedgerError, match="UNIQUE"):
            ledger.begin(started("20260101-000000-00000000"))
        twice = outcome("20260101-000000-00000000")
        with pytest.raises(LedgerError, match="UNIQUE"):
            ledger.finish(replace(twice, artifacts=twice.artifacts * 2))
        assert ledger.find("20260101-000000-00000000").status == "running"


@pytest.mark.parametrize("damage", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_ledger_is_named(fresh_state: StateDirs, damage: bytes) -> None:
    fresh_state.lib.mkdir(parents=True)
    fresh_state.ledger.write_bytes(damage)
    with pytest.raises(LedgerError, match="is damaged"):
        open_for_builds(fresh_state)


def test_builds_load_no_sqlalchemy() -> None:
    """It takes longer to load than the rest of what a build does on the host."""
    code = "import sys, lxcbuild.cli.verbs.build, lxcbuild.builder.family, lxcbuild.cli.workshop; "
    code += "print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
