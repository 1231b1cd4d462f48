"""Texts against which a pattern has most to do: what it begins with, again and again, and never what it ends with."""

from __future__ import annotations

import re
import re._parser as parser  # type: ignore[import-not-found]  # the standard library's own, without types
import time
from collections.abc import Iterator
from typing import Any

_OF_CATEGORY = {"CATEGORY_SPACE": " ", "CATEGORY_DIGIT": "1"}
_MEASURED = 4096


def patterns_of(value: Any) -> Iterator[re.Pattern[Any]]:
    """Every compiled pattern in a module's names, in tuples of them, and in what has a ``pattern``."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from patterns_of(item)
    elif isinstance(getattr(type(value), "pattern", None), property):
        yield value.pattern


def beginnings(pattern: re.Pattern[Any]) -> list[str]:
    """Texts that the pattern takes for its beginning, shorter and longer ones, one for every branch."""
    source = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    found: dict[str, None] = {}

    def follow(items: Any) -> str:
        text = ""
        for operator, value in items:
            text += _example(str(operator), value, follow, found)
            found[text] = None
        return text

    follow(parser.parse(source, pattern.flags & (re.IGNORECASE | re.MULTILINE | re.DOTALL | re.ASCII)))
    return [text for text in found if text]


def _example(operator: str, value: Any, follow: Any, found: dict[str, None]) -> str:
    if operator == "LITERAL":
        return chr(value)
    if operator in ("MAX_REPEAT", "MIN_REPEAT"):
        return str(follow(value[2])) * max(1, value[0])
    if operator == "SUBPATTERN":
        return str(follow(value[3]))
    if operator == "ASSERT":
        return str(follow(value[1])) if value[0] > 0 else ""
    if operator == "BRANCH":
        texts = [str(follow(branch)) for branch in value[1]]
        found.update(dict.fromkeys(texts))
        return texts[0]
    if operator == "IN":
        return _member(value)
    return "x" if operator in ("ANY", "NOT_LITERAL") else ""


def _member(items: Any) -> str:
    for operator, value in items:
        if str(operator) == "NEGATE":
            return "x"
        if str(operator) in ("LITERAL", "RANGE"):
            return chr(value if str(operator) == "LITERAL" else value[0])
        return _OF_CATEGORY.get(str(value), "a")
    return ""


def repeated(text: str, length: int) -> str:
    """The text again and again, as long as that."""
    return (text * (length // len(text) + 1))[:length]


def worst(pattern: re.Pattern[Any]) -> str:
    """The beginning that costs the pattern most when it is repeated."""

    def cost(text: str) -> float:
        shown: Any = repeated(text, _MEASURED)
        if isinstance(pattern.pattern, bytes):
            shown = shown.encode("latin-1")
        begun = time.process_time()
        for _ in pattern.finditer(shown):
            pass
        return time.process_time() - begun

    return max(beginnings(pattern), key=cost)
