"""The locked libraries (scripts/requirements*.lock) are what pyproject.toml asks for. ``scripts/lock`` remakes them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import ROOT

#: Which extras each file has.
LOCKS = {"requirements": (), "requirements-lab": ("dask", "postgresql"), "requirements-dev": ("dev",)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _locked(name: str) -> dict[str, Requirement]:
    """The requirements of a file by project; each is pinned and has hashes."""
    text = (ROOT / f"scripts/{name}.lock").read_text()
    found = {}
    for entry in re.split(r"(?<!\\)\n", re.sub(r"(?m)^#.*\n", "", text).strip()):
        words, *hashes = re.split(r"\s*\\\n\s*", entry)
        requirement = Requirement(words)
        assert re.fullmatch(r"==[0-9a-z.+]+", str(requirement.specifier)), entry
        assert hashes, entry
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), entry
        found[canonicalize_name(requirement.name)] = requirement
    return found


def _direct(extras: tuple[str, ...]) -> Iterator[Requirement]:
    """What the project itself asks for, with what builds it."""
    yield from map(Requirement, [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]])
    for extra in extras:
        for text in PROJECT["project"]["optional-dependencies"][extra]:
            requirement = Requirement(text)
            if requirement.name == PROJECT["project"]["name"]:
                yield from _direct(tuple(requirement.extras))
            else:
                yield requirement


@pytest.mark.parametrize("name", LOCKS)
def test_locks_hold_all_that_the_project_asks_for(name: str) -> None:
    locked = _locked(name)
    for asked in _direct(LOCKS[name]):
        pinned = locked.get(canonicalize_name(asked.name))
        assert pinned is not None, f"{asked} is not locked: run scripts/lock"
        version = str(pinned.specifier).removeprefix("==")
        assert asked.specifier.contains(version, prereleases=True), f"{pinned} is locked for {asked}: run scripts/lock"


def test_locks_agree_with_each_other() -> None:
    everything = _locked("requirements-dev")
    for name in LOCKS:
        assert _locked(name).items() <= everything.items()


def test_locks_name_no_index() -> None:
    for name in LOCKS:
        assert not re.search(
            r"https?:|--(?:extra-)?index-url|--find-links", (ROOT / f"scripts/{name}.lock").read_text()
        )
