"""Hand-made overrides per project: ``packages/*.yaml`` of the configuration directory (and of ``--overrides DIR``).

A file speaks of the project that it is named after, or that it names; several may speak of one project (of different versions or
targets). Those that apply add up, in the order of directories and file names: lists and tables grow, single values are replaced.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from lxcbuild.errors import ConfigError
from lxcbuild.model import Target
from lxcbuild.state import data

if TYPE_CHECKING:
    from lxcbuild.config.override_files import OverrideFile

KIND = "packages"
OFF = "off"


class Change(Struct, frozen=True, kw_only=True):
    """Relations to add, and packages whose relations go."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


class Patch(Struct, frozen=True):
    """One patch for ``patch -p1``: its name in debian/patches and its text."""

    name: str
    text: str


class Override(Struct, frozen=True, kw_only=True):
    """What holds for one project, version and target. Without ``sources`` nothing applied."""

    sources: tuple[str, ...] = ()  # the files, as people are told of them
    converter: str | None = None
    build_depends: Change = field(default_factory=Change)
    depends: Change = field(default_factory=Change)
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
        build_depends=_both(below.build_depends, own.build_depends.settle()),
        depends=_both(below.depends, own.depends.settle()),
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
            raise ConfigError(f"--overrides {extra} is no directory", resolution="name a directory of YAML files")
        places.append(extra)
    paths = [path for place in places for path in sorted(place.glob("*.yaml"))]
    if not paths:
        return Overrides()
    from lxcbuild.config.override_files import read_override

    return Overrides(tuple(read_override(path) for path in paths))


def changed(relations: Sequence[str], change: Change) -> tuple[str, ...]:
    """The relations after a change: removals by the package that they begin with, then what is added, each once."""
    gone = set(change.remove)
    kept = [item for item in relations if re.split(r"[\s(:|]", item, maxsplit=1)[0] not in gone]
    return tuple(dict.fromkeys((*kept, *change.add)))
