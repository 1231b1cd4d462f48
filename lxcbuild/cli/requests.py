"""From words of the command line to build requests: projects of the index, paths, source packages, requirements files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from lxcbuild.builder.machine import ConverterChoice
from lxcbuild.builder.request import BuildRequest
from lxcbuild.errors import InputError
from lxcbuild.model import SourceKind
from lxcbuild.pypi.index.client import parse_requirement

_ARCHIVES = (".tar.gz", ".tgz", ".zip", ".tar.xz", ".tar.bz2")


def read_requests(words: Sequence[str], files: Sequence[Path], *, like: BuildRequest) -> list[BuildRequest]:
    """One request per word and per line of the files, in that order; everything else of them is as in ``like``.

    Raises :class:`InputError` before anything is built.
    """
    found = [_request(word, like) for word in words]
    for path in files:
        found.extend(_from_file(path, like))
    return found


def _request(word: str, like: BuildRequest) -> BuildRequest:
    path = _as_path(word)
    if path is None:
        parse_requirement(word)
        return replace(like, requirement=word)
    return replace(like, requirement=word, path=path, kind=_kind(path, like.converter))


def _kind(path: Path, converter: ConverterChoice) -> SourceKind:
    """A directory that has debian/ is built by it, unless the user asks for a converter."""
    if not path.is_dir():
        return SourceKind.DSC if path.suffix == ".dsc" else SourceKind.SDIST
    from lxcbuild.debian.sourcepackage import is_debianized

    debian = path / "debian"
    brings_debian = debian.is_dir() and is_debianized([entry.name for entry in debian.iterdir()])
    return SourceKind.DSC if brings_debian and converter is ConverterChoice.AUTO else SourceKind.TREE


def _as_path(text: str) -> Path | None:
    """A path is what looks like one: it has a slash, is a dot, or ends as a source archive does."""
    if "/" not in text and text not in (".", "..") and not text.endswith((*_ARCHIVES, ".dsc")):
        return None
    path = Path(text)
    if not path.exists():
        raise InputError(
            f"there is no file or directory {text[:200]!r}", resolution="check the path, or give a project's name"
        )
    return path


def _from_file(path: Path, like: BuildRequest) -> Iterator[BuildRequest]:
    from lxcbuild.pypi.versions.requirementsfile import MAX_BYTES, parse_requirements_file

    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", resolution="check the path") from error
    for line in parse_requirements_file(data, name=path.name):
        yield replace(like, requirement=line.requirement, hashes=line.hashes)
