"""One directory of one cgroup hierarchy, used through a directory descriptor; and the shapes of the files in it.

File formats: Documentation/admin-guide/cgroup-v2.rst ("flat keyed", "nested keyed") and cgroup-v1/*.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lxcbuild.errors import BadNameError, KernelError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,200}(/[A-Za-z0-9][A-Za-z0-9_.:@-]{0,200}){0,3}")
_READ_BYTES = 1 << 16


class Version(enum.StrEnum):
    """Which of the kernel's two cgroup interfaces a hierarchy speaks."""

    V1 = "v1"
    V2 = "v2"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy. ``base`` is the directory below which cgroups of ours are made."""

    version: Version
    mount: Path
    base: Path
    controllers: frozenset[str]  # only those that lxcbuild uses
    label: str = field(default="", compare=False)  # as in /proc/self/cgroup, for people

    def directory(self, name: str) -> Path:
        """Where the cgroup of that name is, or would be."""
        return self.base / name


def check_name(name: str) -> str:
    """The name again, if it is a relative cgroup path of plain words; raises :class:`BadNameError` otherwise."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise BadNameError(
            f"{name[:80]!r} is not a cgroup name", resolution="use letters, digits, '-', '_', '.', and '/'"
        )
    return name


class Node:
    """One cgroup directory of one hierarchy, held open. Close it (or leave its ``with`` block) when done."""

    __slots__ = ("_fd", "hierarchy", "path")

    def __init__(self, hierarchy: Hierarchy, path: Path) -> None:
        self.hierarchy = hierarchy
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def fd(self) -> int:
        """The directory descriptor (clone3's CLONE_INTO_CGROUP takes it on cgroup v2)."""
        return self._fd

    def open(self, file: str, flags: int) -> int:
        """Open one control file; raises OSError."""
        return os.open(file, flags | os.O_CLOEXEC, dir_fd=self._fd)

    def write(self, file: str, value: str) -> None:
        """Write one control file in one system call; raises :class:`KernelError` naming file, value and errno."""
        try:
            self.write_raw(file, value)
        except OSError as error:
            raise KernelError(
                f"the kernel refused {value!r} for {self.path / file}: {errno.errorcode.get(error.errno or 0, error)}",
                details=os.strerror(error.errno or 0),
            ) from error

    def write_raw(self, file: str, value: str) -> None:
        """Write one control file; raises OSError for callers that expect certain refusals."""
        fd = self.open(file, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)

    def read(self, file: str) -> str | None:
        """The whole text of a control file without the last newline; None when this kernel has no such file."""
        try:
            fd = self.open(file, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            parts: list[bytes] = []
            while part := os.read(fd, _READ_BYTES):
                parts.append(part)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENODEV):  # threaded cgroups, and groups that are going away
                return None
            raise
        finally:
            os.close(fd)
        return b"".join(parts).decode().rstrip("\n")

    def has(self, file: str) -> bool:
        """Whether this kernel offers the control file here."""
        return os.access(file, os.F_OK, dir_fd=self._fd)

    def children(self) -> list[str]:
        """Names of the child cgroups."""
        with os.scandir(self._fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    def walk(self) -> Iterator[Node]:
        """This node, then every descendant; nodes that vanish meanwhile are left out. Each is closed after its turn."""
        yield self
        for name in self.children():
            try:
                child = Node(self.hierarchy, self.path / name)
            except FileNotFoundError:
                continue
            with child, contextlib.suppress(FileNotFoundError):
                yield from child.walk()

    def pids(self) -> set[int]:
        """Every process in this cgroup and below it, as seen from our PID namespace (others appear as 0)."""
        found: set[int] = set()
        for node in self.walk():
            found.update(int(word) for word in (node.read("cgroup.procs") or "").split())
        return found

    def number(self, file: str) -> int | None:
        """A control file that holds one number; None when it is absent or says ``max``."""
        text = self.read(file)
        return int(text) if text and text.lstrip("-").isdigit() else None


def flat_keyed(text: str | None) -> dict[str, int]:
    """``key value`` per line."""
    pairs = (line.split() for line in (text or "").splitlines())
    return {words[0]: int(words[1]) for words in pairs if len(words) == 2 and words[1].lstrip("-").isdigit()}


def nested_keyed(text: str | None) -> dict[str, dict[str, str]]:
    """``key sub=value sub=value`` per line."""
    table: dict[str, dict[str, str]] = {}
    for line in (text or "").splitlines():
        key, *pairs = line.split()
        table[key] = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return table
