"""Candidates and requirements as resolvelib sees them."""

from __future__ import annotations

from msgspec import Struct
from packaging.requirements import Requirement
from packaging.version import Version

from lxcbuild.pypi.index.model import IndexFile


class Candidate(Struct, frozen=True, kw_only=True):
    """``sdist`` is None for what the distribution ships, and for a root."""

    name: str
    version: Version | None
    extras: frozenset[str]
    sdist: IndexFile | None = None
    wheels: tuple[IndexFile, ...] = ()
    root: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.version}" if self.version is not None else self.name


class Ask(Struct, frozen=True, kw_only=True):
    """A requirement and who has it. ``broken`` says why its owner can never be chosen: a requirement that nothing satisfies."""

    requirement: Requirement
    parent: Candidate | None = None
    broken: str | None = None

    def __str__(self) -> str:
        return f"{self.requirement} (wanted by {self.parent})" if self.parent else str(self.requirement)
