"""The recipes of base images: ``rootfs/*.yaml``, the administrator's (``/etc/lxcbuild/rootfs``) over those that ship.

A file of the administrator replaces the shipped one of the same name as a whole: an image is not patched together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, field

from lxcbuild.config.documents import read_document, validate
from lxcbuild.config.structs import nearest
from lxcbuild.config.units import parse_seconds
from lxcbuild.errors import UnknownTargetError
from lxcbuild.model import Target
from lxcbuild.state import data

KIND = "rootfs"
#: The keys in the order of the file's schema: images are told apart by a hash over this text.
_HASHED = (
    "distribution", "suite", "description", "components", "variant", "updates", "security", "mirrors", "security_mirrors",
    "keyring", "packages", "toolchain", "hooks", "version_suffix", "expires_after_s",
)  # fmt: skip


Word = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.+/-]{0,99}\Z")]
Mirror = Annotated[str, Meta(pattern=r"^(https?|file|copy|cdrom|mirror\+https?|tor\+https?)://?[!-~]{1,500}\Z")]
Hook = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
Suffix = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.+]{0,30}\Z")]
Keyring = Annotated[str, Meta(pattern=r"^/[A-Za-z0-9/._+-]{1,200}\Z")]


class Recipe(Struct, frozen=True, kw_only=True):
    """One base image: what it is made from and what is in it."""

    distribution: Word
    suite: Word
    version_suffix: Suffix  # marks the versions of packages built for this target: deb12
    directory: Path  # where the file lies; no key of it
    description: str = ""
    components: tuple[Word, ...] = ("main",)
    variant: Word = "minbase"
    updates: tuple[Word, ...] = ()  # further suites on the main mirror
    security: tuple[Word, ...] = ()  # suites on the security mirror
    mirrors: tuple[Mirror, ...] = ()  # none: the host's, else mmdebstrap's own defaults
    security_mirrors: tuple[Mirror, ...] = ()
    keyring: Keyring | None = None
    packages: tuple[Word, ...] = ()
    toolchain: tuple[Word, ...] = ()  # what the layer for Python builds holds
    hooks: tuple[Hook, ...] = ()  # scripts in hooks/ beside the recipe
    expires_after_s: Annotated[float, Meta(gt=0, extra={"parse": parse_seconds})] = field(
        default=7 * 86400.0, name="expires_after"
    )

    def target(self, architecture: str = "amd64") -> Target:
        """What this recipe is for."""
        return Target(self.distribution, self.suite, architecture)

    def hook_paths(self) -> tuple[Path, ...]:
        """The hook scripts, which lie beside the recipe in ``hooks/`` or beside the shipped ones."""
        return tuple(self._hook(name) for name in self.hooks)

    def _hook(self, name: str) -> Path:
        own = self.directory / "hooks" / name
        return own if own.exists() else data.shipped_directory(KIND) / "hooks" / name

    def to_json(self) -> str:
        """All keys of the file, in one line; the same whatever the file's layout, and wherever it lies."""
        assert {*self.__struct_fields__} == {*_HASHED, "directory"}
        return json.dumps({name: getattr(self, name) for name in _HASHED}, separators=(",", ":"), ensure_ascii=False)


def load_recipes(*, places: tuple[Path, ...] | None = None) -> tuple[Recipe, ...]:
    """All recipes, sorted by file name; raises :class:`ConfigError` naming file, line and key."""
    return tuple(_read(paths[-1]) for paths in data.files(KIND, places=places).values())


def load_recipe(target: Target, *, places: tuple[Path, ...] | None = None) -> Recipe:
    """The recipe of a target; raises :class:`UnknownTargetError` with the known ones and the nearest."""
    files = data.files(KIND, places=places)
    usual = files.get(target.image_name)
    if usual is not None:  # no need to read them all
        recipe = _read(usual[-1])
        if (recipe.distribution, recipe.suite) == (target.distribution, target.suite):
            return recipe
    recipes = [_read(paths[-1]) for paths in files.values()]
    for recipe in recipes:
        if (recipe.distribution, recipe.suite) == (target.distribution, target.suite):
            return recipe
    known = [str(recipe.target()) for recipe in recipes]
    raise UnknownTargetError(
        f"no recipe describes {target}.{nearest(str(target), known)}",
        details=f"known: {', '.join(known) or 'none'}",
        resolution="run: lxcbuild rootfs list",
    )


def _read(path: Path) -> Recipe:
    return validate(read_document(path), Recipe, given={"directory": path.parent})
