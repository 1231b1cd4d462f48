"""The schema of ``cargo.yaml``; see ``cargo.py``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict

from lxcbuild.config.cargo import CargoSettings
from lxcbuild.config.documents import read_document, validate


def _registry(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(
        r"sparse\+https?://[A-Za-z0-9.\-\[\]:]{1,250}/[!-~]{0,500}", value
    ):
        raise ValueError(f"{str(value)[:80]!r} is no sparse index; write it as sparse+https://host/path/")
    if not value.endswith("/") or '"' in value or "\\" in value:
        raise ValueError("the address of a sparse index ends with a slash, and has no quotes")
    if urlsplit(value.removeprefix("sparse+")).hostname is None:
        raise ValueError(f"{value[:80]!r} names no host")
    return value


def _host(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"(?:\*\.)?[a-z0-9][a-z0-9.-]{0,250}(?::[0-9]{1,5})?", value):
        raise ValueError(f"{str(value)[:80]!r} is no host; write it as host, *.domain or host:port")
    return value


class CargoFile(BaseModel):
    """The keys of the file; :class:`CargoSettings` says what they mean."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    registry: Annotated[str, BeforeValidator(_registry)]
    hosts: tuple[Annotated[str, BeforeValidator(_host)], ...] = ()


def read_cargo_settings(path: Path) -> CargoSettings:
    """Read the file; raises :class:`ConfigError` with file, line and key."""
    file = validate(read_document(path), CargoFile)
    return CargoSettings(registry=file.registry, hosts=file.hosts)
