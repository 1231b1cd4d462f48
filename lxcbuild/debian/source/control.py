"""Text of Debian control files, made from checked parts: nothing that upstream wrote can add a field, a stanza or a relation."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable, Mapping

from lxcbuild.debian.source.inspection import Inspection
from lxcbuild.errors import BadNameError

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{0,127}")
_RELATION = re.compile(
    r"(?:\$\{[A-Za-z0-9:-]{1,40}\}|[a-z0-9][a-z0-9+.-]{0,127}(?::[a-z0-9-]{1,20})?"
    r"(?: \((?:<<|<=|=|>=|>>) [A-Za-z0-9.+~:-]{1,200}\))?(?: \[[a-z0-9! -]{1,100}\])?(?: <[a-z0-9! .-]{1,60}>)*)"
)
_MAINTAINER = re.compile(r"[^<>@,\x00-\x1f]{1,100} <[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,190}>")
_FIELD = re.compile(r"[A-Z][A-Za-z0-9-]{0,60}")
_SYNOPSIS_COLUMNS = 78
_DESCRIPTION_LINES = 24
_COLUMNS = 76


def check_package_name(name: str) -> str:
    """The name, or :class:`BadNameError` when it is not a Debian package name."""
    if not _PACKAGE.fullmatch(name):
        raise BadNameError(f"{name[:80]!r} is not a Debian package name")
    return name


def check_maintainer(maintainer: str) -> str:
    """The maintainer, or :class:`BadNameError` when it is not of the form ``Name <address>``."""
    if not _MAINTAINER.fullmatch(maintainer):
        raise BadNameError(
            f"{maintainer[:80]!r} is not a maintainer", resolution="write it as: Full Name <name@example.org>"
        )
    return maintainer


def relations(items: Iterable[str]) -> str:
    """A relation field's value, each relation once, in the given order. Raises :class:`BadNameError` for a malformed one."""
    seen: dict[str, None] = {}
    for item in items:
        for alternative in item.split("|"):
            if not _RELATION.fullmatch(alternative.strip()):
                raise BadNameError(f"{item[:120]!r} is not a Debian relation")
        seen[" | ".join(part.strip() for part in item.split("|"))] = None
    return ", ".join(seen)


def is_relation_field(value: str) -> bool:
    """Whether a field of a built package is a well-formed list of relations (an empty one too)."""
    return not value.strip() or all(
        _RELATION.fullmatch(" ".join(part.split())) and "$" not in part
        for item in value.split(",")
        for part in item.split("|")
    )


def paragraph(fields: Mapping[str, str]) -> str:
    """One stanza; empty fields are left out. Values of several lines must already be in continuation form."""
    lines = []
    for name, value in fields.items():
        assert _FIELD.fullmatch(name), name
        assert not re.search(r"\n[^ ]|\n$|\r", value), f"{name} would end its field"
        if value:
            lines.append(f"{name}: {value}")
    return "\n".join(lines) + "\n"


def literal(text: str) -> str:
    """Upstream's text for debian/control, where dpkg replaces ``${name}``; ``${}`` is a dollar sign (deb-substvars(5))."""
    return text.replace("$", "${}")


def synopsis(inspection: Inspection, distribution: str) -> str:
    """The first line of a description: upstream's summary, shortened as Policy 3.4.1 wants, never empty."""
    text = " ".join((inspection.metadata.summary or "").split())
    text = re.sub(r"(?i)^(an?|the)\s+", "", text).rstrip(". ")
    if not text:
        return f"Python project {distribution}"
    return textwrap.shorten(text, _SYNOPSIS_COLUMNS, placeholder=" ...")


def long_description(inspection: Inspection, distribution: str, version: str) -> str:
    """The extended description in continuation form: upstream's text without mark-up, wrapped, at most 24 lines, and its origin."""
    lines: list[str] = []
    for block in _plain_paragraphs(inspection.metadata.description):
        wrapped = textwrap.wrap(block, _COLUMNS, break_long_words=True, break_on_hyphens=False)
        if len(lines) + len(wrapped) > _DESCRIPTION_LINES:
            break
        lines.extend([*([""] if lines else []), *wrapped])
    lines.extend(
        [
            *([""] if lines else []),
            f"This is the Python project {distribution}, release {version}, packaged by lxcbuild.",
        ]
    )
    return "\n".join(" ." if not line.strip() else f" {line}" for line in lines)


def homepage(inspection: Inspection) -> str:
    """The project's address, when it has one that is safe to print."""
    named = {label.lower().replace("-", "").replace(" ", ""): url for label, url in inspection.metadata.project_urls}
    preferred = [
        inspection.metadata.home_page,
        *(named.get(key) for key in ("homepage", "home", "source", "repository")),
    ]
    candidates = [*preferred, *named.values()]
    return next((url for url in candidates if url and re.fullmatch(r"https?://[!-~]{1,500}", url)), "")


_MARKUP = (
    (re.compile(r"<!--.{0,2000}?-->", re.DOTALL), " "),
    (re.compile(r"```.{0,4000}?```|~~~.{0,4000}?~~~", re.DOTALL), "\n\n"),
    (re.compile(r"^[ \t]{0,20}\.\. .*(?:\n[ \t]+.*)*", re.MULTILINE), ""),  # reST directives with their indented block
    (re.compile(r"!\[[^\]]{0,300}\]\([^)]{0,500}\)"), ""),  # images, badges
    (re.compile(r"\[([^\]]{0,300})\]\([^)]{0,500}\)"), r"\1"),
    (re.compile(r"`([^`<]{1,200})\s*<[^>`]{1,500}>`_{1,2}"), r"\1"),
    (re.compile(r"\[!\[[^\]]{0,300}\]\s*"), ""),
    (re.compile(r"</?[A-Za-z][^>]{0,1000}>"), " "),
    (re.compile(r":[a-z:]{1,20}:`([^`]{1,200})`"), r"\1"),
    (re.compile(r"\|[A-Za-z][^|\n]{0,60}\|_?"), ""),
    (re.compile(r"[*_`]{1,3}([^*_`\n]{1,300})[*_`]{1,3}"), r"\1"),
)


def _plain_paragraphs(text: str) -> list[str]:
    text = text[:10_000].replace("\r", "")
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    found = []
    for block in re.split(r"\n\s*\n", html.unescape(text)):
        lines = [line.strip() for line in block.splitlines()]
        # Headings (#, underlined), tables, code and lists of links say little without their mark-up.
        if block.startswith(("    ", "\t")) or any(re.fullmatch(r"[=\-~^#*+.\"'`_]{3,}", line) for line in lines):
            continue
        joined = " ".join(line for line in lines if line)
        if any(re.match(r"[-*+\u2022] |\d+[.)] ", line) for line in lines) or joined.count("://") > 1:
            continue
        if (
            len(joined) < 30
            or joined.endswith(":")
            or joined.startswith(("#", "|", "$", ">>>", "["))
            or not joined.isprintable()
        ):
            continue
        found.append(joined)
    return found
