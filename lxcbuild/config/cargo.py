"""``cargo.yaml``: the registry of Rust crates that builds may fetch from. Without this file no build fetches any."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from lxcbuild.state import data

FILE = "cargo.yaml"


class CargoSettings(Struct, frozen=True, kw_only=True):
    """``registry`` is a sparse index in cargo's notation; ``hosts`` are further ones, such as that of the downloads."""

    registry: str
    hosts: tuple[str, ...] = ()

    @property
    def proxy_hosts(self) -> tuple[str, ...]:
        """What a sandbox that fetches crates may reach, as in ``proxy_hosts`` of a policy."""
        parts = urlsplit(self.registry.removeprefix("sparse+"))
        own = (parts.hostname or "") + (f":{parts.port}" if parts.port is not None else "")
        return tuple(dict.fromkeys((own, *self.hosts)))


def settings_path() -> Path:
    """Where the file is looked for."""
    return data.configuration_directory() / FILE


def load_cargo_settings() -> CargoSettings | None:
    """The settings, or None where the administrator made none; raises :class:`ConfigError` with file, line and key."""
    path = settings_path()
    if not path.exists():
        return None
    from lxcbuild.config.cargo_file import read_cargo_settings

    return read_cargo_settings(path)
