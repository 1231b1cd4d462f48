"""The questions that are asked of the ledger, so that one index answers each, whatever the size and the planner's guesses."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lxcbuild.ledger import schema
from lxcbuild.ledger.records import CANCELLED
from lxcbuild.model import FailureClass, Status

#: Which index comes first: the smallest answers. A project has few builds; a suite has many.
_INDEXES = (("name",), ("target", "failure_class"), ("target", "status"), ("failure_class",), ("status",), ("target",))


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
    wanted = {"target": target, "name": name, "failure_class": failure_class, "status": status}
    if status == CANCELLED:
        cancelled = FailureClass.CANCELLED.value
        wanted |= {"failure_class": cancelled if failure_class in (None, cancelled) else "", "status": None}
    elif status == Status.FAILED.value:
        query = query.where(table.c.failure_class != FailureClass.CANCELLED.value)
    equal = {column: value for column, value in wanted.items() if value is not None}
    chosen = next((index for index in _INDEXES if set(index) <= equal.keys()), ())
    for column, value in equal.items():
        term = table.c[column]
        # What is no column by itself cannot be looked up in an index: this keeps planners without statistics from a worse one.
        query = query.where((term if column in chosen else sa.literal("") + term) == value)
    if before is not None:
        at, build_id = before
        query = query.where(table.c.started_at <= at)
        query = query.where(sa.or_(table.c.started_at < at, table.c.id < build_id))
    return query
