"""The ledger on a real PostgreSQL server: what holds for the file holds there, and heads of different machines judge each other."""

from __future__ import annotations

import json
import secrets
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcbuild.errors import LedgerError
from lxcbuild.ledger.store import Ledger
from lxcbuild.state.paths import StateDirs
from tests.support import postgres
from tests.support.command import argv

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'lxcbuild[postgresql]'")
if postgres.programs() is None:
    pytest.skip("there is no PostgreSQL server here: apt-get install postgresql", allow_module_level=True)

from tests.unit.ledger.test_ledger import (  # noqa: E402, F401 - the same tests, with the fixture below
    outcome,
    settled,
    started,
    test_a_build_comes_back_as_it_was_recorded,
    test_a_build_from_elsewhere_is_recorded_once,
    test_a_build_whose_process_was_killed_becomes_cancelled,
    test_a_failure_comes_back_with_its_class_and_advice,
    test_a_migration_that_fails_leaves_the_ledger_as_it_was,
    test_a_released_ledger_has_the_tables_of_a_new_one,
    test_all_filters_together_find_what_fits_newest_first,
    test_an_error_takes_back_the_whole_step,
    test_hostile_text_is_stored_harmlessly,
    test_ledgers_of_every_released_schema_are_migrated_and_used,
    test_many_processes_may_open_an_empty_ledger_at_once_and_write,
    test_prefixes_must_be_unique_and_ids_well_formed,
    test_recent_filters_and_sorts,
    test_what_released_code_recorded_is_read_as_it_was,
)


@pytest.fixture(scope="module")
def running_server() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture
def fresh_state(running_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDirs:
    """An empty state directory and an empty database; children find it by the environment."""
    name = f"t{secrets.token_hex(6)}"
    with psycopg.connect(running_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    monkeypatch.setenv("LXCBUILD_LEDGER", running_server.replace("/postgres?", f"/{name}?"))
    return StateDirs.choose(tmp_path / "state")


def test_a_head_elsewhere_that_runs_is_left_alone(fresh_state: StateDirs, tmp_path: Path) -> None:
    elsewhere = StateDirs.choose(tmp_path / "another machine")
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(started("abcd00000001"))
        with Ledger.open(elsewhere) as other:
            assert other.find("abcd").status == "running"
    assert settled(elsewhere, "abcd").status == "cancelled", "the lock went with the connection"


def test_what_happened_to_the_server_is_said_without_the_password(fresh_state: StateDirs) -> None:
    for url in ("postgresql://me:secret@127.0.0.1:1/x", "mysql://me:secret@h/x", "://", "postgresql://me:secret@h:x/y",
                "postgresql://me:secret%zz@h/y", "postgresql://h/y?user=me&password=secret&port=1"):  # fmt: skip
        with pytest.raises(LedgerError) as caught:
            Ledger.open(StateDirs(fresh_state.lib, fresh_state.cache, fresh_state.run, url))
        assert "secret" not in f"{caught.value} {caught.value.details} {caught.value.resolution}"
        assert caught.value.resolution


def test_a_connection_that_the_server_ended_is_made_again(fresh_state: StateDirs) -> None:
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(started("abcd00000001"))
        with psycopg.connect(fresh_state.ledger_url, autocommit=True) as connection:
            others = "FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname = current_database()"
            connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
        ledger.finish(outcome("abcd00000001"))
        assert ledger.find("abcd").status == "built"


def test_a_transaction_whose_connection_breaks_is_an_error_of_the_ledger(fresh_state: StateDirs) -> None:
    with Ledger.open(fresh_state) as ledger:
        with pytest.raises(LedgerError, match="failed"), ledger._database.writing() as transaction:
            transaction.select("SELECT pg_terminate_backend(pg_backend_pid())")
        assert ledger.recent() == []


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


def test_the_verbs_take_the_server_by_option(fresh_state: StateDirs, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(started("20260101-010203-abcd"))
        ledger.finish(outcome("20260101-010203-abcd"))
    monkeypatch.delenv("LXCBUILD_LEDGER")
    without = subprocess.run(argv(fresh_state, "history", "--json"), capture_output=True, text=True, check=True)
    assert json.loads(without.stdout)["builds"] == []
    given = subprocess.run(
        argv(fresh_state, "--ledger", str(fresh_state.ledger_url), "history"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "20260101-010203-abcd" in given.stdout
    assert not fresh_state.ledger.exists()
