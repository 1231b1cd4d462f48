"""Scratch directories that go with whoever claimed them: a claim is a locked file that names the directory.

The kernel takes the lock from a dead process; whoever looks next (the helper process of the sandboxes at once, ``lxcbuild gc``
at any time) removes the directory and then the claim. Standard library only: the helper process imports it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lxcbuild.state import locks

#: Files of this name in the locks directory belong to a process (the ledger makes them) and carry no directory.
OWNERS = "owner-*"


def directory_of(run: Path) -> Path:
    """Where the claims of a state directory lie."""
    return run / "claims"


class Claim:
    """One directory, made when claimed and gone when released. ``release`` is idempotent."""

    def __init__(self, run: Path, directory: Path) -> None:
        self.directory = directory
        self._path = directory_of(run) / directory.name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fd: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.write(self._fd, os.fsencode(directory))
        directory.mkdir(parents=True, mode=0o700)

    def release(self) -> None:
        """Remove the directory and the claim."""
        if self._fd is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None


def abandoned(run: Path) -> Iterator[tuple[Path, Path]]:
    """Claims whose owner is dead: (the claim's file, the directory that it names)."""
    for path in sorted(directory_of(run).glob("*")):
        if locks.is_free(path):
            # Between making the file and locking it a claim is empty: its owner is alive, or died before it made anything.
            with contextlib.suppress(FileNotFoundError):  # another process sweeps too
                named = path.read_bytes()
                if named:
                    yield path, Path(os.fsdecode(named))


def sweep(run: Path) -> None:
    """Remove what dead owners claimed."""
    for claim, directory in abandoned(run):
        remove(claim, directory)
    for path in (run / "locks").glob(OWNERS):
        if locks.is_free(path):
            path.unlink(missing_ok=True)


def remove(claim: Path, directory: Path) -> None:
    """Remove one abandoned directory, then its claim."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)
    claim.unlink(missing_ok=True)
