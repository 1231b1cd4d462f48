"""Many questions to the index at once, and none of them twice: for plans of many projects."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from packaging.utils import canonicalize_name

from lxcbuild.errors import LxcbuildError
from lxcbuild.pypi.files.download import DEFAULT_MAX_BYTES
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.pypi.index.config import PipConfig, load_pip_config
from lxcbuild.pypi.index.model import IndexFile
from lxcbuild.state.paths import StateDirs

#: Connections at once: what a browser would open, which no index takes for an attack.
DEFAULT_THREADS = 12

Thing = TypeVar("Thing")
Result = TypeVar("Result")


class CrowdClient:
    """Answers as :class:`IndexClient` does, from any thread; every page and file is asked for once. A context manager."""

    def __init__(self, dirs: StateDirs, *, threads: int = DEFAULT_THREADS, config: PipConfig | None = None) -> None:
        self._dirs = dirs
        self._config = config if config is not None else load_pip_config()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="index")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._clients: list[IndexClient] = []
        self._pages: dict[str, Future[tuple[IndexFile, ...]]] = {}
        self._files: dict[str, Future[Path]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for client in self._clients:
            client.close()

    def files(self, name: str) -> tuple[IndexFile, ...]:
        """See :meth:`IndexClient.files`."""
        found: tuple[IndexFile, ...] = self._once(
            self._pages, canonicalize_name(name), lambda: self._client().files(name)
        )
        return found

    def fetch(self, file: IndexFile, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Path:
        """See :meth:`IndexClient.fetch`."""
        found: Path = self._once(self._files, file.url, lambda: self._client().fetch(file, max_bytes=max_bytes))
        return found

    def each(self, doing: Callable[[Thing], Result], things: Iterable[Thing]) -> list[Result | LxcbuildError]:
        """Do something for each of them side by side; errors of ours are results."""

        def careful(thing: Thing) -> Result | LxcbuildError:
            try:
                return doing(thing)
            except LxcbuildError as error:
                return error

        return list(self._pool.map(careful, things))

    def _once(self, known: dict[str, Future[Any]], key: str, ask: Callable[[], Any]) -> Any:
        with self._lock:
            future = known.get(key)
            mine = future is None
            if future is None:
                future = known[key] = Future()
        if mine:
            try:
                future.set_result(ask())
            except BaseException as error:  # noqa: BLE001 - whoever asks gets it
                future.set_exception(error)
        return future.result()

    def _client(self) -> IndexClient:
        client: IndexClient | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = IndexClient(self._dirs, config=self._config)
            with self._lock:
                self._clients.append(client)
        return client
