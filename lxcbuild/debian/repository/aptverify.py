"""Whether a repository is what it signed: every signature, every hash, every package. Reads only; says what is wrong, in words."""

from __future__ import annotations

import datetime
import hashlib
import lzma
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path

from msgspec import Struct

from lxcbuild.debian.gate import artifacts
from lxcbuild.debian.repository import aptindex, aptsign
from lxcbuild.debian.repository.aptindex import IndexEntry
from lxcbuild.debian.repository.aptrepo import KEY_FILE, Repository
from lxcbuild.debian.stanza import ArtifactError
from lxcbuild.errors import RepositoryError
from lxcbuild.files import sha256_of

_MAX_LIST_BYTES = 1024**3


class Problem(Struct, frozen=True):
    """One thing that is wrong; ``path`` is relative to the repository."""

    path: str
    what: str


class RepositoryCheck(Struct, frozen=True):
    """What was looked at, and what is wrong with it."""

    suites: tuple[str, ...]
    files: int
    problems: tuple[Problem, ...]


def verify(repository: Repository) -> RepositoryCheck:
    """Check all suites. A writer who publishes meanwhile does no harm: the generation that was found first is looked at."""
    suites = repository.suites()
    problems: list[Problem] = []
    if not repository.path.joinpath(KEY_FILE).is_file():
        problems.append(Problem(KEY_FILE, "is missing"))
        return RepositoryCheck(tuple(suites), 0, tuple(problems))
    files: dict[str, tuple[str, int]] = {}
    for code in suites:
        generation = (repository.path / "dists" / code).resolve()
        if generation.parent != (repository.path / "dists").resolve() or not generation.is_dir():
            problems.append(Problem(f"dists/{code}", "does not lead to a generation"))
            continue
        problems += _suite(repository, code, generation, files)
    problems += (problem for name, (sha256, size) in files.items() for problem in _file(repository, name, sha256, size))
    return RepositoryCheck(tuple(suites), len(files), tuple(problems))


def _suite(repository: Repository, code: str, generation: Path, files: dict[str, tuple[str, int]]) -> Iterator[Problem]:
    """Problems of one suite's lists; puts what they name into ``files``."""
    where = f"dists/{code}"
    try:
        signed = _signed_release(repository, generation)
        fields, listed = aptindex.read_release(signed.decode("utf-8"))
    except (RepositoryError, ArtifactError, UnicodeDecodeError, OSError) as error:
        details = getattr(error, "details", None)
        yield Problem(where, f"{error}" + (f" ({details})" if details else ""))
        return
    if fields.get("Codename") != code:
        yield Problem(where, f"calls itself {fields.get('Codename', '')[:80]!r}")
    until = fields.get("Valid-Until")
    if until is not None and parsedate_to_datetime(until) < datetime.datetime.now(datetime.UTC):
        yield Problem(where, f"was valid until {until}: publish it again")
    for path, (sha256, size) in listed.items():
        place = generation / path
        named = place.parent / "by-hash" / "SHA256" / sha256
        for each in (place, named):
            yield from _bytes(each, f"{where}/{each.relative_to(generation)}", sha256, size)
        if path.endswith(".xz") and place.is_file():
            yield from _unpacks(place, where, listed.get(path.removesuffix(".xz")))
    for path in listed:
        if path.endswith(("/Packages", "/Sources")) and (generation / path).is_file():
            yield from _list(generation / path, f"{where}/{path}", files)


def _signed_release(repository: Repository, generation: Path) -> bytes:
    """The text that InRelease signs; raises unless Release and Release.gpg say the same."""
    key, fingerprint = repository.path / KEY_FILE, repository.settings.fingerprint
    signed = aptsign.signed_text(generation / "InRelease", key, fingerprint=fingerprint)
    aptsign.check_detached(generation / "Release.gpg", generation / "Release", key, fingerprint=fingerprint)
    if (generation / "Release").read_bytes() != signed:
        raise RepositoryError("Release and InRelease differ")
    return signed


def _unpacks(place: Path, where: str, plain: tuple[str, int] | None) -> Iterator[Problem]:
    try:
        text = lzma.LZMADecompressor().decompress(place.read_bytes(), _MAX_LIST_BYTES)
    except lzma.LZMAError as error:
        yield Problem(f"{where}/{place.name}", f"cannot be unpacked: {error}")
        return
    if plain is None or hashlib.sha256(text).hexdigest() != plain[0]:
        yield Problem(f"{where}/{place.name}", "does not unpack to the list beside it")


def _list(place: Path, where: str, files: dict[str, tuple[str, int]]) -> Iterator[Problem]:
    try:
        entries = list(aptindex.read_index(place.read_text("utf-8"), sources=place.name == "Sources"))
    except (ArtifactError, UnicodeDecodeError) as error:
        yield Problem(where, str(error))
        return
    seen: set[tuple[str, str, str]] = set()
    for entry in entries:
        if entry.key in seen:
            yield Problem(where, f"names {'_'.join(entry.key)} twice")
        seen.add(entry.key)
        yield from _entry(entry, where, files)


def _entry(entry: IndexEntry, where: str, files: dict[str, tuple[str, int]]) -> Iterator[Problem]:
    for file in entry.files:
        parts = file.path.split("/")
        if parts[0] != "pool" or any(part in ("", ".", "..") for part in parts):
            yield Problem(where, f"{entry.package} lies outside the pool: {file.path[:200]!r}")
        elif files.setdefault(file.path, (file.sha256, file.size_bytes)) != (file.sha256, file.size_bytes):
            yield Problem(where, f"{file.path} has two hashes")


def _file(repository: Repository, name: str, sha256: str, size: int) -> Iterator[Problem]:
    """Problems of one file of the pool; a .deb must be the package that its name says."""
    place = repository.path / name
    wrong = list(_bytes(place, name, sha256, size))
    yield from wrong
    if wrong or place.suffix != ".deb":
        return
    try:
        fields: Mapping[str, str] = artifacts.read_control(place)
        found = aptindex.binary_entry(fields, code=name.split("/")[1], sha256=sha256, size_bytes=size)
    except ArtifactError as error:
        yield Problem(name, str(error))
        return
    if found.files[0].path != name:
        yield Problem(name, f"holds another package: {'_'.join(found.key)}")


def _bytes(place: Path, name: str, sha256: str, size: int) -> Iterator[Problem]:
    try:
        found_size = place.stat().st_size
        if found_size != size:
            yield Problem(name, f"has {found_size} bytes instead of {size}")
        elif sha256_of(place) != sha256:
            yield Problem(name, "has a wrong hash")
    except OSError as error:
        yield Problem(name, f"cannot be read: {error.strerror}")
