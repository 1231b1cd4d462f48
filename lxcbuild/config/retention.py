"""How long things are kept that nobody needs for ever: ``retention.yaml`` in the configuration directory, all of it optional."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from lxcbuild.config.data import configuration_directory
from lxcbuild.config.documents import read_document, validate
from lxcbuild.config.units import parse_bytes, parse_seconds

Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(ge=0)]


class FailedStates(BaseModel):
    """States of failed builds: the newest ones, as long as all of these hold. ``count: 0`` keeps none."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    count: int = Field(default=20, ge=0, le=10_000)
    max_bytes: Bytes = Field(default=4 * 1024**3, alias="max")
    max_each_bytes: Bytes = Field(default=1024**3, alias="max_each")
    age_s: Seconds = Field(default=7 * 86400.0, alias="age")


class Layers(BaseModel):
    """Dependency layers: compressed ones on disk, and unpacked ones in memory. What saves least per byte goes first."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    max_bytes: Bytes = Field(default=20 * 1024**3, alias="max")
    hot_bytes: Bytes | None = Field(default=None, alias="hot")  # None: a quarter of the machine's memory


class Retention(BaseModel):
    """The whole file."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    failed_states: FailedStates = Field(default_factory=FailedStates)
    layers: Layers = Field(default_factory=Layers)


def load_retention() -> Retention:
    """The administrator's file, or the defaults; raises :class:`lxcbuild.errors.ConfigError` with file, line and key."""
    path = configuration_directory() / "retention.yaml"
    return validate(read_document(path), Retention) if path.exists() else Retention()
