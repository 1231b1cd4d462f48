"""``layers.yaml``: the store through which machines share base images and dependency layers. Without this file none are."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from lxcbuild.config.documents import read_document, validate
from lxcbuild.state import data

FILE = "layers.yaml"


def _public_key(value: object) -> object:
    try:
        found = base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != 32:
        raise ValueError(f"{str(value)[:60]!r} is not a key; lxcbuild layers key prints one")
    return value


Store = Annotated[str, Meta(pattern=r"^/|://", extra={"no": "store; write an absolute path or a URL"})]


class SharingSettings(Struct, frozen=True, kw_only=True):
    """``store`` is a path or URL, ``trusted`` has public keys of others, ``push`` says whether to give own layers."""

    store: Store
    trusted: tuple[Annotated[str, Meta(extra={"parse": _public_key})], ...] = ()
    push: bool = False


def load_sharing(directory: Path | None = None) -> SharingSettings | None:
    """The administrator's file; None without one. Raises :class:`lxcbuild.errors.ConfigError` with file, line and key."""
    path = (directory or data.configuration_directory()) / FILE
    return validate(read_document(path), SharingSettings) if path.exists() else None
