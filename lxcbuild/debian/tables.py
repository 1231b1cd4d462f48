"""The curated table of build requirements, ``requirements.yaml`` beside this file, checked when it is first read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import msgspec
import yaml
from msgspec import Struct

_FILE = Path(__file__).with_name("requirements.yaml")


class RequirementTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See the comments in the file."""

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
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML has it: ten times as fast
    return msgspec.convert(yaml.load(_FILE.read_text("utf-8"), Loader=loader), RequirementTable)  # noqa: S506 - both are safe
