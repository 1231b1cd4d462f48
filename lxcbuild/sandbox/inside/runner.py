"""PID 1 inside a sandbox: executes the steps that arrive on one byte stream and streams their output back.

Runs inside the image, on whatever CPython (3.9 or newer) is there, as ``python3 -I -S runner.py [FD | DEVICE]``: the standard
library only, and of it only what is compiled in (``posix`` for ``os``, ``_signal`` for ``signal``, the C half of ``json``),
because each ordinary import costs milliseconds of every start. The default stream is descriptor 0.

Protocol: JSON objects, one a line, bytes as base64. The runner sends ``ready`` first; then the host sends ``load`` (the other half
of this program), and ``run``, ``put``, ``signal``, ``kill``, ``stdin``, ``resize``, ``ping``; the runner sends ``out``, ``exit``,
``took``, ``done``, ``error``, ``pong`` or, before it gives up, ``fatal``.

A step ends when its first process ends: everything else in the PID namespace is killed then, and only when nothing is
left and the output is drained does ``exit`` go out. When the stream closes, the runner exits, and the kernel kills the rest.
"""

import _signal  # type: ignore[import-not-found]
import posix
import select
import sys
from binascii import a2b_base64, b2a_base64

CHUNK_BYTES = 65536
MAX_LINE_BYTES = 24 * 1024 * 1024
MAX_TYPED_BYTES = 1024 * 1024
#: ``runner_step.py`` compiled, where ``runner_boot.py`` has started us and could use it.
STEP_CODE = globals().get("STEP_CODE")


def _json_codec():  # type: ignore[no-untyped-def]
    """``(decode, encode_text)``: the C parts of :mod:`json` when they are there, else the module itself (5 ms more)."""
    try:
        from _json import encode_basestring_ascii, make_scanner
    except ImportError:
        import json

        return json.loads, json.dumps

    class Context:  # what json.decoder.JSONDecoder offers to the C scanner
        strict = True
        object_hook = None
        object_pairs_hook = None
        parse_float = float
        parse_int = int
        parse_constant = float
        memo: "dict[str, str]" = {}  # noqa: RUF012

    scan = make_scanner(Context())  # type: ignore[arg-type]
    return (lambda text: scan(text, 0)[0]), encode_basestring_ascii


class RunningStep:
    """The running step."""

    def __init__(self, number: int, *, pid: int, out: int, keys: int, terminal: bool) -> None:
        self.number = number
        self.pid = pid
        self.out = out  # read end of the output pipe, or the terminal's master; -1 when at its end
        self.keys = keys  # write end of the input pipe, or the terminal's master again; -1 when there is none
        self.terminal = terminal
        self.typed = b""  # what is still to be written there
        self.typed_all = False
        self.ended = None  # wait status and resource usage of the first process


