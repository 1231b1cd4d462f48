"""The schema of ``retention.yaml``; see ``retention.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from lxcbuild.config.documents import read_document, validate
from lxcbuild.config.retention import FailedStates, Layers, Retention
from lxcbuild.config.units import parse_bytes, parse_seconds

Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(ge=0)]
_STATES, _LAYERS = FailedStates(), Layers()


class FailedStatesFile(BaseModel):
    """See :class:`FailedStates`."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    count: int = Field(default=_STATES.count, ge=0, le=10_000)
    max_bytes: Bytes = Field(default=_STATES.max_bytes, alias="max")
    max_each_bytes: Bytes = Field(default=_STATES.max_each_bytes, alias="max_each")
    age_s: Seconds = Field(default=_STATES.age_s, alias="age")


class LayersFile(BaseModel):
    """See :class:`Layers`."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    max_bytes: Bytes = Field(default=_LAYERS.max_bytes, alias="max")
    hot_bytes: Bytes | None = Field(default=_LAYERS.hot_bytes, alias="hot")


class RetentionFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    failed_states: FailedStatesFile = Field(default_factory=FailedStatesFile)
    layers: LayersFile = Field(default_factory=LayersFile)


def read_retention(path: Path) -> Retention:
    """Read the file; raises :class:`lxcbuild.errors.ConfigError` with file, line and key."""
    file = validate(read_document(path), RetentionFile)
    return Retention(
        failed_states=FailedStates(**dict(file.failed_states)),
        layers=Layers(**dict(file.layers)),
    )
