"""How long things are kept that nobody needs for ever: ``retention.yaml`` in the configuration directory, all of it optional."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from lxcbuild.config.documents import read_document, validate
from lxcbuild.config.units import parse_bytes, parse_seconds
from lxcbuild.state.data import configuration_directory

Bytes = Annotated[int, Meta(ge=0, extra={"parse": parse_bytes})]
Seconds = Annotated[float, Meta(ge=0, extra={"parse": parse_seconds})]


class FailedStates(Struct, frozen=True, kw_only=True):
    """States of failed builds: the newest ones, as long as all of these hold. ``count: 0`` keeps none."""

    count: Annotated[int, Meta(ge=0, le=10_000)] = 20
    max_bytes: Bytes = field(default=4 * 1024**3, name="max")
    max_each_bytes: Bytes = field(default=1024**3, name="max_each")
    age_s: Seconds = field(default=7 * 86400.0, name="age")


class Layers(Struct, frozen=True, kw_only=True):
    """Dependency layers: compressed ones on disk, and unpacked ones in memory. What saves least per byte goes first."""

    max_bytes: Bytes = field(default=20 * 1024**3, name="max")
    hot_bytes: Bytes | None = field(default=None, name="hot")  # None: a quarter of the machine's memory


class Retention(Struct, frozen=True, kw_only=True):
    """The whole file."""

    failed_states: FailedStates = FailedStates()
    layers: Layers = Layers()


def load_retention() -> Retention:
    """The administrator's file, or the defaults; raises :class:`lxcbuild.errors.ConfigError` with file, line and key."""
    path = configuration_directory() / "retention.yaml"
    return validate(read_document(path), Retention) if path.exists() else Retention()
