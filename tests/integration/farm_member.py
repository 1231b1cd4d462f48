"""A member of a test farm, as a process of its own: the scheduler, or a worker that does what a job's key says instead of building.

What is real here: Dask, its connections, TLS, processes and their deaths. What a job would build is the other tests' business.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from lxcbuild.errors import DiskFullError
from lxcbuild.events import Note
from lxcbuild.farm.certificates import Certificates
from lxcbuild.farm.engines.daskmembers import run_scheduler, run_worker
from lxcbuild.farm.engines.engine import Job, JobEvent, JobResult, Listener, WorkerInfo
from lxcbuild.farm.engines.membership import WorkerMember

HEAD = WorkerMember(code="1+test", configuration="none")


class DoingEngine:
    """Sleeps, fails, or gives much, as the key of a job says (``sleep 3``); remembers in a file what it began."""

    name = "here"

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._stopped = threading.Event()

    def workers(self) -> tuple[WorkerInfo, ...]:
        return (WorkerInfo(name="here", cpus=2.0, memory_bytes=2**30, images={"debian/bookworm": "a" * 64}),)

    def submit(self, job: Job, *, worker: str) -> Future[JobResult]:
        assert worker == "here"
        future: Future[JobResult] = Future()
        threading.Thread(target=self._run, args=(job, future), daemon=True).start()
        return future

    def _run(self, job: Job, future: Future[JobResult]) -> None:
        with Path(job.store, "begun").open("a") as file:
            file.write(f"{job.key}\n")
        verb, _, how_much = job.key.partition(" ")
        self._listener(JobEvent(key=job.key, worker="here", event=Note(text=f"{verb} begins")))
        if verb == "fail":
            future.set_exception(DiskFullError("no room", details="on the worker", resolution="make some"))
            return
        end = time.monotonic() + (float(how_much) if verb == "sleep" else 0.0)
        while time.monotonic() < end:
            if self._stopped.wait(0.02):
                future.cancel()
                future.set_running_or_notify_cancel()
                return
        key = "x" * int(how_much) if verb == "large" else job.key
        future.set_result(JobResult(key=key, run=job.run, attempt=job.attempt, worker="here"))

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self.stop()


def _say(address: str) -> None:
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()


def main() -> None:
    role, address, name, certificates_dir, code = sys.argv[1:]
    certificates = Certificates.of(Path(certificates_dir)) if certificates_dir else None
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if role == "scheduler":
        host, _, port = address.rpartition(":")
        run_scheduler(
            host=host,
            port=int(port),
            certificates=certificates,
            started=_say,
            stop=stop,
        )
    else:
        member = WorkerMember(code=code or HEAD.code, configuration=HEAD.configuration)
        run_worker(address, member, DoingEngine, certificates=certificates, name=name, stop=stop)


if __name__ == "__main__":
    os.setpgid(0, 0)
    main()
