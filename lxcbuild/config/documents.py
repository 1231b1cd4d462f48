"""YAML files of ours and of administrators: read within bounds, with the line of every key, so that errors can point at it.

Refused: files over 256 KiB, nesting deeper than 16, more than 5,000 values once aliases are followed ("billion laughs"), keys
that appear twice, tags that make objects.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from msgspec import Struct
from pydantic import BaseModel, ValidationError

from lxcbuild.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_VALUES = 5_000
_MERGE = "tag:yaml.org,2002:merge"
_SIMPLE = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "map", "seq")}

KeyPath = tuple[str | int, ...]
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML has it: ten times as fast

Model = TypeVar("Model", bound=BaseModel)


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


def dotted_path(at: KeyPath) -> str:
    """``io.devices[0].read``."""
    text = ""
    for step in at:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def read_document(path: Path) -> Document:
    """Read one file; raises :class:`ConfigError` for everything that can be wrong with it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}", resolution="run: lxcbuild policy list") from error
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        raise ConfigError(f"{path}: cannot be read ({name})", details=str(error)) from error
    return parse_document(data, path=path)


def parse_document(data: bytes, *, path: Path) -> Document:
    """Parse the bytes of one file; ``path`` is for messages."""
    empty = Document(path, {}, {})
    if len(data) > MAX_BYTES:
        raise empty.error((), f"larger than {MAX_BYTES // 1024} KiB")
    try:
        text = data.decode()
        _check_depth(text)
        root = yaml.compose(text, Loader=_Loader)
    except UnicodeDecodeError as error:
        raise empty.error((), f"is not UTF-8 text (byte {error.start})") from error
    except _TooDeepError as error:
        raise Document(path, {}, {(): error.line}).error((), f"nested deeper than {MAX_DEPTH}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line: dict[KeyPath, int] = {(): mark.line + 1} if mark else {}
        said = error.problem or error.context or "cannot be read"
        raise Document(path, {}, line).error((), f"is not YAML: {said}") from error
    except yaml.YAMLError as error:
        raise empty.error((), f"is not YAML: {str(error).splitlines()[0]}") from error
    if root is None:
        return empty
    builder = _Builder(path)
    value = builder.build(root, ())
    if not isinstance(value, dict):
        raise Document(path, {}, builder.lines).error((), "must hold keys and values")
    return Document(path, value, builder.lines)


class _TooDeepError(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def _check_depth(text: str) -> None:
    """Count nesting on the stream of events, before anything recursive runs."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _TooDeepError(event.start_mark.line + 1 if event.start_mark else 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Builder:
    """Plain values from the node graph, counting what aliases multiply."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0
        self._scalars = yaml.constructor.SafeConstructor()
        self.lines: dict[KeyPath, int] = {}

    def build(self, node: yaml.Node, at: KeyPath) -> Any:
        self.lines[at] = node.start_mark.line + 1
        self._count += 1
        if self._count > MAX_VALUES or len(at) > MAX_DEPTH:
            raise self._error(at, f"more than {MAX_VALUES} values, or aliases that contain themselves")
        if node.tag not in _SIMPLE:
            raise self._error(
                at, f"values of the type {node.tag.rsplit(':', 1)[-1][:40]!r} are not used here; put it in quotes"
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*at, place)) for place, child in enumerate(node.value)]
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            raise self._error(at, f"cannot be read: {str(error).splitlines()[0]}") from error

    def _mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE:
                self.lines[at] = key_node.start_mark.line + 1
                raise self._error(at, "keys must be words")
            key = str(key_node.value)
            inner = (*at, key)
            line = key_node.start_mark.line + 1
            if key in table:
                first, self.lines[inner] = self.lines[inner], line
                raise self._error(inner, f"appears twice (first in line {first})")
            table[key] = self.build(value_node, inner)
            self.lines[inner] = line
        return table

    def _error(self, at: KeyPath, problem: str) -> ConfigError:
        return Document(self._path, {}, self.lines).error(at, problem)


def validate(document: Document, model: type[Model]) -> Model:
    """The document as a model; raises :class:`ConfigError` for its first mistake, with the others in the details."""
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        found = [_explain(document, model, each) for each in error.errors(include_url=False, include_context=True)]
        first = found[0]
        if len(found) > 1:
            first.details = "\n".join([str(first.details), *(f"also: {other.brief}" for other in found[1:])])
        raise first from error


def _explain(document: Document, model: type[BaseModel], error: ErrorDetails) -> ConfigError:
    at = tuple(step for step in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _keys_at(model, at[:-1])
        hint = nearest(str(at[-1]), known)
        problem = f"there is no such key.{hint}" if hint else f"there is no such key; known: {', '.join(sorted(known))}"
        return document.error(at, problem)
    if error["type"] == "missing":
        return document.error(at, "is missing")
    message = str(error.get("ctx", {}).get("error") or error["msg"])
    return document.error(at, message[:1].lower() + message[1:] if message[:2].istitle() else message)


def _keys_at(model: type[BaseModel], at: KeyPath) -> list[str]:
    """The keys that are allowed at a place of the document."""
    current = model
    for step in at:
        if isinstance(step, int):
            continue
        found = next((f for name, f in current.model_fields.items() if step in (name, f.alias)), None)
        inner = _model_in(found.annotation) if found else None
        if inner is None:
            return []
        current = inner
    return [field.alias or name for name, field in current.model_fields.items() if not field.exclude]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := _model_in(part)) is not None:
            return found
    return None


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Perhaps you meant 'x'.`` when one of the known words is near, else nothing."""
    close = difflib.get_close_matches(word[:80], list(known), n=1, cutoff=0.6)
    return f" Perhaps you meant {close[0]!r}." if close else ""
