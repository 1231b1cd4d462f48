"""Failures that are one failure: messages with what differs between builds (names, versions, numbers, paths) taken out."""

from __future__ import annotations

import re

_MAX = 240
_ITEM = r"[\w<>-]{1,80} <version>"
_RULES = (
    (
        re.compile(
            r"(?<![<\w.-])[\w.-]+(?:\[[\w,-]*\])? ?(?:[<>=!~]=|[<>]) ?\d[\w.*]*(?:, ?(?:[<>=!~]=|[<>]) ?\d[\w.*]*)*"
        ),
        "<requirement>",
    ),
    (re.compile(r"https?://\S+"), "<url>"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "<hash>"),
    (re.compile(r"\b(?:debian|ubuntu)/[a-z]+\b"), "<suite>"),
    (re.compile(r"(?<![\w.])(?:\.{0,2}/)?(?:[\w.+~@-]+/){1,30}[\w.+~@-]+"), "<path>"),
    (re.compile(r"(?<![\w.+-])[A-Za-z0-9.+-]+_[A-Za-z0-9.+~:-]+_[A-Za-z0-9]+\.deb(?::\w+)?"), "<package>"),
    (re.compile(r"'[^'\n]{1,200}'|`[^`\n]{1,200}`|\"[^\"\n]{1,200}\""), "<text>"),
    (re.compile(r"\bv?\d+(?:\.\d+)+[\w.+~!-]*"), "<version>"),
    (re.compile(r"\b\d+\b"), "<n>"),
    # Lists of packages with what is said of each are one thing, however long.
    (re.compile(rf"{_ITEM} \([^()]{{0,80}}\)(?:, {_ITEM}(?: \([^()]{{0,80}}\))?){{0,200}}"), "<packages>"),
    (re.compile(rf"{_ITEM}(?:, {_ITEM}(?: \([^()]{{0,80}}\))?){{1,200}}"), "<packages>"),
    (re.compile(r"<packages> \.\.\."), "<packages>"),  # cut by who wrote the message
)


def cluster(message: str, *, project: str) -> str:
    """What a message is about, for any project: such as ``<project> <version> has no source archive, only <n> wheels``."""
    text = " ".join(message[: 4 * _MAX].split())
    if project:
        text = re.sub(rf"(?<![\w-]){re.escape(project)}(?![\w-])", "<project>", text, flags=re.IGNORECASE)
    for pattern, place in _RULES:
        text = pattern.sub(place, text)
    return text[:_MAX]