class Runner:
    """The poll loop: one stream, at most one step."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.decode, self.quote = _json_codec()  # type: ignore[no-untyped-call]
        self.inbox = bytearray()
        self.scanned = 0
        self.outbox = b""
        self.step: RunningStep | None = None
        self.alone = True
        self.steps = type(sys)("runner_step")
        posix.set_blocking(stream, False)
        self.woken, wake = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        _signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)

    # -- the stream -----------------------------------------------------------------------------------------------

    def send(self, op: str, **fields: object) -> None:
        """Queue one message; values are integers, floats, None, text, or lists of integers."""
        parts = ['"op":"' + op + '"']
        for name, value in fields.items():
            shown = self.quote(value) if isinstance(value, str) else "null" if value is None else repr(value)
            parts.append('"' + name + '":' + shown)
        self.outbox += ("{" + ",".join(parts) + "}\n").encode()

    def flush(self) -> None:
        """Write as much as the stream takes now."""
        while self.outbox:
            try:
                written = posix.write(self.stream, self.outbox)
            except BlockingIOError:
                return
            except BrokenPipeError:
                posix._exit(0)
            self.outbox = self.outbox[written:]

    def receive(self) -> None:
        """Read what is there and act on every whole line."""
        try:
            data = posix.read(self.stream, 1 << 20)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            posix._exit(0)  # the host is gone: so is the sandbox
        self.inbox += data
        while True:
            end = self.inbox.find(b"\n", self.scanned)
            if end < 0:
                self.scanned = len(self.inbox)
                if self.scanned > MAX_LINE_BYTES:
                    raise ValueError("a message is too long")
                return
            line = self.inbox[:end].decode()
            del self.inbox[: end + 1]
            self.scanned = 0
            self.act(self.decode(line))

    def act(self, message: "dict[str, object]") -> None:
        """Do what one message asks for."""
        if message["op"] == "load":
            self.load(str(message["source"]), message.get("filter"))
            return
        try:
            getattr(self, "do_" + str(message["op"]))(message)
        except (OSError, MemoryError, ValueError) as error:
            self.send("error", id=message.get("id", 0), errno=getattr(error, "errno", None) or 0, text=str(error)[:500])

    # -- what the host can ask for --------------------------------------------------------------------------------

    def load(self, source: str, encoded_filter: object) -> None:
        """Take the other half of this program, and what filters our system calls and those of every step from here on.

        The host is trusted, it chooses every command anyway. A filter that cannot be loaded is the end.
        """
        exec(STEP_CODE or compile(source, "runner_step.py", "exec"), self.steps.__dict__)  # noqa: S102
        self.steps.guard_runner()
        if encoded_filter is not None:
            self.steps.filter_calls(a2b_base64(str(encoded_filter)))

    def do_ping(self, message) -> None:  # type: ignore[no-untyped-def]
        """Answer."""
        self.send("pong", id=message["id"])

    def do_kill(self, message) -> None:  # type: ignore[no-untyped-def]  # noqa: ARG002
        """Kill all processes of the step."""
        signal_all(_signal.SIGKILL)

    def do_signal(self, message) -> None:  # type: ignore[no-untyped-def]
        """Send a signal to all processes of the step; a stopped one is continued, or it would never see it."""
        signal_all(message["signal"])
        signal_all(_signal.SIGCONT)

    def do_stdin(self, message) -> None:  # type: ignore[no-untyped-def]
        """Take what was typed at the host; ``took`` is the answer when the step has it, so that the host can wait for that."""
        step = self.step
        if step is not None and step.keys >= 0:
            step.typed = (step.typed + a2b_base64(message["data"]))[:MAX_TYPED_BYTES]
            step.typed_all = step.typed_all or message["end"]
            self.type(step)

    def do_resize(self, message) -> None:  # type: ignore[no-untyped-def]
        """Follow the size of the host's terminal."""
        if self.step is not None and self.step.terminal and self.step.out >= 0:
            self.steps.set_size(self.step.out, message["rows"], message["cols"])

    def do_put(self, message) -> None:  # type: ignore[no-untyped-def]
        """Write one file."""
        self.steps.put_file(message["path"], message["data"], mode=message["mode"], user=message["user"])
        self.send("done", id=message["id"])

    def do_run(self, message) -> None:  # type: ignore[no-untyped-def]
        """Start a step."""
        if self.step is not None:
            raise ValueError("a step is running")
        pid, out, keys = self.steps.start(message)
        self.step = RunningStep(message["id"], pid=pid, out=out, keys=keys, terminal=bool(message.get("pty")))
        self.alone = False

    # -- children -------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Collect every dead process; when the step's first one is among them, kill all that it left behind."""
        step = self.step
        while True:
            try:
                pid, status, usage = posix.wait4(-1, posix.WNOHANG)
            except ChildProcessError:
                self.alone = True  # an orphan becomes our child: without children there is no process at all
                return
            if pid == 0:
                self.alone = False
                break
            if step is not None and pid == step.pid:
                step.ended = (status, usage)  # type: ignore[assignment]
        if step is None or step.ended is not None:
            signal_all(_signal.SIGKILL)

    def pump(self) -> None:
        """Move output from the step to the stream, one chunk, and only when the chunk before it has left (back-pressure)."""
        step = self.step
        if step is None or step.out < 0 or self.outbox:
            return
        try:
            data = posix.read(step.out, CHUNK_BYTES)
        except BlockingIOError:
            # Nothing more can come once everyone is dead, even where a write end is still in flight inside a dead socket.
            if step.ended is not None and self.alone:
                self.close_output(step)
            return
        except OSError:  # EIO: the last one to hold the terminal is gone
            data = b""
        if data:
            self.outbox = b'{"op":"out","data":"' + b2a_base64(data, newline=False) + b'"}\n'
        else:
            self.close_output(step)

    def close_output(self, step: RunningStep) -> None:
        """No more output."""
        posix.close(step.out)
        if step.terminal:
            step.keys = -1
        step.out = -1

    def finish(self) -> None:
        """Report the end of the step when nothing of it is left."""
        step = self.step
        if step is None or step.ended is None or step.out >= 0 or not self.alone:
            return
        status, usage = step.ended
        killed_by = posix.WTERMSIG(status) if posix.WIFSIGNALED(status) else None
        self.send(
            "exit",
            id=step.number,
            status=None if killed_by else posix.WEXITSTATUS(status),
            signal=killed_by,
            user_s=usage.ru_utime,
            system_s=usage.ru_stime,
            max_rss_bytes=usage.ru_maxrss * 1024,
        )
        if step.keys >= 0:
            posix.close(step.keys)
        self.step = None

    def type(self, step: RunningStep) -> None:
        """Write to the step's input what was typed, then its end."""
        try:
            while step.typed:
                step.typed = step.typed[posix.write(step.keys, step.typed) :]
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more
            step.typed = b""
        if step.typed_all and step.terminal:
            step.typed, step.typed_all = b"\x04", False  # what a terminal's driver reads as the end
            return
        if step.typed_all:
            posix.close(step.keys)
            step.keys = -1
        self.send("took")

    def loop(self) -> None:
        """Serve until the stream closes."""
        while True:
            self.flush()
            waits = select.poll()
            waits.register(self.stream, select.POLLIN | (select.POLLOUT if self.outbox else 0))
            waits.register(self.woken, select.POLLIN)
            step = self.step
            wanted: dict[int, int] = {}
            if step is not None and step.out >= 0 and not self.outbox:
                wanted[step.out] = select.POLLIN
            if step is not None and step.keys >= 0 and step.typed:
                wanted[step.keys] = wanted.get(step.keys, 0) | select.POLLOUT
            for fd, events in wanted.items():  # nothing else: a hung-up descriptor is always ready, and would spin
                waits.register(fd, events)
            for fd, happened in waits.poll():
                if fd == self.woken:
                    posix.read(self.woken, 4096)
                    self.reap()
                elif fd == self.stream:
                    if happened & ~select.POLLOUT:
                        self.receive()
                elif step is not None and fd == step.keys and happened & ~select.POLLIN and step.typed:
                    self.type(step)
            self.pump()
            self.finish()


