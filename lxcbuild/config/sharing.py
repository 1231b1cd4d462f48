"""``layers.yaml``: the store through which machines share base images and dependency layers. Without this file none are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lxcbuild.state import data

if TYPE_CHECKING:
    from lxcbuild.config.sharing_file import SharingSettings

FILE = "layers.yaml"


def load_sharing(directory: Path | None = None) -> SharingSettings | None:
    """The administrator's file; None without one. Raises :class:`lxcbuild.errors.ConfigError` with file, line and key."""
    path = (directory or data.configuration_directory()) / FILE
    if not path.exists():
        return None
    from lxcbuild.config.sharing_file import read_sharing

    return read_sharing(path)
