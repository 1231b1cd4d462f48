"""Read the JSON documents that come out of a sandbox: hostile bytes, so bounded in size, depth, types and characters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lxcbuild.debian.steps import StepFailure
from lxcbuild.model import FailureClass
from lxcbuild.text import for_documents

MAX_DOCUMENT_BYTES = 8 * 1024 * 1024
#: In one text of a list. Lists hold requirements, whose parser descends one level per parenthesis and ends in a RecursionError.
_MAX_PARENTHESES = 50


class DocumentError(ValueError):
    """A document from inside does not have the shape that our scripts write; someone else wrote it."""


class Reader:
    """Typed, bounded access to one JSON object. Every method raises :class:`DocumentError` for another type than asked for."""

    def __init__(self, value: object, *, where: str = "") -> None:
        if not isinstance(value, dict):
            raise DocumentError(f"{where or 'the document'} is not an object")
        self._value: dict[str, Any] = value
        self._where = where

    def _at(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def text(self, key: str, *, limit: int = 4000) -> str | None:
        """A text without control characters (line feeds stay), or None."""
        value = self._value.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > limit:
            raise DocumentError(f"{self._at(key)} is not a text of at most {limit} characters")
        return for_documents(value)

    def line(self, key: str, *, limit: int = 1000) -> str | None:
        """A text without line feeds, stripped; None when it is empty."""
        value = self.text(key, limit=limit)
        return (" ".join(value.split()) or None) if value is not None else None

    def texts(self, key: str, *, count: int = 1000, limit: int = 2000) -> tuple[str, ...]:
        """A list of one-line texts; absent or null is the empty one."""
        return self.optional_texts(key, count=count, limit=limit) or ()

    def optional_texts(self, key: str, *, count: int = 1000, limit: int = 2000) -> tuple[str, ...] | None:
        """A list of one-line texts, or None where it is absent or null."""
        value = self._value.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > count:
            raise DocumentError(f"{self._at(key)} is not a list of at most {count} texts")
        if not all(isinstance(item, str) and len(item) <= limit for item in value):
            raise DocumentError(f"{self._at(key)} holds something other than texts of at most {limit} characters")
        if any(item.count("(") > _MAX_PARENTHESES for item in value):
            raise DocumentError(f"{self._at(key)} holds a text with more than {_MAX_PARENTHESES} parentheses")
        return tuple(" ".join(for_documents(item).split()) for item in value)

    def number(self, key: str, *, limit: int = 2**63) -> int:
        """A whole number from 0 to ``limit``; absent is 0."""
        value = self._value.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
            raise DocumentError(f"{self._at(key)} is not a number from 0 to {limit}")
        return value

    def flag(self, key: str) -> bool | None:
        """True, False or None."""
        value = self._value.get(key)
        if value is not None and not isinstance(value, bool):
            raise DocumentError(f"{self._at(key)} is neither true nor false nor null")
        return value

    def table(self, key: str) -> Reader | None:
        """A nested object, or None."""
        value = self._value.get(key)
        return None if value is None else Reader(value, where=self._at(key))

    def tables(self, key: str, *, count: int) -> tuple[Reader, ...]:
        """A list of nested objects."""
        value = self._value.get(key) or []
        if not isinstance(value, list) or len(value) > count:
            raise DocumentError(f"{self._at(key)} is not a list of at most {count} objects")
        return tuple(Reader(item, where=f"{self._at(key)}[{i}]") for i, item in enumerate(value))

    def pairs(self, key: str, *, count: int = 1000, limit: int = 1000) -> dict[str, str]:
        """An object of one-line texts."""
        value = self._value.get(key) or {}
        if not isinstance(value, dict) or len(value) > count:
            raise DocumentError(f"{self._at(key)} is not an object of at most {count} texts")
        return {_line(k, limit, self._at(key)): _line(v, limit, self._at(key)) for k, v in value.items()}

    def keys(self, key: str, *, count: int = 500) -> dict[str, tuple[str, ...]]:
        """An object of lists of one-line texts."""
        value = self._value.get(key) or {}
        if not isinstance(value, dict) or len(value) > count:
            raise DocumentError(f"{self._at(key)} is not an object of at most {count} lists")
        inner = Reader(value, where=self._at(key))
        return {_line(k, 300, self._at(key)): inner.texts(k) for k in value}


def _line(value: object, limit: int, where: str) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise DocumentError(f"{where} holds something other than texts of at most {limit} characters")
    return " ".join(for_documents(value).split())


def load(data: bytes) -> Reader:
    """The top-level object of a document. Raises :class:`DocumentError`."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DocumentError(f"the document has more than {MAX_DOCUMENT_BYTES} bytes")
    try:
        value = json.loads(data.decode())  # of bytes, json would guess the encoding
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"the document is not JSON: {type(error).__name__}") from None
    reader = Reader(value)
    if reader.number("schema") != 1:
        raise DocumentError("the document has an unknown schema")
    return reader


def failure_in(reader: Reader, *, allowed: Mapping[str, FailureClass]) -> StepFailure | None:
    """The failure that a script inside reported, if it did; classes that this step cannot have are refused."""
    failure = reader.table("failure")
    if failure is None:
        return None
    name = failure.line("class", limit=50)
    if name is None or name not in allowed:
        raise DocumentError("the document names a failure class that this step cannot have")
    brief = failure.line("brief") or "no reason was given"
    return StepFailure(failure_class=allowed[name], brief=brief, details=failure.text("details", limit=8000))


def broken(error: DocumentError, *, failure_class: FailureClass) -> StepFailure:
    """The failure for a document that is not one of ours."""
    return StepFailure(failure_class=failure_class, brief=f"the result from inside the sandbox is unusable: {error}")


def allow(*classes: FailureClass) -> dict[str, FailureClass]:
    """A table of the classes that one step may report."""
    return {str(item): item for item in classes}
