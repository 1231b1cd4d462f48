"""What ``--json`` prints of errors, builds and records: the same shapes from every verb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from lxcbuild.errors import LxcbuildError

if TYPE_CHECKING:
    from lxcbuild.ledger.records import BuildRecord
    from lxcbuild.model import Artifact, Failure, Outcome, PhaseRecord


def error_document(error: LxcbuildError) -> dict[str, Any]:
    """An error as data."""
    return {
        "reference": error.reference,
        "brief": error.brief,
        "details": error.details,
        "resolution": error.resolution,
        "exit_code": error.exit_code,
    }


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """A build as it appears in ``--json``: the same shape from ``build`` and ``history``."""
    return {
        "id": outcome.build_id,
        "name": outcome.name,
        "version": outcome.version,
        "target": str(outcome.target),
        "status": outcome.status.value,
        "reused": outcome.reused,
        **_common_document(outcome),
        "checks": dict(outcome.checks),
        "dependencies": [
            {"id": item.build_id, "name": item.name, "version": item.version, "artifacts": _artifacts(item.artifacts)}
            for item in outcome.dependencies
        ],
    }


def record_document(record: BuildRecord) -> dict[str, Any]:
    """A recorded build: what :func:`outcome_document` says, and what only the ledger knows."""
    return {
        "id": record.build_id,
        "name": record.name,
        "version": record.version,
        "target": str(record.target),
        "status": record.status,
        **_common_document(record),
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "wall_s": record.wall_s,
        "policy": record.policy,
        "backend": record.backend,
        "image_digest": record.image_digest,
        "host": record.host,
        "lxcbuild_version": record.lxcbuild_version,
        "request": dict(record.request),
    }


def _common_document(build: Outcome | BuildRecord) -> dict[str, Any]:
    return {
        "failure": None if build.failure is None else _failure_document(build.failure),
        "artifacts": _artifacts(build.artifacts),
        "phases": [_phase_document(record) for record in build.phases],
        "layers": None if build.layers is None else msgspec.to_builtins(build.layers),
        "log": None if build.log_path is None else str(build.log_path),
        "limits_in_force": dict(build.limits_in_force),
        "notes": list(build.notes),
    }


def _artifacts(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    return [{"path": str(a.path), "sha256": a.sha256, "bytes": a.size_bytes} for a in artifacts]


def _failure_document(failure: Failure) -> dict[str, Any]:
    return {
        "class": failure.failure_class.value,
        "phase": failure.phase.value,
        "brief": failure.brief,
        "details": failure.details,
        "resolution": failure.resolution,
        "retryable": failure.retryable,
    }


def _phase_document(record: PhaseRecord) -> dict[str, Any]:
    return {
        "name": record.phase.value,
        "started_at": record.started_at,
        **msgspec.to_builtins(record.usage),
    }


def plain_value(value: object) -> object:
    """What JSON does not know: paths, enumerations, sets and targets as text or lists."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
