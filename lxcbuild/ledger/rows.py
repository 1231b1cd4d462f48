"""Between the nouns and the rows of the ledger. Text that hostile code had a hand in is cleaned and cut here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lxcbuild.ledger.records import RUNNING, BuildRecord, NewBuild, shown_status
from lxcbuild.ledger.sql import Row
from lxcbuild.model import Artifact, Failure, FailureClass, LayerUse, Outcome, Phase, PhaseRecord, Status, Target, Usage
from lxcbuild.text import for_storage

_MAX_TEXT = 64 * 1024  # characters of one text; whole logs are files
_MAX_NAME = 255
_JSON = frozenset({"layers", "limits_in_force", "request"})  # the columns that hold it
_LEARNED = ("version", "backend", "image_digest", "limits_in_force", "log_path", "request")
_USAGE = Usage.__struct_fields__


def clean(value: Any) -> Any:
    """A value that every database can store: no NUL, no lone surrogates, no endless text, JSON types in containers."""
    if isinstance(value, str):
        return for_storage(value, longest=_MAX_TEXT)
    if isinstance(value, Mapping):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return [clean(item) for item in sorted(value)]
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return clean(str(value))


def from_new(build: NewBuild) -> dict[str, Any]:
    """The row of a build that begins."""
    return {
        "id": build.build_id,
        "word": build.build_id.rpartition("-")[2],
        "name": clean(build.name)[:_MAX_NAME],
        "version": clean(build.version)[:_MAX_NAME],
        "target": str(build.target),
        "architecture": build.target.architecture,
        "status": RUNNING,
        "started_at": build.started_at,
        "log_path": None if build.log_path is None else str(build.log_path),
        "policy": build.policy,
        "backend": build.backend,
        "image_digest": build.image_digest,
        "limits_in_force": "{}",
        "host": build.host,
        "lxcbuild_version": build.lxcbuild_version,
        "request": json.dumps(clean(build.request)),
    }


def from_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of what became known on the way."""
    assert facts.keys() <= set(_LEARNED), facts.keys() - set(_LEARNED)
    known = {name: clean(facts[name]) for name in _LEARNED if name in facts}
    return {name: json.dumps(value) if name in _JSON else value for name, value in known.items()}


def from_outcome(outcome: Outcome) -> dict[str, Any]:
    """The columns that the end of a build settles."""
    failure = outcome.failure
    settled: dict[str, Any] = {
        "name": clean(outcome.name)[:_MAX_NAME],
        "version": clean(outcome.version)[:_MAX_NAME],
        "status": outcome.status.value,
        "limits_in_force": json.dumps(clean(outcome.limits_in_force)),
        "layers": json.dumps(clean(msgspec.to_builtins(outcome.layers)) if outcome.layers is not None else {}),
        **_from_failure(failure),
    }
    if outcome.log_path is not None:
        settled["log_path"] = str(outcome.log_path)
    return settled


def orphaned(finished: Sequence[str], ended_at: str) -> dict[str, Any]:
    """The columns of a build whose process died without a word; ``finished`` names the phases that it had behind it."""
    order = list(Phase)
    last = max((order.index(Phase(name)) for name in finished), default=-1)
    failure = Failure(
        failure_class=FailureClass.CANCELLED,
        phase=order[min(last + 1, len(order) - 1)],
        brief="the process that ran this build ended before the build did",
        resolution="run the build again",
    )
    return {"status": Status.FAILED.value, "ended_at": ended_at, "owner": None, **_from_failure(failure)}


def _from_failure(failure: Failure | None) -> dict[str, Any]:
    return {
        "failure_class": failure and failure.failure_class.value,
        "failure_phase": failure and failure.phase.value,
        "failure_brief": failure and clean(failure.brief),
        "failure_details": failure and clean(failure.details),
        "failure_resolution": failure and clean(failure.resolution),
        "retryable": failure and failure.retryable,
    }


def from_phase(build_id: str, position: int, record: PhaseRecord) -> dict[str, Any]:
    """The row of one phase."""
    usage = {name: getattr(record.usage, name) for name in _USAGE}
    started_at = record.started_at
    return {"build_id": build_id, "position": position, "name": record.phase.value, "started_at": started_at, **usage}


def children(outcome: Outcome) -> dict[str, list[dict[str, Any]]]:
    """The rows of what belongs to a finished build, by table."""
    build_id = outcome.build_id
    return {
        "phase": [from_phase(build_id, i, record) for i, record in enumerate(outcome.phases)],
        "artifact": [
            {"build_id": build_id, "path": clean(str(a.path)), "sha256": a.sha256, "bytes": a.size_bytes}
            for a in outcome.artifacts
        ],
        "note": [{"build_id": build_id, "position": i, "text": clean(text)} for i, text in enumerate(outcome.notes)],
    }


def to_record(
    row: Row, *, phase: Sequence[Row] = (), artifact: Sequence[Row] = (), note: Sequence[Row] = ()
) -> BuildRecord:
    """A build with what belongs to it."""
    known = {name: json.loads(row[name] or "null") for name in _JSON}
    return BuildRecord(
        build_id=row["id"],
        name=row["name"],
        version=row["version"],
        target=Target.parse(row["target"], architecture=row["architecture"]),
        status=shown_status(row["status"], row["failure_class"]),
        failure=_to_failure(row),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        log_path=None if row["log_path"] is None else Path(row["log_path"]),
        policy=row["policy"],
        backend=row["backend"],
        image_digest=row["image_digest"],
        limits_in_force=known["limits_in_force"],
        host=row["host"],
        lxcbuild_version=row["lxcbuild_version"],
        request=known["request"],
        layers=_to_layers(known["layers"]),
        phases=tuple(_to_phase(each) for each in phase),
        artifacts=tuple(Artifact(path=Path(a["path"]), sha256=a["sha256"], size_bytes=a["bytes"]) for a in artifact),
        notes=tuple(each["text"] for each in note),
    )


def _to_layers(found: Mapping[str, Any] | None) -> LayerUse | None:
    return LayerUse(**{**found, "relations": tuple(found["relations"])}) if found else None


def _to_phase(row: Row) -> PhaseRecord:
    usage = Usage(**{name: row[name] for name in _USAGE})
    return PhaseRecord(phase=Phase(row["name"]), started_at=row["started_at"], usage=usage)


def _to_failure(row: Row) -> Failure | None:
    if row["failure_class"] is None:
        return None
    return Failure(
        failure_class=FailureClass(row["failure_class"]),
        phase=Phase(row["failure_phase"]),
        brief=row["failure_brief"],
        details=row["failure_details"],
        resolution=row["failure_resolution"],
    )
