"""Alembic's scripts: how a ledger of an older lxcbuild becomes one of this."""
