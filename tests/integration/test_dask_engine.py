"""The Dask engine with a real scheduler and real workers, each a process: work, refusals, deaths and restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from lxcbuild.errors import DiskFullError, FarmError, InputError, WorkerLostError
from lxcbuild.events import Note
from lxcbuild.farm.certificates import make_certificates
from lxcbuild.farm.engines.dask import DaskEngine
from lxcbuild.farm.engines.membership import checked_address
from tests.integration.farms import Farm, wait_for


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    made = Farm(tmp_path, make_certificates(tmp_path / "certificates"))
    made.start_scheduler()
    yield made
    made.end()


def names(engine: DaskEngine) -> set[str]:
    return {worker.name for worker in engine.workers()}


def test_jobs_run_where_the_head_says_and_tell_what_happens(farm: Farm) -> None:
    for name in ("one", "two"):
        farm.start_worker(name)
    with farm.engine() as engine:
        wait_for(lambda: names(engine) == {"one", "two"})
        assert {info.images["debian/bookworm"] for info in engine.workers()} == {"a" * 64}
        futures = {
            (name, number): engine.submit(farm.job(f"sleep 0.{number}"), worker=name)
            for number in (1, 2)
            for name in ("one", "two")
        }
        for (name, number), future in futures.items():
            result = future.result(timeout=30)
            assert (result.worker, result.key) == (name, f"sleep 0.{number}")
        wait_for(lambda: len(farm.told.events) == 4)
        assert {event.worker for event in farm.told.events} == {"one", "two"}
        assert {type(event.event) for event in farm.told.events} == {Note}


def test_what_a_job_raises_comes_back_as_it_was(farm: Farm) -> None:
    farm.start_worker("one")
    with farm.engine() as engine:
        wait_for(lambda: names(engine))
        with pytest.raises(DiskFullError) as caught:
            engine.submit(farm.job("fail"), worker="one").result(timeout=30)
        assert (caught.value.details, caught.value.resolution) == ("on the worker", "make some")


def test_large_things_do_not_go_through_the_scheduler(farm: Farm) -> None:
    farm.start_worker("one")
    with farm.engine() as engine:
        wait_for(lambda: names(engine))
        with pytest.raises(AssertionError, match="something large"):
            engine.submit(farm.job("x" * 600_000), worker="one")
        with pytest.raises(AssertionError, match=r"takes 600\d{3} bytes"):
            engine.submit(farm.job("large 600000"), worker="one").result(timeout=30)
        assert engine.submit(farm.job("large 1000"), worker="one").result(timeout=30).key == "x" * 1000


def test_a_worker_with_other_code_is_refused_with_the_reason(farm: Farm) -> None:
    farm.start_worker("old", code="0+other")
    farm.start_worker("one")
    with farm.engine() as engine:
        wait_for(lambda: names(engine) == {"one"})
        wait_for(lambda: farm.told.texts)
        assert farm.told.texts == ["worker old is refused: it has lxcbuild 0+other, and this machine has 1+test"]
        assert isinstance(engine.submit(farm.job("sleep 0"), worker="never").exception(timeout=5), WorkerLostError)


def test_a_farm_in_which_nobody_may_work_says_why_and_ends(farm: Farm) -> None:
    farm.start_worker("old", code="0+other")
    with farm.engine() as engine:
        wait_for(lambda: farm.told.texts)
        engine._settings = replace(engine._settings, patience_s=0.5)

        def given_up() -> bool:
            try:
                engine.workers()
            except FarmError as error:
                return "worker old: it has lxcbuild 0+other" in (error.details or "")
            return False

        wait_for(given_up)


def test_a_killed_worker_gives_its_jobs_back(farm: Farm) -> None:
    for name in ("one", "two"):
        farm.start_worker(name)
    with farm.engine() as engine:
        wait_for(lambda: names(engine) == {"one", "two"})
        lost = engine.submit(farm.job("sleep 60"), worker="one")
        kept = engine.submit(farm.job("sleep 2"), worker="two")
        wait_for(lambda: sorted(farm.begun) == ["sleep 2", "sleep 60"])
        farm.kill("one")
        assert isinstance(lost.exception(timeout=20), WorkerLostError)
        assert kept.result(timeout=20).worker == "two"
        assert names(engine) == {"two"}
        again = engine.submit(farm.job("sleep 0.1", attempt=2), worker="two")
        assert again.result(timeout=20).attempt == 2
        farm.start_worker("one")
        wait_for(lambda: names(engine) == {"one", "two"})
        assert engine.submit(farm.job("sleep 0.2"), worker="one").result(timeout=20).worker == "one"


def test_a_scheduler_that_is_killed_and_started_again_gets_everybody_back(farm: Farm) -> None:
    farm.start_worker("one")
    with farm.engine() as engine:
        wait_for(lambda: names(engine))
        lost = engine.submit(farm.job("sleep 60"), worker="one")
        wait_for(lambda: farm.begun)
        farm.kill("scheduler")
        assert isinstance(lost.exception(timeout=20), WorkerLostError)
        assert engine.workers() == ()
        assert isinstance(engine.submit(farm.job("sleep 0"), worker="one").exception(timeout=5), WorkerLostError)
        farm.start_scheduler()
        wait_for(lambda: names(engine) == {"one"})
        assert engine.submit(farm.job("sleep 0.1"), worker="one").result(timeout=20).worker == "one"
        wait_for(lambda: "sleep 0.1" in {event.key for event in farm.told.events})  # events are heard again, too
        assert any("is away" in text for text in farm.told.texts)


def test_a_scheduler_that_stays_away_ends_the_run_and_says_how_to_go_on(farm: Farm) -> None:
    farm.start_worker("one")
    with farm.engine() as engine:
        wait_for(lambda: names(engine))
        engine._settings = replace(engine._settings, patience_s=0.5)
        farm.kill("scheduler")

        def given_up() -> bool:
            try:
                engine.workers()
            except FarmError as error:
                return "--resume" in (error.resolution or "")
            return False

        wait_for(given_up)


def test_stopping_ends_jobs_on_their_workers(farm: Farm) -> None:
    farm.start_worker("one")
    with farm.engine() as engine:
        wait_for(lambda: names(engine))
        running = engine.submit(farm.job("sleep 600"), worker="one")
        wait_for(lambda: farm.begun)
        engine.stop()
        assert running.cancelled()
    farm.processes["one"].terminate()
    assert farm.processes["one"].wait(timeout=20) == 0


def test_loopback_needs_no_certificates(tmp_path: Path) -> None:
    farm = Farm(tmp_path)
    farm.start_scheduler()
    try:
        farm.start_worker("one")
        with farm.engine() as engine:
            wait_for(lambda: names(engine))
            assert engine.submit(farm.job("sleep 0"), worker="one").result(timeout=20).worker == "one"
    finally:
        farm.end()


def test_no_scheduler_is_an_error_that_says_what_to_start(tmp_path: Path) -> None:
    nobody = Farm(tmp_path, port=1)
    with pytest.raises(FarmError, match="cannot be reached") as caught:
        nobody.engine()
    assert "lxcbuild farm scheduler" in (caught.value.resolution or "")


def test_strangers_do_not_get_in(tmp_path: Path) -> None:
    farm = Farm(tmp_path, make_certificates(tmp_path / "ours"))
    farm.start_scheduler()
    try:
        stranger = Farm(tmp_path, make_certificates(tmp_path / "theirs"), port=farm.port)
        with pytest.raises(FarmError, match="cannot be reached"):
            stranger.engine()
    finally:
        farm.end()


def test_only_loopback_may_be_spoken_to_without_tls(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "certificates")
    assert checked_address("head:8786", made, insecure=False) == "tls://head:8786"
    assert checked_address("127.0.0.1:8786", None, insecure=False) == "tcp://127.0.0.1:8786"
    assert checked_address("tcp://[::1]:8786", None, insecure=False) == "tcp://[::1]:8786"
    assert checked_address("tcp://head:8786", None, insecure=True) == "tcp://head:8786"
    for address, known in (
        ("tcp://head:8786", made),
        ("10.0.0.1:8786", None),
        ("tls://head:1", None),
        ("ftp://x:1", made),
    ):
        with pytest.raises(InputError):
            checked_address(address, known, insecure=False)
