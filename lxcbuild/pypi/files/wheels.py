"""Wheels for a target that is not this machine: which of them fit its Python and C library, and what their metadata says.

A wheel is only ever read here, within bounds, for its metadata; it is unpacked inside a sandbox and nowhere else.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from lxcbuild.errors import BrokenSdistError
from lxcbuild.pypi.files.identity import canonical, version_or_none
from lxcbuild.pypi.index.model import IndexFile

#: More than any project's metadata has; a long description is most of it.
MAX_METADATA_BYTES = 4 * 1024 * 1024
_MAX_MEMBERS = 100_000
_MAX_DIRECTORY_BYTES = 16 * 1024 * 1024
_END_BYTES = 22 + 65535
_MAX_REQUIREMENTS = 2000
#: Names of manylinux policies before PEP 600, by the glibc that they stand for.
_LEGACY_MANYLINUX = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
_LEGACY_MACHINES = ("x86_64", "i686")


class WheelMetadata(Struct, frozen=True, kw_only=True):
    """What matters of a wheel's METADATA for choosing it; requirement texts are as upstream wrote them."""

    name: str  # normalised
    version: Version
    requires_dist: tuple[str, ...]
    requires_python: str | None


def target_tags(*, python_version: str, machine: str, glibc: tuple[int, int] | None) -> tuple[Tag, ...]:
    """The tags of wheels that run on a Debian system, best first: ``python_version`` is ``3.11`` or longer, ``machine`` what
    ``uname -m`` says there, ``glibc`` its version (None: no compiled wheel fits)."""
    release = Version(python_version).release
    python = (release[0], release[1])
    interpreter = f"cp{python[0]}{python[1]}"
    platforms = list(_platforms(machine, glibc)) if glibc is not None else []
    found = [
        *(cpython_tags(python, abis=[interpreter], platforms=platforms) if platforms else ()),
        *compatible_tags(python, interpreter, platforms or ["any"]),
    ]
    return tuple(dict.fromkeys(found))


def _platforms(machine: str, glibc: tuple[int, int]) -> Iterator[str]:
    lowest = 5 if machine in _LEGACY_MACHINES else 17  # PEP 599 and PEP 600
    for minor in range(glibc[1], lowest - 1, -1):
        yield f"manylinux_2_{minor}_{machine}"
        legacy = _LEGACY_MANYLINUX.get((2, minor))
        if legacy is not None and (legacy == "manylinux2014" or machine in _LEGACY_MACHINES):
            yield f"{legacy}_{machine}"
    yield f"linux_{machine}"


def best_wheel(files: Iterable[IndexFile], tags: Sequence[Tag]) -> IndexFile | None:
    """The wheel that fits best, or None when none fits; names that are no wheel's are passed over."""
    ranks = {tag: rank for rank, tag in enumerate(tags)}
    best: tuple[tuple[int, str], IndexFile] | None = None
    for file in files:
        try:
            _name, _version, build, offered = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            continue
        fitting = [ranks[tag] for tag in offered if tag in ranks]
        if not fitting:
            continue
        # Of equal tags the higher build number counts (PEP 427).
        rank = (min(fitting), f"{1_000_000 - (build[0] if build else 0):07d}{file.filename}")
        if best is None or rank < best[0]:
            best = (rank, file)
    return best[1] if best else None


def read_wheel_metadata(path: Path) -> WheelMetadata:
    """The metadata inside a wheel; raises :class:`BrokenSdistError` for anything that is not a sound wheel."""
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as wheel:
            members = wheel.infolist()
            if len(members) > _MAX_MEMBERS:
                raise broken_wheel(path.name, f"it has more than {_MAX_MEMBERS} members")
            found = [m for m in members if m.filename.count("/") == 1 and m.filename.endswith(".dist-info/METADATA")]
            if len(found) != 1:
                raise broken_wheel(path.name, f"it has {len(found)} METADATA files")
            with wheel.open(found[0]) as stream:
                data = stream.read(MAX_METADATA_BYTES + 1)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise broken_wheel(path.name, f"{type(error).__name__}: {str(error)[:200]}") from None
    return parse_metadata(data, where=path.name)


def _check_directory(path: Path) -> None:
    """Raise for a wheel whose list of members is longer than any: zipfile makes an object of each before anybody can count them.

    The end record is the one of APPNOTE 4.3.16; its ZIP64 form is for archives of 65,536 members or 2 GiB.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise broken_wheel(path.name, "it has no end record")
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    if size > _MAX_DIRECTORY_BYTES or tail[max(0, at - 20) : at].startswith(b"PK\x06\x07"):
        raise broken_wheel(path.name, "its list of members is too long")


def parse_metadata(data: bytes, *, where: str) -> WheelMetadata:
    """Core metadata, from a wheel or from the index; raises :class:`BrokenSdistError`."""
    if len(data) > MAX_METADATA_BYTES:
        raise broken_wheel(where, f"its metadata is longer than {MAX_METADATA_BYTES} bytes")
    from email.parser import HeaderParser  # 7 ms, and most builds read no wheel

    message = HeaderParser().parsestr(data.decode("utf-8", "replace"))
    version = version_or_none(str(message.get("Version", "")))
    name = str(message.get("Name", "")).strip()
    if version is None or not name or len(name) > 200:
        raise broken_wheel(where, "its metadata names no project and version")
    requires = [str(value).strip() for value in message.get_all("Requires-Dist") or []]
    return WheelMetadata(
        name=canonical(name),
        version=version,
        requires_dist=tuple(item for item in requires[:_MAX_REQUIREMENTS] if is_readable(item)),
        requires_python=str(message["Requires-Python"]).strip()[:200] if message.get("Requires-Python") else None,
    )


def is_readable(requirement: str) -> bool:
    """Whether it may be parsed at all: ``packaging`` descends one level per parenthesis, and ends in a RecursionError."""
    return len(requirement) <= 2000 and requirement.count("(") <= 50


def broken_wheel(name: str, what: str) -> BrokenSdistError:
    """The error for a file that calls itself a wheel."""
    return BrokenSdistError(f"{name} is not a sound wheel: {what}")
