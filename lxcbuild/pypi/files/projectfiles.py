"""Which files of a project's directory are its sources: with git those that are tracked or not ignored, else all but caches.

The directory may come from a stranger, and a repository's own configuration can start programs. So no program reads it: the list of
tracked files is read here, and git, which knows what ``.gitignore`` files mean, runs in an empty repository of ours.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lxcbuild import process
from lxcbuild.errors import CommandError, InputError, ToolMissingError

MAX_FILES = 200_000
_MAX_NAME_BYTES = 4095  # PATH_MAX of Linux, without the NUL
_MAX_NAMES_BYTES = 64 << 20
_MAX_INDEX_BYTES = 64 << 20
_MAX_EXCLUDE_BYTES = 1 << 20
#: Directories that never belong to a project's sources: histories, caches, environments.
_SKIPPED = frozenset(
    {
        ".git", ".hg", ".svn", ".bzr", "CVS", ".jj", "_darcs", ".venv", "venv", ".tox", ".nox", "__pycache__",
        ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".eggs", "node_modules", ".cache",
    }
)  # fmt: skip
#: git holds whole ``.gitignore`` files in memory.
_LIST = (
    "prlimit", f"--as={512 << 20}", "git", "--no-optional-locks", "ls-files", "-z", "--others", "--exclude-standard",
)  # fmt: skip
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ATTR_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1",
}  # fmt: skip
_SUBMODULE = 0o160000


def project_files(root: Path, tell: Callable[[str], None]) -> list[str]:
    """Paths below ``root``, which has no links in it, sorted. What a user should know of the choice goes to ``tell``.

    Raises :class:`InputError` for more than :data:`MAX_FILES`, or names too long for any program, OSError.
    """
    names = _Names(root)
    top = _top_of_repository(root)
    if top is not None:
        _add_of_repository(names, top, tell)
    # No name at all: a directory that an outer repository ignores.
    if not names.found:
        names.add(_walk(root, ""))
    return sorted(names.found)


def open_parent(root: Path, name: str, stack: contextlib.ExitStack) -> int:
    """Open the directories on the way to ``name`` one by one, so that none of them can be a link that leads out of ``root``."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(root, flags)
    stack.callback(os.close, descriptor)
    for part in name.split("/")[:-1]:
        descriptor = os.open(part, flags, dir_fd=descriptor)
        stack.callback(os.close, descriptor)
    return descriptor


