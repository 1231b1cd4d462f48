"""What the scheduler and the workers of a farm run. Dask calls functions of a worker by their names: they are here.

A worker is its own machine's engine (:mod:`lxcbuild.farm.engines.local`) behind a connection. When that breaks, what runs is ended,
because the head has given it to somebody else by then, and the worker looks for the scheduler again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dask
import distributed
from msgspec.structs import replace

from lxcbuild.farm.certificates import Certificates
from lxcbuild.farm.engines.engine import Engine, JobEvent, Listener
from lxcbuild.farm.engines.membership import WorkerMember, checked_address
from lxcbuild.log import Logger

MAX_MESSAGE_BYTES = 512 * 1024
TOPIC = "lxcbuild"
#: Threads of a worker: they only wait, and the head decides how many jobs a worker gets.
_THREADS = 256
_log = Logger()


class _Worker:
    """What this process is while it works; Dask calls functions by their names, so they find it here."""

    member: WorkerMember
    make: Callable[[], Engine]
    engine: Engine | None = None

    @classmethod
    def required(cls) -> Engine:
        if cls.engine is None:
            raise RuntimeError("it was not started by lxcbuild farm worker")
        return cls.engine


def describe() -> bytes:
    """Who this worker is, and what it offers now, which may be nothing."""
    infos = _Worker.required().workers()
    return pickle.dumps((_Worker.member, infos[0] if infos else None))


def perform(data: bytes) -> bytes:
    """Do one job, in a thread of a worker's process."""
    job = pickle.loads(data)  # noqa: S301 - members trust each other
    engine = _Worker.required()
    result = engine.submit(job, worker=engine.name).result()
    message = pickle.dumps(replace(result, worker=str(distributed.get_worker().name)))
    assert len(message) <= MAX_MESSAGE_BYTES, f"the result of {job.key} takes {len(message)} bytes"
    return message


def stop_jobs() -> None:
    """End what runs; the next job finds a new engine."""
    old, _Worker.engine = _Worker.required(), _Worker.make()
    threading.Thread(target=old.close, name="stop").start()


def run_worker(
    address: str,
    member: WorkerMember,
    make_engine: Callable[[Listener], Engine],
    *,
    certificates: Certificates | None = None,
    insecure: bool = False,
    name: str,
    host: str | None = None,
    stop: threading.Event,
) -> None:
    """Work for a scheduler until ``stop``. When the scheduler is lost, drop what runs and look for it again, for ever.

    ``make_engine`` makes what runs the jobs on this machine; it has one worker, of the engine's own name.
    """
    settings = {
        "name": name,
        "host": host,
        "nthreads": _THREADS,
        "memory_limit": 0,  # builds have limits of their own
        "security": security(certificates),
        "dashboard_address": "127.0.0.1:0",
    }
    checked = checked_address(address, certificates, insecure=insecure)
    with _no_pages():
        asyncio.run(_keep_working(checked, settings, member, make_engine, stop))


async def _keep_working(
    address: str,
    settings: Mapping[str, Any],
    member: WorkerMember,
    make_engine: Callable[[Listener], Engine],
    stop: threading.Event,
) -> None:
    while not stop.is_set():
        worker = distributed.Worker(address, **settings)
        loop = asyncio.get_running_loop()

        def tell(event: JobEvent, worker: Any = worker, loop: Any = loop) -> None:
            message = pickle.dumps(replace(event, worker=str(worker.name)))
            loop.call_soon_threadsafe(worker.log_event, TOPIC, message)

        _Worker.member, _Worker.make = member, functools.partial(make_engine, tell)
        _Worker.engine = _Worker.make()
        try:
            await _work(worker, stop)
        finally:
            engine, _Worker.engine = _Worker.engine, None
            await asyncio.to_thread(engine.close)
            await worker.close(nanny=False)


async def _work(worker: Any, stop: threading.Event) -> None:
    """Be a worker until the connection to the scheduler breaks; comes back after a moment when there is none."""
    joining = asyncio.ensure_future(worker)
    while not joining.done() and not stop.is_set():
        await asyncio.wait([joining], timeout=0.2)
    if not joining.done():
        joining.cancel()
        await asyncio.wait([joining])
        return
    if (error := joining.exception()) is not None:
        if not isinstance(error, OSError | TimeoutError):
            raise error
        _log.warning("no scheduler", why=str(error))
        await asyncio.sleep(1.0)
        return
    while worker.status == distributed.Status.running and not stop.is_set():
        await asyncio.sleep(0.2)


# -- the scheduler -----------------------------------------------------------------------------------------------------


def run_scheduler(
    *,
    host: str,
    port: int,
    certificates: Certificates | None = None,
    insecure: bool = False,
    started: Callable[[str], None],
    stop: threading.Event,
) -> None:
    """Be the scheduler of a farm until ``stop``; ``started`` is given its address."""
    scheme = "tls" if certificates is not None else "tcp"
    checked_address(f"{scheme}://{host}:{port}", certificates, insecure=insecure)

    async def serve() -> None:
        async with distributed.Scheduler(
            host=host,
            port=port,
            protocol=scheme,
            security=security(certificates),
            dashboard=False,
            dashboard_address="127.0.0.1:0",
            allowed_failures=0,
        ) as scheduler:
            started(scheduler.address)
            while not stop.is_set():
                await asyncio.sleep(0.2)

    with _no_pages():
        asyncio.run(serve())


@contextlib.contextmanager
def _no_pages() -> Iterator[None]:
    """Nothing over HTTP, which knows no certificates."""
    with dask.config.set({"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}):
        yield


def security(certificates: Certificates | None) -> Any:
    """Dask's own form of the certificates; without them, connections that are not encrypted."""
    if certificates is None:
        return distributed.Security(require_encryption=False)
    files = {"cert": str(certificates.certificate), "key": str(certificates.key)}
    roles: Sequence[str] = ("client", "scheduler", "worker")
    own = {f"tls_{role}_{part}": path for role in roles for part, path in files.items()}
    return distributed.Security(require_encryption=True, tls_ca_file=str(certificates.authority), **own)
