"""A farm over a network: scheduler and workers in network namespaces of their own, whose cables are pulled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcbuild.errors import WorkerLostError
from lxcbuild.farm.certificates import make_certificates
from tests.integration.farms import Farm, wait_for
from tests.support.farm_networks import Network

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def farm(network: Network, tmp_path: Path) -> Iterator[Farm]:
    made = Farm(tmp_path, make_certificates(tmp_path / "certificates"), host=network.add("scheduler"))
    made.start_scheduler(*network.prefix("scheduler"))
    for name in ("one", "two", "three"):
        network.add(name)
        made.start_worker(name, *network.prefix(name))
    yield made
    made.end()


def test_a_worker_that_is_cut_off_loses_its_job_and_comes_back(farm: Farm, network: Network) -> None:
    with farm.engine() as engine:

        def names() -> set[str]:
            return {worker.name for worker in engine.workers()}

        wait_for(lambda: names() == {"one", "two", "three"})
        before = network.carried_bytes("one")
        lost, kept = (
            engine.submit(farm.job("sleep 300"), worker="one"),
            engine.submit(farm.job("sleep 20"), worker="two"),
        )
        wait_for(lambda: len(farm.begun) == 2)
        assert network.carried_bytes("one") - before < 200_000
        network.cut("one")
        begun = time.monotonic()
        assert isinstance(lost.exception(timeout=60), WorkerLostError)
        assert time.monotonic() - begun < 45
        assert names() == {"two", "three"}
        again = engine.submit(farm.job("sleep 0.1", attempt=2), worker="three")
        assert again.result(timeout=30).worker == "three"
        assert kept.result(timeout=60).worker == "two"
        network.mend("one")
        wait_for(lambda: names() == {"one", "two", "three"}, seconds=90)
        # What it had been given before the cut runs there no more: the head has given it to somebody else.
        assert engine.submit(farm.job("sleep 0.2"), worker="one").result(timeout=30).worker == "one"
