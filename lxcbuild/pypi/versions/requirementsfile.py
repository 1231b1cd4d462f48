"""Requirements files: one project per line, as pip reads them, without what is no requirement.

Format: https://pip.pypa.io/en/stable/reference/requirements-file-format/. Comments, continued lines and ``--hash`` are honoured;
every other option would have to change what is installed or from where, and is refused.
"""

from __future__ import annotations

import re

from msgspec import Struct

from lxcbuild.errors import InputError
from lxcbuild.pypi.index.client import parse_requirement

MAX_BYTES = 1024 * 1024
MAX_LINES = 5000
_COMMENT = re.compile(r"(^|\s+)#.*$")
_HASH = re.compile(r"\s+--hash(?:=|\s+)(\S+)")
_DIGEST_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}


class RequirementLine(Struct, frozen=True, kw_only=True):
    """One requirement; ``hashes`` maps algorithms to the digests of which the source archive must have one. Empty: any."""

    requirement: str
    hashes: tuple[tuple[str, str], ...] = ()


def parse_requirements_file(data: bytes, *, name: str) -> tuple[RequirementLine, ...]:
    """The requirements in their order, each once. Raises :class:`InputError` that names the line."""
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} has more than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name} is not UTF-8") from None
    found: dict[RequirementLine, None] = {}
    for number, line in _logical_lines(text):
        if number > MAX_LINES:
            raise InputError(f"{name} has more than {MAX_LINES} lines")
        if line:
            found[_parse(line, where=f"{name}, line {number}")] = None
    if not found:
        raise InputError(f"{name} holds no requirement")
    return tuple(found)


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines with their numbers: joined where they end with a backslash, then without comments (pip's order)."""
    lines: list[tuple[int, str]] = []
    held, start = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        start = start or number
        if line.endswith("\\") and not _COMMENT.search(line):
            held += line[:-1] + " "
            continue
        lines.append((start, _COMMENT.sub("", held + line).strip()))
        held, start = "", 0
    return [*lines, (start, _COMMENT.sub("", held).strip())] if held else lines


def _parse(line: str, *, where: str) -> RequirementLine:
    hashes = tuple(dict.fromkeys(_digest(text, where=where) for text in _HASH.findall(line)))
    bare = _HASH.sub("", line).strip()
    if bare.startswith("-") or re.search(r"\s--?[a-z]", bare):
        option = next(word for word in bare.split() if word.startswith("-"))
        raise InputError(
            f"{where}: the option {option[:40]!r} is not supported",
            resolution="leave only requirements in the file; give directories and archives on the command line, and "
            "the index through pip's own configuration",
        )
    if re.match(r"(\.{0,2}/|[a-z+]+://|file:)", bare) or bare.endswith((".whl", ".tar.gz", ".zip")):
        raise InputError(
            f"{where}: {bare[:80]!r} is not the name of a project",
            resolution="give paths on the command line: lxcbuild build ./PATH",
        )
    try:
        parse_requirement(bare)
    except InputError as error:
        raise type(error)(f"{where}: {error.brief}", resolution=error.resolution) from None
    return RequirementLine(requirement=bare, hashes=hashes)


def _digest(text: str, *, where: str) -> tuple[str, str]:
    algorithm, _, digest = text.partition(":")
    length = _DIGEST_LENGTH.get(algorithm)
    if length is None or not re.fullmatch(rf"[0-9a-f]{{{length}}}", digest.lower()):
        known = ", ".join(_DIGEST_LENGTH)
        raise InputError(
            f"{where}: {text[:80]!r} is not a hash", resolution=f"write it as algorithm:digest, with {known}"
        )
    return algorithm, digest.lower()
