"""What is asked of one build, as the command line or the farm puts it together."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct
from packaging.utils import canonicalize_name

from lxcbuild.builder.machine import ConverterChoice
from lxcbuild.model import SourceKind, Target

DEFAULT_MAINTAINER = "lxcbuild <lxcbuild@example.org>"


class BuildOptions(Struct, frozen=True, kw_only=True):
    """What the builds of one command line, or of one plan, have in common."""

    converter: ConverterChoice = ConverterChoice.AUTO
    maintainer: str = DEFAULT_MAINTAINER
    strict_debian: bool = False  # build with packages of the distribution only
    fork_server: bool = True  # as far as the policy allows it, too
    newer_than_official: bool = True  # where the suite has a requirement in a version that does not do
    lintian: bool = False  # let lintian judge the packages
    tests: bool = False  # run the project's own tests on the packages


class BuildRequest(BuildOptions, frozen=True, kw_only=True):
    """One build: this requirement (or local path) for this target, with these options."""

    requirement: str
    target: Target
    path: Path | None = None  # a local sdist, .dsc or directory, instead of the index
    kind: SourceKind = SourceKind.SDIST
    force: bool = False  # build although the distribution ships it
    output: Path | None = None  # where the user wants the packages, besides the store
    with_deps: bool = True  # build what the suite lacks of its requirements, too
    rebuild: bool = False  # although the very same was built before
    check_reproducible: bool = False  # build twice under different circumstances and compare
    needed_by: str = ""  # what this is a requirement of; empty: the user asked for it
    hashes: tuple[tuple[str, str], ...] = ()  # (algorithm, digest): the source archive must have one of them; none: any

    @property
    def options(self) -> BuildOptions:
        """What it has in common with others."""
        return BuildOptions(**{name: getattr(self, name) for name in BuildOptions.__struct_fields__})

    @property
    def wants_checks(self) -> bool:
        """Whether more is asked for than an earlier build with the same inputs can answer."""
        return self.lintian or self.tests or self.check_reproducible

    @property
    def display_name(self) -> str:
        """What to call the build before anything is known of it."""
        return (self.path.absolute().name if self.path is not None else self.requirement)[:200]

    @property
    def project_name(self) -> str:
        """The normalised name as far as the request tells it."""
        if self.path is not None:
            return self.display_name
        from lxcbuild.pypi.index.client import parse_requirement  # 26 ms; local sources ask no index

        return canonicalize_name(parse_requirement(self.requirement).name)


class MissingRelease(Struct, frozen=True, kw_only=True):
    """A release that has to be built before what was asked for. ``needs`` are projects of the same set that it needs directly.

    ``request`` asks for it with the options of who needs it; None: with those that all have in common.
    """

    name: str
    version: str
    needs: tuple[str, ...] = ()
    request: BuildRequest | None = None


def new_build_id() -> str:
    """A sortable id that no other build of any machine has: time in UTC, process, and 24 random bits."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid() % 0x10000:04x}{secrets.token_hex(3)}"
