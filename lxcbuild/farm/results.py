"""Results of jobs as documents in a store: JSON that is checked when it is read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lxcbuild.errors import FarmError
from lxcbuild.farm.engines.engine import JobResult

if TYPE_CHECKING:
    from lxcbuild.farm.artifacts import ArtifactStore


def place_of(run: str, key: str, attempt: int) -> str:
    """Where the result of one attempt lies in the store."""
    return f"results/{run}/{hashlib.sha256(key.encode()).hexdigest()[:24]}-{attempt}.json"


def keep(store: ArtifactStore, result: JobResult) -> None:
    """Leave a result in the store, for a head that may have died meanwhile."""
    store.write(place_of(result.run, result.key, result.attempt), msgspec.json.encode(result, enc_hook=str))


def parse(data: bytes, *, place: str) -> JobResult:
    """Read a kept result; raises :class:`FarmError`."""
    try:
        return msgspec.json.decode(data, type=JobResult, dec_hook=_from_text)
    except msgspec.DecodeError as error:
        raise FarmError(
            f"the store's {place} is not the result of a build",
            details=str(error)[:2000],
            resolution="remove that file",
        ) from None


def _from_text(kind: type, value: Any) -> Any:
    if kind is object:  # what a build recorded of itself: any JSON
        return value
    if kind is not Path or not isinstance(value, str):
        raise NotImplementedError(f"results hold no {kind}")
    return Path(value)
