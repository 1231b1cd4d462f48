"""What a layer is: lowers with their packages, the key that names it, and who may have a say in how one comes about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct, field

from lxcbuild.debian.archive.apt import ResolvedSet
from lxcbuild.images.image import STATUS_FILE, InstalledPackage
from lxcbuild.images.install import INSTALLER_VERSION, OPTIONS
from lxcbuild.images.layer_records import Stack


class Layer(Struct, frozen=True, kw_only=True):
    """Lower directories with the packages that were asked for: owned by root, never changed.

    ``lowers`` has the topmost layer first and the image last; ``packages`` is all that is installed, image included.
    """

    key: str
    lowers: tuple[Path, ...]
    packages: tuple[InstalledPackage, ...]
    hit: bool  # nothing was installed for this request
    seconds: float  # what this request took
    savings: Mapping[str, float] = field(
        default_factory=dict
    )  # by layer: seconds that making it took; 0 where made now

    @property
    def status(self) -> Path:
        """The dpkg status file that holds for the whole stack."""
        return next(found for lower in self.lowers if (found := lower / STATUS_FILE).is_file())


class LayerRecord(Struct, frozen=True, kw_only=True):
    """What a layer's record says of its content: SHA-256 of its archive, and the packages that were installed into it."""

    key: str
    digest: str
    installed: tuple[Mapping[str, str], ...]  # name, version, architecture, sha256 and so on, as resolved


def layer_key(parent: str, resolved: ResolvedSet, *, architecture: str) -> str:
    """SHA-256 of parent key, sorted package=version=sha256, installer version, architecture and options."""
    packages = sorted(f"{p.name}={p.version}={p.sha256}" for p in resolved.packages)
    text = json.dumps([parent, packages, INSTALLER_VERSION, architecture, list(OPTIONS)])
    return hashlib.sha256(text.encode()).hexdigest()


class NeighbourLayers(Protocol):
    """Layers of neighbours. Only what trusted installations made is ever offered: :class:`LayerStore` has nothing else."""

    def fetch(self, configuration: str, ground: str) -> tuple[str, ...] | None:
        """Put a configuration's layers into the store, checked; their keys, or None when nobody offers them or they are refused."""

    def offer(self, configuration: str, way: Sequence[str]) -> None:
        """Let neighbours have a new one."""


#: Chooses the stack that a new set of packages starts from: the set with sizes in bytes, and all stacks of subsets and others on
#: its ground by the key of their topmost layer. None: from the ground.
Chooser = Callable[[Mapping[str, int], Mapping[str, Stack]], str | None]
