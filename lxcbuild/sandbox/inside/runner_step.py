"""The half of the runner that is needed from the first step on: what a child does to become a step, and writing files.

The host sends this file's text over the stream as soon as the runner is ready (``load``); where ``runner_boot.py`` has found
it compiled already, that is used instead. The same rules as in ``runner.py``: CPython 3.9, standard library, nothing of ours is
imported. Of ctypes only the C half is: the Python half takes 4 ms, as much as the start of all the rest.
"""

import _signal  # type: ignore[import-not-found]
import posix
import resource
import sys
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    Structure,
    _SimpleCData,
    byref,
    dlopen,
    get_errno,
)
from binascii import a2b_base64
from fcntl import ioctl

BUILD_ID = 1000  # uid and gid of the build user, inside
OPEN_FILES = (
    1024,
    65536,
)  # fakeroot and old Pythons close every possible descriptor: a limit of a billion takes minutes
STEP_OOM_SCORE_ADJ = 500  # within the memory cgroup a step's processes die before the runner does

# linux/prctl.h, linux/capability.h
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 4, 24, 38, 47, 4
CAPABILITY_VERSION_3 = 0x20080522
EINVAL = 22
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2

# asm-generic/ioctls.h
TIOCSCTTY, TIOCSWINSZ = 0x540E, 0x5414


class Int(_SimpleCData):  # type: ignore[type-arg]
    """C's ``int``; the letters are those of :mod:`struct` and of ctypes' own classes."""

    _type_ = "i"


class UnsignedShort(_SimpleCData):  # type: ignore[type-arg]
    """C's ``unsigned short``."""

    _type_ = "H"


class UnsignedLong(_SimpleCData):  # type: ignore[type-arg]
    """C's ``unsigned long``."""

    _type_ = "L"


class CString(_SimpleCData):  # type: ignore[type-arg]
    """C's ``char *``."""

    _type_ = "z"


class Function(CFuncPtr):
    """A function of the C library that returns ``int`` and may set errno."""

    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = Int


class Libc:
    """What is loaded already: the interpreter and its C library."""

    _handle = dlopen(None, 0)  # type: ignore[arg-type]


c_prctl, c_capset = Function(("prctl", Libc)), Function(("capset", Libc))  # type: ignore[arg-type]


def checked(what: str, result: int) -> None:
    """Raise OSError for a call of the C library that failed."""
    if result != 0:
        number = get_errno()
        raise OSError(number, what + ": " + posix.strerror(number))


def prctl(option: int, value: int) -> None:
    """``prctl(2)`` with one argument; the others must be zero for most options."""
    zero = UnsignedLong(0)
    checked(f"prctl({option}, {value})", c_prctl(Int(option), UnsignedLong(value), zero, zero, zero))


def drop_bounding_set() -> None:
    """Empty the capability bounding set, whatever the highest capability of this kernel is."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == EINVAL and capability > 0:
                return
            raise


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets."""
    header = CAPABILITY_VERSION_3.to_bytes(4, sys.byteorder) + bytes(4)  # struct __user_cap_header_struct: version, pid
    checked("capset", c_capset(header, bytes(24)))  # two times struct __user_cap_data_struct


def guard_runner() -> None:
    """Make the runner's memory, environment and descriptors unreadable for everyone else inside (``PR_SET_DUMPABLE``, proc(5))."""
    prctl(PR_SET_DUMPABLE, 0)


class FilterProgram(Structure):
    """``struct sock_fprog`` of linux/filter.h."""

    _fields_ = (("count", UnsignedShort), ("instructions", CString))


