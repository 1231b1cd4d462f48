"""What is known of a base image: its record on disk and the loaded image that builds use."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from lxcbuild.errors import ImageError
from lxcbuild.model import Target

#: Where dpkg keeps what is installed, below an image's root.
STATUS_FILE = "var/lib/dpkg/status"


class Storage(enum.StrEnum):
    """Where an unpacked image lies."""

    RAM = "ram"
    DISK = "disk"


class InstalledPackage(Struct, frozen=True, kw_only=True, order=True):
    """One package that dpkg says is installed."""

    name: str
    version: str
    architecture: str


class ImageRecord(Struct, frozen=True, kw_only=True):
    """The JSON document beside an archive. ``digest`` is the SHA-256 of the uncompressed, canonical tar."""

    name: str
    digest: str
    created_at: str  # ISO 8601, UTC
    architecture: str
    recipe_hash: str
    packages: tuple[InstalledPackage, ...]
    python_version: str  # complete: 3.11.2
    unpacked_bytes: int
    archive_bytes: int
    keyring: str | None
    sources: tuple[str, ...]  # the apt sources that were used for making
    mode: str  # how it was made: unshare (maintainer scripts in a user namespace) or root

    def to_json(self) -> str:
        """The record as text, stable in its order."""
        return json.dumps(msgspec.to_builtins(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ImageRecord:
        """Read a record; raises :class:`ImageError` when it is not one."""
        try:
            raw: dict[str, Any] = json.loads(text)
            raw["packages"] = tuple(InstalledPackage(**package) for package in raw["packages"])
            raw["sources"] = tuple(raw["sources"])
            return cls(**raw)
        except (ValueError, KeyError, TypeError) as error:
            raise ImageError(f"the record of an image is damaged: {error}", resolution="run: lxcbuild gc") from error

    @property
    def age_s(self) -> float:
        """Seconds since the image was made."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.created_at)).total_seconds()


class Image(Struct, frozen=True, kw_only=True):
    """A base image that is unpacked and can be an overlay's lower directory: owned by root, never changed."""

    target: Target
    path: Path
    storage: Storage
    record: ImageRecord
    expired: bool = False

    @property
    def name(self) -> str:
        """The name of its recipe, ``debian-bookworm``."""
        return self.record.name

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical tar: the root of every layer's key."""
        return self.record.digest

    @property
    def created_at(self) -> str:
        """ISO 8601, UTC."""
        return self.record.created_at

    @property
    def packages(self) -> tuple[InstalledPackage, ...]:
        """What is installed in it, sorted."""
        return self.record.packages

    @property
    def python_version(self) -> str:
        """The complete version of its Python 3, such as 3.11.2."""
        return self.record.python_version

    @property
    def status(self) -> Path:
        """Its dpkg status file."""
        return self.path / STATUS_FILE


def read_status(text: str) -> tuple[InstalledPackage, ...]:
    """The installed packages of a dpkg status file, sorted."""
    found = []
    for block in text.split("\n\n"):
        fields: Mapping[str, str] = dict(re.findall(r"(?m)^(Package|Version|Architecture|Status): (.*)$", block))
        if fields.get("Status", "").endswith(" installed"):
            found.append(
                InstalledPackage(name=fields["Package"], version=fields["Version"], architecture=fields["Architecture"])
            )
    return tuple(sorted(found))


def python_version_of(packages: tuple[InstalledPackage, ...]) -> str:
    """The version of the default Python 3 among installed packages; raises :class:`ImageError` when there is none.

    ``python3-minimal`` says which ``python3.N`` is the default, ``python3.N-minimal`` has the complete upstream version.
    """
    versions = {package.name: package.version for package in packages}
    default = re.match(r"(?:\d+:)?(3\.\d+)", versions.get("python3-minimal", ""))
    if default is None:
        raise ImageError("the image has no Python 3", resolution="add python3 to the packages of its recipe")
    complete = re.match(
        r"(?:\d+:)?(\d+\.\d+(?:\.\d+)?(?:(?:a|b|rc)\d+)?)", versions.get(f"python{default[1]}-minimal", "")
    )
    return complete[1] if complete else default[1]
