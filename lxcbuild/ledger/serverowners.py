"""Owners on PostgreSQL: session-level advisory locks, which the server gives back when the connection ends.

So heads on different machines can judge each other (PostgreSQL manual, 13.3.5).
"""

from __future__ import annotations

import secrets

import sqlalchemy as sa


class ServerOwners:
    """Advisory locks of a PostgreSQL server; the own one is held by a connection that does nothing else."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._name: str | None = None
        self._connection: sa.Connection | None = None

    def take(self) -> str:
        """See :meth:`Owners.take`."""
        if self._name is None:
            name = f"pg-{secrets.token_hex(8)}"
            connection = self._engine.connect()
            connection.execute(sa.select(sa.func.pg_advisory_lock(_key(name))))
            self._name, self._connection = name, connection
        return self._name

    def alive(self, owner: str) -> bool:
        """See :meth:`Owners.alive`. Who gets the lock knows that nobody has it."""
        if owner == self._name:
            return True
        if not owner.startswith("pg-"):
            return False
        with self._engine.connect() as connection:
            got = connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_key(owner))))
            if got:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(_key(owner))))
            return not got

    def forget(self, owner: str) -> None:
        """The server has nothing left of it."""

    def close(self) -> None:
        """See :meth:`Owners.close`. The connection is closed, not given back to a pool: that is what frees the lock."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._name = self._connection = None


def _key(name: str) -> sa.ColumnElement[int]:
    """An advisory lock is a signed number of 64 bits."""
    return sa.literal(int.from_bytes(bytes.fromhex(name.removeprefix("pg-")), "big", signed=True), sa.BigInteger())
