"""Alembic's environment: runs inside the connection and transaction that ``store.migrate`` hands over."""

from __future__ import annotations

from alembic import context

from lxcbuild.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite can, once the driver is told to leave transactions alone (see store.py)
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
