"""The runner and its session: steps, their privileges, their limits and their output."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from lxcbuild.errors import CancelledError, SandboxError
from lxcbuild.model import FailureClass, Usage
from lxcbuild.policy import LogLimits, TimeLimits
from lxcbuild.sandbox.base import Step, User
from lxcbuild.sandbox.session import RUNNER, Reading
from tests.integration.runner_bench import MIB, POLICY, Bench, pythons, started
from tests.support.timing import quick

pytestmark = pytest.mark.root


@pytest.mark.parametrize("python", pythons())
def test_it_says_what_it_is(python: str) -> None:
    with started(python, ready=False) as bench:
        ready = bench.session.wait_ready(10)
        assert ready.python[0] == 3
        assert ready.cap_eff > 0
        assert bench.sh("echo hello; echo there >&2").ok
        assert bench.output == b"hello\nthere\n"


def test_exit_status_and_signal(bench: Bench) -> None:
    assert bench.sh("exit 7").exit_status == 7
    result = bench.sh("kill -SEGV $$")
    assert (result.exit_status, result.signal, result.stopped_by) == (None, signal.SIGSEGV, None)
    assert not result.ok
    assert bench.run("/no/such/program").exit_status == 127
    assert b"/no/such/program" in bench.output
    assert bench.run("/etc/passwd").exit_status == 126
    assert bench.run("true", cwd="/no/such/directory").exit_status == 127


def test_stdin_is_empty_or_what_is_given(bench: Bench) -> None:
    assert bench.run("cat").ok
    assert bench.output == b""
    assert bench.run("cat", stdin=b"given\0\xff").ok
    assert bench.output == b"given\0\xff"


def test_big_stdin(bench: Bench) -> None:
    data = os.urandom(10 * MIB)
    assert bench.run("cat", stdin=data).ok
    assert bench.output == data


def test_environment_is_only_ours(bench: Bench) -> None:
    assert bench.run("env", env={"A": "1", "HOME": "/tmp"}).ok
    assert set(bench.output.decode().splitlines()) == {
        "A=1", "HOME=/tmp", "LANG=C.UTF-8", "TMPDIR=/tmp",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }  # fmt: skip


def test_build_steps_have_no_privilege_left(bench: Bench) -> None:
    script = "grep -E '^(Cap|Uid|Gid|Groups|NoNewPrivs|Umask)' /proc/self/status; ulimit -c; ulimit -n"
    assert bench.sh(script).ok
    lines = bench.output.decode().split("\n")
    fields = {line.split(":")[0]: line.split(":")[1].split() for line in lines if ":" in line}
    assert fields["Uid"] == fields["Gid"] == ["1000"] * 4
    assert fields["Groups"] == []
    assert [fields[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [["0" * 16]] * 5
    assert fields["NoNewPrivs"] == ["1"]
    assert fields["Umask"] == ["0022"]
    assert lines[-3:] == ["0", "1024", ""]


def test_root_steps_keep_the_runners_capabilities(bench: Bench) -> None:
    assert bench.sh("id -u; grep CapEff /proc/self/status", user=User.ROOT).ok
    uid, caps = bench.output.decode().splitlines()
    assert uid == "0"
    assert int(caps.split()[1], 16) > 0


def test_a_build_step_sees_nothing_of_the_runner(bench: Bench) -> None:
    script = """
        for f in environ mem maps fd cwd root exe; do
            ls /proc/1/$f/ >/dev/null 2>&1 && echo "listed $f"
            cat /proc/1/$f >/dev/null 2>&1 && echo "read $f"
        done
        for s in KILL STOP TERM; do kill -$s 1 2>/dev/null && echo "sent $s"; done
        ls /proc/self/fd | tr '\n' ' '
    """
    assert bench.sh(script).ok
    assert bench.output == b"0 1 2 3 ", "3 is what ls lists with"
    assert bench.run("true").ok


def test_the_runner_survives_signals_of_inner_root(bench: Bench) -> None:
    script = "for s in HUP INT QUIT TERM USR1 PIPE CHLD ALRM PWR STOP KILL; do kill -$s 1; done; echo alive"
    assert bench.sh(script, user=User.ROOT).ok
    assert bench.output == b"alive\n"


@pytest.mark.parametrize(
    "daemon",
    [
        "sleep 1000 &",
        "setsid sleep 1000 &",
        "(setsid sh -c \"trap '' HUP INT TERM; sleep 1000; sleep 1000\" &) & wait",
        "(sleep 1000 >/dev/null 2>&1 </dev/null &)",
        'f() { f & }; (while :; do sleep 0.001 & done) & sleep 0.2',
        "setsid sh -c 'kill -STOP $$' & sleep 0.1",
    ],
)  # fmt: skip
def test_nothing_survives_its_step(bench: Bench, daemon: str) -> None:
    before = time.monotonic()
    assert bench.sh(f"{daemon}\nexit 3").exit_status == 3
    assert len(bench.pid_namespace) == 1
    assert quick(time.monotonic() - before, 5)


def test_output_in_flight_inside_a_dead_socket_does_not_hang(bench: Bench) -> None:
    script = (
        "import os, socket, array\n"
        "a, b = socket.socketpair()\n"
        "for s in (a, b):\n"
        "    s.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [1, 2, a.fileno(), b.fileno()]))])\n"
        "print('done', flush=True)\n"
    )
    assert bench.run(pythons()[0], "-c", script).ok
    assert bench.output == b"done\n"


def test_wall_clock(bench: Bench) -> None:
    result = bench.sh("echo a; sleep 1000", wall_s=0.5)
    assert result.stopped_by is FailureClass.TIMEOUT
    assert result.signal == signal.SIGTERM
    assert result.usage.wall_s >= 0.5
    assert quick(result.usage.wall_s, 3)
    assert bench.kills == 0
    assert bench.run("true").ok, "the session goes on"


def test_wall_clock_of_a_step_that_ignores_sigterm_and_talks(bench: Bench) -> None:
    result = bench.sh("trap '' TERM; while :; do echo a; sleep 0.05; done", wall_s=1.5, silence_s=1.2)
    assert (result.stopped_by, result.signal) == (FailureClass.TIMEOUT, signal.SIGKILL)
    assert quick(result.usage.wall_s, 6)


def test_silence(bench: Bench) -> None:
    result = bench.sh("echo a; sleep 0.5; echo b; sleep 1000", silence_s=1.5)
    assert result.stopped_by is FailureClass.SILENT
    assert bench.output == b"a\nb\n"
    assert result.usage.wall_s >= 2.0
    assert quick(result.usage.wall_s, 5)


def test_a_step_that_stops_itself(bench: Bench) -> None:
    result = bench.sh("kill -STOP $$", silence_s=0.4)
    assert result.stopped_by is FailureClass.SILENT
    assert quick(result.usage.wall_s, 5)
    assert len(bench.pid_namespace) == 1


def test_cpu_time_is_the_hosts_count(bench: Bench) -> None:
    def later() -> None:
        bench.reading = Reading(usage=Usage(cpu_s=9.0))

    timer = threading.Timer(0.2, later)
    timer.start()
    result = bench.sh("sleep 1000", policy=replace(POLICY, time=TimeLimits(wall_s=60, cpu_s=5)))
    timer.join()
    assert result.stopped_by is FailureClass.TIMEOUT
    assert result.usage.cpu_s == 9.0


def test_a_step_that_the_kernel_killed_for_memory_is_over_at_once(bench: Bench) -> None:
    timer = threading.Timer(0.1, setattr, (bench, "reading", Reading(usage=Usage(oom_kills=1))))
    timer.start()
    began = time.monotonic()
    result = bench.sh("sleep 60")
    timer.join()
    assert (result.exit_status, result.stopped_by) == (None, FailureClass.OOM)
    assert quick(time.monotonic() - began, 5)


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (Reading(usage=Usage(pids_denied=1)), FailureClass.PIDS_EXHAUSTED),
        (Reading(usage=Usage(), disk_total_bytes=100 * MIB, disk_free_bytes=0), FailureClass.DISK_FULL),
        (Reading(usage=Usage(), disk_total_inodes=100, disk_free_inodes=0), FailureClass.DISK_FULL),
    ],
)
def test_a_failed_step_carries_the_limit_it_met(bench: Bench, reading: Reading, expected: FailureClass) -> None:
    for status, stopped_by in ((1, expected), (0, None)):
        bench.reading = Reading(usage=Usage())
        timer = threading.Timer(0.1, setattr, (bench, "reading", reading))
        timer.start()
        result = bench.sh(f"sleep 0.4; echo 'No space left on device'; exit {status}")
        timer.join()
        assert (result.exit_status, result.stopped_by) == (status, stopped_by)


def test_one_line_without_end(bench: Bench) -> None:
    policy = replace(POLICY, log=LogLimits(max_bytes=4 * MIB, max_line_bytes=4096))
    result = bench.sh("head -c 1000000000 /dev/zero; sleep 1000", policy=policy)
    assert result.stopped_by is FailureClass.LOG_FLOOD
    assert result.output_truncated
    assert len(bench.output) < 10_000
    assert quick(result.usage.wall_s, 5)


def test_endless_log(bench: Bench) -> None:
    policy = replace(POLICY, log=LogLimits(max_bytes=MIB, max_line_bytes=4096))
    result = bench.sh("yes 0123456789", policy=policy)
    assert result.stopped_by is FailureClass.LOG_FLOOD
    assert MIB < len(bench.output) < 2 * MIB
    assert b"bytes are left out here" in bench.output
    assert bench.run("true").ok


def test_much_output_with_a_slow_host_is_complete_and_not_buffered_inside(bench: Bench) -> None:
    runner = min(bench.pid_namespace)
    status = Path(f"/proc/{runner}/status")
    received, peak = 0, 0

    def slow(data: bytes) -> None:
        nonlocal received, peak
        received += len(data)
        if received % (4 * MIB) < len(data):
            time.sleep(0.01)
            rss = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
            peak = max(peak, int(rss.split()[1]))

    result = bench.session.run(
        Step(argv=("head", "-c", str(60 * MIB), "/dev/zero"), cwd="/"),
        policy=replace(POLICY, log=LogLimits(max_line_bytes=2**40)),
        on_output=slow,
        probe=lambda: bench.reading,
    )
    assert result.ok
    assert received == result.output_bytes == 60 * MIB
    assert 0 < peak < 30_000, "KiB of the runner"


def test_cancel_from_another_thread(bench: Bench) -> None:
    timer = threading.Timer(0.3, bench.session.cancel)
    timer.start()
    before = time.monotonic()
    result = bench.sh("trap '' TERM INT HUP; sleep 1000")
    timer.join()
    assert result.stopped_by is FailureClass.CANCELLED
    assert quick(time.monotonic() - before, 4)
    assert bench.run("true").stopped_by is FailureClass.CANCELLED
    with pytest.raises(CancelledError):
        bench.session.put("/tmp/x", b"")


def test_put(bench: Bench, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    bench.session.put(f"{tmp_path}/a/b/file", b"data\n", mode=0o750)
    written = tmp_path / "a/b/file"
    assert written.read_bytes() == b"data\n"
    assert (written.stat().st_mode & 0o7777, written.stat().st_uid) == (0o750, 1000)
    assert (written.parent.stat().st_mode & 0o7777, written.parent.stat().st_uid) == (0o755, 1000)
    assert tmp_path.stat().st_uid == 0
    bench.session.put(f"{tmp_path}/a/b/file", b"again", user=User.ROOT)
    assert (written.read_bytes(), written.stat().st_uid) == (b"again", 0)
    assert [entry.name for entry in written.parent.iterdir()] == ["file"]


def test_put_follows_no_link(bench: Bench, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("intact")
    (tmp_path / "link").symlink_to(canary)
    (tmp_path / "dirlink").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    bench.session.put(f"{tmp_path}/link", b"new")
    assert not (tmp_path / "link").is_symlink(), "replaced, not followed"
    bench.session.put(f"{tmp_path}/fifo", b"new")
    for bad in (f"{tmp_path}/dirlink/canary", f"{tmp_path}/../x", "relative"):
        with pytest.raises(SandboxError):
            bench.session.put(bad, b"new")
    assert canary.read_text() == "intact"
    assert bench.run("true").ok


def test_a_descriptor_that_the_starter_leaked_is_closed() -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", pythons()[0], "-I", "-S", RUNNER],
        stdin=theirs,
        pass_fds=[write],
    )
    os.close(write)
    theirs.close()
    bench = Bench(ours, process)
    bench.session.wait_ready(10)
    assert bench.sh(f"test ! -e /proc/self/fd/{write}", user=User.ROOT).ok
    assert len(list(Path(f"/proc/{min(bench.pid_namespace)}/fd").iterdir())) == 6, (
        "0, 1, 2, the stream, the wake-up pipe"
    )
    bench.session.close()
    process.wait(20)
    os.close(read)
