"""YAML files of ours and of administrators: read within bounds, with the line of every key, so that errors can point at it.

Refused: files over 256 KiB, nesting deeper than 16, more than 5,000 values once aliases are followed ("billion laughs"), keys
that appear twice, tags that make objects.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from msgspec import Struct

from lxcbuild.config.structs import KeyPath, Mistake, Table, convert, convert_table, dotted_path
from lxcbuild.errors import ConfigError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_VALUES = 5_000
_SIMPLE = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "map", "seq")}
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML has it: ten times as fast

S = TypeVar("S", bound=Struct)


class Document(Struct, frozen=True):
    """The mapping that a file holds, and where each key path of it stands (lines count from 1)."""

    path: Path
    value: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    def where(self, at: KeyPath) -> str:
        """``directory/file.yaml:LINE`` of a key, or of its nearest parent that is in the file."""
        shown = os.path.join(*self.path.parts[-2:])  # noqa: PTH118 - text for people, not a path to open
        while at and at not in self.lines:
            at = at[:-1]
        return f"{shown}:{self.lines[at]}" if at in self.lines else shown

    def error(self, at: KeyPath, problem: str, *, resolution: str | None = None) -> ConfigError:
        """The error for one key: ``cgroups/lab.yaml:7: memory.max: problem``."""
        dotted = dotted_path(at)
        brief = f"{self.where(at)}: {dotted}: {problem}" if dotted else f"{self.where(at)}: {problem}"
        return ConfigError(brief, details=f"file: {self.path}", resolution=resolution or f"edit {self.path}")


def read_document(path: Path) -> Document:
    """Read one file; raises :class:`ConfigError` for everything that can be wrong with it."""
    return parse_document(read_bytes(path), path=path)


def read_bytes(path: Path) -> bytes:
    """What a file holds, and no more than a byte too much of it; raises :class:`ConfigError`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}", resolution="run: lxcbuild policy list") from error
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        raise ConfigError(f"{path}: cannot be read ({name})", details=str(error)) from error


