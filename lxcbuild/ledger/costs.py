"""What projects took to build before, and what they were built with: the base of every estimate."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from lxcbuild.ledger import schema
from lxcbuild.model import Status
from lxcbuild.values import dataclass

_CHUNK = 500  # names in one IN (...): below every database's limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One project on one target: seconds by the wall clock and of CPU on average, and the highest peak of memory in bytes."""

    seconds: float
    cpu_s: float
    peak_memory_bytes: int
    builds: int


def read(connection: sa.Connection, names: Iterable[str]) -> dict[tuple[str, str], Cost]:
    """By (project, target), of those that were ever built."""
    build, phase = schema.build, schema.phase
    wanted = sorted(set(names))
    found: dict[tuple[str, str], Cost] = {}
    for start in range(0, len(wanted), _CHUNK):
        query = (
            sa.select(
                build.c.name,
                build.c.target,
                sa.func.count(sa.distinct(build.c.id)),
                sa.func.sum(phase.c.wall_s),
                sa.func.sum(phase.c.cpu_s),
                sa.func.max(phase.c.peak_memory_bytes),
            )
            .join(phase, phase.c.build_id == build.c.id)
            .where(build.c.name.in_(wanted[start : start + _CHUNK]))
            # By name, not by status: nearly every build ended well (see questions.py).
            .where(sa.literal("") + build.c.status == Status.BUILT.value)
            .group_by(build.c.name, build.c.target)
        )
        for name, target, count, wall_s, cpu_s, peak in connection.execute(query):
            found[name, target] = Cost(
                seconds=wall_s / count, cpu_s=cpu_s / count, peak_memory_bytes=int(peak), builds=count
            )
    return found


def relations(connection: sa.Connection, names: Iterable[str]) -> dict[tuple[str, str], tuple[str, ...]]:
    """By (project, target), what the build layer of the newest build that ended well was asked for; see ``model.LayerUse``."""
    build = schema.build
    wanted = sorted(set(names))
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for start in range(0, len(wanted), _CHUNK):
        query = (
            sa.select(build.c.name, build.c.target, build.c.layers)
            .where(build.c.name.in_(wanted[start : start + _CHUNK]))
            .where(sa.literal("") + build.c.status == Status.BUILT.value)  # as above
            .order_by(build.c.started_at, build.c.id)
        )
        for name, target, layers in connection.execute(query):
            if layers:
                found[name, target] = tuple(layers["relations"])
    return found
