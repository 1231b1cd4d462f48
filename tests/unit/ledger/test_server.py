"""The ledger on a real PostgreSQL server: what holds for the file holds there, and heads of different machines judge each other."""

from __future__ import annotations

import secrets
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from lxcbuild.errors import LedgerError
from lxcbuild.ledger import sql
from lxcbuild.ledger.revision import HEAD
from lxcbuild.ledger.store import Ledger
from lxcbuild.state.paths import StateDirs
from tests.support import postgres
from tests.support.command import argv

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'lxcbuild[postgresql]'")
if postgres.programs() is None:
    pytest.skip("there is no PostgreSQL server here: apt-get install postgresql", allow_module_level=True)

from tests.unit.ledger.test_ledger import (  # noqa: F401 - the same tests, with the fixture below
    outcome,
    started,
    test_a_build_comes_back_as_it_was_recorded,
    test_a_build_whose_process_was_killed_becomes_cancelled,
    test_a_failure_comes_back_with_its_class_and_advice,
    test_a_second_opening_needs_no_alembic,
    test_hostile_text_is_stored_harmlessly,
    test_many_processes_may_open_an_empty_ledger_at_once,
    test_prefixes_must_be_unique_and_ids_well_formed,
    test_recent_filters_and_sorts,
)


@pytest.fixture(scope="module")
def running_server() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture
def fresh_state(running_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDirs:
    """An empty state directory and an empty database; children find it by the environment."""
    name = f"t{secrets.token_hex(6)}"
    engine = sql.connect_url(running_server)
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    monkeypatch.setenv("LXCBUILD_LEDGER", running_server.replace("/postgres?", f"/{name}?"))
    return StateDirs.choose(tmp_path / "state")


def test_a_head_elsewhere_that_runs_is_left_alone(fresh_state: StateDirs, tmp_path: Path) -> None:
    elsewhere = StateDirs.choose(tmp_path / "another machine")
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(started("abcd00000001"))
        with Ledger.open(elsewhere) as other:
            assert other.find("abcd").status == "running"
    with Ledger.open(elsewhere) as other:
        assert other.find("abcd").status == "cancelled", "the lock went with the connection"


def test_what_happened_to_the_server_is_said_without_the_password(fresh_state: StateDirs) -> None:
    for url in ("postgresql://me:secret@127.0.0.1:1/x", "mysql://me:secret@h/x", "://", "postgresql://me:secret@h:x/y"):
        with pytest.raises(LedgerError) as caught:
            Ledger.open(StateDirs(fresh_state.lib, fresh_state.cache, fresh_state.run, url))
        assert "secret" not in f"{caught.value} {caught.value.details} {caught.value.resolution}"
        assert caught.value.resolution


def test_migrations_lead_from_every_released_schema_to_the_tables_of_the_code(fresh_state: StateDirs) -> None:
    from tests.unit.ledger.test_ledger import check_migration_from

    assert fresh_state.ledger_url is not None
    for revision in ("0001",):
        engine = sql.connect_url(fresh_state.ledger_url)
        check_migration_from(revision, engine, fresh_state)
        with engine.connect() as connection:
            indexes = {index["name"] for index in sa.inspect(connection).get_indexes("build")}
        engine.dispose()
        assert {"build_id_bytes", "build_word_bytes"} <= indexes


def test_writers_of_one_server_do_not_wait_for_each_other(fresh_state: StateDirs) -> None:
    def work(number: int) -> None:
        with Ledger.open(fresh_state) as ledger:
            for turn in range(10):
                ledger.begin(started(f"{number:06x}{turn:06x}"))
                ledger.finish(outcome(f"{number:06x}{turn:06x}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Ledger.open(fresh_state) as ledger:
        assert len(ledger.recent(limit=None, status="built")) == 40
        assert HEAD == "0003"


def test_the_verbs_take_the_server_by_option(fresh_state: StateDirs, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(started("20260101-010203-abcd"))
        ledger.finish(outcome("20260101-010203-abcd"))
    monkeypatch.delenv("LXCBUILD_LEDGER")
    without = subprocess.run(argv(fresh_state, "history"), capture_output=True, text=True, check=True)
    assert "no builds are recorded" in without.stderr
    given = subprocess.run(
        argv(fresh_state, "--ledger", str(fresh_state.ledger_url), "history"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "20260101-010203-abcd" in given.stdout
    assert not fresh_state.ledger.exists()