def filter_calls(program: bytes) -> None:
    """Load a system-call filter (an array of ``struct sock_filter``) into this process and all its children to come.

    seccomp(2) wants no_new_privs for that, or CAP_SYS_ADMIN; the first is what every step gets in any case.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    described = FilterProgram(len(program) // 8, program)
    zero = UnsignedLong(0)
    mode = UnsignedLong(SECCOMP_MODE_FILTER)
    checked("load the system-call filter", c_prctl(Int(PR_SET_SECCOMP), mode, byref(described), zero, zero))


def start(message) -> "tuple[int, int, int]":  # type: ignore[no-untyped-def]
    """Start a step: its pid, the descriptor with its output, and the one for what is typed (-1: there is none)."""
    terminal = bool(message.get("pty"))
    opened: list[int] = []
    keys = -1
    try:
        if terminal:
            out, theirs = posix.openpty()
            opened += [out, theirs]
            set_size(out, *message["pty"])
            posix.fchown(theirs, BUILD_ID if message["user"] == "build" else 0, -1)
            stdin, keys = theirs, out
        else:
            out, theirs = posix.pipe2(posix.O_CLOEXEC)
            opened += [out, theirs]
            if message.get("keyboard"):
                stdin, keys = posix.pipe2(posix.O_CLOEXEC)
                opened.append(keys)
            else:
                stdin = open_stdin(message.get("stdin"))
            opened.append(stdin)
        for fd in {out, keys} - {-1}:
            posix.set_blocking(fd, False)
        pid = posix.fork()
        if pid == 0:
            become(message, stdin=stdin, output=theirs, terminal=terminal)
        opened = [fd for fd in opened if fd not in (out, keys)]
    finally:
        for fd in opened:
            posix.close(fd)
    return pid, out, keys


def set_size(fd: int, rows: int, columns: int) -> None:
    """Tell a terminal its size."""
    size = b"".join(value.to_bytes(2, sys.byteorder) for value in (rows, columns, 0, 0))
    ioctl(fd, TIOCSWINSZ, size)


def open_stdin(encoded: "str | None") -> int:
    """What a step reads: the bytes given, else nothing."""
    if encoded is None:
        return posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
    data = a2b_base64(encoded)
    fd = posix.memfd_create("stdin", posix.MFD_CLOEXEC)
    while data:
        data = data[posix.write(fd, data) :]
    posix.lseek(fd, 0, 0)
    return fd


def put_file(path: str, encoded: str, *, mode: int, user: str) -> None:
    """Write a file, making its parents; no component may be a link, and what was there before is replaced, never opened."""
    data, owner = a2b_base64(encoded), BUILD_ID if user == "build" else 0
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not path.startswith("/") or not parts or ".." in parts:
        raise ValueError("not an absolute path: " + path)
    walk = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
    at = posix.open("/", walk)
    try:
        for part in parts[:-1]:
            try:
                below = posix.open(part, walk, dir_fd=at)
            except FileNotFoundError:
                posix.mkdir(part, 0o755, dir_fd=at)
                below = posix.open(part, walk, dir_fd=at)
                posix.fchown(below, owner, owner)
            posix.close(at)
            at = below
        new = ".lxcbuild-put"
        fd = posix.open(new, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600, dir_fd=at)
        try:
            while data:
                data = data[posix.write(fd, data) :]
            posix.fchown(fd, owner, owner)
            posix.fchmod(fd, mode)
            posix.rename(new, parts[-1], src_dir_fd=at, dst_dir_fd=at)
        except OSError:
            posix.unlink(new, dir_fd=at)
            raise
        finally:
            posix.close(fd)
    finally:
        posix.close(at)


def become(message, *, stdin: int, output: int, terminal: bool) -> None:  # type: ignore[no-untyped-def]
    """In the child: turn into the step's command. Never returns; says why on the step's output when it cannot."""
    try:
        _signal.set_wakeup_fd(-1)
        for number in (_signal.SIGINT, _signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGCHLD):
            _signal.signal(number, _signal.SIG_DFL)  # Python ignores some of them, and exec keeps what is ignored
        posix.setsid()
        for target, fd in enumerate((stdin, output, output)):
            posix.dup2(fd, target)
        if terminal:
            ioctl(0, TIOCSCTTY, 0)
        restrict(message["user"])
        posix.chdir(message["cwd"])
        execute(message["argv"], message["env"])
    except BaseException as error:  # noqa: BLE001 - nothing may return into the runner's loop
        text = "lxcbuild: cannot run " + message["argv"][0] + ": " + (str(error) or type(error).__name__) + "\n"
        posix.write(2, text.encode(errors="backslashreplace"))
        posix._exit(127 if isinstance(error, FileNotFoundError) else 126)


def restrict(user: str) -> None:
    """Limits of every step, and for the build user the end of every privilege."""
    fd = posix.open("/proc/self/oom_score_adj", posix.O_WRONLY | posix.O_CLOEXEC)
    posix.write(fd, b"%d" % STEP_OOM_SCORE_ADJ)
    posix.close(fd)
    posix.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    hard = OPEN_FILES[1] if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, OPEN_FILES[0]), hard))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    if user == "root":
        return
    posix.setgroups([])
    drop_bounding_set()
    posix.setresgid(BUILD_ID, BUILD_ID, BUILD_ID)
    posix.setresuid(BUILD_ID, BUILD_ID, BUILD_ID)
    drop_capabilities()


def execute(argv: "list[str]", env: "dict[str, str]") -> None:
    """``execvpe``: the program is looked up along the step's own PATH."""
    program = argv[0]
    folders = [""] if "/" in program else [folder + "/" for folder in env.get("PATH", "").split(":") if folder]
    seen: OSError = FileNotFoundError(2, "No such file or directory")
    for folder in folders:
        try:
            posix.execve(folder + program, argv, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            seen = error
    raise seen
