"""The anchors of an HTML page of a package index.

``html.parser`` looks for the end of what never ends from every beginning of it: pages of some 100 KiB took it a minute. This goes
over a page once, and takes what ``html.parser`` takes of pages that are whole.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

#: A comment, a declaration or an end tag, or the name of a start tag.
_BEGIN = re.compile(r"<(?:(!--)|([!?]|/(?=[A-Za-z]))|([A-Za-z][^\s/>]*+))")
_BETWEEN = re.compile(r"[\s/]*+")
_NAME = re.compile(r"[^\s/>][^\s/=>]*+")
_EQUALS = re.compile(r"\s*+=+\s*+")
_UNQUOTED = re.compile(r"[^\s>]*+")
#: What these hold is no HTML.
_RAW_ENDS = {tag: re.compile(rf"(?i)</{tag}(?=[\s/>])") for tag in ("script", "style")}
#: No honest page has more: a file takes three or four tags, a tag some five attributes.
_MAX_TAGS, _MAX_ATTRIBUTES = 2_000_000, 100

Attributes = dict[str, str | None]


class Anchors:
    """The anchors of a page, up to one more than ``limit``, and the first ``<base>``. Raises ValueError for a page that is none."""

    def __init__(self, page: str, *, limit: int) -> None:
        self.base: str | None = None
        self.links: list[Attributes] = []
        for tag, attributes in _tags(page):
            if not attributes.get("href"):
                continue
            if tag == "base":
                self.base = self.base or attributes["href"]
                continue
            self.links.append(attributes)
            if len(self.links) > limit:
                break


def _tags(page: str) -> Iterator[tuple[str, Attributes]]:
    """The start tags ``a`` and ``base`` with their attributes. A page ends where something begins that does not end."""
    at = 0
    for _ in range(_MAX_TAGS):
        found = _BEGIN.search(page, at)
        if found is None:
            return
        comment, _, name = found.groups()
        tag = (name or "").lower()
        if tag:
            attributes, at = _attributes(page, found.end())
        else:
            at = page.find("-->" if comment else ">", found.end())
        if tag in _RAW_ENDS and at >= 0:
            end = _RAW_ENDS[tag].search(page, at)
            at = end.start() if end is not None else -1
        if at < 0:
            return
        if tag in ("a", "base"):
            yield tag, {key: _text(value) for key, value in attributes.items()}
    raise ValueError(f"it has more than {_MAX_TAGS} tags")


def _attributes(page: str, at: int) -> tuple[Attributes, int]:
    """The attributes of a tag whose name ends at ``at``, as they are written, and where the tag ends; -1 where it does not."""
    found: Attributes = {}
    for _ in range(_MAX_ATTRIBUTES):
        at = _end(_BETWEEN, page, at)
        name = _NAME.match(page, at)
        if name is None:
            return found, at + 1 if at < len(page) else -1
        equals = _EQUALS.match(page, name.end())
        if equals is None:
            value, at = None, name.end()
        elif page[equals.end() : equals.end() + 1] in ('"', "'"):
            begin = equals.end() + 1
            at = page.find(page[begin - 1], begin) + 1
            if at == 0:
                return found, -1
            value = page[begin : at - 1]
        else:
            at = _end(_UNQUOTED, page, equals.end())
            value = page[equals.end() : at]
        found[name[0].lower()] = value
    raise ValueError(f"it has a tag with more than {_MAX_ATTRIBUTES} attributes")


def _end(pattern: re.Pattern[str], page: str, at: int) -> int:
    """Where what the pattern takes ends; it takes nothing as well."""
    match = pattern.match(page, at)
    return at if match is None else match.end()


def _text(value: str | None) -> str | None:
    """A value without references; None for numbers that Python refuses to read, too."""
    try:
        return None if value is None else html.unescape(value)
    except ValueError:
        return None
