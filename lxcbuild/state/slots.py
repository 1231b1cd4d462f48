"""What builds of this machine hold at the moment, whatever their state directory: so that bulk builds make room for others.

Each running build of a kind holds a locked file that says what it needs; the kernel takes the lock from a dead process, so a count
is never wrong for long. Bulk runs look here before they start anything more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from lxcbuild.state import locks
from lxcbuild.state.paths import MACHINE_SLOTS


class Kind(StrEnum):
    """Who holds a slot."""

    INTERACTIVE = "interactive"  # somebody waits for it
    BULK = "bulk"  # one of many of an unattended run


class Held(Struct, frozen=True, kw_only=True):
    """One slot that somebody holds."""

    kind: Kind
    pid: int
    memory_bytes: int
    cpus: float


@contextlib.contextmanager
def hold(kind: Kind, *, memory_bytes: int, cpus: float = 1.0, directory: Path = MACHINE_SLOTS) -> Iterator[None]:
    """Hold a slot for the length of the block. Never waits: who is interactive goes on, who is bulk has looked before.

    A machine on which the directory cannot be made has no courtesy, and builds all the same.
    """
    try:
        path, fd = _take(kind, memory_bytes, cpus, directory)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


def held(directory: Path = MACHINE_SLOTS) -> list[Held]:
    """All slots whose holders live; files of dead ones are removed."""
    found = []
    for path in sorted(directory.glob("*-*.slot")):
        if locks.is_free(path):
            path.unlink(missing_ok=True)
            continue
        try:
            said = json.loads(path.read_text())
            found.append(Held(kind=Kind(said["kind"]), pid=said["pid"], memory_bytes=said["memory"], cpus=said["cpus"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue  # gone meanwhile
    return found


def _take(kind: Kind, memory_bytes: int, cpus: float, directory: Path) -> tuple[Path, int]:
    directory.mkdir(parents=True, exist_ok=True, mode=0o755)
    name = f"{kind}-{os.getpid()}-{secrets.token_hex(6)}.slot"
    fresh = directory / f".{name}"
    fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    # Written and locked before it gets its name: nobody can mistake it for a dead process's.
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, json.dumps({"kind": kind, "pid": os.getpid(), "memory": memory_bytes, "cpus": cpus}).encode())
    path = directory / name
    fresh.rename(path)
    return path, fd
