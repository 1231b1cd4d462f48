"""The files of recipes and their schema; see ``recipes.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from lxcbuild.config.documents import read_document, validate
from lxcbuild.config.recipes import Recipe
from lxcbuild.config.units import parse_seconds

Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+/-]{0,99}$")]
Mirror = Annotated[str, Field(pattern=r"^(https?|file|copy|cdrom|mirror\+https?|tor\+https?)://?[!-~]{1,500}$")]
Hook = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Suffix = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+]{0,30}$")]
Keyring = Annotated[str, Field(pattern=r"^/[A-Za-z0-9/._+-]{1,200}$")]


class RecipeFile(BaseModel):
    """The keys of one file; :class:`Recipe` says what they mean."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    distribution: Word
    suite: Word
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
    version_suffix: Suffix  # marks the versions of packages built for this target: deb12
    expires_after_s: Annotated[float, BeforeValidator(parse_seconds), Field(gt=0)] = Field(
        default=7 * 86400.0, alias="expires_after"
    )


def read_recipe(path: Path) -> Recipe:
    """Read one file; raises :class:`ConfigError`."""
    file = validate(read_document(path), RecipeFile)
    return Recipe(directory=path.parent, **{name: getattr(file, name) for name in RecipeFile.model_fields})
