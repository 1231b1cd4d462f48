"""Farms of processes on this machine, for the tests of the Dask engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lxcbuild.events import Event, Note
from lxcbuild.farm.certificates import Certificates
from lxcbuild.farm.engines.dask import DaskEngine, FarmSettings
from lxcbuild.farm.engines.engine import Job, JobEvent
from lxcbuild.model import Target
from tests.integration.farm_member import HEAD

MEMBER = Path(__file__).with_name("farm_member.py")
#: Connections that are cut are noticed in a second or two, not in half a minute.
QUICK = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s",
}


def wait_for(what: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Wait until something is true; a test that waits in vain fails here."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@dataclass
class Notes:
    """A monitor and a listener that keep what they are told."""

    texts: list[str] = field(default_factory=list)
    events: list[JobEvent] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        if isinstance(event, Note):
            self.texts.append(event.text)

    def __call__(self, event: JobEvent) -> None:
        self.events.append(event)


@dataclass
class Farm:
    """A scheduler and workers; ``prefix`` is put before a member's command (to enter a network namespace, say)."""

    home: Path
    certificates: Certificates | None = None
    port: int = 0
    host: str = "127.0.0.1"
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    told: Notes = field(default_factory=Notes)

    @property
    def address(self) -> str:
        return f"{'tls' if self.certificates else 'tcp'}://{self.host}:{self.port}"

    def start_scheduler(self, *prefix: str) -> None:
        process = self._start("scheduler", f"{self.host}:{self.port}", "scheduler", prefix=prefix)
        assert process.stdout is not None
        self.port = int(process.stdout.readline().rpartition(":")[2])

    def start_worker(self, name: str, *prefix: str, code: str = "") -> None:
        self._start("worker", self.address, name, code=code, prefix=prefix)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def end(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self.processes.clear()

    def engine(self, **settings: float) -> DaskEngine:
        chosen = FarmSettings(**{"look_s": 0.1, "patience_s": 60.0, **settings})
        return DaskEngine(
            self.address, HEAD, listener=self.told, monitor=self.told, certificates=self.certificates, settings=chosen
        )

    def job(self, key: str, attempt: int = 1) -> Job:
        target = Target.parse("debian/bookworm")
        return Job(
            key=key, run="test", target=target, requests=(), policy="default", store=str(self.home), attempt=attempt
        )

    @property
    def begun(self) -> list[str]:
        """Keys of the jobs that any worker has begun."""
        path = self.home / "begun"
        return path.read_text().splitlines() if path.exists() else []

    def _start(
        self, role: str, address: str, name: str, *, code: str = "", prefix: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        own = str(self.certificates.certificate.parent) if self.certificates else ""
        log = (self.home / f"{name}.log").open("a")
        with log:
            process = subprocess.Popen(
                [*prefix, sys.executable, MEMBER, role, address, name, own, code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if role == "scheduler" else log,
                stderr=log,
                text=True,
                env={**os.environ, **QUICK},
            )
        self.processes[name] = process
        return process
