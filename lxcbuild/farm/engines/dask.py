"""The head's side of Dask: an engine that runs jobs on the workers of a scheduler (:mod:`lxcbuild.farm.engines.daskmembers`).

Dask carries small messages: a job there, its events and its result back, as pickles of at most :data:`MAX_MESSAGE_BYTES`. Packages,
logs and layers go through the store. Dask decides nothing: the head says which worker gets a job, and when one is lost with its
worker or with the scheduler, the head is told so and gives it to somebody else. A job may therefore run twice, which does no harm:
a build is a function of its job, and the head takes one result.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import pickle
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from typing import Any

import distributed
from msgspec import Struct
from msgspec.structs import replace

from lxcbuild.errors import FarmError, LxcbuildError, WorkerLostError
from lxcbuild.events import Monitor, Note
from lxcbuild.farm.certificates import Certificates
from lxcbuild.farm.engines.daskmembers import MAX_MESSAGE_BYTES, TOPIC, describe, perform, security, stop_jobs
from lxcbuild.farm.engines.engine import Job, JobEvent, JobResult, Listener, WorkerInfo
from lxcbuild.farm.engines.membership import WorkerMember, checked_address
from lxcbuild.log import Logger

_CONNECT_S = 5.0
_log = Logger()


class FarmSettings(Struct, frozen=True, kw_only=True):
    """How patient an engine is. ``patience_s``: with a scheduler that is away, and with a farm in which nobody may work;
    ``look_s``: between two looks at who is there; ``describe_s``: between two descriptions of one worker."""

    patience_s: float = 300.0
    look_s: float = 1.0
    describe_s: float = 30.0


class _Known(Struct):
    """A worker as the engine knows it: its address and what it said when it was last asked; ``info`` is None when it is refused."""

    address: str
    info: WorkerInfo | None
    asked_at: float


class DaskEngine:
    """Runs jobs on the workers of a scheduler that are like this head. A context manager.

    Raises InputError for an address without TLS that is not of this machine, FarmError when there is no scheduler.
    """

    name = "dask"

    def __init__(
        self,
        address: str,
        head: WorkerMember,
        *,
        listener: Listener,
        monitor: Monitor,
        certificates: Certificates | None = None,
        insecure: bool = False,
        settings: FarmSettings | None = None,
    ) -> None:
        self._address = checked_address(address, certificates, insecure=insecure)
        self._security = security(certificates)
        self._head, self._listener, self._monitor = head, listener, monitor
        self._settings = settings or FarmSettings()
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}  # by the worker's name
        self._sent: dict[Future[JobResult], tuple[str, Any]] = {}  # the worker's address, and Dask's own future
        self._refusals: dict[str, str] = {}
        self._scheduler_id, self._away = "", False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="farm")
        self._describing: Future[None] | None = None
        self._nobody_since: float | None = time.monotonic()
        self._closed = threading.Event()
        self._failed: FarmError | None = None
        self._client: Any = self._connect()
        self._look_at_workers()
        self._looking = threading.Thread(target=self._look, name="farm", daemon=True)
        self._looking.start()

    def __enter__(self) -> DaskEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what the head asks -----------------------------------------------------------------------------------------

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Who may work at this moment; raises FarmError when nobody could for too long, or the scheduler is gone for good."""
        if self._failed is not None:
            raise self._failed
        if self._client.status != "running":
            return ()
        with self._lock:
            return tuple(known.info for known in self._known.values() if known.info is not None)

    def submit(self, job: Job, *, worker: str) -> Future[JobResult]:
        """Run a job on that worker."""
        data = pickle.dumps(job)
        assert len(data) <= MAX_MESSAGE_BYTES, (
            f"the job {job.key} takes {len(data)} bytes: something large went into it"
        )
        local: Future[JobResult] = Future()
        with self._lock:
            known = self._known.get(worker)
        if known is None:
            local.set_exception(_lost(worker, "it left"))
            return local
        # A key of its own: the scheduler may still know an earlier attempt.
        key = f"lxcbuild-{job.run}-{job.key}-{job.attempt}-{id(local):x}-{time.monotonic_ns():x}"
        try:
            remote = self._client.submit(perform, data, key=key, workers=[known.address], pure=False, retries=0)
        except Exception as error:  # noqa: BLE001 - whatever a closed client raises, nobody has the job
            local.set_exception(_lost(worker, f"{type(error).__name__}: {error}"))
            return local
        with self._lock:
            self._sent[local] = known.address, remote
        local.add_done_callback(self._forget)
        remote.add_done_callback(functools.partial(self._ended, local, worker))
        return local

    def stop(self) -> None:
        """End all running jobs now, here and on their workers."""
        with self._lock:
            left = {local: address for local, (address, _) in self._sent.items()}
        for local in left:
            local.cancel()
        if left and self._client.status == "running":
            with contextlib.suppress(
                OSError, TimeoutError
            ):  # a scheduler that is gone cannot be told; its workers stop anyhow
                self._client.run(stop_jobs, workers=sorted(set(left.values())), on_error="ignore")

    def close(self) -> None:
        """Leave the farm."""
        if self._closed.is_set():
            return
        self.stop()
        self._closed.set()
        self._looking.join()
        self._thread.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(OSError, TimeoutError):
            self._client.close(timeout=_CONNECT_S)

    # -- jobs -------------------------------------------------------------------------------------------------------

    def _ended(self, local: Future[JobResult], worker: str, remote: Any) -> None:
        """Called by Dask, in a thread of its own, when it knows how a job ended."""
        if local.done():
            return
        try:
            _settle(local, result=pickle.loads(remote.result(timeout=60)))  # noqa: S301 - members trust each other
        except (
            distributed.scheduler.KilledWorker,
            distributed.CancelledError,
            asyncio.CancelledError,
            OSError,
            TimeoutError,
        ) as error:
            with self._lock:
                self._known.pop(worker, None)  # until it is seen again: the next job is not for it
            _settle(local, error=_lost(worker, f"{type(error).__name__}: {error}"))
        except Exception as error:  # noqa: BLE001 - whatever the job raised is its end
            _settle(local, error=error)

    def _forget(self, local: Future[JobResult]) -> None:
        with self._lock:
            _, remote = self._sent.pop(local, ("", None))
        if remote is not None and self._client.status == "running":
            remote.release()

    # -- who is there -----------------------------------------------------------------------------------------------

    def _connect(self) -> Any:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it has to say is said by errors
        try:
            client = distributed.Client(
                self._address, security=self._security, set_as_default=False, timeout=_CONNECT_S, name="lxcbuild"
            )
        except (OSError, TimeoutError) as error:
            raise FarmError(
                f"the scheduler {self._address} cannot be reached",
                details=str(error),
                resolution="start it: lxcbuild farm scheduler; then run this again with --resume",
            ) from error
        return client

    def _hear(self, event: tuple[float, Any]) -> None:
        """Called by Dask with what a worker tells of a job."""
        told = pickle.loads(event[1])  # noqa: S301 - members trust each other
        assert isinstance(told, JobEvent)
        self._listener(told)

    def _look(self) -> None:
        while not self._closed.wait(self._settings.look_s):
            try:
                if self._client.status in ("closed", "failed"):
                    self._client = self._connect()
                if self._client.status == "running":
                    self._look_at_workers()
                    if self._away:
                        self._away = False
                        self._note(f"the scheduler {self._address} is back")
            except (OSError, TimeoutError, FarmError) as error:
                _log.debug("farm", why=str(error))
            except Exception as error:  # noqa: BLE001 - the head would wait for ever
                _log.exception("farm")
                self._failed = FarmError(f"the engine failed: {type(error).__name__}: {error}")
            if self._client.status != "running" and not self._away:
                self._away = True
                self._note(f"the scheduler {self._address} is away: waiting for it", warning=True)
                self._lose(lambda _: True, "the scheduler is away")
            self._judge_patience()

    def _look_at_workers(self) -> None:
        """Take in those that came, forget those that left with the jobs that they had, ask each anew from time to time."""
        # Not scheduler_info(): another thread of the client may put an answer without workers in its place.
        scheduler = self._client.sync(self._client.scheduler.identity, n_workers=-1)
        if scheduler["id"] != self._scheduler_id:  # a new one, which knows nothing of who listens
            self._client.subscribe_topic(TOPIC, self._hear)
            self._scheduler_id = scheduler["id"]
        there = {about["name"]: address for address, about in scheduler["workers"].items()}
        self._lose(lambda known: there.get(known[0]) != known[1].address, "it died or was cut off")
        old = time.monotonic() - self._settings.describe_s
        with self._lock:
            fresh = {name for name, known in self._known.items() if known.asked_at > old}
        asked = {address: name for name, address in there.items() if name not in fresh}
        # One that was just cut off answers nothing for half a minute, and nobody else may wait for that.
        if asked and (self._describing is None or self._describing.done()):
            self._describing = self._thread.submit(self._describe, self._client, asked)

    def _describe(self, client: Any, asked: Mapping[str, str]) -> None:
        try:
            answers = client.run(describe, workers=list(asked), on_error="return")
        except (OSError, TimeoutError) as error:
            _log.debug("farm", why=str(error))
            return
        for address, answer in answers.items():
            self._take_in(asked[address], address, answer)

    def _take_in(self, name: str, address: str, answer: Any) -> None:
        info = None
        if isinstance(answer, bytes):
            member, info = pickle.loads(answer)  # noqa: S301 - members trust each other
            refusal = self._head.refusal(member)
        elif isinstance(answer, LxcbuildError):
            refusal = answer.brief
        else:
            refusal = f"it cannot be asked who it is ({type(answer).__name__}: {str(answer)[:200]})"
        if refusal is None:
            self._refusals.pop(name, None)
        elif self._refusals.get(name) != refusal:
            self._refusals[name] = refusal
            self._note(f"worker {name} is refused: {refusal}", warning=True)
        offered = replace(info, name=name) if info is not None and refusal is None else None
        with self._lock:
            self._known[name] = _Known(address, offered, time.monotonic())

    def _lose(self, gone: Callable[[tuple[str, _Known]], bool], why: str) -> None:
        """Forget workers, and end their jobs here."""
        with self._lock:
            names = {name: known.address for name, known in self._known.items() if gone((name, known))}
            for name in names:
                del self._known[name]
            of_address = {address: name for name, address in names.items()}
            lost = [(local, of_address[a]) for local, (a, _) in self._sent.items() if a in of_address]
        for local, name in lost:
            _settle(local, error=_lost(name, why))

    def _judge_patience(self) -> None:
        with self._lock:
            anybody = any(known.info is not None for known in self._known.values())
        now = time.monotonic()
        if anybody or self._nobody_since is None:
            self._nobody_since = None if anybody else now
        elif now - self._nobody_since > self._settings.patience_s and self._failed is None:
            self._failed = FarmError(
                f"no worker of {self._address} was available for {self._settings.patience_s:.0f} s",
                details="\n".join(f"worker {name}: {why}" for name, why in sorted(self._refusals.items())) or None,
                resolution="see that lxcbuild farm scheduler and lxcbuild farm worker run; then run this again with --resume",
            )

    def _note(self, text: str, *, warning: bool = False) -> None:
        self._monitor.emit(Note(text=text, warning=warning))


def _settle(local: Future[JobResult], *, result: Any = None, error: BaseException | None = None) -> None:
    """End a future, unless somebody else did."""
    with contextlib.suppress(InvalidStateError):
        if error is not None:
            local.set_exception(error)
        else:
            local.set_result(result)


def _lost(worker: str, why: str) -> WorkerLostError:
    return WorkerLostError(f"worker {worker} was lost: {why}")
