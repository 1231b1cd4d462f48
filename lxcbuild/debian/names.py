"""Which Debian package a Python project is: normalised names, naming rules, and the mapping order of the design.

Order: the user's overrides, the archive's contents index, packages built here, dh-python's own table.
"""

from __future__ import annotations

import enum
import functools
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct, field

from lxcbuild.errors import BadNameError

#: PEP 508's rule for names of projects and extras.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,198}[A-Za-z0-9])?", re.ASCII)
_SEPARATORS = re.compile(r"[-_.]+")
#: Debian Policy 5.6.1: at least two characters of a-z, 0-9, plus, minus and full stop, beginning with a letter or digit.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,127}")
#: What tells a project's package from another project's that has the name already. No normalised name holds a full stop.
APART = ".pypi"
#: Where dh-python keeps its table, below the root of an image or of the host.
FALLBACK_PATH = Path("usr/share/dh-python/dist/cpython3_fallback")
_FALLBACK_MAX_BYTES = 8 * 1024 * 1024


def normalise(name: str) -> str:
    """The PEP 503 form of a project's name (``Zope.Interface`` is ``zope-interface``); raises :class:`BadNameError`."""
    if not _NAME.fullmatch(name):
        raise BadNameError(
            f"{name[:80]!r} is not a project name",
            resolution="names hold ASCII letters, digits, '.', '-' and '_', and begin and end with a letter or digit",
        )
    return _SEPARATORS.sub("-", name).lower()


def canonical_or_none(name: str) -> str | None:
    """:func:`normalise` for names that others wrote: None where it would raise."""
    return _SEPARATORS.sub("-", name).lower() if _NAME.fullmatch(name) else None


def binary_package(name: str) -> str:
    """The rule for projects that Debian does not have: ``python3-<normalised name>``."""
    return f"python3-{normalise(name)}"


def source_package(name: str, package: str = "") -> str:
    """Name of the source package that we make: ``python-<normalised name>``, the prefix written only once; set apart as its binary
    package ``package`` is."""
    plain = normalise(name)
    made = plain if plain.startswith("python-") else f"python-{plain}"
    return f"{made}{APART}" if package == f"{binary_package(name)}{APART}" else made


class Distribution(Struct, frozen=True):
    """A Python distribution that an archive ships: normalised name, upstream (PEP 440) version, binary package."""

    name: str
    version: str
    package: str


class Origin(enum.StrEnum):
    """Who says that a project is a certain package."""

    OVERRIDE = "override"
    ARCHIVE = "archive"
    BUILT = "built"
    FALLBACK = "dh-python"


class Mapped(Struct, frozen=True):
    """A project's Debian package; ``version`` is the PEP 440 version it has there, where that is known."""

    package: str
    origin: Origin
    version: str | None = None


class NameMap(Struct, frozen=True, kw_only=True):
    """Looks a project up in all four places. All keys are normalised names.

    ``overrides`` come from the user; a value of "" says: needs no package at all. ``archive`` asks the contents index;
    ``built`` lists projects that are built here, ahead of or together with whoever asks; ``fallback`` is :func:`load_fallback`'s
    table. Whether something built takes the place of what the archive has is not decided here: then ``archive`` must not name it.
    ``taken`` says whether the suite has a package of some name; it is asked for projects only that nobody knows.
    """

    overrides: Mapping[str, str] = field(default_factory=dict)
    archive: Callable[[str], Distribution | None] | None = None
    built: Mapping[str, Distribution] = field(default_factory=dict)
    fallback: Mapping[str, str] = field(default_factory=dict)
    taken: Callable[[str], bool] | None = None

    def find(self, name: str) -> Mapped | None:
        """The package of a project, or None when nobody knows one; raises :class:`BadNameError`."""
        plain = normalise(name)
        if plain in self.overrides:
            return Mapped(self.overrides[plain], Origin.OVERRIDE)
        official = self.archive(plain) if self.archive else None
        if official is not None:
            return Mapped(official.package, Origin.ARCHIVE, official.version)
        built = self.built.get(plain)
        if built is not None:
            return Mapped(built.package, Origin.BUILT, built.version)
        if plain in self.fallback:
            return Mapped(self.fallback[plain], Origin.FALLBACK)
        return None

    def binary_package(self, name: str) -> str:
        """What a package made here is called: the user's choice, else the archive's own name, so that it supersedes ours.

        A package of the suite whose files do not say that it is this project is another one (python3-apt is python-apt, not apt),
        and its name is not taken.
        """
        found = self.find(name)
        if found is not None and found.package and found.origin is not Origin.FALLBACK:
            return found.package
        package = binary_package(name)
        return f"{package}{APART}" if self.taken is not None and self.taken(package) else package


@functools.lru_cache(maxsize=2)
def parse_fallback(text: str) -> Mapping[str, str]:
    """Read dh-python's table: one ``Distribution package`` per line, some with relations or rules that are left out here."""
    table: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0].startswith("#"):
            continue
        # Thousands of lines: what normalise() does, without its second look at the name.
        if _NAME.fullmatch(words[0]) and _PACKAGE.fullmatch(words[1]):
            table.setdefault(_SEPARATORS.sub("-", words[0]).lower(), words[1])
    return types.MappingProxyType(table)


def load_fallback(root: Path = Path("/")) -> Mapping[str, str]:
    """The table of the dh-python installed below ``root``; empty when there is none.

    ``root`` may be an image: the path is opened as given, so hand over roots that only trusted installs have written to.
    """
    path = root / FALLBACK_PATH
    try:
        with path.open("rb") as stream:
            data = stream.read(_FALLBACK_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return parse_fallback(data.decode("utf-8", errors="replace"))