class _Names:
    """Names below a directory, bounded in number and length."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: set[str] = set()
        self._bytes = 0

    def add(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self.found:
                continue
            self.found.add(name)
            self._bytes += _length(self.root, os.fsencode(name))
            if len(self.found) > MAX_FILES:
                raise _too_many(self.root)
            if self._bytes > _MAX_NAMES_BYTES:
                raise InputError(f"the names of the files in {self.root} have more than {_MAX_NAMES_BYTES >> 20} MiB")


def _length(root: Path, name: bytes) -> int:
    if len(name) > _MAX_NAME_BYTES:
        raise InputError(f"{root} has a file whose name is longer than {_MAX_NAME_BYTES} bytes")
    return len(name)


def _too_many(root: Path) -> InputError:
    return InputError(f"{root} holds more than {MAX_FILES} files", resolution="remove or ignore what is no source")


def _walk(root: Path, below: str) -> Iterator[str]:
    pending = [below]
    count = 0
    while pending:
        directory = pending.pop()
        with os.scandir(root / directory) as entries:
            for entry in entries:
                count += 1
                if count > MAX_FILES:
                    raise _too_many(root)
                name = f"{directory}/{entry.name}" if directory else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _SKIPPED and not entry.name.endswith(".egg-info"):
                        pending.append(name)
                elif entry.name != ".git":  # in a submodule it is a file
                    yield name


# -- with git ---------------------------------------------------------------------------------------------------


def _top_of_repository(root: Path) -> Path | None:
    """The nearest directory at or above ``root`` with a ``.git``; above it, not one that some other user has put there."""
    trusted = {0, os.geteuid(), root.stat().st_uid}
    for place in (root, *root.parents):
        with contextlib.suppress(OSError):
            if (place / ".git").lstat().st_uid in trusted or place == root:
                return place
    return None


def _add_of_repository(names: _Names, top: Path, tell: Callable[[str], None]) -> None:
    listed = _not_ignored(names.root, top)
    if listed is None:
        tell(f"git could not tell which files of {names.root} are ignored: all of them are taken")
        return
    # A directory here is another repository inside this one: git lists its name only.
    directories = _Names(names.root)
    directories.add(name for name in listed if name.endswith("/"))
    names.add(name for name in listed if not name.endswith("/"))
    try:
        for mode, name in _tracked(names.root, top):
            if mode == _SUBMODULE:
                directories.add((f"{name}/",))
            elif name not in names.found and os.path.lexists(names.root / name):
                names.add((name,))
    except (ValueError, OSError, struct.error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        tell(f"{top / '.git'} is not read ({why}): files that are tracked though ignored are left out")
    done = None
    for name in sorted(directories.found):
        inside = name.rstrip("/")
        if (done is None or not name.startswith(done)) and _is_directory(names.root / inside):
            names.add(_walk(names.root, inside))
            done = name


def _is_directory(path: Path) -> bool:
    """Whether that is a directory to which no link leads."""
    return path.is_dir() and os.path.realpath(path) == str(path)


def _not_ignored(root: Path, top: Path) -> list[str] | None:
    """What git calls untracked in a repository without any history; None when it cannot say."""
    with tempfile.TemporaryDirectory(prefix="lxcbuild-git-") as place:
        own = Path(place)
        for directory in ("objects", "refs", "info"):
            (own / directory).mkdir()
        (own / "HEAD").write_text("ref: refs/heads/none\n")
        with contextlib.suppress(ValueError, OSError):
            (own / "info/exclude").write_bytes(_read(top, ".git/info/exclude", _MAX_EXCLUDE_BYTES))
        environment = {**_ENVIRONMENT, "GIT_DIR": place, "GIT_WORK_TREE": str(top)}
        try:
            done = process.run(_LIST, env=environment, cwd=root, timeout_s=60)
        except (ToolMissingError, CommandError):
            return None
    if done.stdout.count(b"\0") > MAX_FILES:
        raise _too_many(root)
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _read(top: Path, name: str, limit: int) -> bytes:
    """A regular file to which no link leads. Raises OSError, and ValueError for anything else."""
    with contextlib.ExitStack() as stack:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name.rsplit("/", 1)[-1], flags, dir_fd=open_parent(top, name, stack))
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise ValueError(f"{name} is not a regular file")
            if facts.st_size > limit:
                raise ValueError(f"{name} is larger than {limit >> 20} MiB")
            return file.read(facts.st_size)


def _tracked(root: Path, top: Path) -> Iterator[tuple[int, str]]:
    """Mode and name of what the repository's index lists below ``root``. Raises OSError, ValueError, struct.error."""
    try:
        data = _read(top, ".git/index", _MAX_INDEX_BYTES)
    except FileNotFoundError:
        return
    above = b"" if root == top else os.fsencode(root.relative_to(top)) + b"/"
    for mode, path in _entries(data, root):
        name = path.removeprefix(above)
        if path.startswith(above) and not {b"", b".", b"..", b".git"} & set(name.split(b"/")):
            yield mode, os.fsdecode(name)


def _entries(data: bytes, root: Path) -> Iterator[tuple[int, bytes]]:
    """Mode and path of every entry of a git index of version 2 to 4 with SHA-1 (gitformat-index(5))."""
    signature, version, count = struct.unpack_from(">4sII", data)
    if signature != b"DIRC" or version not in (2, 3, 4):
        raise ValueError("the index has an unknown form")
    at, path = 12, b""
    for _ in range(count):
        (mode,) = struct.unpack_from(">I", data, at + 24)
        (flags,) = struct.unpack_from(">H", data, at + 60)
        begin, kept = at + (64 if flags & 0x4000 else 62), 0
        if version == 4:
            cut, begin = _varint(data, begin)
            kept = len(path) - cut
        end = data.find(b"\0", begin)
        if kept < 0 or end < 0:
            raise ValueError("the index is damaged")
        path = path[:kept] + data[begin:end]
        _length(root, path)
        at = end + 1 if version == 4 else at + ((end - at) // 8 + 1) * 8
        yield mode, path


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number as packs of git write offsets, and where it ends."""
    value = -1
    while True:
        (byte,) = struct.unpack_from("B", data, at)
        value, at = (value + 1) << 7 | byte & 0x7F, at + 1
        if value > _MAX_NAME_BYTES:
            raise ValueError("the index is damaged")
        if not byte & 0x80:
            return value, at
