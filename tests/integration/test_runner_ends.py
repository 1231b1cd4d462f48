"""A runner that dies, hangs or lies, and a stream that breaks off: the session says so, and nothing lives on."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from lxcbuild.errors import SandboxError
from lxcbuild.model import FailureClass, Usage
from lxcbuild.sandbox.base import Step
from lxcbuild.sandbox.session import Reading
from tests.integration.runner_bench import POLICY, Bench, pythons, started
from tests.support.timing import quick

pytestmark = pytest.mark.root


def test_the_runner_dies(bench: Bench) -> None:
    runner = min(bench.pid_namespace)
    timer = threading.Timer(0.2, os.kill, (runner, signal.SIGKILL))
    timer.start()
    result = bench.sh("sleep 1000")
    timer.join()
    assert (result.exit_status, result.signal, result.stopped_by) == (None, None, FailureClass.SANDBOX_FAILED)
    with pytest.raises(SandboxError, match="gone"):
        bench.run("true")


def test_the_runner_dies_of_memory(bench: Bench) -> None:
    def out_of_memory() -> None:
        bench.reading = Reading(usage=Usage(oom_kills=1))
        bench.process.kill()

    timer = threading.Timer(0.2, out_of_memory)
    timer.start()
    assert bench.sh("sleep 1000").stopped_by is FailureClass.OOM
    timer.join()


def test_everything_dies_with_the_stream(bench: Bench) -> None:
    inside: list[int] = []

    def look_and_close() -> None:
        while len(inside) < 4:  # the runner, the shell and two sleepers
            inside[:] = bench.pid_namespace
        bench.session._channel._sock.shutdown(socket.SHUT_RDWR)

    bench.kill = lambda: None  # type: ignore[method-assign]
    bench.session._channel.kill = lambda: None
    timer = threading.Timer(0.3, look_and_close)
    timer.start()
    assert bench.sh("setsid sleep 1000 & sleep 1000").stopped_by is FailureClass.SANDBOX_FAILED
    timer.join()
    bench.process.wait(20)  # unshare waits for PID 1, and PID 1 is dead only when its whole namespace is
    assert not [pid for pid in inside if Path(f"/proc/{pid}").exists()]


def test_output_sink_errors_kill_the_sandbox(bench: Bench) -> None:
    def broken(_data: bytes) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.session.run(
            Step(argv=("sh", "-c", "echo a; sleep 1000"), cwd="/"),
            policy=POLICY,
            on_output=broken,
            probe=lambda: bench.reading,
        )
    assert bench.kills == 1
    bench.process.wait(20)


def test_a_start_that_takes_too_long(tmp_path: Path) -> None:
    script = tmp_path / "sleeps.py"
    script.write_text("import time; time.sleep(1000)")
    with started(pythons()[0], ready=False, script=script) as bench:
        with pytest.raises(SandboxError, match="no answer"):
            bench.session.wait_ready(0.3)
        assert bench.kills == 1


@pytest.mark.parametrize(
    "says",
    [
        'b"x" * 10_000_000',
        'b"[" * 100_000 + b"\\n"',
        'b"{}\\n"',
        'b"\\xff\\n"',
        'b\'{"op":"exit","id":1,"status":0,"signal":null}\\n\'',
        'b\'{"op":"out","data":"!!"}\\n\'',
        'b\'{"op":"pong","id":true}\\n\'',
    ],
)
def test_a_runner_that_lies(tmp_path: Path, says: str) -> None:
    script = tmp_path / "lies.py"
    script.write_text(f"import os, time\nos.write(0, {says})\ntime.sleep(1000)")
    with started(pythons()[0], ready=False, script=script) as bench:
        before = time.monotonic()
        with pytest.raises(SandboxError):
            bench.session.wait_ready(5)
        assert quick(time.monotonic() - before, 4)
        assert bench.kills == 1


def test_a_runner_that_answers_for_ever(tmp_path: Path) -> None:
    ready = '{"op":"ready","python":[3,9,0],"cap_eff":"0","cap_bnd":"0","seccomp":2,"no_new_privs":1}'
    script = tmp_path / "floods.py"
    script.write_text(
        f"import os\nos.write(0, b'{ready}\\n'); os.read(0, 65536)\n"
        'while True: os.write(0, b\'{"op":"out","data":""}\\n\' * 1000)'
    )
    with started(pythons()[0], script=script) as bench:
        result = bench.sh("true", wall_s=0.5, policy=POLICY)
        assert result.stopped_by in (FailureClass.TIMEOUT, FailureClass.SANDBOX_FAILED)
        assert quick(result.usage.wall_s, 4)
        assert bench.kills >= 1
