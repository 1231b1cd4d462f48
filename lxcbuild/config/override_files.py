"""The files of hand-made overrides and their schema; see ``overrides.py``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from lxcbuild.config.documents import Document, read_document, validate
from lxcbuild.config.overrides import OFF, Change, Loaded, Patch

_MAX_PATCH_BYTES = 4 * 1024**2
_PACKAGE = r"[a-z0-9][a-z0-9+.-]{1,127}"
_RELATION = rf"{_PACKAGE}(?: \((?:<<|<=|=|>=|>>) [A-Za-z0-9.+~:-]{{1,200}}\))?"
_RELATION_LIST = re.compile(rf"{_RELATION}(?: \| {_RELATION})*")
_PATCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,150}")


def _relation(value: object) -> object:
    if not isinstance(value, str) or not _RELATION_LIST.fullmatch(value):
        raise ValueError(f"{str(value)[:80]!r} is no relation; write it as libfoo-dev or libfoo-dev (>= 1.2)")
    return value


def _package(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(_PACKAGE, value):
        raise ValueError(f"{str(value)[:80]!r} is no name of a Debian package")
    return value


def _project(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"(?ai)[a-z0-9](?:[a-z0-9._-]{0,198}[a-z0-9])?", value):
        raise ValueError(f"{str(value)[:80]!r} is no name of a project")
    return canonicalize_name(value)


def _text(value: object) -> object:
    """Numbers are taken as they are written; what YAML reads as true or false is not what anybody meant."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{str(value)[:80]!r} is no text; put it in quotes")
    if any(character in str(value) for character in "\n\r\0"):
        raise ValueError("a variable has one line")
    return str(value)


def _tests(value: object) -> object:
    if value is False or value == OFF:
        return OFF
    if not isinstance(value, str) or not value.strip() or "\n" in value:
        raise ValueError("write off, or the command that runs the tests")
    return value


Relation = Annotated[str, BeforeValidator(_relation)]
Package = Annotated[str, BeforeValidator(_package)]
Project = Annotated[str, BeforeValidator(_project)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,100}$")]


class ChangeFile(BaseModel):
    """See :class:`Change`."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    add: tuple[Relation, ...] = ()
    remove: tuple[Package, ...] = ()

    def settle(self) -> Change:
        """As a plain value."""
        return Change(add=self.add, remove=self.remove)


class OverrideFile(BaseModel):
    """One file."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    project: Project | None = None
    description: str = ""
    versions: str | None = None
    targets: tuple[str, ...] = ()
    converter: Literal["pyproject", "stdeb"] | None = None
    build_depends: ChangeFile = Field(default_factory=ChangeFile, alias="build-depends")
    depends: ChangeFile = Field(default_factory=ChangeFile)
    names: dict[Project, Literal[""] | Package] = Field(default_factory=dict)
    package: Package | None = None
    environment: dict[Variable, Annotated[str, BeforeValidator(_text)]] = Field(default_factory=dict)
    patches: tuple[str, ...] = ()
    tests: Annotated[str, BeforeValidator(_tests)] | None = None

    @field_validator("versions")
    @classmethod
    def _is_specifier(cls, value: str | None) -> str | None:
        try:
            SpecifierSet(value or "")
        except InvalidSpecifier:
            raise ValueError(f"{str(value)[:80]!r} names no versions; write it as >=1.2,<3") from None
        return value


def read_override(path: Path) -> Loaded:
    """Read one file and its patches; raises :class:`ConfigError`."""
    document = read_document(path)
    content = validate(document, OverrideFile)
    try:
        project = content.project or _project(path.stem)
    except ValueError as error:
        raise document.error((), str(error), resolution=f"rename {path}, or say project: in it") from error
    patches = tuple(_patch(document, path.parent, name, number) for number, name in enumerate(content.patches))
    names = [patch.name for patch in patches]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise document.error(("patches", number), f"{name!r} appears twice")
    return Loaded(str(project), os.path.join(*path.parts[-2:]), content, patches)  # noqa: PTH118 - text for people


def _patch(document: Document, folder: Path, given: str, number: int) -> Patch:
    """A patch lies beside the YAML file or below it; nothing else of the host is read."""
    at = ("patches", number)
    path = Path(given)
    if path.is_absolute() or ".." in path.parts or not _PATCH_NAME.fullmatch(path.name):
        raise document.error(at, f"{given[:80]!r} is no file beside this one, of a plain name")
    try:
        with (folder / path).open("rb") as file:
            text = file.read(_MAX_PATCH_BYTES + 1)
    except OSError as error:
        raise document.error(at, f"{given} cannot be read: {error.strerror}") from error
    if len(text) > _MAX_PATCH_BYTES:
        raise document.error(at, f"{given} is larger than {_MAX_PATCH_BYTES >> 20} MiB")
    try:
        return Patch(path.name, text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise document.error(at, f"{given} is not UTF-8 text") from error
