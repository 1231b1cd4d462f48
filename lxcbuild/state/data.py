"""Where the YAML files are: those that ship with lxcbuild, and those of the administrator, who overrides and extends by name."""

from __future__ import annotations

import os
from pathlib import Path

import lxcbuild

ENVIRONMENT_VARIABLE = "LXCBUILD_CONFIG_DIR"


def configuration_directory() -> Path:
    """``/etc/lxcbuild``, or what ``LXCBUILD_CONFIG_DIR`` names."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or "/etc/lxcbuild")


def shipped_directory(kind: str) -> Path:
    """``cgroups`` or ``rootfs`` of the installed package, or of the source tree."""
    package = Path(lxcbuild.__file__).parent
    inside = package / "_data" / kind
    return inside if inside.is_dir() else package.parent / kind


def directories(kind: str) -> tuple[Path, ...]:
    """The directories of one kind of file, the stronger one last."""
    return shipped_directory(kind), configuration_directory() / kind


def files(kind: str, *, places: tuple[Path, ...] | None = None) -> dict[str, list[Path]]:
    """Name (without ``.yaml``) to its files, the stronger one last; sorted by name."""
    found: dict[str, list[Path]] = {}
    for directory in places if places is not None else directories(kind):
        if directory.is_dir():
            for path in directory.glob("*.yaml"):
                found.setdefault(path.stem, []).append(path)
    return {name: found[name] for name in sorted(found)}
