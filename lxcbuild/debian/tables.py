"""The curated table of build requirements, ``requirements.yaml`` beside this file, checked when it is first read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict

_FILE = "requirements.yaml"


class RequirementTable(BaseModel):
    """See the comments in the file."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

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
    text = (resources.files("lxcbuild.debian") / _FILE).read_text("utf-8")
    return RequirementTable.model_validate(yaml.safe_load(text))
