"""The only place that starts programs on the host: argv lists, stdin from /dev/null, minimal environment, replayable log line."""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from msgspec import Struct

from lxcbuild.errors import CommandError, ToolMissingError
from lxcbuild.log import Logger

log = Logger()

#: For the streams of :func:`spawn`: a pipe to or from the program.
PIPE = subprocess.PIPE
#: More than this of a program's output is held in memory for nobody who does not ask for it.
MAX_OUTPUT_BYTES = 64 << 20
_CHUNK = 1 << 16

#: Variables of the caller that programs of the host keep: how the network and its certificates are configured, and no more.
_KEPT = (
    "PATH", "HOME", "TMPDIR", "LANG", "TERM",
    "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
_SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Completed(Struct, frozen=True):
    """A finished program: its exit status (negative: the signal) and what it printed."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes


def host_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The minimal environment for programs of the host, with ``extra`` on top."""
    env = {name: os.environ[name] for name in _KEPT if name in os.environ}
    env["LC_ALL"] = "C.UTF-8"
    env["PATH"] = f"{env['PATH']}:{_SBIN}" if env.get("PATH") else _SBIN
    env.update(extra or {})
    return env


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    input_bytes: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
    check: bool = True,
    stdout: int | None = None,
    pass_fds: Sequence[int] = (),
    max_output_bytes: int = MAX_OUTPUT_BYTES,
) -> Completed:
    """Run a program to its end. ``env`` is added to the minimal environment; ``stdout`` is a file descriptor to write to.

    The program dies with its caller's interruption. Raises :class:`ToolMissingError` when there is no such program,
    :class:`CommandError` when it takes longer than ``timeout_s``, prints more than ``max_output_bytes`` or, with ``check``, fails.
    """
    with (
        _readable(input_bytes) as stdin,
        spawn(
            argv,
            env=env,
            cwd=cwd,
            stdin=stdin,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
        ) as child,
    ):
        try:
            out, err = _collect(child, timeout_s, max_output_bytes)
        except subprocess.TimeoutExpired:
            raise CommandError(f"{argv[0]} took longer than {timeout_s:g} s", details=replay(argv)) from None
        except OverflowError:
            most = f"{argv[0]} printed more than {max_output_bytes} bytes"
            raise CommandError(most, details=replay(argv)) from None
    done = Completed(tuple(os.fspath(a) for a in argv), child.returncode, out, err)
    if check and done.status != 0:
        raise failed(done)
    return done


@contextlib.contextmanager
def _readable(data: bytes | None) -> Iterator[int]:
    """A descriptor that gives these bytes, without anybody who has to write them meanwhile."""
    if data is None:
        yield subprocess.DEVNULL
        return
    with os.fdopen(os.memfd_create("input", os.MFD_CLOEXEC), "w+b") as file:
        file.write(data)
        file.seek(0)
        yield file.fileno()


def _collect(child: subprocess.Popen[bytes], timeout_s: float | None, most: int) -> tuple[bytes, bytes]:
    """What the program prints until it ends. Raises subprocess.TimeoutExpired, and OverflowError for more than ``most`` bytes."""
    end_s = None if timeout_s is None else time.monotonic() + timeout_s

    def left_s() -> float | None:
        return None if end_s is None else max(0.0, end_s - time.monotonic())

    out, err, size = bytearray(), bytearray(), 0
    with selectors.DefaultSelector() as open_streams:
        for stream, collected in ((child.stdout, out), (child.stderr, err)):
            if stream is not None:
                open_streams.register(stream, selectors.EVENT_READ, collected)
        while open_streams.get_map():
            ready = open_streams.select(left_s())
            if left_s() == 0:
                raise subprocess.TimeoutExpired(child.args, timeout_s or 0)
            for key, _ in ready:
                data = os.read(key.fd, _CHUNK)
                if not data:
                    open_streams.unregister(key.fileobj)
                key.data.extend(data)
                size += len(data)
                if size > most:
                    raise OverflowError
    child.wait(left_s())
    return bytes(out), bytes(err)


def failed(done: Completed) -> CommandError:
    """The error for a program that ended badly, with the last lines of what it printed."""
    said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    how = f"exit status {done.status}" if done.status >= 0 else f"signal {signal.Signals(-done.status).name}"
    last = said[-1][:300] if said else "it printed nothing"
    return CommandError(f"{done.argv[0]} failed ({how}): {last}", details="\n".join([replay(done.argv), *said[-20:]]))


def piped(stream: IO[bytes] | None) -> IO[bytes]:
    """The stream of a program that was started with :data:`PIPE` for it."""
    if stream is None:
        raise ValueError("it was not started with a pipe")
    return stream


@contextlib.contextmanager
def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program in its own process group and yield it; whatever of it still runs at the end of the block is killed."""
    log.debug("process.start", argv=replay(argv))
    try:
        child = subprocess.Popen(
            [os.fspath(a) for a in argv],
            env=host_environment(env),
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            process_group=0,
        )
    except FileNotFoundError:
        raise ToolMissingError(
            f"the program {argv[0]} is not installed",
            resolution="run: sudo scripts/quickstart (or: lxcbuild doctor)",
        ) from None
    try:
        yield child
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def replay(argv: Sequence[str | os.PathLike[str]]) -> str:
    """The command as a line that a person can paste into a shell."""
    return shlex.join(os.fspath(a) for a in argv)
