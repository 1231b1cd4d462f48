"""Clients of an index on a loopback port, and what they say."""

from __future__ import annotations

import os

from lxcbuild.events import Event, Note
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.pypi.index.config import PipConfig
from lxcbuild.state.paths import StateDirs
from tests.support.index_server import Index

DATA = os.urandom(300_000)


class Recorder:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]


def make_client(index: Index, dirs: StateDirs, seen: Recorder | None = None, **settings: object) -> IndexClient:
    config = PipConfig(indexes=(f"{index.url}/simple/",), timeout_s=5, **settings)  # type: ignore[arg-type]
    return IndexClient(dirs, config=config, monitor=seen, backoff_s=0.01)


def resolve(client: IndexClient, requirement: str, **options: object) -> str:
    return client.resolve(requirement, python_version="3.11", **options).version  # type: ignore[arg-type]
