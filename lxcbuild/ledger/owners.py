"""Who owns a running build, so that what a dead process left behind is told from what still runs.

On SQLite an owner is a locked file below ``run/locks``: the kernel gives the lock back on any death, and the file is gone after a
boot. On PostgreSQL it is a session-level advisory lock, which the server gives back when the connection ends, so that heads on
different machines can judge each other (PostgreSQL manual, 13.3.5).
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Any

from lxcbuild.ledger.sql import PostgresServer
from lxcbuild.state import locks


class FileOwners:
    """Locked files of this machine."""

    def __init__(self, locks: Path) -> None:
        self._locks = locks
        self._name: str | None = None
        self._fd = -1

    def take(self) -> str:
        """The name of this ledger's own lock, taken once; raises OSError."""
        if self._name is None:
            name = f"owner-{secrets.token_hex(8)}"
            self._locks.mkdir(parents=True, exist_ok=True)
            # Locked before it gets its name: nobody can mistake it for a dead process's.
            place = self._locks / name
            fresh = place.with_name(f"new-{name}")
            fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            fresh.rename(place)
            self._name, self._fd = name, fd
        return self._name

    def alive(self, owner: str) -> bool:
        """Whether somebody, perhaps this ledger, holds that lock."""
        path = self._locks / owner
        return owner == self._name or (not locks.is_free(path) and path.exists())

    def forget(self, owner: str) -> None:
        """Remove what is left of a dead owner."""
        (self._locks / owner).unlink(missing_ok=True)

    def close(self) -> None:
        """Give the own lock back. Idempotent."""
        if self._name is not None:
            self.forget(self._name)
            os.close(self._fd)
            self._name = None


class ServerOwners:
    """Advisory locks of a PostgreSQL server; the own one is held by a connection that does nothing else."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._name: str | None = None
        self._connection: Any = None

    def take(self) -> str:
        """The name of this ledger's own lock, taken once."""
        if self._name is None:
            name = f"pg-{secrets.token_hex(8)}"
            self._connection = self._server.connect()
            self._connection.execute("SELECT pg_advisory_lock(%s)", (_key(name),))
            self._name = name
        return self._name

    def alive(self, owner: str) -> bool:
        """Whether somebody, perhaps this ledger, holds that lock: who gets it knows that nobody has it."""
        if owner == self._name:
            return True
        if not owner.startswith("pg-"):
            return False
        with self._server.reading() as transaction:
            key = (_key(owner),)
            got: bool = transaction.select("SELECT pg_try_advisory_lock(?) AS got", key)[0]["got"]
            if got:
                transaction.select("SELECT pg_advisory_unlock(?)", key)
            return not got

    def forget(self, owner: str) -> None:
        """The server has nothing left of it."""

    def close(self) -> None:
        """Give the own lock back, which the end of its connection does. Idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._name = self._connection = None


Owners = FileOwners | ServerOwners


def _key(name: str) -> int:
    """An advisory lock is a signed number of 64 bits."""
    return int.from_bytes(bytes.fromhex(name.removeprefix("pg-")), "big", signed=True)
