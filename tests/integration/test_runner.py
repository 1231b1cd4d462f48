"""The runner as PID 1 of a bare PID namespace, and the session at the other end of its stream. No LXC."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from timing import quick

from lxcbuild.errors import CancelledError, SandboxError
from lxcbuild.model import DiskLimits, FailureClass, LogLimits, MemoryLimits, Policy, TimeLimits, Usage
from lxcbuild.sandbox.base import Step, User
from lxcbuild.sandbox.session import RUNNER, Reading, Session

pytestmark = pytest.mark.root

MIB = 1024 * 1024
POLICY = Policy(
    name="test",
    memory=MemoryLimits(max_bytes=1024 * MIB),
    disk=DiskLimits(max_bytes=MIB, max_inodes=1000),
    time=TimeLimits(wall_s=60),
)


class Bench:
    """One runner with its session, and what a backend would add: the outside kill and the counters."""

    def __init__(self, ours: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.kills = 0
        self.reading = Reading(usage=Usage())
        self.session = Session(ours, kill=self.kill)
        self.output = bytearray()

    def kill(self) -> None:
        self.kills += 1
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()  # unshare --kill-child: PID 1 of the namespace dies with it

    def run(self, *argv: str, policy: Policy = POLICY, **step):
        self.output.clear()
        step.setdefault("cwd", "/")
        return self.session.run(
            Step(argv=argv, **step), policy=policy, on_output=self.output.extend, probe=lambda: self.reading
        )

    def sh(self, script: str, **more):
        return self.run("sh", "-c", script, **more)

    @property
    def pid_namespace(self) -> list[int]:
        """Host pids of all processes in the runner's namespace, the runner included."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        wanted = Path(f"/proc/{children[0]}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if (entry / "ns/pid").readlink() == wanted:
                        found.append(int(entry.name))
        return found


def pythons() -> list[str]:
    """The interpreters of this machine that an image might have."""
    system = [f"/usr/bin/python3.{minor}" for minor in range(9, 15)]
    return [path for path in system if Path(path).exists()] or [sys.executable]


@contextlib.contextmanager
def started(python: str, *, ready: bool = True, script: Path = RUNNER) -> Iterator[Bench]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", python, "-I", "-S", script], stdin=theirs
        )
    bench = Bench(ours, process)
    try:
        if ready:
            bench.session.wait_ready(10)
        yield bench
    finally:
        bench.session.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@pytest.fixture
def bench() -> Iterator[Bench]:
    with started(pythons()[0]) as bench:
        yield bench


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
    assert 0.5 <= result.usage.wall_s < 3
    assert bench.kills == 0
    assert bench.run("true").ok, "the session goes on"


def test_wall_clock_of_a_step_that_ignores_sigterm_and_talks(bench: Bench) -> None:
    result = bench.sh("trap '' TERM; while :; do echo a; sleep 0.05; done", wall_s=0.5, silence_s=0.3)
    assert (result.stopped_by, result.signal) == (FailureClass.TIMEOUT, signal.SIGKILL)
    assert result.usage.wall_s < 5


def test_silence(bench: Bench) -> None:
    result = bench.sh("echo a; sleep 0.3; echo b; sleep 1000", silence_s=0.6)
    assert result.stopped_by is FailureClass.SILENT
    assert bench.output == b"a\nb\n"
    assert 0.9 <= result.usage.wall_s < 4


def test_a_step_that_stops_itself(bench: Bench) -> None:
    result = bench.sh("kill -STOP $$", silence_s=0.4)
    assert result.stopped_by is FailureClass.SILENT
    assert result.usage.wall_s < 5
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
    assert time.monotonic() - began < 10


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
    assert result.usage.wall_s < 5


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
        inside.extend(bench.pid_namespace)
        bench.session._channel._sock.shutdown(socket.SHUT_RDWR)

    bench.kill = lambda: None  # type: ignore[method-assign]
    bench.session._channel.kill = lambda: None
    timer = threading.Timer(0.3, look_and_close)
    timer.start()
    assert bench.sh("setsid sleep 1000 & sleep 1000").stopped_by is FailureClass.SANDBOX_FAILED
    timer.join()
    assert len(inside) == 4
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
        assert result.usage.wall_s < 4
        assert bench.kills >= 1


