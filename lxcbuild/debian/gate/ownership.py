"""Whose a path, or the name of a package, is in a suite: what the output gate asks before it lets a package have it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from lxcbuild.debian.gate import layout, startup

Owners = Callable[[str], Iterable[str]]
#: The suite's source packages of those of some binary packages that the suite has.
Sources = Callable[[Iterable[str]], Mapping[str, str]]


_ACTED_ON = re.compile(
    r"etc/|usr/lib/pam\.d/|usr/share/(?:polkit-1/rules\.d|pam-configs|applications|mime/packages)/|usr/lib/python3[^/]*/dist-packages/[^/]+\.pth$"
)

_CATALOGUE = re.compile(r"usr/share/locale/[^/]+/LC_MESSAGES/([^/]+)\.mo")
#: Where others' modules belong, though one package of Debian has the code that begins it.
_SHARED_TREES = ("mpl_toolkits",)


class OwnershipIndex(Protocol):
    """What is asked of a suite's index (:class:`lxcbuild.debian.archive.contents.ContentsIndex`): packages by name or path."""

    def executables(self, name: str, /) -> Iterable[str]:
        """Packages that put a program of that name on the PATH."""

    def modules(self, name: str, /) -> Iterable[str]:
        """Packages that have a top-level Python module of that name."""

    def files(self, path: str, /) -> Iterable[str]:
        """Packages that have a file which programs of the system act on."""

    def directories(self, path: str, /) -> Iterable[str]:
        """Packages that have files below a directory of /etc or /usr/share."""

    def catalogues(self, name: str, /) -> Iterable[str]:
        """Packages that have translations of that domain."""

    def system_headers(self, path: str, /) -> Iterable[str]:
        """Packages that have a C header of that path where compilers look for all programs."""

    def trees(self, path: str, /) -> Iterable[str]:
        """Packages that have a package of Python modules for themselves."""


def suite_owners(index: OwnershipIndex) -> Owners:
    """Who owns a path, from a suite's index."""

    def owners(path: str) -> Iterable[str]:
        place, _, name = path.rpartition("/")
        if place in ("usr/bin", "usr/sbin", "bin", "sbin", "usr/games"):
            return index.executables(name)
        if (command := startup.completed_command(path)) is not None:
            return index.executables(command)
        if _ACTED_ON.match(path) is not None:
            return index.files(path)
        module = layout.regular_module(path) or layout.bare_module(path)
        return index.modules(module) if module is not None else ()

    return owners


def project_owners(index: OwnershipIndex) -> Owners:
    """The same for a package of a Python project, which may not add to what others have for themselves either: directories of
    programs that run what they find there, translations, packages of modules, headers."""
    owners, trees = suite_owners(index), functools.cache(index.trees)

    def all_owners(path: str) -> Iterable[str]:
        found = set(owners(path))
        for directory in layout.module_directories(path):
            if directory not in _SHARED_TREES:
                found.update(trees(directory))
        if (match := _CATALOGUE.fullmatch(path)) is not None:
            found.update(index.catalogues(match[1]))
        if (header := layout.included(path)) is not None:
            found.update(index.system_headers(header))
        if startup.is_plain_share(path):
            depth = 2 if path.startswith("etc/") else 3
            found.update(index.directories("/".join(path.split("/")[:depth])))
        return found

    return all_owners


class OwnSources:
    """Which names and paths a source package may take, by what the suite makes of the same source."""

    def __init__(self, source: str, *, owners: Owners, sources: Sources) -> None:
        """Asks ``sources`` for each package once."""
        self._source = source
        self._owners, self._ask = owners, sources
        self._known: dict[str, str | None] = {}

    def source_of(self, package: str) -> str | None:
        """The source from which the suite makes a package; None when it has no such package."""
        self.learn([package])
        return self._known[package]

    def foreign_owners(self, path: str) -> tuple[str, ...]:
        """Whose a path is; nobody's when one of the owners is made from the same source: files may move between those."""
        found = tuple(sorted(set(self._owners(path))))
        return () if self._is_own(found) else found

    def owns(self, path: str) -> bool:
        """Whether the suite has the path in a package of the same source."""
        return self._is_own(tuple(self._owners(path)))

    def _is_own(self, packages: Collection[str]) -> bool:
        self.learn(packages)
        return any(self._known[package] == self._source for package in packages)

    def learn(self, packages: Iterable[str]) -> None:
        """Ask for all of them at once, before each is looked at."""
        if new := [package for package in packages if package not in self._known]:
            found = self._ask(new)
            self._known |= {package: found.get(package) for package in new}
