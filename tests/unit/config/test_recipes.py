"""Recipes of base images."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxcbuild.config.recipes import load_recipe, load_recipes
from lxcbuild.errors import ConfigError, UnknownTargetError
from lxcbuild.model import Target

MINIMAL = "distribution: debian\nsuite: bookworm\nversion_suffix: deb12\n"


def place(tmp_path: Path, text: str, name: str = "debian-bookworm") -> tuple[Path, ...]:
    directory = tmp_path / "rootfs"
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.yaml").write_text(text)
    return (directory,)


def test_all_shipped_recipes_are_well_formed() -> None:
    recipes = load_recipes()
    assert {str(recipe.target()) for recipe in recipes} >= {
        "debian/bullseye", "debian/bookworm", "debian/trixie", "debian/sid", "ubuntu/jammy", "ubuntu/noble",
    }  # fmt: skip
    for recipe in recipes:
        assert recipe.expires_after_s == 7 * 86400
        assert not recipe.mirrors
        assert all(path.is_file() for path in recipe.hook_paths())


def test_an_unknown_target_names_the_nearest_and_all() -> None:
    with pytest.raises(UnknownTargetError, match="Perhaps you meant 'debian/bookworm'") as caught:
        load_recipe(Target.parse("debian/bokworm"))
    assert "ubuntu/noble" in (caught.value.details or "")


def test_an_administrators_recipe_replaces_ours_and_still_finds_its_hooks(tmp_path: Path) -> None:
    from lxcbuild.state.data import shipped_directory

    places = (shipped_directory("rootfs"), *place(tmp_path, MINIMAL + "hooks: [minimal.sh]\nexpires_after: 12h\n"))
    recipe = load_recipe(Target.parse("debian/bookworm"), places=places)
    assert recipe.expires_after_s == 12 * 3600
    assert recipe.packages == ()
    assert recipe.hook_paths() == (shipped_directory("rootfs") / "hooks" / "minimal.sh",)


def test_a_recipe_is_found_by_what_it_says_not_by_its_file_name(tmp_path: Path) -> None:
    places = place(tmp_path, MINIMAL, name="odd")
    assert load_recipe(Target.parse("debian/bookworm"), places=places).version_suffix == "deb12"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "pakages: [x]\n",
            "rootfs/debian-bookworm.yaml:4: pakages: there is no such key. Perhaps you meant 'packages'.",
        ),
        ("packages: ['x;reboot']\n", "packages[0]:"),
        ("packages: [--option]\n", "packages[0]:"),
        ("mirrors: ['deb [trusted=yes] http://x y']\n", "mirrors[0]:"),
        ("hooks: [../../x.sh]\n", "hooks[0]:"),
        ("expires_after: soon\n", "expires_after: 'soon' is not a duration"),
        ("directory: /\n", "directory: there is no such key"),
        ("keyring: relative.gpg\n", "keyring:"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(Target.parse("debian/bookworm"), places=place(tmp_path, MINIMAL + text))
    assert says in caught.value.brief


def test_required_fields(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="version_suffix: is missing"):
        load_recipes(places=place(tmp_path, "distribution: debian\nsuite: bookworm\n"))


def test_images_are_told_apart_by_this_text(tmp_path: Path) -> None:
    """Its hash is in every image's record: a change of it makes all images anew."""
    text = "packages: [make]\nmirrors: ['http://x/y']\nexpires_after: 12h\n"
    (recipe,) = load_recipes(places=place(tmp_path, MINIMAL + text))
    assert recipe.to_json() == (
        '{"distribution":"debian","suite":"bookworm","description":"","components":["main"],"variant":"minbase","updates":[],'
        '"security":[],"mirrors":["http://x/y"],"security_mirrors":[],"keyring":null,"packages":["make"],"toolchain":[],"hooks":[],'
        '"version_suffix":"deb12","expires_after_s":43200.0}'
    )
