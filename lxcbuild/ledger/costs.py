"""What projects took to build before, and what they were built with: the base of every estimate."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from msgspec import Struct

from lxcbuild.ledger.sql import Row, Transaction, marks
from lxcbuild.model import Status

_CHUNK = 500  # names in one IN (...): below every database's limit


class Cost(Struct, frozen=True, kw_only=True):
    """One project on one target: seconds by the wall clock and of CPU on average, and the highest peak of memory in bytes."""

    seconds: float
    cpu_s: float
    peak_memory_bytes: int
    builds: int


def read(transaction: Transaction, names: Iterable[str]) -> dict[tuple[str, str], Cost]:
    """By (project, target), of those that were ever built."""
    query = (
        "SELECT build.name AS name, target, count(DISTINCT id) AS builds, sum(wall_s) AS wall_s, sum(cpu_s) AS cpu_s,"
        " max(peak_memory_bytes) AS peak FROM build JOIN phase ON build_id = id WHERE {} GROUP BY build.name, target"
    )
    return {
        (row["name"], row["target"]): Cost(
            seconds=row["wall_s"] / row["builds"],
            cpu_s=row["cpu_s"] / row["builds"],
            peak_memory_bytes=int(row["peak"]),
            builds=row["builds"],
        )
        for row in _built(transaction, query, names)
    }


def relations(transaction: Transaction, names: Iterable[str]) -> dict[tuple[str, str], tuple[str, ...]]:
    """By (project, target), what the build layer of the newest build that ended well was asked for; see ``model.LayerUse``."""
    query = "SELECT build.name AS name, target, layers FROM build WHERE {} ORDER BY started_at, id"
    return {
        (row["name"], row["target"]): tuple(layers["relations"])
        for row in _built(transaction, query, names)
        if (layers := json.loads(row["layers"] or "null"))
    }


def _built(transaction: Transaction, query: str, names: Iterable[str]) -> Iterator[Row]:
    """Rows of builds of these projects that ended well."""
    wanted = sorted(set(names))
    for start in range(0, len(wanted), _CHUNK):
        some = wanted[start : start + _CHUNK]
        # By name, not by status: nearly every build ended well (see store.py).
        condition = f"build.name IN ({marks(some)}) AND '' || status = ?"
        yield from transaction.select(query.format(condition), [*some, Status.BUILT.value])
