"""Isolation policies by name. What their files say is read by :mod:`lxcbuild.config.policy_files`, which takes long to load."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lxcbuild.config.settled import settled
from lxcbuild.state import data

if TYPE_CHECKING:
    from lxcbuild import model
    from lxcbuild.config.policy_files import PolicyInfo

KIND = "cgroups"


def list_policies(*, places: tuple[Path, ...] | None = None) -> tuple[PolicyInfo, ...]:
    """All policies by name; raises :class:`ConfigError` for a file with a mistake."""
    from lxcbuild.config import policy_files

    return policy_files.list_policies(places=places)


def load_policy(name: str, *, package: str | None = None, places: tuple[Path, ...] | None = None) -> model.Policy:
    """The policy of that name, resolved for this machine and, where given, for one package.

    Raises :class:`UnknownPolicyError` with the nearest name, or :class:`ConfigError` with file, line and key.
    """

    def read() -> tuple[model.Policy, tuple[tuple[str, ...], ...]]:
        from lxcbuild.config import policy_files

        return policy_files.load_policy(name, places=places), policy_files.override_patterns(name, places=places)

    files = [path for paths in data.files(KIND, places=places).values() for path in paths]
    machine = (machine_memory_bytes(), os.sysconf("SC_PAGE_SIZE"), sorted(os.sched_getaffinity(0)))
    policy, overrides = settled("policy", name, files, read, given=machine)
    if package is None or not any(matches(package, patterns) for patterns in overrides):
        return policy
    from lxcbuild.config import policy_files

    return policy_files.load_policy(name, package=package, places=places)


def load_policy_file(path: Path, *, package: str | None = None, places: tuple[Path, ...] | None = None) -> model.Policy:
    """A policy from a file that may lie anywhere; what it inherits comes from the known ones."""
    from lxcbuild.config import policy_files

    return policy_files.load_policy_file(path, package=package, places=places)


def matches(package: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns of an override means that project, however either is written."""
    normalised = re.sub(r"[-_.]+", "-", package).lower()
    return any(fnmatch.fnmatchcase(normalised, re.sub(r"[_.]+", "-", pattern).lower()) for pattern in patterns)


def machine_memory_bytes() -> int:
    """The memory of this machine, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
