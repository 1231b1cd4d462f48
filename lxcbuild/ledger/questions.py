"""The questions that are asked of the ledger, as SQLAlchemy says them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lxcbuild.ledger import schema
from lxcbuild.ledger.terms import terms


def recent(
    *,
    limit: int | None,
    target: str | None = None,
    status: str | None = None,
    name: str | None = None,
    failure_class: str | None = None,
    before: tuple[str, str] | None = None,
) -> sa.Select[Any]:
    """The newest builds that match everything given, newest first; ``before``: those behind that beginning and id."""
    table = schema.build
    query = sa.select(table).order_by(table.c.started_at.desc(), table.c.id.desc()).limit(limit)
    for term in terms(target=target, status=status, name=name, failure_class=failure_class):
        column = table.c[term.column] if term.indexed else sa.literal("") + table.c[term.column]
        query = query.where(column != term.value if term.differs else column == term.value)
    if before is not None:
        at, build_id = before
        query = query.where(table.c.started_at <= at)
        query = query.where(sa.or_(table.c.started_at < at, table.c.id < build_id))
    return query
