"""What YAML files come to is kept between processes, counts for those very files only, and is the same as when read anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lxcbuild.config import policies, recipe_files, recipes, seccomp_profiles, settled
from lxcbuild.errors import ConfigError
from lxcbuild.model import Target

LIGHT = """\
import sys
from lxcbuild.config import policies, recipes, seccomp_profiles
from lxcbuild.debian.tables import requirement_table
from lxcbuild.model import Target
print(policies.load_policy("default", package="idna") is not None, recipes.load_recipe(Target("debian", "bookworm")).suite)
print(len(seccomp_profiles.load_seccomp("build").calls), len(requirement_table().programs))
print("pydantic" in sys.modules, "yaml" in sys.modules)
"""


@pytest.fixture(autouse=True)
def kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of this test reaches the real place, and nothing of there this test."""
    place = tmp_path / "bytecode"
    monkeypatch.setattr(sys, "pycache_prefix", os.fspath(place))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return place


def test_a_second_process_loads_neither_yaml_nor_pydantic(kept_here: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = os.fspath(kept_here)
    said = [
        subprocess.run(
            [sys.executable, "-c", LIGHT], check=True, capture_output=True, text=True, env=env
        ).stdout.splitlines()
        for _ in range(2)
    ]
    assert said[0][:2] == said[1][:2]
    assert said[0][2] == "True True"
    assert said[1][2] == "False False"


def test_what_is_kept_equals_what_is_read() -> None:
    for load in (
        lambda: policies.load_policy("default"),
        recipes.load_recipes,
        lambda: seccomp_profiles.load_seccomp("build"),
    ):
        first = load()
        assert load() == first


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    place = tmp_path / "cgroups"
    place.mkdir()
    (place / "own.yaml").write_text("inherits: default\ntime: {wall: 5min}\n")
    places = (policies.data.shipped_directory("cgroups"), place)
    assert policies.load_policy("own", places=places).time.wall_s == 300
    (place / "own.yaml").write_text("inherits: default\ntime: {wall: 6min}\n")
    assert policies.load_policy("own", places=places).time.wall_s == 360
    (place / "own.yaml").write_text("time: {wall: never}\n")
    with pytest.raises(ConfigError, match=r"own\.yaml:1"):
        policies.load_policy("own", places=places)
    with pytest.raises(ConfigError, match=r"own\.yaml:1"):
        policies.load_policy("own", places=places)


def test_overrides_for_packages_are_never_lost(tmp_path: Path) -> None:
    place = tmp_path / "cgroups"
    place.mkdir()
    (place / "own.yaml").write_text("inherits: default\npackages: [{match: [big*], time: {wall: 1h}}]\n")
    places = (policies.data.shipped_directory("cgroups"), place)
    for _ in range(2):
        assert policies.load_policy("own", package="big-one", places=places).time.wall_s == 3600
        assert policies.load_policy("own", package="small", places=places).time.wall_s != 3600


def test_other_files_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    calls: list[int] = []

    def load(path: Path, given: int = 0) -> str:
        return settled.settled("x", "y", [path], lambda: calls.append(1) or path.read_text(), given=(given,))  # type: ignore[func-returns-value]

    one, other = tmp_path / "1" / "a.yaml", tmp_path / "2" / "a.yaml"
    for path in (one, other):
        path.parent.mkdir()
        path.write_text(path.parent.name)
    assert [load(one), load(one), load(other), load(one)] == ["1", "1", "2", "1"]
    assert len(calls) == 3
    load(one, given=1)
    assert len(calls) == 4


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"x" * 200, None])
def test_what_was_cut_or_changed_is_read_again(kept_here: Path, tmp_path: Path, damage: bytes | None) -> None:
    source = tmp_path / "a.yaml"
    source.write_text("1")
    calls: list[int] = []
    load = lambda: settled.settled("x", "y", [source], lambda: calls.append(1) or [1, 2])  # type: ignore[func-returns-value]  # noqa: E731
    load()
    (kept,) = kept_here.rglob("*.settled")
    kept.write_bytes(kept.read_bytes()[:-1] if damage is None else damage)
    assert load() == [1, 2]
    assert load() == [1, 2]
    assert len(calls) == 2


def test_where_nothing_can_be_kept_it_is_read_each_time(kept_here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept_here.write_text("a file where a directory should be")
    assert recipes.load_recipe(Target("debian", "bookworm")) == recipes.load_recipe(Target("debian", "bookworm"))
    kept_here.unlink()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    recipes.load_recipe(Target("debian", "bookworm"))
    assert not kept_here.exists()


def test_images_are_told_apart_by_the_text_of_the_schema() -> None:
    """The hash of a recipe is in every image's record: it must not change because the class does."""
    for recipe in recipes.load_recipes():
        values = {name: getattr(recipe, name) for name in recipes._HASHED}
        as_file = recipe_files.RecipeFile.model_construct(**values)
        assert tuple(recipe_files.RecipeFile.model_fields) == recipes._HASHED
        assert recipe.to_json() == as_file.model_dump_json()
