"""The one stanza of a control file, .dsc, .changes or .buildinfo: hostile bytes, bounded, read in one way only (deb822(5))."""

from __future__ import annotations

import re

MAX_STANZA_BYTES = 1024 * 1024
_MAX_FIELDS = 500
_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9-]{0,80}):[ \t]*(.*)")
#: Of C1 as of C0, and what breaks lines or turns directions in what people see.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class ArtifactError(ValueError):
    """An artefact cannot be read, or not in one way only; the text says why, bounded."""


def parse_stanza(data: bytes, *, what: str) -> dict[str, str]:
    """The one stanza of a control file; continuation lines are joined with line feeds.

    Names are capitalised as deb822(5) shows them: dpkg does not care how they are written, and so nobody may hide one that way.
    """
    if len(data) > MAX_STANZA_BYTES:
        raise ArtifactError(f"{what} has more than {MAX_STANZA_BYTES} bytes")
    if data.startswith(b"-----BEGIN"):
        raise ArtifactError(f"{what} carries a signature that nobody asked for")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ArtifactError(f"{what} is not UTF-8") from None
    fields: dict[str, list[str]] = {}
    name = ""
    for line in text.rstrip("\n").split("\n"):
        if _CONTROL.search(line):
            raise ArtifactError(f"{what} holds control characters")
        if line[:1] in (" ", "\t") and line.strip():
            if not name:
                raise ArtifactError(f"{what} begins with a continuation line")
            fields[name].append(line.strip())
            continue
        match = _FIELD.fullmatch(line)
        if match is None:
            raise ArtifactError(f"{what} holds a line that is not a field, or a second stanza")
        name = "-".join(part.capitalize() for part in match[1].split("-"))
        if name in fields:
            raise ArtifactError(f"{what} has the field {name} twice")
        if len(fields) >= _MAX_FIELDS:
            raise ArtifactError(f"{what} has more than {_MAX_FIELDS} fields")
        fields[name] = [match[2].strip()]
    return {name: "\n".join(lines) for name, lines in fields.items()}


def checksums(fields: dict[str, str], *, what: str) -> dict[str, tuple[str, int]]:
    """``Checksums-Sha256`` of a .dsc, .changes or .buildinfo: file name to (hash, size)."""
    found: dict[str, tuple[str, int]] = {}
    for line in fields.get("Checksums-Sha256", "").splitlines():
        if not line.strip():
            continue
        match = re.fullmatch(r"([0-9a-f]{64}) (\d{1,15}) ([A-Za-z0-9][A-Za-z0-9.+~_%:-]{0,250})", line.strip())
        if match is None or match[3] in found:
            raise ArtifactError(f"{what} has a malformed or repeated line in Checksums-Sha256")
        found[match[3]] = (match[1], int(match[2]))
    return found
