"""Hand-made overrides per project: ``packages/*.yaml`` of the configuration directory (and of ``--overrides DIR``).

A file speaks of the project that it is named after, or that it names; several may speak of one project (of different versions or
targets). Those that apply add up, in the order of directories and file names: lists and tables grow, single values are replaced.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field
from msgspec.structs import replace
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from lxcbuild.config.documents import Document, read_document, validate
from lxcbuild.errors import ConfigError
from lxcbuild.model import Target
from lxcbuild.state import data

KIND = "packages"
OFF = "off"


_MAX_PATCH_BYTES = 4 * 1024**2
_PATCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,150}")
_PACKAGE = r"[a-z0-9][a-z0-9+.-]{1,127}"
_RELATION = rf"{_PACKAGE}(?: \((?:<<|<=|=|>=|>>) [A-Za-z0-9.+~:-]{{1,200}}\))?"


def _project(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"(?ai)[a-z0-9](?:[a-z0-9._-]{0,198}[a-z0-9])?", value):
        raise ValueError(f"{str(value)[:80]!r} is not the name of a project")
    return canonicalize_name(value)


def _text(value: object) -> object:
    """Numbers are taken as they are written; what YAML reads as true or false is not what anybody meant."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{str(value)[:80]!r} is not a text; put it in quotes")
    if any(character in str(value) for character in "\n\r\0"):
        raise ValueError("a variable has one line")
    return str(value)


def _tests(value: object) -> object:
    if value is False or value == OFF:
        return OFF
    if not isinstance(value, str) or not value.strip() or "\n" in value:
        raise ValueError("write off, or the command that runs the tests")
    return value


def _versions(value: object) -> object:
    try:
        SpecifierSet(str(value))
    except InvalidSpecifier:
        raise ValueError(f"{str(value)[:80]!r} names no versions; write it as >=1.2,<3") from None
    return value


Relation = Annotated[
    str,
    Meta(
        pattern=rf"^{_RELATION}(?: \| {_RELATION})*\Z",
        extra={"no": "relation; write it as libfoo-dev or libfoo-dev (>= 1.2)"},
    ),
]
Package = Annotated[str, Meta(pattern=rf"^{_PACKAGE}\Z", extra={"no": "name of a Debian package"})]
PackageOrNone = Annotated[str, Meta(pattern=rf"^(?:{_PACKAGE})?\Z", extra={"no": "name of a Debian package"})]
Project = Annotated[str, Meta(extra={"parse": _project})]
Variable = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,100}\Z", extra={"no": "name of a variable"})]


class Change(Struct, frozen=True, kw_only=True):
    """Relations to add, and packages whose relations go."""

    add: tuple[Relation, ...] = ()
    remove: tuple[Package, ...] = ()


class Patch(Struct, frozen=True):
    """One patch for ``patch -p1``: its name in debian/patches and its text."""

    name: str
    text: str


class Override(Struct, frozen=True, kw_only=True):
    """What holds for one project, version and target. Without ``sources`` nothing applied."""

    sources: tuple[str, ...] = ()  # the files, as people are told of them
    converter: str | None = None
    build_depends: Change = Change()
    depends: Change = Change()
    names: Mapping[str, str] = field(default_factory=dict)  # project to package; "" needs none
    package: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()
    tests: str | None = None  # a command, "off", or None: nothing is said

    @property
    def digest(self) -> str:
        """Tells overrides that change something apart; "" where nothing applies."""
        if not self.sources:
            return ""
        told = [self.describe().partition(": ")[2], *(patch.text for patch in self.patches)]
        return hashlib.sha256("\0".join(told).encode()).hexdigest()

    def describe(self) -> str:
        """One line for logs and records: which files, and what they change."""
        parts = [
            *(f"+{item}" for item in self.build_depends.add),
            *(f"-{item}" for item in self.build_depends.remove),
            *(f"depends +{item}" for item in self.depends.add),
            *(f"depends -{item}" for item in self.depends.remove),
            *(f"{name} is {package or 'no package'}" for name, package in self.names.items()),
            *(f"{name}={value}" for name, value in self.environment.items()),
            *(f"patch {patch.name}" for patch in self.patches),
        ]
        single = {"package": self.package, "converter": self.converter, "tests": self.tests}
        parts += [f"{key} {value}" for key, value in single.items() if value is not None]
        return f"override {', '.join(self.sources)}: {'; '.join(parts) or 'changes nothing'}"


