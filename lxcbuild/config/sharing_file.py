"""The schema of ``layers.yaml``; see ``sharing.py``."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from lxcbuild.config.documents import read_document, validate


def _public_key(value: object) -> object:
    try:
        found = base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != 32:
        raise ValueError(f"{str(value)[:60]!r} is no key; lxcbuild layers key prints one")
    return value


def _store(value: object) -> object:
    if not isinstance(value, str) or not (value.startswith("/") or "://" in value):
        raise ValueError(f"{str(value)[:80]!r} is no store; write an absolute path or a URL")
    return value


class SharingSettings(BaseModel):
    """``store`` is a path or URL, ``trusted`` has public keys of others, ``push`` says whether to give own layers."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    store: Annotated[str, BeforeValidator(_store)]
    trusted: tuple[Annotated[str, BeforeValidator(_public_key)], ...] = ()
    push: bool = Field(default=False)


def read_sharing(path: Path) -> SharingSettings:
    """Read the file; raises :class:`lxcbuild.errors.ConfigError` with file, line and key."""
    return validate(read_document(path), SharingSettings)
