"""What projects took to build before, and what they were built with: the base of every estimate."""

from __future__ import annotations

import json
from collections.abc import Iterable

from msgspec import Struct

from lxcbuild.ledger.sql import Transaction
from lxcbuild.model import Status


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
        " max(peak_memory_bytes) AS peak FROM build JOIN phase ON build_id = id"
        # By name, not by status: nearly every build ended well (see store.py).
        " WHERE build.name IN (*) AND '' || status = ? GROUP BY build.name, target"
    )
    return {
        (row["name"], row["target"]): Cost(
            seconds=row["wall_s"] / row["builds"],
            cpu_s=row["cpu_s"] / row["builds"],
            peak_memory_bytes=int(row["peak"]),
            builds=row["builds"],
        )
        for row in transaction.select_among(query, sorted(set(names)), Status.BUILT.value)
    }


def relations(transaction: Transaction, names: Iterable[str]) -> dict[tuple[str, str], tuple[str, ...]]:
    """By (project, target), what the build layer of the newest build that ended well was asked for; see ``model.LayerUse``."""
    query = "SELECT name, target, layers FROM build WHERE name IN (*) AND '' || status = ? ORDER BY started_at, id"  # as above
    return {
        (row["name"], row["target"]): tuple(layers["relations"])
        for row in transaction.select_among(query, sorted(set(names)), Status.BUILT.value)
        if (layers := json.loads(row["layers"] or "null"))
    }
