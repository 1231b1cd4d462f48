"""pybuild, dh_python3 and the builds that pybuild starts, as forks of processes that have their modules loaded.

Started by forkserver.pl as ``python3 forkserver.py PLACE ROOM``, a file of its own. There are two servers. The first has
modules of the standard library loaded and nothing else: its forks become ``python3 -m build`` and the backend's hooks, which
must find their own libraries. The second, a fork of the first, has dh-python's modules too: its forks become the programs
behind the stand-ins. Whatever could make a difference is left to the real program, as in forkserver.pl.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import gc
import importlib
import json
import os
import re
import runpy
import selectors
import shutil
import signal
import socket
import struct
import subprocess  # noqa: TID251 (inside the sandbox there is no lxcbuild.process)
import sys
import threading
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

PROGRAMS = ("pybuild", "dh_python3")
# What backends and installers commonly import. Not distutils, which setuptools replaces, and nothing that reads the environment.
COMMON = """argparse ast base64 bz2 collections.abc configparser contextlib copy csv dataclasses datetime difflib email.generator
email.message email.parser email.policy enum fnmatch functools glob gzip hashlib html importlib.metadata importlib.resources inspect
io itertools json locale logging lzma operator optparse os pathlib pickle platform pprint queue random re runpy shlex shutil stat
string struct subprocess sysconfig tarfile tempfile textwrap threading tokenize tomllib traceback types typing urllib.parse uuid
warnings weakref zipfile zlib""".split()  # noqa: SIM905 - shorter to read
_SCRIPTS = "/usr/share/dh-python"
_BUILD = re.compile(r"(python3(?:\.\d+)?) -m build((?: [\w./=,:+~@%-]+)*) *")
_HOOKS = ("_in_process.py", "in_process.py")
Receive, Become = Callable[[socket.socket], Any], Callable[[socket.socket, Any], None]
_NAMESPACES = ("ns/mnt", "ns/user", "ns/net", "root")


def main(place: str) -> None:
    """Load, fork, serve until killed. The streams of this process are those of the build's log."""
    load(COMMON)
    sys.path.pop(0)
    modules = _listen(f"{place}/modules.sock")
    second = os.fork()
    if second == 0:
        modules.close()
        codes = _load_programs()
        _serve(_listen(f"{place}/python.sock"), _peer, lambda link, pid: _become_program(link, pid, place, codes))

    def end(*_: object) -> None:
        os.kill(second, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    _serve(modules, _line, lambda link, asked: _become_module(link, asked, place))


def load(names: Iterable[str]) -> None:
    """Import what is there of these."""
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def imported_by(tree: ast.AST) -> list[str]:
    """The names of all modules that a program may import, wherever it does, and some that are no modules."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _load_programs() -> dict[str, types.CodeType]:
    """The code of each program, all that it imports being imported."""
    sys.path.insert(0, _SCRIPTS)
    codes = {}
    for name in PROGRAMS:
        path = f"/usr/bin/{name}"
        with contextlib.suppress(OSError, SyntaxError):
            tree = ast.parse(Path(path).read_bytes(), path)
            load(imported_by(tree))
            codes[name] = compile(tree, path, "exec")
    return codes


# -- serving --------------------------------------------------------------------------------------------------------


def _listen(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(path)
    server.listen(64)
    return server


def _serve(
    server: socket.socket, receive: Callable[[socket.socket], Any], become: Callable[[socket.socket, Any], None]
) -> NoReturn:
    """Fork for every connection, into something that does not return; the wait status goes back when it has ended."""
    wake, alarm = socket.socketpair()
    for end in (wake, alarm):
        end.setblocking(False)  # noqa: FBT003
    signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waiting: dict[int, socket.socket] = {}
    selector = selectors.DefaultSelector()
    selector.register(server, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    gc.freeze()  # a fork that collects garbage need not look at what it shares, and so copy it
    while True:
        for key, _ in selector.select():
            if key.fileobj is wake:
                wake.recv(4096)
                _reap(waiting, selector)
            elif key.fileobj is server:
                link, _ = server.accept()
                asked = receive(link)
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    for number in (signal.SIGCHLD, signal.SIGTERM):
                        signal.signal(number, signal.SIG_DFL)
                    selector.close()
                    for other in (server, wake, alarm, *waiting.values()):
                        other.close()
                    become(link, asked)
                waiting[pid] = link
                selector.register(link, selectors.EVENT_READ, pid)
            elif waiting.get(key.data) is key.fileobj:  # who asked has died
                selector.unregister(key.fileobj)
                waiting.pop(key.data).close()
                os.kill(key.data, signal.SIGTERM)


def _reap(waiting: dict[int, socket.socket], selector: selectors.BaseSelector) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        link = waiting.pop(pid, None)
        if link is not None:
            selector.unregister(link)
            with link, contextlib.suppress(OSError):
                link.sendall(b"%d\n" % status)


def _run(code: types.CodeType, argv: Sequence[str]) -> NoReturn:
    """Run a program's code as an interpreter of its own would, and end; ``argv[0]`` is its path."""
    _tell_arguments(sys.executable, argv)
    sys.argv[:] = argv  # modules that are loaded already may hold the list
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=argv[0], __builtins__=__builtins__)
    sys.modules["__main__"] = module
    _end(lambda: exec(code, module.__dict__))  # noqa: S102 - it is the program's


