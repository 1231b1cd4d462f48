"""The recipes of base images: ``rootfs/*.yaml``, those of the administrator (``/etc/lxcbuild/rootfs``) over those that ship."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

import lxcbuild
from lxcbuild.errors import ConfigError, UnknownTargetError
from lxcbuild.model import Target

ADMINISTRATOR = Path("/etc/lxcbuild/rootfs")
_UNITS_S = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def _age(value: Any) -> Any:
    match = re.fullmatch(r"(\d+)\s*([mhdw])", str(value))
    if match is None:
        raise ValueError("write an age such as 12h or 7d")
    return int(match[1]) * _UNITS_S[match[2]]


Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+/-]*$")]


class Recipe(BaseModel):
    """One base image: what it is made from and what is in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    distribution: Word
    suite: Word
    description: str = ""
    components: tuple[Word, ...] = ("main",)
    variant: Word = "minbase"
    updates: tuple[Word, ...] = ()
    security: tuple[Word, ...] = ()
    mirrors: tuple[str, ...] = ()
    security_mirrors: tuple[str, ...] = ()
    keyring: str | None = None
    packages: tuple[Word, ...] = ()
    toolchain: tuple[Word, ...] = ()
    hooks: tuple[str, ...] = ()
    version_suffix: str
    expires_after_s: Annotated[float, BeforeValidator(_age), Field(alias="expires_after")] = Field(
        default="7d", validate_default=True, alias="expires_after"
    )
    directory: Path = Field(default=Path(), exclude=True)

    def target(self, architecture: str = "amd64") -> Target:
        """What this recipe is for."""
        return Target(self.distribution, self.suite, architecture)

    def hook_paths(self) -> tuple[Path, ...]:
        """The hook scripts, which lie beside the recipe in ``hooks/``."""
        return tuple(self.directory / "hooks" / name for name in self.hooks)


def shipped_directory() -> Path:
    """``rootfs/`` of the installed package, or of the source tree."""
    package = Path(lxcbuild.__file__).parent
    inside = package / "_data" / "rootfs"
    return inside if inside.is_dir() else package.parent / "rootfs"


def load_recipes() -> tuple[Recipe, ...]:
    """All recipes, sorted by file name; raises :class:`ConfigError` naming file and key."""
    files: dict[str, Path] = {}
    for directory in (shipped_directory(), ADMINISTRATOR):
        if directory.is_dir():
            files.update({path.stem: path for path in directory.glob("*.yaml")})
    return tuple(_read(files[name]) for name in sorted(files))


def load_recipe(target: Target) -> Recipe:
    """The recipe of a target; raises :class:`UnknownTargetError`."""
    recipes = load_recipes()
    for recipe in recipes:
        if (recipe.distribution, recipe.suite) == (target.distribution, target.suite):
            return recipe
    known = ", ".join(str(recipe.target()) for recipe in recipes)
    raise UnknownTargetError(f"no recipe describes {target}", details=f"known: {known}", resolution="lxcbuild rootfs list")


def _read(path: Path) -> Recipe:
    try:
        raw = yaml.safe_load(path.read_text())
        return Recipe.model_validate({**raw, "directory": path.parent})
    except (yaml.YAMLError, ValidationError, TypeError) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}", details=str(error)) from error
