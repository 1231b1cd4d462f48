"""The ledger: what goes in comes out, dead owners are settled, old schemas migrate, hostile text does no harm."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from lxcbuild.errors import LedgerError, UnknownBuildError
from lxcbuild.ledger import questions, schema, sql
from lxcbuild.ledger.records import NewBuild
from lxcbuild.ledger.revision import HEAD
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Artifact, Failure, FailureClass, LayerUse, Outcome, Phase, PhaseRecord, Status, Target, Usage
from lxcbuild.state.paths import StateDirs

BOOKWORM = Target("debian", "bookworm")


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
    with Ledger.open(fresh_state) as ledger:
        found = ledger.find("abcd")
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


def test_hostile_text_is_stored_harmlessly(fresh_state: StateDirs) -> None:
    nasty = "x'); DROP TABLE build; --\0\udcff\x1b[31m"
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
        ledger.begin(started(f"{number:012x}"))
        ledger.finish(replace(outcome(f"{number:012x}"), artifacts=()))


def test_many_processes_may_open_an_empty_ledger_at_once(fresh_state: StateDirs) -> None:
    context = multiprocessing.get_context("spawn")
    root = os.fspath(fresh_state.lib.parent)
    children = [context.Process(target=_open_and_begin, args=(root, number)) for number in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 6
    with Ledger.open(fresh_state) as ledger:
        assert len(ledger.recent(status="built")) == 6


def test_migrations_lead_from_nothing_to_the_tables_of_the_code(fresh_state: StateDirs) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    Ledger.open(fresh_state).close()
    config = Config()
    config.set_main_option("script_location", "lxcbuild:ledger/migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]
    engine = sa.create_engine(f"sqlite:///{fresh_state.ledger}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()


def check_migration_from(revision: str, engine: sa.Engine, state: StateDirs) -> None:
    """Make the schema of that revision, put a build in, and let the ledger find it after its own migration."""
    from alembic import command
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext

    config = Config()
    config.set_main_option("script_location", "lxcbuild:ledger/migrations")
    with sql.writing(engine, "x") as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        old = sa.Table("build", sa.MetaData(), autoload_with=connection)
        text = {column.name: "" for column in old.columns if not column.nullable}
        given = {"id": "20260101-010203-abcd0123", "target": "debian/bookworm", "architecture": "amd64", "name": "six"}
        fixed = {"limits_in_force": {}, "request": {}, "status": "built", "started_at": "2026-01-01T00:00:00+00:00"}
        connection.execute(sa.insert(old), [{**text, **given, **fixed}])
    with Ledger.open(state) as ledger:
        assert ledger.find("abcd01").name == "six"
        assert ledger.find("20260101-0102").version == ""
    with engine.connect() as connection:
        skipped = {"build_id_bytes", "build_word_bytes"}  # of expressions, on one of the databases only
        context = MigrationContext.configure(
            connection, opts={"include_name": lambda name, kind, _parents: not (kind == "index" and name in skipped)}
        )
        assert compare_metadata(context, schema.metadata) == []


def test_migrations_lead_from_every_released_schema(fresh_state: StateDirs) -> None:
    fresh_state.lib.mkdir(parents=True)
    engine = sql.connect(fresh_state.ledger)
    check_migration_from("0001", engine, fresh_state)
    engine.dispose()


def test_a_second_opening_needs_no_alembic(fresh_state: StateDirs) -> None:
    Ledger.open(fresh_state).close()
    script = (
        "import sys; from lxcbuild.ledger.store import Ledger; from lxcbuild.state.paths import StateDirs;"
        "Ledger.open(StateDirs.choose(sys.argv[1])).close(); print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, fresh_state.lib.parent], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_a_ledger_of_a_newer_lxcbuild_is_refused(fresh_state: StateDirs) -> None:
    Ledger.open(fresh_state).close()
    with sqlite3.connect(fresh_state.ledger) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(LedgerError, match="newer lxcbuild"):
        Ledger.open(fresh_state)


def test_a_damaged_ledger_says_what_to_do(fresh_state: StateDirs) -> None:
    fresh_state.lib.mkdir(parents=True)
    fresh_state.ledger.write_bytes(b"this is no database " * 1000)
    with pytest.raises(LedgerError, match="damaged") as caught:
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
    fresh_state: StateDirs, index: str, before: tuple[str, str] | None
) -> None:
    Ledger.open(fresh_state).close()
    engine = sql.connect(fresh_state.ledger)
    query = questions.recent(limit=20, before=before, **QUESTIONS[index])  # type: ignore[arg-type]
    text = str(query.compile(engine, compile_kwargs={"literal_binds": True}))
    with engine.connect() as connection:
        plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all())
    engine.dispose()
    assert f"USING INDEX {index} (" in plan or f"USING INDEX {index}'" in plan, plan
