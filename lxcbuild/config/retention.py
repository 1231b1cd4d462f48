"""How long things are kept that nobody needs for ever: ``retention.yaml`` in the configuration directory, all of it optional."""

from __future__ import annotations

from msgspec import Struct, field

from lxcbuild.state.data import configuration_directory


class FailedStates(Struct, frozen=True, kw_only=True):
    """States of failed builds: the newest ones, as long as all of these hold. ``count: 0`` keeps none."""

    count: int = 20
    max_bytes: int = 4 * 1024**3
    max_each_bytes: int = 1024**3
    age_s: float = 7 * 86400.0


class Layers(Struct, frozen=True, kw_only=True):
    """Dependency layers: compressed ones on disk, and unpacked ones in memory. What saves least per byte goes first."""

    max_bytes: int = 20 * 1024**3
    hot_bytes: int | None = None  # None: a quarter of the machine's memory


class Retention(Struct, frozen=True, kw_only=True):
    """The whole file."""

    failed_states: FailedStates = field(default_factory=FailedStates)
    layers: Layers = field(default_factory=Layers)


def load_retention() -> Retention:
    """The administrator's file, or the defaults; raises :class:`lxcbuild.errors.ConfigError` with file, line and key."""
    path = configuration_directory() / "retention.yaml"
    if not path.exists():
        return Retention()
    from lxcbuild.config.retention_file import read_retention

    return read_retention(path)
