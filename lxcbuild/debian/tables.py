"""The curated table of build requirements, ``requirements.yaml`` beside this file, checked when it is first read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from lxcbuild.config.settled import settled
from lxcbuild.values import dataclass

_FILE = Path(__file__).with_name("requirements.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementTable:
    """See the comments in the file."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    fields: Mapping[str, Mapping[str, str]]
    programs: Mapping[str, str]
    headers: Mapping[str, str]
    pkgconfig: Mapping[str, str]
    libraries: Mapping[str, str]
    commands: Mapping[str, str]
    phrases: Mapping[str, tuple[str, ...]]


@functools.cache
def requirement_table() -> RequirementTable:
    """The table; a mistake in it is a bug and raises."""
    return settled("table", "requirements", [_FILE], _read, given=(RequirementTable.__match_args__, __file__))


def _read() -> RequirementTable:
    import yaml
    from pydantic import TypeAdapter

    return TypeAdapter(RequirementTable).validate_python(yaml.safe_load(_FILE.read_text("utf-8")))
