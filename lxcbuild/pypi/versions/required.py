"""What a release requires at run time, from the cheapest place that knows."""

from __future__ import annotations

from collections.abc import Callable

from lxcbuild.errors import DependencyError, InputError
from lxcbuild.pypi.files.wheels import MAX_METADATA_BYTES, WheelMetadata, parse_metadata, read_wheel_metadata
from lxcbuild.pypi.index.client import Index
from lxcbuild.pypi.index.model import IndexFile
from lxcbuild.pypi.versions.selection import ReleaseFiles

#: A wheel that is larger is not worth fetching for a few lines of metadata.
_MAX_WHEEL_BYTES = 48 * 1024 * 1024


def read_requirements(
    index: Index,
    release: ReleaseFiles,
    *,
    read_sdist: Callable[[IndexFile], tuple[str, ...] | None],
) -> tuple[str, ...] | None:
    """The ``Requires-Dist`` of a release from the cheapest place that knows; None when only a build could tell.

    Raises :class:`DependencyError`, :class:`BrokenSdistError` and what fetching raises.
    """
    wheels = sorted(release.wheels, key=_cost)
    for wheel in wheels:
        # Without a hash of its own it would be less trustworthy than the wheel.
        if wheel.metadata_hashes.get("sha256"):
            alone = IndexFile(
                filename=f"{wheel.filename}.metadata", url=f"{wheel.url}.metadata", hashes=wheel.metadata_hashes
            )
            data = index.fetch(alone, max_bytes=MAX_METADATA_BYTES).read_bytes()
            return _checked(parse_metadata(data, where=alone.filename), release)
    if wheels and _is_pure(wheels[0]) and (found := _inside(index, wheels[0], release)) is not None:
        return found
    if release.sdists and (found := read_sdist(release.sdists[0])) is not None:
        return found
    return _inside(index, wheels[0], release) if wheels else None


def _inside(index: Index, wheel: IndexFile, release: ReleaseFiles) -> tuple[str, ...] | None:
    """What a whole wheel says; None when it is too large to be fetched for that."""
    try:
        path = index.fetch(wheel, max_bytes=_MAX_WHEEL_BYTES)
    except InputError:
        return None
    return _checked(read_wheel_metadata(path), release)


def _checked(found: WheelMetadata, release: ReleaseFiles) -> tuple[str, ...]:
    if found.version != release.version:
        raise DependencyError(
            f"a wheel of {found.name} {release.version} says that it is {found.name} {found.version}",
            resolution="tell the project: its file name and its metadata differ",
        )
    return found.requires_dist


def _is_pure(wheel: IndexFile) -> bool:
    return wheel.filename.endswith("-none-any.whl")


def _cost(wheel: IndexFile) -> tuple[bool, bool, int, str]:
    """Pure ones first, then those for Linux: what others require may be meant for their systems only."""
    return not _is_pure(wheel), "linux" not in wheel.filename, wheel.size_bytes or 0, wheel.filename
