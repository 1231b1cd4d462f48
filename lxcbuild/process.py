"""The only place that starts programs on the host: argv lists, stdin from /dev/null, minimal environment, replayable log line."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lxcbuild.errors import CommandError, ToolMissingError
from lxcbuild.log import Logger
from lxcbuild.values import dataclass

log = Logger()

#: For the streams of :func:`spawn`: a pipe to or from the program.
PIPE = subprocess.PIPE

#: Variables of the caller that programs of the host keep: how the network and its certificates are configured, and no more.
_KEPT = (
    "PATH", "HOME", "TMPDIR", "LANG", "TERM",
    "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
_SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Completed:
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
) -> Completed:
    """Run a program to its end. ``env`` is added to the minimal environment; ``stdout`` is a file descriptor to write to.

    The program dies with its caller's interruption. Raises :class:`ToolMissingError` when there is no such program and, with
    ``check``, :class:`CommandError` when it fails or takes longer than ``timeout_s``.
    """
    with spawn(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL if input_bytes is None else subprocess.PIPE,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
    ) as child:
        try:
            out, err = child.communicate(input_bytes, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise CommandError(f"{argv[0]} took longer than {timeout_s:g} s", details=replay(argv)) from None
    done = Completed(tuple(os.fspath(a) for a in argv), child.returncode, out or b"", err or b"")
    if check and done.status != 0:
        raise failed(done)
    return done


def failed(done: Completed) -> CommandError:
    """The error for a program that ended badly, with the last lines of what it printed."""
    said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    how = f"exit status {done.status}" if done.status >= 0 else f"signal {signal.Signals(-done.status).name}"
    last = said[-1][:300] if said else "it printed nothing"
    return CommandError(f"{done.argv[0]} failed ({how}): {last}", details="\n".join([replay(done.argv), *said[-20:]]))


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
