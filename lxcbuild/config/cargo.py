"""``cargo.yaml``: the registry of Rust crates that builds may fetch from. Without this file no build fetches any."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from lxcbuild.config.documents import read_document, validate
from lxcbuild.state import data

FILE = "cargo.yaml"


def _registry(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r"sparse\+https?://[A-Za-z0-9.\-\[\]:]{1,250}/[!-~]{0,500}", value
    ):
        raise ValueError(f"{str(value)[:80]!r} is not a sparse index; write it as sparse+https://host/path/")
    if not value.endswith("/") or '"' in value or "\\" in value:
        raise ValueError("the address of a sparse index ends with a slash, and has no quotes")
    if urlsplit(value.removeprefix("sparse+")).hostname is None:
        raise ValueError(f"{value[:80]!r} names no host")
    return value


Host = Annotated[
    str,
    Meta(
        pattern=r"^(?:\*\.)?[a-z0-9][a-z0-9.-]{0,250}(?::[0-9]{1,5})?\Z",
        extra={"no": "host; write it as host, *.domain or host:port"},
    ),
]


class CargoSettings(Struct, frozen=True, kw_only=True):
    """``registry`` is a sparse index in cargo's notation; ``hosts`` are further ones, such as that of the downloads."""

    registry: Annotated[str, Meta(extra={"parse": _registry})]
    hosts: tuple[Host, ...] = ()

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
    return validate(read_document(path), CargoSettings) if path.exists() else None