def _tell_arguments(program: str, argv: Sequence[str]) -> None:
    """Say what this process is now, to itself and in /proc: people are told by its arguments who wanted the network."""
    words = [program, *argv]
    if hasattr(sys, "orig_argv"):  # CPython 3.10
        sys.orig_argv[:] = words
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_bytes(os.fsencode(Path(program).name))
        # proc(5), /proc/pid/stat: fields 48 and 49 are where the arguments lie; forkserver.pl has made room there.
        start, end = map(int, Path("/proc/self/stat").read_bytes().rpartition(b") ")[2].split()[45:47])
        text = b"\0".join(map(os.fsencode, words))[: end - start - 1]
        with open("/proc/self/mem", "r+b", buffering=0) as memory:  # noqa: PTH123
            memory.seek(start)
            memory.write(text.ljust(end - start, b"\0"))


def _end(function: Callable[[], object]) -> NoReturn:
    """Call it and end with the status that an interpreter would have."""
    status = 0
    try:
        function()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if status and not isinstance(error.code, int):
            sys.stderr.write(f"{error.code}\n")
    except BaseException:  # noqa: BLE001 - shown as an interpreter does
        sys.excepthook(*sys.exc_info())
        status = 1
    for last in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):
            last()
    os._exit(status & 0xFF)


# -- programs behind stand-ins ----------------------------------------------------------------------------------------


def _decisive(env: Mapping[str, str]) -> dict[str, str]:
    """What an interpreter and dh-python read while they start."""
    return {name: env[name] for name in env if name.startswith(("LD_", "PYTHON", "DEBPYTHON", "LC_", "LANG", "TZ"))}