# -- interactive ------------------------------------------------------------------------------------------------------

DRIVER = """
import socket, sys
sys.path.insert(0, {root!r})
from lxcbuild.model import *
from lxcbuild.sandbox.base import Step
from lxcbuild.sandbox.session import Session, Reading
policy = Policy(name="t", memory=MemoryLimits(max_bytes=1), disk=DiskLimits(max_bytes=1, max_inodes=1), time=TimeLimits(wall_s=1))
session = Session(socket.socket(fileno={fd}), kill=lambda: None)
session.wait_ready(10)
status = session.interact(Step(argv=("sh",), cwd="/", env={{"PS1": "> "}}), policy=policy, probe=lambda: Reading(usage=Usage()))
print("status", status)
"""


def interactive(stdin: int, stdout: int) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        runner = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", pythons()[0], "-I", "-S", RUNNER],
            stdin=theirs,
        )
        script = DRIVER.format(root=str(RUNNER.parents[2]), fd=ours.fileno())
        driver = subprocess.Popen(
            [sys.executable, "-c", script], stdin=stdin, stdout=stdout, pass_fds=[ours.fileno()], start_new_session=True
        )
    return runner, driver


class Screen:
    """What comes out of a descriptor, read up to the words that a person would wait for."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.unread = b""

    def wait_for(self, wanted: bytes) -> bytes:
        while wanted not in self.unread:
            data = os.read(self.fd, 4096)
            assert data, f"the end came before {wanted!r}: {self.unread[-200:]!r}"
            self.unread += data
        seen, _, self.unread = self.unread.partition(wanted)
        return seen


def test_shell_on_a_terminal() -> None:
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    before = termios.tcgetattr(slave)
    screen = Screen(master)
    runner, driver = interactive(slave, slave)
    try:
        screen.wait_for(b"> ")
        os.write(master, b"tty; stty size; id -u\n")
        screen.wait_for(b"\r\n")  # the echo
        seen = screen.wait_for(b"1000\r\n")
        assert b"/dev/pts/" in seen
        assert b"33 77" in seen
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 88, 0, 0))
        driver.send_signal(signal.SIGWINCH)
        screen.wait_for(b"> ")
        os.write(master, b"until stty size | grep 88; do :; done\n")
        screen.wait_for(b"44 88\r\n> ")
        os.write(master, b"sh -c 'echo go; exec sleep 1000'\n")
        screen.wait_for(b"\r\ngo\r\n")
        os.write(master, b"\x03")  # Ctrl-C goes inside; it also drops what is typed but not yet read
        screen.wait_for(b"> ")
        os.write(master, b"exit 5\n")
        screen.wait_for(b"status 5")
        assert driver.wait(20) == 0
        assert termios.tcgetattr(slave) == before
    finally:
        driver.kill()
        driver.wait()
        runner.wait(20)
        os.close(master)
        os.close(slave)


def test_shell_without_a_terminal() -> None:
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    screen = Screen(read_out)
    runner, driver = interactive(read_in, write_out)
    for fd in (read_in, write_out):
        os.close(fd)
    try:
        os.write(write_in, b"echo one\n")
        screen.wait_for(b"one\n")
        os.write(write_in, b"echo two; wc -c\n")
        screen.wait_for(b"two\n")  # the shell reads ahead: what follows must not be there before wc is
        os.write(write_in, b"x" * 300_000)
        os.close(write_in)
        screen.wait_for(b"300000\nstatus 0\n")
        assert driver.wait(20) == 0
    finally:
        driver.kill()
        driver.wait()
        runner.wait(20)
        os.close(read_out)
