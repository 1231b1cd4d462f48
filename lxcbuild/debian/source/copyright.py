"""debian/copyright (DEP-5) from what a project says of its licence; silence becomes a flag, never a failure."""

from __future__ import annotations

import re

from msgspec import Struct

from lxcbuild.debian.source.control import homepage, paragraph
from lxcbuild.debian.source.inspection import Inspection

UNKNOWN = "UNKNOWN-LICENSE"
_TEXT_LIMIT = 32_000
_FORMAT = "https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
#: Trove classifiers to the short names of DEP-5 (which follows SPDX).
_CLASSIFIERS = {
    "MIT License": "Expat", "MIT No Attribution License (MIT-0)": "MIT-0", "BSD License": "BSD",
    "Apache Software License": "Apache-2.0", "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF-2.0", "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Mozilla Public License 1.1 (MPL 1.1)": "MPL-1.1", "Zope Public License": "ZPL-2.1",
    "GNU General Public License v2 (GPLv2)": "GPL-2", "GNU General Public License v3 (GPLv3)": "GPL-3",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2+",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3+",
    "GNU Lesser General Public License v2 (LGPLv2)": "LGPL-2",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2+",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3+",
    "GNU Affero General Public License v3": "AGPL-3",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3+",
    "The Unlicense (Unlicense)": "Unlicense", "Public Domain": "public-domain",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND", "zlib/libpng License": "Zlib",
}  # fmt: skip
_FREE_TEXT = (
    (r"mit(?:[ -]licen[cs]e)?|expat", "Expat"),
    (r"(?:the )?apache(?:[ -]software)?(?:[ -]licen[cs]e)?,?(?:[ -]*(?:version |v)?2(?:\.0)?)", "Apache-2.0"),
    (r"(?:new |modified )?bsd[ -]?3(?:[ -]clause)?.*|3[ -]clause bsd.*", "BSD-3-clause"),
    (r"(?:simplified )?bsd[ -]?2(?:[ -]clause)?.*|2[ -]clause bsd.*", "BSD-2-clause"),
    (r"(?:new )?bsd(?:[ -]licen[cs]e)?", "BSD"),
    (r"isc(?:[ -]licen[cs]e)?", "ISC"),
    (r"mpl[ -]?2(?:\.0)?", "MPL-2.0"),
    (r"(?:gnu )?gpl[ -]?v?3(?:\.0)?(?: or later|\+)", "GPL-3+"),
    (r"(?:gnu )?gpl[ -]?v?3(?:\.0)?", "GPL-3"),
    (r"(?:gnu )?gpl[ -]?v?2(?:\.0)?(?: or later|\+)", "GPL-2+"),
    (r"(?:gnu )?gpl[ -]?v?2(?:\.0)?", "GPL-2"),
    (r"psf|python(?: software foundation)?(?: licen[cs]e)?", "PSF-2.0"),
    (r"unlicen[cs]e", "Unlicense"),
)
_HOLDER = re.compile(
    r"(?im)^[ \t#*/.\-]{0,20}(?:copyright|\(c\)|©)[ \t]{0,8}(?:\(c\)|©|:)?[ \t]{0,8}((?:\d{4}|[A-Z])[^\n]{2,200})$"
)
_NOT_A_HOLDER = re.compile(r"(?i)holder|notice|owner|licen[cs]e|\[yyyy\]|statement|law|and related")
_EXPRESSION = re.compile(r"[A-Za-z0-9.+() -]{1,200}")


class Copyright(Struct, frozen=True, kw_only=True):
    """The file's text, the licence's short name, and whether a person should look because upstream was silent."""

    text: str
    licence: str
    known: bool


