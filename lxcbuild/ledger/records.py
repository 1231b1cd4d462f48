"""The nouns of the ledger: a build that begins, a build as recorded, and what builds ask of who keeps them."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct, field

from lxcbuild import __version__
from lxcbuild.model import Artifact, Failure, FailureClass, LayerUse, Outcome, PhaseRecord, Status, Target

#: The status of a build that has begun and not ended.
RUNNING = "running"
#: How people see a failed build whose class is ``cancelled``.
CANCELLED = "cancelled"
STATUSES = (RUNNING, *(status.value for status in Status), CANCELLED)

_ID_PART = re.compile(r"[0-9a-z][0-9a-z-]{0,63}")


def is_id_part(text: str) -> bool:
    """Whether the text can be the beginning, or the last word, of a build id."""
    return _ID_PART.fullmatch(text) is not None


def now() -> str:
    """This moment as the ledger writes it: ISO 8601, UTC, microseconds; such texts sort by time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class NewBuild(Struct, frozen=True, kw_only=True):
    """A build at its beginning. ``request`` is what the user asked for, as JSON-able data."""

    build_id: str
    name: str
    target: Target
    policy: str
    version: str = ""
    backend: str | None = None
    image_digest: str | None = None
    log_path: Path | None = None
    request: Mapping[str, object] = field(default_factory=dict)
    started_at: str = field(default_factory=now)
    host: str = field(default_factory=socket.gethostname)
    lxcbuild_version: str = __version__


class BuildRecord(Struct, frozen=True, kw_only=True):
    """A build as the ledger knows it. ``status`` is one of :data:`STATUSES`; times are ISO 8601 in UTC.

    ``phases``, ``artifacts`` and ``notes`` are empty when the query did not ask for details.
    """

    build_id: str
    name: str
    version: str
    target: Target
    status: str
    failure: Failure | None
    started_at: str
    ended_at: str | None
    log_path: Path | None
    policy: str
    backend: str | None
    image_digest: str | None
    limits_in_force: Mapping[str, object]
    host: str
    lxcbuild_version: str
    request: Mapping[str, object]
    layers: LayerUse | None = None
    phases: tuple[PhaseRecord, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def wall_s(self) -> float | None:
        """Seconds from the beginning to the end; None while it runs."""
        if self.ended_at is None:
            return None
        return (datetime.fromisoformat(self.ended_at) - datetime.fromisoformat(self.started_at)).total_seconds()

    def outcome(self) -> Outcome:
        """The record of a finished build as the build itself reported it."""
        assert self.status != RUNNING, self.build_id
        return Outcome(
            build_id=self.build_id,
            name=self.name,
            version=self.version,
            target=self.target,
            status=Status.FAILED if self.status == CANCELLED else Status(self.status),
            failure=self.failure,
            artifacts=self.artifacts,
            phases=self.phases,
            log_path=self.log_path,
            limits_in_force=self.limits_in_force,
            notes=self.notes,
            layers=self.layers,
        )


class Records(Protocol):
    """What builds need of a ledger: :class:`~lxcbuild.ledger.store.Ledger`, or what a farm's worker has in its place."""

    def begin(self, build: NewBuild) -> None:
        """Record that a build runs."""

    def learn(self, build_id: str, **facts: Any) -> None:
        """Record what became known on the way."""

    def find(self, part: str) -> BuildRecord:
        """The build of that id; raises UnknownBuildError."""

    def recent(
        self,
        *,
        limit: int | None = 20,
        target: str | None = None,
        status: str | None = None,
        name: str | None = None,
        details: bool = False,
    ) -> Sequence[BuildRecord]:
        """The newest builds that match, newest first."""


def shown_status(status: str, failure_class: str | None) -> str:
    """The status that people see: a failed build of class ``cancelled`` is shown as cancelled."""
    return CANCELLED if failure_class == FailureClass.CANCELLED.value else status