def parse_document(data: bytes, *, path: Path) -> Document:
    """Parse the bytes of one file; ``path`` is for messages."""
    empty = Document(path, {}, {})
    if len(data) > MAX_BYTES:
        raise empty.error((), f"larger than {MAX_BYTES // 1024} KiB")
    try:
        reader = _Reader(path, data.decode())
        value = reader.read()
    except UnicodeDecodeError as error:
        raise empty.error((), f"is not UTF-8 text (byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line: dict[KeyPath, int] = {(): mark.line + 1} if mark else {}
        said = error.problem or error.context or "cannot be read"
        if "maximum nesting depth" in said:  # libyaml's own bound, which newer ones keep before they tell of any value
            raise Document(path, {}, line).error((), f"nested deeper than {MAX_DEPTH}") from error
        raise Document(path, {}, line).error((), f"is not YAML: {said}") from error
    except yaml.YAMLError as error:
        raise empty.error((), f"is not YAML: {str(error).splitlines()[0]}") from error
    if value is None:
        return empty
    if not isinstance(value, dict):
        raise Document(path, {}, reader.lines).error((), "must hold keys and values")
    return Document(path, value, reader.lines)


class _Anchored(Struct):
    """What an alias stands for, and what it adds to the bounds. It is ``open`` as long as it is being read."""

    value: Any = None
    values: int = 0
    height: int = 0
    open: bool = True


class _Reader:
    """Plain values from the parser's events, in one pass; nothing is made that the bounds do not allow."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._events = _Loader(text)
        self._scalars = yaml.constructor.SafeConstructor()
        self._anchors: dict[str, _Anchored] = {}
        self._count = 0
        self._deepest = 0
        self.lines: dict[KeyPath, int] = {}

    def read(self) -> Any:
        """The only document of the text, None where there is none."""
        next_event = self._events.get_event
        next_event()  # the start of the stream
        if isinstance(event := next_event(), yaml.StreamEndEvent):
            return None
        found = self._value(next_event(), ())
        next_event()  # the end of the document
        if not isinstance(event := next_event(), yaml.StreamEndEvent):
            raise yaml.MarkedYAMLError(problem="another document follows", problem_mark=event.start_mark)
        return found

    def _value(self, event: Any, at: KeyPath) -> Any:
        self.lines.setdefault(at, _line(event))
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event, at)
        self._add(event, at, values=1, height=0)
        if event.anchor is None:
            return self._own(event, at)
        kept = self._anchors[event.anchor] = _Anchored()
        before, self._deepest, outer = self._count - 1, len(at), self._deepest
        kept.value = self._own(event, at)
        kept.values, kept.height, kept.open = self._count - before, self._deepest - len(at), False
        self._deepest = max(self._deepest, outer)
        return kept.value

    def _aliased(self, event: Any, at: KeyPath) -> Any:
        kept = self._anchors.get(event.anchor)
        if kept is None:
            raise yaml.MarkedYAMLError(problem=f"found undefined alias {event.anchor!r}", problem_mark=event.start_mark)
        if kept.open:
            self._refuse(event, at, f"more than {MAX_VALUES} values, or aliases that contain themselves")
        self._add(event, at, values=kept.values, height=kept.height)
        return kept.value

    def _add(self, event: Any, at: KeyPath, *, values: int, height: int) -> None:
        self._count += values
        self._deepest = max(self._deepest, len(at) + height)
        if self._count > MAX_VALUES:
            self._refuse(event, at, f"more than {MAX_VALUES} values, or aliases that contain themselves")
        if self._deepest > MAX_DEPTH or (len(at) == MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent)):
            self._refuse(event, (), f"nested deeper than {MAX_DEPTH}")

    def _own(self, event: Any, at: KeyPath) -> Any:
        if isinstance(event, yaml.MappingStartEvent):
            self._plain_tag(event, event.tag, at)
            return self._mapping(at)
        if isinstance(event, yaml.SequenceStartEvent):
            self._plain_tag(event, event.tag, at)
            found: list[Any] = []
            while not isinstance(event := self._events.get_event(), yaml.SequenceEndEvent):
                found.append(self._value(event, (*at, len(found))))
            return found
        tag = self._tag(event)
        self._plain_tag(event, tag, at)
        if tag == _TEXT:
            return event.value
        try:
            return self._scalars.construct_object(yaml.ScalarNode(tag, event.value, event.start_mark))
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            return self._refuse(event, at, f"cannot be read: {str(error).splitlines()[0]}")

    def _mapping(self, at: KeyPath) -> dict[str, Any]:
        table: dict[str, Any] = {}
        while not isinstance(event := self._events.get_event(), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or self._tag(event) == _MERGE:
                self._refuse(event, at, "keys must be words")
            key = str(event.value)
            inner = (*at, key)
            if key in table:
                self._refuse(event, inner, f"appears twice (first in line {self.lines[inner]})")
            self.lines[inner] = _line(event)
            table[key] = self._value(self._events.get_event(), inner)
        return table

    def _tag(self, event: Any) -> str:
        return str(
            self._events.resolve(yaml.ScalarNode, event.value, event.implicit)
            if event.tag is None or event.tag == "!"
            else event.tag
        )

    def _plain_tag(self, event: Any, tag: str | None, at: KeyPath) -> None:
        if tag is not None and tag not in _SIMPLE and tag != "!":
            kind = tag.rsplit(":", 1)[-1][:40]
            self._refuse(event, at, f"values of the type {kind!r} are not used here; put it in quotes")

    def _refuse(self, event: Any, at: KeyPath, problem: str) -> NoReturn:
        raise Document(self._path, {}, {at: _line(event)}).error(at, problem)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def validate(document: Document, kind: type[S], *, given: Mapping[str, Any] | None = None) -> S:
    """The document as a struct; ``given`` are fields that are no keys of the file.

    Raises :class:`ConfigError` for the first mistake, with the others in the details.
    """
    found, mistakes = convert(document.value, kind, given=given or {})
    _raise_first(document, mistakes)
    assert found is not None, "it is there when nothing is wrong"
    return found


def validate_table(document: Document, table: Table) -> dict[str, Any]:
    """The keys of a document that is part of something. Raises as :func:`validate`."""
    found, mistakes = convert_table(document.value, table)
    _raise_first(document, mistakes)
    return found


def _raise_first(document: Document, mistakes: Sequence[Mistake]) -> None:
    if mistakes:
        first, *others = (document.error(mistake.at, mistake.problem) for mistake in mistakes)
        first.details = "\n".join([str(first.details), *(f"also: {other.brief}" for other in others)])
        raise first