def make_copyright(inspection: Inspection, distribution: str, *, maintainer: str) -> Copyright:
    """Write the file: one stanza for upstream's files, one for ours, and the licence texts that the archive carries."""
    licence = licence_name(inspection)
    header = paragraph({"Format": _FORMAT, "Upstream-Name": distribution, "Source": homepage(inspection)})
    holders = _holders(inspection)
    files = paragraph({"Files": "*", "Copyright": "\n           ".join(holders), "License": licence})
    ours = paragraph({"Files": "debian/*", "Copyright": maintainer, "License": licence})
    text = "\n".join([header, files, ours, f"License: {licence}\n{_licence_text(inspection, licence)}\n"])
    return Copyright(text=text, licence=licence, known=licence != UNKNOWN)


def licence_name(inspection: Inspection) -> str:
    """The short name: PEP 639's expression, else classifiers, else the free-text field, else the licence file's own title."""
    metadata = inspection.metadata
    if metadata.license_expression and _EXPRESSION.fullmatch(metadata.license_expression):
        # DEP-5 combines with lower-case words and has no parentheses; "MIT" is "Expat" there.
        expression = re.sub(r"\b(AND|OR)\b", lambda m: m[1].lower(), metadata.license_expression)
        expression = re.sub(r"\s+WITH\s+", " with ", re.sub(r"[()]", "", expression))
        return re.sub(r"(?<![\w-])MIT(?![\w-])", "Expat", expression)
    last = [item.rsplit("::", 1)[-1].strip() for item in metadata.classifiers if item.startswith("License ::")]
    named = list(dict.fromkeys(_CLASSIFIERS[item] for item in last if item in _CLASSIFIERS))
    if named:
        return " or ".join(named)
    free = " ".join((metadata.license or "").split())
    for pattern, name in _FREE_TEXT:
        if re.fullmatch(pattern, free, re.IGNORECASE):
            return name
    for licence in inspection.licence_texts:
        start = " ".join(licence.text[:600].split()).lower()
        for words, name in _TITLES:
            if words in start:
                return name
    return UNKNOWN


_TITLES = (
    ("permission is hereby granted, free of charge", "Expat"), ("apache license version 2.0", "Apache-2.0"),
    ("mozilla public license version 2.0", "MPL-2.0"), ("isc license", "ISC"),
    ("gnu lesser general public license version 3", "LGPL-3"), ("gnu general public license version 3", "GPL-3"),
    ("gnu general public license version 2", "GPL-2"), ("redistribution and use in source and binary forms", "BSD"),
    ("this is free and unencumbered software", "Unlicense"),
)  # fmt: skip


def _holders(inspection: Inspection) -> list[str]:
    found: dict[str, None] = {}
    for licence in inspection.licence_texts:
        for match in _HOLDER.finditer(licence.text[:20_000]):
            holder = " ".join(match[1].split()).strip(" .")
            if not _NOT_A_HOLDER.search(holder) and len(found) < 20:
                found[holder] = None
    if not found:
        metadata = inspection.metadata
        people = (metadata.author, metadata.author_email, metadata.maintainer, metadata.maintainer_email)
        found = dict.fromkeys(person for person in people[:2] if person) or dict.fromkeys(p for p in people[2:] if p)
    return list(found) or ["the authors of the project, who did not name themselves"]


def _licence_text(inspection: Inspection, licence: str) -> str:
    texts = []
    for item in inspection.licence_texts:
        name = item.path.rsplit("/", 1)[-1].upper()
        if "AUTHORS" not in name:
            texts.append(f"[{item.path}]\n{item.text[:_TEXT_LIMIT]}")
    body = "\n\n".join(texts)[:_TEXT_LIMIT]
    if not body and inspection.metadata.license and len(inspection.metadata.license) > 200:
        body = inspection.metadata.license
    if not body and licence == UNKNOWN:
        body = "The project does not say under which licence it may be used."
    if not body:
        body = f"The project says that its licence is {licence}; its archive carries no text of it."
    lines = (line.rstrip() for line in body.replace("\r", "").replace("\t", "    ").replace("\f", "").splitlines())
    return "\n".join(f" {line}" if line else " ." for line in lines)
