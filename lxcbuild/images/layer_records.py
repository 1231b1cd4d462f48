"""What is known of the layers of one state directory: their records, how they stand on each other, how often they were used.

Records appear by rename and are never changed, so readers take no lock. A *configuration* (all packages above a ground) may have
been reached in several steps; which ones is remembered beside the records.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from lxcbuild.files import write_whole


class Shelved(Struct, frozen=True, kw_only=True):
    """One layer: ``packages`` maps what was installed into it (name=version=sha256) to compressed bytes; sizes in bytes."""

    key: str
    parent: str
    kind: str  # packages, wheels or crates
    digest: str
    packages: Mapping[str, int]
    names: tuple[str, ...]
    created_at: str
    made_in_s: float
    unpacked_bytes: int
    archive_bytes: int
    hits: int  # requests that it served without being made for them
    last_hit: datetime | None

    @property
    def seconds_saved(self) -> float:
        """What its users did not wait for; loading it from disk, a fraction of that, is not taken off."""
        return self.hits * self.made_in_s

    @property
    def value(self) -> float:
        """Seconds that a byte of it saves, (seconds saved x reuse) / bytes: what is evicted first has the lowest."""
        return self.made_in_s * (1 + self.hits) / max(self.archive_bytes, 1)


class Stack(Struct, frozen=True, kw_only=True):
    """Package layers on one ground, the lowest first, and all that they install above it."""

    way: tuple[str, ...]
    packages: Mapping[str, int]


class LayerRecords:
    """Reads and writes the records of ``<images>/layers``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    # -- records ----------------------------------------------------------------------------------------------

    def record_path(self, key: str) -> Path:
        """Where the record of a layer is when the layer is known."""
        return self._directory / f"{key[:16]}.json"

    def archive_path(self, key: str) -> Path:
        """Where the compressed tree of a layer is."""
        return self._directory / f"{key[:16]}.tar.zst"

    def known(self, key: str) -> bool:
        """Whether that layer has been made and kept."""
        return self.record_path(key).is_file()

    def document(self, key: str) -> dict[str, Any] | None:
        """The record as it was written; None for a layer that is not (or no longer) known."""
        try:
            found: dict[str, Any] = json.loads(self.record_path(key).read_text())
        except FileNotFoundError:
            return None
        return found

    def documents(self) -> Iterator[dict[str, Any]]:
        """All records, in no order that means anything."""
        for path in sorted(self._directory.glob("*.json")):
            try:
                yield json.loads(path.read_text())
            except FileNotFoundError:
                continue  # removed since

    def layers(self) -> dict[str, Shelved]:
        """Every known layer by key."""
        return {document["key"]: self._shelved(document) for document in self.documents()}

    def _shelved(self, document: Mapping[str, Any]) -> Shelved:
        hits, last = self._use(document["key"])
        installed = document["installed"]
        kind = "packages" if installed else ("crates" if "crates" in document else "wheels")
        content = installed or document.get("crates") or itertools.chain(*document.get("wheels", {}).values())
        return Shelved(
            key=document["key"],
            parent=document["parent"],
            kind=kind,
            digest=document["digest"],
            packages={package_id(each): int(each["size_bytes"]) for each in installed},
            names=tuple(dict.fromkeys(each["name"] for each in content)),
            created_at=document["created_at"],
            made_in_s=float(document.get("made_in_s", 0.0)),
            unpacked_bytes=int(document["unpacked_bytes"]),
            archive_bytes=int(document["archive_bytes"]),
            hits=hits,
            last_hit=last,
        )

    # -- configurations ---------------------------------------------------------------------------------------

    def _way_path(self, configuration: str) -> Path:
        return self._directory / "ways" / f"{configuration[:16]}.json"

    def way(self, configuration: str) -> tuple[str, ...] | None:
        """Keys of the layers that make a configuration above its ground, the lowest first; None when one is not there."""
        if self.known(configuration):
            return (configuration,)
        try:
            found = tuple(json.loads(self._way_path(configuration).read_text())["layers"])
        except FileNotFoundError:
            return None
        return found if all(self.known(key) for key in found) else None

    def keep_way(self, configuration: str, way: tuple[str, ...]) -> None:
        """Remember how a configuration is reached, for one that is not a single layer."""
        place = self._way_path(configuration)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, json.dumps({"configuration": configuration, "layers": way}) + "\n", durable=False)

    def grounds(self) -> dict[str, str]:
        """Configurations of several steps, and the key of the topmost layer of each: what stands on the one needs the other."""
        found = {}
        for path in sorted((self._directory / "ways").glob("*.json")):
            with contextlib.suppress(FileNotFoundError):  # removed since
                document = json.loads(path.read_text())
                found[document["configuration"]] = document["layers"][-1]
        return found

    def stacks(self, ground: str) -> dict[str, Stack]:
        """All stacks of package layers that stand on a ground, by the key of their topmost layer."""
        layers = self.layers()
        found: dict[str, Stack] = {}
        for key, layer in layers.items():
            way: list[str] = []
            at: Shelved | None = layer
            packages: dict[str, int] = {}
            while at is not None and at.kind == "packages":
                way.append(at.key)
                packages.update(at.packages)
                if at.parent == ground:
                    found[key] = Stack(way=tuple(reversed(way)), packages=packages)
                    break
                at = layers.get(at.parent)
        return found

    # -- use --------------------------------------------------------------------------------------------------

    def _use_path(self, key: str) -> Path:
        return self._directory / "use" / key[:16]

    def used(self, key: str) -> None:
        """Count one use: a byte is appended, which is atomic, so no lock is needed; the file's time is the last use."""
        path = self._use_path(key)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, b"+")
        finally:
            os.close(fd)

    def _use(self, key: str) -> tuple[int, datetime | None]:
        try:
            found = self._use_path(key).stat()
        except FileNotFoundError:
            return 0, None
        return found.st_size, datetime.fromtimestamp(found.st_mtime, tz=UTC)

    def forget(self, key: str) -> None:
        """Remove a layer's record first, so that nobody finds it any more, then its archive and its counter."""
        for path in (self.record_path(key), self.archive_path(key), self._use_path(key), self._way_path(key)):
            path.unlink(missing_ok=True)


def package_id(installed: Mapping[str, Any]) -> str:
    """What identifies an installed package: name, version and content."""
    return f"{installed['name']}={installed['version']}={installed['sha256']}"
