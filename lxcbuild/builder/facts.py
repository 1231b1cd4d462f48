"""What the phases of a build find out: one frozen result per phase.

A phase takes results of phases before it and returns its own. :mod:`lxcbuild.builder.driver` holds them and hands them on by type.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from lxcbuild.builder.machine import Lessons
from lxcbuild.config.recipes import Recipe
from lxcbuild.debian.source.conversion import ConversionPlan
from lxcbuild.debian.source.inspection import Inspection
from lxcbuild.debian.sourcepackage import SourcePackage
from lxcbuild.images.crates import CrateFile
from lxcbuild.images.image import Image
from lxcbuild.images.layer import Layer
from lxcbuild.model import Artifact, Source
from lxcbuild.pypi.index.model import Release
from lxcbuild.pypi.versions.buildset import Chosen
from lxcbuild.sandbox.base import ExtractedFile, Instance


class OfficialVersion(Struct, frozen=True, kw_only=True):
    """Phase resolve, where there is nothing to build: the distribution ships that version."""

    version: str


class Resolved(Struct, frozen=True, kw_only=True):
    """Phase resolve: the image to build on, and what is built."""

    recipe: Recipe
    image: Image
    origin: Release | Path  # a release of the index, or a local path


class Inspected(Struct, frozen=True, kw_only=True):
    """Phase inspect, of a project; ``source`` has name and version."""

    resolved: Resolved
    source: Source
    inspection: Inspection

    def compiled_after_all(self) -> Inspected:
        """The same project, known to have compiled parts."""
        return replace(self, inspection=replace(self.inspection, compiled=True))


class InspectedPackage(Struct, frozen=True, kw_only=True):
    """Phase inspect, of a Debian source package: what its debian/ says."""

    resolved: Resolved
    source: Source
    package: SourcePackage


class Provisioned(Struct, frozen=True, kw_only=True):
    """Phase provision: the layers that the build runs on, and what it is told of them."""

    layer: Layer
    build_relations: tuple[str, ...]  # Build-Depends
    lessons: Lessons = field(default_factory=Lessons)  # with what the backend and the suite had to say
    outdated_backend: bool = False  # the suite's backend is older than the project asks for, and there is no newer one
    newer_than_stdeb: bool = False  # stdeb's way of installing does not know the newer tools that the project asks for
    program_paths: tuple[str, ...] = ()  # directories of programs that go before the suite's, from wheels of the index
    index_wheels: Mapping[str, tuple[Chosen, ...]] = field(default_factory=dict)  # by Python: what the index provided
    registry_crates: tuple[CrateFile, ...] = ()  # what a registry provided


class Laid(Struct, frozen=True, kw_only=True):
    """Phase debianize: the sources with a debian/ of ours, in a sandbox that is still open."""

    project: Inspected
    provided: Provisioned
    plan: ConversionPlan  # every decision about the source package
    orig_sha256: str  # of the source archive that was laid out
    instance: Instance


class LaidPackage(Struct, frozen=True, kw_only=True):
    """Phase debianize, of a Debian source package: unpacked with its own debian/, in a sandbox that is still open."""

    project: InspectedPackage
    provided: Provisioned
    instance: Instance


class Compiled(Struct, frozen=True, kw_only=True):
    """Phase compile: what came out, sealed, everything inside being dead. ``files`` belong to the package."""

    directory: Path
    files: tuple[ExtractedFile, ...]

    @property
    def debs(self) -> list[ExtractedFile]:
        """The binary packages."""
        return [item for item in self.files if item.name.endswith(".deb")]


class Verified(Struct, frozen=True, kw_only=True):
    """Phase verify: what came out has passed the gate, was installed and tried, and passed the checks."""

    compiled: Compiled


class Collected(Struct, frozen=True, kw_only=True):
    """Phase collect: the packages where the user finds them."""

    artifacts: tuple[Artifact, ...]


Result = TypeVar("Result")


class PhaseResults:
    """The results of the phases of one build, by their type; of a phase that was repeated, the newest."""

    def __init__(self) -> None:
        self._results: dict[type, object] = {Lessons: Lessons()}

    def keep(self, result: object) -> None:
        """A phase has ended with this."""
        self._results[type(result)] = result

    def find(self, kind: type[Result]) -> Result | None:
        """The result of that type, if there is one."""
        found = self._results.get(kind)
        return found if isinstance(found, kind) else None

    def __getitem__(self, kind: type[Result]) -> Result:
        found = self.find(kind)
        if found is None:
            raise KeyError(kind)
        return found
