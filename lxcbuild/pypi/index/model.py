"""What a package index says: files of a project, and the one release that a requirement was resolved to."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field


class IndexFile(Struct, frozen=True, kw_only=True):
    """One file of one project. ``url`` holds no credentials; ``hashes`` are lower-case hexadecimal by algorithm."""

    filename: str
    url: str
    hashes: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int | None = None
    requires_python: str | None = None
    yanked: str | None = None  # the reason ("" when none was given); None when the file is not yanked
    uploaded_at: str | None = None  # ISO 8601
    #: Hashes of ``<url>.metadata``, where the index offers a wheel's metadata alone (PEP 658, PEP 714).
    metadata_hashes: Mapping[str, str] = field(default_factory=dict)


class ProjectPage(Struct, frozen=True, kw_only=True):
    """What all configured places list of a project; ``serials`` has that of each index which says one, by the index's URL."""

    files: tuple[IndexFile, ...]
    serials: Mapping[str, int] = field(default_factory=dict)


class Release(Struct, frozen=True, kw_only=True):
    """The release that satisfies a requirement; ``notes`` are sentences that the user should see."""

    name: str  # normalised
    version: str  # PEP 440, normalised
    sdist: IndexFile
    requires_python: str | None = None
    yanked: str | None = None
    uploaded_at: str | None = None
    has_wheels: bool = False
    notes: tuple[str, ...] = ()
