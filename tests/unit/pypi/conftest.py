"""Fixtures of the tests that ask an index: one on a loopback port, in each of the two styles of its pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.state.paths import StateDirs
from tests.support.index_clients import Recorder, make_client
from tests.support.index_server import Index, serve


@pytest.fixture(params=["json", "html"])
def index(request: pytest.FixtureRequest) -> Iterator[Index]:
    with serve() as server:
        server.speaks_json = request.param == "json"
        yield server


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


@pytest.fixture
def client(index: Index, fresh_state: StateDirs, seen: Recorder) -> Iterator[IndexClient]:
    with make_client(index, fresh_state, seen) as made:
        yield made