class OverrideFile(Struct, frozen=True, kw_only=True):
    """What one file may say."""

    project: Project | None = None
    description: str = ""
    versions: Annotated[str, Meta(extra={"parse": _versions})] | None = None
    targets: tuple[str, ...] = ()
    converter: Literal["pyproject", "stdeb"] | None = None
    build_depends: Change = field(default=Change(), name="build-depends")
    depends: Change = Change()
    names: dict[Project, PackageOrNone] = field(default_factory=dict)
    package: Package | None = None
    environment: dict[Variable, Annotated[str, Meta(extra={"parse": _text})]] = field(default_factory=dict)
    patches: tuple[str, ...] = ()
    tests: Annotated[str, Meta(extra={"parse": _tests})] | None = None


class Loaded(Struct, frozen=True):
    """One file, read and checked."""

    project: str
    shown: str
    content: OverrideFile
    patches: tuple[Patch, ...]


class Overrides(Struct, frozen=True):
    """All files, read and checked."""

    _loaded: tuple[Loaded, ...] = ()

    def find(self, project: str, version: str, target: Target) -> Override:
        """What applies; ``version`` may be "" as long as nobody knows it, and then only what speaks of all versions does."""
        found = Override()
        name = canonicalize_name(project)
        for each in self._loaded:
            if each.project == name and _applies(each.content, version, target):
                found = _added(found, each)
        return found


def _applies(content: OverrideFile, version: str, target: Target) -> bool:
    if content.targets and not any(fnmatch.fnmatchcase(str(target), pattern) for pattern in content.targets):
        return False
    if content.versions is None:
        return True
    try:
        return SpecifierSet(content.versions).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _added(below: Override, each: Loaded) -> Override:
    own = each.content
    return replace(
        below,
        sources=(*below.sources, each.shown),
        converter=own.converter or below.converter,
        build_depends=_both(below.build_depends, own.build_depends),
        depends=_both(below.depends, own.depends),
        names={**below.names, **own.names},
        package=own.package or below.package,
        environment={**below.environment, **own.environment},
        patches=(*below.patches, *each.patches),
        tests=own.tests or below.tests,
    )


def _both(first: Change, second: Change) -> Change:
    return Change(add=(*first.add, *second.add), remove=(*first.remove, *second.remove))


# -- reading --------------------------------------------------------------------------------------------------------


def load_overrides(extra: Path | None = None) -> Overrides:
    """Those of the configuration directory, then those of ``extra``; raises :class:`ConfigError` with file, line and key."""
    places = [data.configuration_directory() / KIND]
    if extra is not None:
        if not extra.is_dir():
            raise ConfigError(f"--overrides {extra} is not a directory", resolution="name a directory of YAML files")
        places.append(extra)
    paths = [path for place in places for path in sorted(place.glob("*.yaml"))]
    return Overrides(tuple(_read(path) for path in paths))


def _read(path: Path) -> Loaded:
    """Read one file and its patches; raises :class:`ConfigError`."""
    document = read_document(path)
    content = validate(document, OverrideFile)
    try:
        project = content.project or _project(path.stem)
    except ValueError as error:
        raise document.error((), str(error), resolution=f"rename {path}, or set project: in it") from error
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
        raise document.error(at, f"{given[:80]!r} is not a plain file name beside this one")
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


def changed(relations: Sequence[str], change: Change) -> tuple[str, ...]:
    """The relations after a change: removals by the package that they begin with, then what is added, each once."""
    gone = set(change.remove)
    kept = [item for item in relations if re.split(r"[\s(:|]", item, maxsplit=1)[0] not in gone]
    return tuple(dict.fromkeys((*kept, *change.add)))
