"""Which schema this code reads and writes; known without importing SQLAlchemy or alembic."""

from __future__ import annotations

#: Equal to alembic's head (a test says so).
HEAD = "0003"