def _peer(link: socket.socket) -> int:
    """The process that asked."""
    return int(struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


def _become_program(link: socket.socket, asking: int, place: str, codes: Mapping[str, types.CodeType]) -> NoReturn:
    try:
        argv, env = _take_over(Path(f"/proc/{asking}"))
        code = codes[Path(argv[0]).name]
    except (OSError, LookupError):
        link.sendall(b"no\n")
        os._exit(0)
    link.close()
    os.environ.clear()
    os.environ.update(env)
    _serve_builds(place)
    _run(code, [f"/usr/bin/{Path(argv[0]).name}", *argv[1:]])


def _take_over(proc: Path) -> tuple[list[str], dict[str, str]]:
    """Become who asked, but for arguments and environment, which are returned; OSError or LookupError where that cannot be."""
    items = (os.fsdecode(item).partition("=") for item in (proc / "environ").read_bytes().split(b"\0") if item)
    env = {name: value for name, _, value in items}
    argv = [os.fsdecode(item) for item in (proc / "cmdline").read_bytes().split(b"\0")[1:-1]]
    own = Path("/proc/self")
    if (
        _decisive(env) != _decisive(os.environ)
        or (proc / "limits").read_bytes() != (own / "limits").read_bytes()
        or any((proc / at).readlink() != (own / at).readlink() for at in _NAMESPACES)
    ):
        raise OSError("a fork of this process would not be the same")
    _take_streams(proc)
    os.chdir(proc / "cwd")
    umask = re.search(rb"^Umask:\s*([0-7]+)", (proc / "status").read_bytes(), re.MULTILINE)
    os.umask(int(umask[1], 8) if umask else 0o022)
    return argv, env


def _take_streams(proc: Path) -> None:
    """Make the standard streams of ``proc`` ours; OSError if that cannot be, as for a file: it would begin at its beginning."""
    for fd in range(3):
        theirs, ours = (proc / "fd" / str(fd)).stat(), os.fstat(fd)
        if (theirs.st_dev, theirs.st_ino, theirs.st_rdev) != (ours.st_dev, ours.st_ino, ours.st_rdev):
            if theirs.st_mode & 0o170000 not in (0o010000, 0o020000):  # S_IFIFO, S_IFCHR
                raise OSError("a stream to a file")
            new = os.open(proc / "fd" / str(fd), os.O_WRONLY if fd else os.O_RDONLY)
            os.dup2(new, fd)
            os.close(new)


def _serve_builds(place: str) -> None:
    """Let ``python3 -m build`` be a fork of the first server where pybuild only wants its status."""
    tools = sys.modules.get("dhpython.tools")
    start = getattr(tools, "Popen", None)
    if start is not subprocess.Popen:
        return

    def popen(command: Any, **options: Any) -> Any:
        match = _BUILD.fullmatch(command) if isinstance(command, str) else None
        if match is None or set(options) != {"shell", "cwd", "env"} or not options["shell"] or options["env"] is None:
            return start(command, **options)
        program = shutil.which(match[1], path=options["env"].get("PATH"))
        argv = ["-m", "build", *match[2].split()]
        return _ask(place, program, argv, options["cwd"], options["env"]) or start(command, **options)

    tools.Popen = popen  # type: ignore[union-attr]


# -- builds and hooks -------------------------------------------------------------------------------------------------


class Served:
    """What a ``subprocess.Popen`` would be, of which only the status is of interest."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self.returncode: int | None = None

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def wait(self) -> int:
        """The exit status, or the signal's number, negative."""
        if self.returncode is None:
            with self._link:
                answer = self._link.recv(64)
            # 70 is EX_SOFTWARE: the server has died over it.
            self.returncode = os.waitstatus_to_exitcode(int(answer)) if answer.strip().isdigit() else 70
        return self.returncode

    def communicate(self) -> tuple[None, None]:
        """Wait."""
        self.wait()
        return None, None


def _ask(
    place: str, program: str | None, argv: Sequence[str], cwd: str | None, env: Mapping[str, str]
) -> Served | None:
    """Have the first server run this; None if it will not. Its streams are ours, which must be those that it started with."""
    if program is None or os.path.realpath(program) != os.path.realpath(sys.executable):
        return None
    if _but_path(env) != _but_path(os.environ) or _streams() != _STREAMS:
        return None
    umask = os.umask(0o022)
    os.umask(umask)
    asked = {"program": program, "argv": argv, "cwd": os.path.abspath(cwd or "."), "env": dict(env), "umask": umask}  # noqa: PTH100
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.connect(f"{place}/modules.sock")
        link.sendall(json.dumps(asked).encode() + b"\n")
    except OSError:
        link.close()
        return None
    return Served(link)


def _but_path(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in _decisive(env).items() if name != "PYTHONPATH"}


def _streams() -> list[tuple[int, int]]:
    return [(found.st_dev, found.st_ino) for found in map(os.fstat, (1, 2))]


_STREAMS = _streams()


def _line(link: socket.socket) -> bytes:
    """What was asked; less than a line if who asked died over it."""
    data = b""
    while not data.endswith(b"\n"):
        more = link.recv(1 << 16)
        if not more:
            break
        data += more
    return data


def _become_module(link: socket.socket, line: bytes, place: str) -> NoReturn:
    link.close()
    asked = json.loads(line)
    argv: list[str] = asked["argv"]
    os.environ.clear()
    os.environ.update(asked["env"])
    os.umask(asked["umask"])
    os.chdir(asked["cwd"])
    sys.executable = asked["program"]
    first = os.getcwd() if argv[0] == "-m" else os.path.dirname(os.path.realpath(argv[0]))  # noqa: PTH109, PTH120
    # site has put the directories of distributions after these; .pth files are not looked for in PYTHONPATH.
    sys.path[:0] = [first, *(os.path.abspath(at) for at in asked["env"].get("PYTHONPATH", "").split(":") if at)]  # noqa: PTH100
    if argv[0] != "-m":
        _run(compile(Path(argv[0]).read_bytes(), argv[0], "exec"), argv)
    _serve_hooks(place)
    sys.argv[:] = argv[1:]
    _tell_arguments(sys.executable, argv)
    _end(lambda: runpy.run_module(argv[1], run_name="__main__", alter_sys=True))


def _serve_hooks(place: str) -> None:
    """Let the processes in which hooks of the backend run be forks of the first server."""
    check_call = subprocess.check_call

    def served(argv: Any, **options: Any) -> int:
        hook = isinstance(argv, list) and len(argv) == 4 and argv[0] == sys.executable and Path(argv[1]).name in _HOOKS
        process = None
        if hook and set(options) <= {"cwd", "env"}:
            process = _ask(place, argv[0], argv[1:], options.get("cwd"), options.get("env") or os.environ)
        if process is None:
            return check_call(argv, **options)
        if process.wait() != 0:
            raise subprocess.CalledProcessError(process.wait(), argv)
        return 0

    subprocess.check_call = served  # type: ignore[assignment]


if __name__ == "__main__":
    main(sys.argv[1])