def signal_all(number: int) -> None:
    """Signal every process of the PID namespace but this one (``kill(2)``, pid -1)."""
    try:
        posix.kill(-1, number)
    except ProcessLookupError:  # there is none
        return


def status_fields() -> "dict[str, object]":
    """What the kernel says about this process's rights."""
    fd = posix.open("/proc/self/status", posix.O_RDONLY | posix.O_CLOEXEC)
    lines = posix.read(fd, 8192).decode().splitlines()
    posix.close(fd)
    found = {line.split(":", 1)[0]: line.split(":", 1)[1].strip() for line in lines if ":" in line}
    return {
        "cap_eff": found["CapEff"],
        "cap_bnd": found["CapBnd"],
        "seccomp": int(found["Seccomp"]),
        "no_new_privs": int(found["NoNewPrivs"]),
    }


def take_stream(where: str) -> int:
    """Move the stream to a descriptor that no child sees, put /dev/null on 0, 1 and 2, and close all that was inherited."""
    stream = posix.dup(int(where)) if where.isdigit() else posix.open(where, posix.O_RDWR | posix.O_CLOEXEC)
    while stream < 3:
        stream = posix.dup(stream)
    posix.set_inheritable(stream, False)  # noqa: FBT003 - takes no keyword
    null = posix.open("/dev/null", posix.O_RDWR)
    for target in (0, 1, 2):
        if null != target:
            posix.dup2(null, target)
    folder = posix.open("/proc/self/fd", posix.O_RDONLY | posix.O_DIRECTORY)
    for name in posix.listdir(folder):
        fd = int(name)
        if fd > 2 and fd not in (stream, folder) and is_open(fd):
            posix.close(fd)
    posix.close(folder)
    return stream


def is_open(fd: int) -> bool:
    """Whether the descriptor still exists (listing a directory by descriptor makes one for a moment)."""
    try:
        posix.fstat(fd)
    except OSError:
        return False
    return True


def main() -> None:
    """Serve as PID 1."""
    if posix.getpid() != 1:
        sys.exit("runner.py is PID 1 of a sandbox, or nothing: it signals every process that it can see")
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    runner = Runner(take_stream(sys.argv[1] if len(sys.argv) > 1 else "0"))
    try:
        runner.send("ready", python=list(sys.version_info[:3]), **status_fields())
        runner.flush()
        runner.loop()
    except BaseException as error:  # noqa: BLE001 - the host learns why before the namespace dies
        runner.outbox = b""
        runner.send("fatal", text=type(error).__name__ + ": " + str(error)[:500])
        runner.flush()
        posix._exit(1)


main()
