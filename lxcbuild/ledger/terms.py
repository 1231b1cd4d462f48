"""What a question of the newest builds asks of each column, so that one index answers it, whatever the planner guesses."""

from __future__ import annotations

from typing import NamedTuple

from lxcbuild.ledger.records import CANCELLED
from lxcbuild.model import FailureClass, Status

#: Which index comes first: the smallest answers. A project has few builds; a suite has many.
_INDEXES = (("name",), ("target", "failure_class"), ("target", "status"), ("failure_class",), ("status",), ("target",))


class Term(NamedTuple):
    """One column and its value. ``indexed``: an index is to look it up. Other columns are to be hidden in an expression: what is
    no column by itself keeps planners without statistics from a worse index."""

    column: str
    value: str
    indexed: bool
    differs: bool = False  # than that value, instead of being equal


def terms(
    *,
    target: str | None = None,
    status: str | None = None,
    name: str | None = None,
    failure_class: str | None = None,
) -> list[Term]:
    """The terms that all have to hold; ``status`` is one of ``records.STATUSES``."""
    wanted = {"target": target, "name": name, "failure_class": failure_class, "status": status}
    cancelled = FailureClass.CANCELLED.value
    if status == CANCELLED:
        wanted |= {"failure_class": cancelled if failure_class in (None, cancelled) else "", "status": None}
    equal = {column: value for column, value in wanted.items() if value is not None}
    chosen = next((index for index in _INDEXES if set(index) <= equal.keys()), ())
    found = [Term(column, value, column in chosen) for column, value in equal.items()]
    if status == Status.FAILED.value:
        found.append(Term("failure_class", cancelled, indexed=True, differs=True))
    return found
