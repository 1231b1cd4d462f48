"""Results of jobs as documents in a store: JSON that is checked when it is read."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

from lxcbuild.errors import FarmError
from lxcbuild.farm.engines.engine import JobResult

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from lxcbuild.farm.artifacts import ArtifactStore


@functools.cache
def _adapter() -> TypeAdapter[JobResult]:
    from pydantic import TypeAdapter

    return TypeAdapter(JobResult)


def prepare() -> None:
    """Make what reads and writes results, which takes longer (80 ms of CPU) than using it."""
    _adapter()


def place_of(run: str, key: str, attempt: int) -> str:
    """Where the result of one attempt lies in the store."""
    return f"results/{run}/{hashlib.sha256(key.encode()).hexdigest()[:24]}-{attempt}.json"


def keep(store: ArtifactStore, result: JobResult) -> None:
    """Leave a result in the store, for a head that may have died meanwhile."""
    store.write(place_of(result.run, result.key, result.attempt), _adapter().dump_json(result))


def parse(data: bytes, *, place: str) -> JobResult:
    """Read a kept result; raises :class:`FarmError`."""
    from pydantic import ValidationError

    try:
        return _adapter().validate_json(data)
    except ValidationError as error:
        raise FarmError(
            f"the store's {place} is no result of a build", details=str(error)[:2000], resolution="remove that file"
        ) from None
