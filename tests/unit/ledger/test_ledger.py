"""The ledger: what goes in comes out, dead owners are settled, old schemas migrate, hostile text does no harm.

``test_server.py`` runs most of these tests on PostgreSQL.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from lxcbuild.errors import LedgerError, UnknownBuildError
from lxcbuild.ledger import sql
from lxcbuild.ledger.records import CANCELLED, RUNNING, STATUSES, BuildRecord, NewBuild
from lxcbuild.ledger.sql import Row, Transaction
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Artifact, Failure, FailureClass, LayerUse, Outcome, Phase, PhaseRecord, Status, Target, Usage
from lxcbuild.state.paths import StateDirs

BOOKWORM = Target("debian", "bookworm")
TRIXIE = Target("debian", "trixie")
HOSTILE = "a\0b\ud800c\n'; DROP TABLE build; --\x1b[31m" + "x" * 100_000
#: Ledgers of every released schema, as the released code made them.
RELEASED = Path(__file__).parent / "released"


def started(build_id: str, *, name: str = "idna", target: Target = BOOKWORM, at: str | None = None) -> NewBuild:
    build = NewBuild(build_id=build_id, name=name, target=target, policy="default", request={"requirement": name})
    return replace(build, started_at=at) if at else build


def phase(which: Phase) -> PhaseRecord:
    return PhaseRecord(
        phase=which, started_at="2026-01-02T03:04:05+00:00", usage=Usage(wall_s=1.5, cpu_s=0.5, oom_kills=1)
    )


def outcome(build_id: str, failure: Failure | None = None) -> Outcome:
    return Outcome(
        build_id=build_id,
        name="idna",
        version="3.10",
        target=BOOKWORM,
        status=Status.FAILED if failure else Status.BUILT,
        failure=failure,
        artifacts=(Artifact(path=Path("/out/a.deb"), sha256="0" * 64, size_bytes=7),),
        phases=(phase(Phase.RESOLVE), phase(Phase.FETCH)),
        log_path=Path("/logs/x.log"),
        limits_in_force={"memory.max": 1},
        notes=("a bound was dropped",),
        layers=LayerUse(saved_s=21.5, known=2, made=1, relations=("cython3", "libssl-dev (>= 3)")),
    )


def test_a_build_comes_back_as_it_was_recorded(fresh_state: StateDirs) -> None:
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(started("abcd00000001"))
        assert ledger.find("abcd").status == "running"
        ledger.phase("abcd00000001", phase(Phase.RESOLVE))
        ledger.learn("abcd00000001", backend="lxc", image_digest="sha256:1")
        ledger.finish(outcome("abcd00000001"))
        found = ledger.find("abcd")
    assert found.outcome() == outcome("abcd00000001")
    assert (found.backend, found.image_digest, found.request) == ("lxc", "sha256:1", {"requirement": "idna"})
    assert found.wall_s is not None
    assert found.wall_s >= 0


def test_a_failure_comes_back_with_its_class_and_advice(fresh_state: StateDirs) -> None:
    why = Failure(
        failure_class=FailureClass.OOM, phase=Phase.COMPILE, brief="out of memory", resolution="raise memory.max"
    )
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(started("abcd00000001"))
        ledger.finish(outcome("abcd00000001", why))
        assert ledger.find("abcd00000001").failure == why
        assert ledger.find("abcd00000001").status == "failed"


def test_prefixes_must_be_unique_and_ids_well_formed(fresh_state: StateDirs) -> None:
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(started("ab0000000001"))
        ledger.begin(started("ab1000000001"))
        assert ledger.find("ab1").build_id == "ab1000000001"
        with pytest.raises(UnknownBuildError, match="several builds match 'ab'"):
            ledger.find("ab")
        ledger.begin(started("20261121-010203-0001abcdef"))
        assert ledger.find("0001abc").build_id == "20261121-010203-0001abcdef"
        for bad in ("ffff", "", "%", "ab' OR 1=1 --", "g", "_", "-"):
            with pytest.raises(UnknownBuildError, match="knows no build"):
                ledger.find(bad)


def test_recent_filters_and_sorts(fresh_state: StateDirs) -> None:
    with Ledger.open(fresh_state) as ledger:
        for number, (name, suite) in enumerate([("six", "bookworm"), ("idna", "bookworm"), ("idna", "trixie")]):
            at = f"2026-01-0{number + 1}T00:00:00.000000+00:00"
            ledger.begin(started(f"{number:012x}", name=name, target=Target("debian", suite), at=at))
        ledger.finish(outcome("000000000001"))
        ids = [record.build_id[-1] for record in ledger.recent()]
        assert ids == ["2", "1", "0"]
        assert [record.build_id[-1] for record in ledger.recent(limit=1)] == ["2"]
        assert [record.build_id[-1] for record in ledger.recent(name="idna", target="debian/bookworm")] == ["1"]
        assert [record.build_id[-1] for record in ledger.recent(status="built", details=True)] == ["1"]
        assert ledger.recent(status="built", details=True)[0].outcome() == outcome("000000000001")
        assert len(ledger.recent(status="running")) == 2
        assert ledger.recent(status="failed") == []


def fill(ledger: Ledger) -> None:
    """Builds of every kind, with everything that a row can hold; some begin at the same moment."""
    classes = [None, None, FailureClass.OOM, FailureClass.CANCELLED, FailureClass.TIMEOUT]
    for number, (name, target, which) in enumerate(itertools.product(("idna", "a-b"), (BOOKWORM, TRIXIE), classes)):
        build_id = f"20260101-000000-{number:08x}"
        at = f"2026-01-01T00:00:{number % 7:02d}.000000+00:00"
        ledger.begin(started(build_id, name=name, target=target, at=at))
        ledger.phase(build_id, phase(Phase.RESOLVE))
        ledger.learn(build_id, version="1", log_path=Path("/logs/y"), request={"hashes": [["sha256", HOSTILE]]})
        end = which and Failure(failure_class=which, phase=Phase.COMPILE, brief="no", details=HOSTILE, resolution="go")
        ended = replace(outcome(build_id, end), name=name, target=target, notes=(HOSTILE, "b"))
        artifacts = (Artifact(path=Path("/out/b.dsc"), sha256="1" * 64, size_bytes=2**40), *ended.artifacts)
        ledger.finish(replace(ended, artifacts=artifacts))
    ledger.begin(started("20260101-000000-ffffffff", at="2026-01-01T00:00:09.000000+00:00"))
    ledger.finish(replace(outcome("20260101-000000-ffffffff"), status=Status.OFFICIAL, artifacts=(), phases=()))
    ledger.begin(started("20260101-000000-fffffffe", at="2026-01-01T00:00:08.000000+00:00"))


def _fits(record: BuildRecord, status: str | None, failure_class: str | None) -> bool:
    which = record.failure and record.failure.failure_class.value
    return status in (None, record.status) and failure_class in (None, which)


def test_all_filters_together_find_what_fits_newest_first(fresh_state: StateDirs) -> None:
    with Ledger.open(fresh_state) as ledger:
        fill(ledger)
        everything = ledger.recent(limit=None, details=True)
        assert len(everything) == 22
        assert sorted(everything, key=lambda r: (r.started_at, r.build_id), reverse=True) == everything
        for limit, target, status, name, which, start in itertools.product(
            (None, 3), (None, BOOKWORM), (None, *STATUSES), (None, "idna"), (None, "oom", "cancelled"), (0, 9)
        ):
            asked: dict[str, Any] = {"limit": limit, "status": status, "name": name, "failure_class": which}
            asked |= {"target": target and str(target)}
            if start:
                asked["before"] = (everything[start - 1].started_at, everything[start - 1].build_id)
            fitting = [
                record
                for record in everything[start:]
                if _fits(record, status, which) and name in (None, record.name) and target in (None, record.target)
            ]
            assert ledger.recent(details=True, **asked) == fitting[:limit], asked
            plain = [replace(record, phases=(), artifacts=(), notes=()) for record in fitting[:limit]]
            assert ledger.recent(**asked) == plain, asked
    assert {record.status for record in everything} == set(STATUSES)
    assert len(everything[-1].artifacts) == 2
    assert CANCELLED in STATUSES


def test_an_error_takes_back_the_whole_step(fresh_state: StateDirs) -> None:
    with Ledger.open(fresh_state) as ledger:
        with pytest.raises(LedgerError, match="lost the build"):
            ledger.finish(outcome("20260101-000000-00000000"))
        ledger.begin(started("20260101-000000-00000000"))
        with pytest.raises(LedgerError, match=r"UNIQUE|unique"):
            ledger.begin(started("20260101-000000-00000000"))
        twice = outcome("20260101-000000-00000000")
        with pytest.raises(LedgerError, match=r"UNIQUE|unique"):
            ledger.finish(replace(twice, artifacts=twice.artifacts * 2))
        assert ledger.find("20260101-000000-00000000").status == "running"


def test_a_build_from_elsewhere_is_recorded_once(fresh_state: StateDirs) -> None:
    build = started("abcd00000001")
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(build)
        ledger.phase(build.build_id, phase(Phase.RESOLVE))
        facts = {"backend": "lxc", "request": {"requirement": "idna"}, "limits_in_force": {}}
        assert ledger.record(build, outcome(build.build_id), facts)
        assert not ledger.record(build, replace(outcome(build.build_id), notes=()), {})
        found = ledger.find("abcd")
        with pytest.raises(AssertionError):
            ledger.record(started("b2"), outcome("b2"), {"status = 'built' --": 1})
    assert found.outcome() == outcome(build.build_id)
    assert found.backend == "lxc"
    assert found.ended_at == "2026-01-02T03:04:06.500000+00:00"


def settled(state: StateDirs, part: str) -> BuildRecord:
    """A build whose owner is gone, when that is known: a server needs a moment to see the end of a connection."""
    for _turn in range(100):
        with Ledger.open(state) as ledger:
            found = ledger.find(part)
        if found.status != RUNNING:
            break
        time.sleep(0.05)
    return found


def test_a_build_whose_process_was_killed_becomes_cancelled(fresh_state: StateDirs) -> None:
    script = textwrap.dedent("""
        import sys, signal
        from lxcbuild.state.paths import StateDirs
        from lxcbuild.ledger.records import NewBuild
        from lxcbuild.ledger.store import Ledger
        from lxcbuild.model import *
        ledger = Ledger.open(StateDirs.choose(sys.argv[1]))
        ledger.begin(NewBuild(build_id="abcd00000001", name="x", target=Target("debian", "sid"), policy="default"))
        ledger.phase("abcd00000001", PhaseRecord(phase=Phase.RESOLVE, started_at="2026-01-01", usage=Usage()))
        print("begun", flush=True)
        signal.pause()
    """)
    root = fresh_state.lib.parent
    with subprocess.Popen([sys.executable, "-c", script, root], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        with Ledger.open(fresh_state) as ledger:
            assert ledger.find("abcd").status == "running", "its owner is alive"
        child.send_signal(signal.SIGKILL)
    found = settled(fresh_state, "abcd")
    with Ledger.open(fresh_state) as ledger:
        assert found.status == "cancelled"
        assert found.failure is not None
        assert (found.failure.failure_class, found.failure.phase) == (FailureClass.CANCELLED, Phase.FETCH)
        assert [record.build_id for record in ledger.recent(status="cancelled")] == ["abcd00000001"]
        assert ledger.recent(status="failed") == []
    assert list(fresh_state.locks.glob("owner-*")) == []


def test_closing_keeps_the_ownership_files_clean(fresh_state: StateDirs) -> None:
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(started("abcd00000001"))
        assert len(list(fresh_state.locks.glob("owner-*"))) == 1
        ledger.finish(outcome("abcd00000001"))
    assert list(fresh_state.locks.glob("owner-*")) == []


@pytest.mark.attack(number=49)
def test_hostile_text_is_stored_harmlessly(fresh_state: StateDirs) -> None:
    nasty = "x'); DROP TABLE build; --\0\udcff\x1b[31m%s%(a)s?"
    why = Failure(failure_class=FailureClass.COMPILE_FAILED, phase=Phase.COMPILE, brief=nasty, details="a" * 10_000_000)
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(started("abcd00000001", name=nasty))
        ledger.finish(replace(outcome("abcd00000001", why), notes=(nasty,), limits_in_force={nasty: {1, 2}}))
        found = ledger.find("abcd")
    assert found.failure is not None
    assert found.failure.brief.startswith("x'); DROP TABLE build; --")
    assert found.failure.details is not None
    assert len(found.failure.details) == 64 * 1024
    assert list(found.limits_in_force.values()) == [[1, 2]]


def _open_and_begin(root: str, number: int) -> None:
    with Ledger.open(StateDirs.choose(root)) as ledger:
        for turn in range(10):
            build_id = f"{number:06x}{turn:06x}"
            ledger.begin(started(build_id))
            ledger.phase(build_id, phase(Phase.RESOLVE))
            ledger.finish(outcome(build_id))


def test_many_processes_may_open_an_empty_ledger_at_once_and_write(fresh_state: StateDirs) -> None:
    context = multiprocessing.get_context("spawn")
    root = os.fspath(fresh_state.lib.parent)
    children = [context.Process(target=_open_and_begin, args=(root, number)) for number in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 6
    with Ledger.open(fresh_state) as ledger:
        found = ledger.recent(limit=None, status="built", details=True)
    assert len(found) == 60
    assert all(len(record.phases) == 2 for record in found)


def load(state: StateDirs, revision: str) -> None:
    """Make the ledger that released code left behind with that schema."""
    if state.ledger_url is None:
        state.lib.mkdir(parents=True)
        with contextlib.closing(sqlite3.connect(state.ledger)) as connection, connection:
            connection.executescript((RELEASED / f"sqlite-{revision}.sql").read_text())
        connection.close()
        return
    import psycopg

    with psycopg.connect(state.ledger_url, autocommit=True) as server:
        server.execute((RELEASED / f"postgresql-{revision}.sql").read_bytes())


_SHAPES = {
    "sqlite": [
        (
            'SELECT m.name, c.name AS part, c.type, c."notnull", c.dflt_value, c.pk FROM sqlite_master m'
            " JOIN pragma_table_info(m.name) c WHERE m.type = 'table' ORDER BY 1, 2"
        ),
        (
            "SELECT m.name, m.tbl_name, i.seqno, i.name AS part FROM sqlite_master m JOIN pragma_index_info(m.name) i"
            " WHERE m.type = 'index' ORDER BY 1, 3"
        ),
        (
            'SELECT m.name, f."table", f."from", f."to", f.on_delete FROM sqlite_master m'
            " JOIN pragma_foreign_key_list(m.name) f ORDER BY 1"
        ),
    ],
    "postgresql": [
        (
            "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default"
            " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
        ),
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1",
    ],
}


def shape(state: StateDirs) -> list[list[dict[str, Any]]]:
    """All tables, columns, indexes and constraints, as the database describes them."""
    with Ledger.open(state) as ledger, ledger._database.reading() as transaction:
        return [[dict(row) for row in transaction.select(query)] for query in _SHAPES[ledger._database.kind]]


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
def test_ledgers_of_every_released_schema_are_migrated_and_used(fresh_state: StateDirs, revision: str) -> None:
    load(fresh_state, revision)
    with Ledger.open(fresh_state) as ledger:
        assert ledger.find("abcd01").name == "six"
        assert ledger.find("nohyph").name == "idna"
        with ledger._database.reading() as transaction:
            words = {row["id"]: row["word"] for row in transaction.select("SELECT id, word FROM build")}
        assert words == {build_id: build_id.rpartition("-")[2] for build_id in words}
        assert [record.name for record in ledger.recent(target="debian/bookworm", status="built")][-1] == "six"
        fill(ledger)
        assert len(ledger.recent(limit=None)) == 25


def test_a_released_ledger_has_the_tables_of_a_new_one(fresh_state: StateDirs, tmp_path: Path) -> None:
    made = shape(fresh_state)
    assert len(made[0]) > 40
    assert len(made[1]) > 10
    assert len(made[2]) >= 3
    for revision in ("0001", "0002", "0003"):
        assert shape(released(fresh_state, tmp_path / revision, revision)) == made


def released(like: StateDirs, root: Path, revision: str) -> StateDirs:
    """Another state directory with a released ledger, on the same kind of database."""
    state = StateDirs.choose(root)
    if like.ledger_url is not None:
        import psycopg

        name = f"r{revision}"
        with psycopg.connect(like.ledger_url, autocommit=True) as server:
            server.execute(f"DROP DATABASE IF EXISTS {name}".encode())
            server.execute(f"CREATE DATABASE {name}".encode())
        base, _, where = like.ledger_url.partition("?")
        state = StateDirs(state.lib, state.cache, state.run, f"{base.rpartition('/')[0]}/{name}?{where}")
    load(state, revision)
    return state


def test_what_released_code_recorded_is_read_as_it_was(fresh_state: StateDirs) -> None:
    load(fresh_state, "0003")
    with Ledger.open(fresh_state) as ledger:
        built, running, failed = (ledger.find(part) for part in ("abcd0123", "nohyphen", "20260101-010204"))
    usage = Usage(wall_s=1.5, cpu_s=0.5, peak_memory_bytes=2**33, oom_kills=1)
    phases = [PhaseRecord(phase=which, started_at="2026-01-02T03:04:05+00:00", usage=usage) for which in Phase][:2]
    assert built.outcome() == replace(
        outcome("20260101-010203-abcd0123"),
        name="six",
        version="1.17.0",
        target=replace(BOOKWORM, architecture="amd64"),
        artifacts=(Artifact(path=Path("/out/six.deb"), sha256="0" * 64, size_bytes=2**40),),
        phases=tuple(phases),
        notes=("a bound was dropped", "'; DROP TABLE build; --"),
    )
    assert (built.backend, built.image_digest, built.host) == ("lxc", "sha256:1", "host")
    assert built.request == {"requirement": "six", "hashes": [["sha256", "\u00e9?"]]}
    assert running.status == CANCELLED, "its owner is gone"
    assert running.failure is not None
    assert running.failure.phase is Phase.FETCH
    assert failed.failure == Failure(
        failure_class=FailureClass.OOM,
        phase=Phase.COMPILE,
        brief="out of memory",
        details="gcc",
        resolution="raise memory.max",
    )
    assert failed.layers is None


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(
    fresh_state: StateDirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in sql.MIGRATIONS.glob("*.sql"):
        shutil.copy(file, tmp_path)
    before = shape(fresh_state)
    (tmp_path / "0004_broken.sql").write_text(
        "ALTER TABLE build ADD COLUMN new TEXT;\n\nALTER TABLE nothing ADD x TEXT;\n"
    )
    with monkeypatch.context() as patched:
        patched.setattr(sql, "MIGRATIONS", tmp_path)
        with pytest.raises(LedgerError, match="nothing"):
            Ledger.open(fresh_state)
    assert shape(fresh_state) == before


def test_builds_on_a_file_load_no_client_of_servers(fresh_state: StateDirs) -> None:
    script = (
        "import sys, lxcbuild.cli.verbs.build, lxcbuild.builder.family, lxcbuild.cli.build_context;"
        "from lxcbuild.ledger.store import Ledger; from lxcbuild.state.paths import StateDirs;"
        "Ledger.open(StateDirs.choose(sys.argv[1])).close();"
        "print({'psycopg', 'sqlalchemy', 'alembic'} & {*sys.modules})"
    )
    root = fresh_state.lib.parent
    done = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_ledger_of_a_newer_lxcbuild_is_refused(fresh_state: StateDirs) -> None:
    Ledger.open(fresh_state).close()
    with contextlib.closing(sqlite3.connect(fresh_state.ledger)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(LedgerError, match="newer lxcbuild"):
        Ledger.open(fresh_state)


@pytest.mark.parametrize("damage", [b"this is no database " * 1000, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_ledger_says_what_to_do(fresh_state: StateDirs, damage: bytes) -> None:
    fresh_state.lib.mkdir(parents=True)
    fresh_state.ledger.write_bytes(damage)
    with pytest.raises(LedgerError, match="is damaged") as caught:
        Ledger.open(fresh_state)
    assert "mv " in str(caught.value.resolution)


QUESTIONS = {
    "build_started_at": {},
    "build_name": {"name": "x", "target": "x", "status": "failed", "failure_class": "oom"},
    "build_target": {"target": "x"},
    "build_status": {"status": "built"},
    "build_failure_class": {"failure_class": "oom", "status": "failed"},
    "build_target_status": {"target": "x", "status": "failed"},
    "build_target_class": {"target": "x", "failure_class": "oom", "status": "failed"},
}


@pytest.mark.parametrize("before", [None, ("2026-01-01", "x")])
@pytest.mark.parametrize("index", QUESTIONS)
def test_questions_of_a_large_ledger_use_indexes(
    fresh_state: StateDirs, index: str, before: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[str] = []
    select = Transaction.select

    def explained(self: Transaction, query: str, values: Sequence[object] = ()) -> Sequence[Row]:
        plans.append(str([tuple(row) for row in select(self, f"EXPLAIN QUERY PLAN {query}", values)]))
        return select(self, query, values)

    with Ledger.open(fresh_state) as ledger:
        monkeypatch.setattr(Transaction, "select", explained)
        ledger.recent(limit=20, before=before, **QUESTIONS[index])  # type: ignore[arg-type]
    assert len(plans) == 1
    assert f"USING INDEX {index} (" in plans[0] or f"USING INDEX {index}'" in plans[0], plans
