"""What a build knows of the others that are built with it: names and versions before they exist, packages once they do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct, field

from lxcbuild.debian.checks.installsets import needed_packages
from lxcbuild.debian.gate.artifacts import ArtifactError, read_deb
from lxcbuild.debian.names import Distribution
from lxcbuild.errors import DependencyError, GateError
from lxcbuild.model import Artifact


class LocalDeb(Struct, frozen=True, kw_only=True):
    """A binary package that was made here. ``stanza`` are its control fields: bounded, hostile."""

    path: Path
    sha256: str
    stanza: Mapping[str, str]

    @property
    def package(self) -> str:
        """Its name."""
        return self.stanza.get("Package", "")

    @classmethod
    def read(cls, path: Path, *, sha256: str) -> LocalDeb:
        """Read the control fields; raises :class:`GateError` for what is no package."""
        try:
            return cls(path=path, sha256=sha256, stanza=read_deb(path).control)
        except ArtifactError as error:
            raise GateError(f"{path.name} is not an installable package: {error}") from None

    def copy_to(self, directory: Path) -> None:
        """A copy for a sandbox; raises :class:`DependencyError` when the file is not what was sealed."""
        copy, digest = directory / self.path.name, hashlib.sha256()
        with self.path.open("rb") as source, copy.open("xb") as target:
            while block := source.read(1 << 20):
                digest.update(block)
                target.write(block)
            os.fchmod(target.fileno(), 0o644)
        if digest.hexdigest() != self.sha256:
            raise DependencyError(f"{self.path} has changed since it was made", resolution="build again with --rebuild")


class Closure(Struct, kw_only=True):
    """One set of projects that fit together. All keys are normalised names, those of ``debs`` package names.

    ``chosen`` are the projects that are built; ``extras`` what the extras of others add, by project and extra; ``debs`` grows as
    builds get to their packages.
    """

    chosen: Mapping[str, Distribution] = field(default_factory=dict)
    extras: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    debs: dict[str, LocalDeb] = field(default_factory=dict)

    def add(self, artifacts: Iterable[Artifact]) -> None:
        """Packages that others of the set may now be installed with; raises :class:`GateError`."""
        for artifact in artifacts:
            if artifact.path.suffix == ".deb":
                deb = LocalDeb.read(artifact.path, sha256=artifact.sha256)
                self.debs[deb.package] = deb

    def companions(self, stanzas: Iterable[Mapping[str, str]]) -> tuple[LocalDeb, ...]:
        """The packages of the set that these need, directly or through each other, themselves left out."""
        own = list(stanzas)
        names = {stanza.get("Package", "") for stanza in own}
        available = {name: deb.stanza for name, deb in self.debs.items() if name not in names}
        return tuple(self.debs[name] for name in needed_packages(own, available))

    def extra_requirements(self, name: str, extra: str) -> tuple[str, ...] | None:
        """What an extra of another project adds; None when that is not known."""
        return self.extras.get((name, extra))
