"""Keys, records, recipes and the choice of a place: the decisions of this room, without root and network."""

from __future__ import annotations

import hashlib
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec.structs
import pytest

from lxcbuild import process
from lxcbuild.config.recipes import Recipe, load_recipe, load_recipes
from lxcbuild.debian.archive.apt import ResolvedPackage, ResolvedSet
from lxcbuild.errors import CommandError, DiskFullError, ImageError, ImageMissingError, UnknownTargetError
from lxcbuild.events import NullMonitor
from lxcbuild.images import make, pack
from lxcbuild.images.hot import GIB, HotStore, choose_storage
from lxcbuild.images.image import ImageRecord, InstalledPackage, Storage, python_version_of, read_status
from lxcbuild.images.layer import layer_key
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.store import ImageStore
from lxcbuild.model import Target
from lxcbuild.state import locks
from lxcbuild.state.paths import StateDirs

BOOKWORM = Target("debian", "bookworm")


def package(name: str, **fields: str) -> ResolvedPackage:
    values = {"version": "1", "architecture": "all", "sha256": "0" * 64, **fields}
    return ResolvedPackage(name=name, size_bytes=1, filename=f"{name}_1_all.deb", uri="http://m/x", **values)


RECORD = ImageRecord(
    name="debian-bookworm",
    digest="d" * 64,
    created_at="2026-11-01T00:00:00+00:00",
    architecture="amd64",
    recipe_hash="r",
    packages=(InstalledPackage(name="a", version="1", architecture="all"),),
    python_version="3.11.2",
    unpacked_bytes=1,
    archive_bytes=1,
    keyring=None,
    sources=("deb http://m bookworm main",),
    mode="unshare",
)


# -- keys -----------------------------------------------------------------------------------------------------


def test_the_key_ignores_the_order_and_where_a_file_comes_from() -> None:
    one = ResolvedSet(packages=(package("a"), package("b")))
    moved = msgspec.structs.replace(package("a"), uri="http://elsewhere/x")
    other = ResolvedSet(packages=(package("b"), moved))
    assert layer_key("p", one, architecture="amd64") == layer_key("p", other, architecture="amd64")


@pytest.mark.parametrize("changed", [{"version": "2"}, {"sha256": "1" * 64}])
def test_the_key_follows_versions_and_hashes(changed: dict[str, str]) -> None:
    one, two = (ResolvedSet(packages=(package("a", **fields),)) for fields in ({}, changed))
    assert layer_key("p", one, architecture="amd64") != layer_key("p", two, architecture="amd64")


def test_the_key_follows_parent_and_architecture() -> None:
    some = ResolvedSet(packages=(package("a"),))
    keys = {layer_key(parent, some, architecture=arch) for parent in "pq" for arch in ("amd64", "arm64")}
    assert len(keys) == 4


# -- records --------------------------------------------------------------------------------------------------


def test_records_survive_the_disk() -> None:
    assert ImageRecord.from_json(RECORD.to_json()) == RECORD


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"packages": 1}'])
def test_damaged_records_are_an_error_with_a_name(text: str) -> None:
    with pytest.raises(ImageError):
        ImageRecord.from_json(text)


def test_status_files_list_what_is_installed_only() -> None:
    text = (
        "Package: b\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2-3\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n"
    )
    assert read_status(text) == (InstalledPackage(name="b", version="1:2-3", architecture="amd64"),)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"python3-minimal": "3.11.2-1+b1", "python3.11-minimal": "3.11.2-6+deb12u6"}, "3.11.2"),
        (
            {"python3-minimal": "3.14.1-1", "python3.14-minimal": "3.14.0~rc3-1", "python3.13-minimal": "3.13.9-1"},
            "3.14.0",
        ),
        ({"python3-minimal": "3.9.2-3"}, "3.9"),
    ],
)
def test_the_default_python_is_told_from_the_packages(versions: dict[str, str], expected: str) -> None:
    packages = tuple(InstalledPackage(name=n, version=v, architecture="amd64") for n, v in versions.items())
    assert python_version_of(packages) == expected


# -- recipes --------------------------------------------------------------------------------------------------


def test_all_promised_recipes_ship() -> None:
    shipped = {str(recipe.target()) for recipe in load_recipes()}
    debian = {f"debian/{suite}" for suite in ("bullseye", "bookworm", "trixie", "forky", "sid")}
    assert debian | {"ubuntu/jammy", "ubuntu/noble"} <= shipped


@pytest.mark.parametrize("recipe", load_recipes(), ids=lambda recipe: str(recipe.target()))
def test_every_recipe_makes_a_sane_command(recipe: Recipe) -> None:
    plan = make.MakePlan(
        recipe=recipe,
        target=recipe.target(),
        mode="unshare",
        keyring=None,
        sources=(),
        options=(),
        hooks=tuple(path.read_text() for path in recipe.hook_paths()),
    )
    argv = plan.argv()
    assert argv[0] == "mmdebstrap"
    assert argv[-2:] == [recipe.suite, "-"]
    assert "--variant=minbase" in argv
    assert ("pybuild-plugin-pyproject" in recipe.toolchain) == (recipe.suite != "bullseye")
    # A builder's tool in the base image would hide a missing dependency.
    own = {"apt"} if recipe.distribution == "ubuntu" else set()  # only Debian requires it
    assert set(recipe.packages) - {"usr-is-merged"} == {"python3", *own}


def test_another_recipe_has_another_hash() -> None:
    recipe = load_recipe(BOOKWORM)
    assert make.recipe_hash(recipe) == make.recipe_hash(load_recipe(BOOKWORM))
    assert make.recipe_hash(recipe) != make.recipe_hash(msgspec.structs.replace(recipe, packages=("python3", "gcc")))


def test_unknown_targets_and_missing_images_say_what_to_do(fresh_state: StateDirs) -> None:
    with pytest.raises(UnknownTargetError):
        ImageStore(fresh_state).get(Target("debian", "wheezy"))
    with pytest.raises(ImageMissingError) as caught:
        ImageStore(fresh_state).record(BOOKWORM)
    assert caught.value.resolution == "lxcbuild rootfs make debian/bookworm"


def test_images_grow_old(fresh_state: StateDirs) -> None:
    fresh_state.images.mkdir(parents=True)
    (fresh_state.images / f"debian-bookworm-{'d' * 16}.tar.zst").touch()
    for days, expired in ((6, False), (8, True)):
        at = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        record = msgspec.structs.replace(RECORD, created_at=at)
        (fresh_state.images / "debian-bookworm.json").write_text(record.to_json())
        (listed,) = (each for each in ImageStore(fresh_state).list() if each.target == BOOKWORM)
        assert listed.expired is expired


def test_layers_of_a_renewed_image_are_orphans(fresh_state: StateDirs) -> None:
    layers = fresh_state.images / "layers"
    layers.mkdir(parents=True)
    for key, parent in (("a", "old"), ("b", "a"), ("c", "new")):
        (layers / f"{key}.json").write_text(f'{{"key": "{key}", "parent": "{parent}"}}')
    assert LayerStore(fresh_state, backend=None).orphans({"new"}) == ["a", "b"]  # type: ignore[arg-type]


# -- where images lie -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available_gib", "free_gib", "storage"), [(16, 8, Storage.RAM), (2, 8, Storage.DISK), (16, 0, Storage.DISK)]
)
def test_memory_is_used_only_when_enough_is_left(available_gib: int, free_gib: int, storage: Storage) -> None:
    chosen, reason = choose_storage(
        GIB // 2, total_bytes=16 * GIB, available_bytes=available_gib * GIB, free_bytes=free_gib * GIB
    )
    assert chosen is storage
    assert "MiB" in reason or storage is Storage.RAM


def on_disk(fresh_state: StateDirs, monkeypatch: pytest.MonkeyPatch) -> HotStore:
    """A store that may not mount anything: everything lies on disk."""
    store = HotStore(fresh_state, NullMonitor())
    monkeypatch.setattr(store, "_choose", lambda size, what: Storage.DISK)
    return store


def test_a_failed_unpacking_leaves_nothing(fresh_state: StateDirs, monkeypatch: pytest.MonkeyPatch) -> None:
    store = on_disk(fresh_state, monkeypatch)

    def fail(tree: Path) -> None:
        (tree / "half").touch()
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="fire"):
        store.place("a" * 64, size_bytes=1, what="x", fill=fail)
    assert store.find("a" * 64) is None
    assert store.stale() == []
    assert list((fresh_state.cache / "unpacked").iterdir()) == []


def test_trees_in_use_are_not_removed(fresh_state: StateDirs, monkeypatch: pytest.MonkeyPatch) -> None:
    user, remover = on_disk(fresh_state, monkeypatch), on_disk(fresh_state, monkeypatch)
    path, storage = user.place("a" * 64, size_bytes=1, what="x", fill=lambda tree: (tree / "f").touch())
    assert storage is Storage.DISK
    assert remover.drop("a" * 64) is False
    assert (path / "f").exists()
    user.close()
    assert remover.drop("a" * 64) is True
    assert not path.exists()


def test_what_a_dead_maker_left_is_found_and_a_live_one_is_left_alone(
    fresh_state: StateDirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = on_disk(fresh_state, monkeypatch)
    half = fresh_state.cache / "unpacked" / f"new-{'a' * 16}"
    half.mkdir(parents=True)
    ready_read, ready_write = os.pipe()
    child = os.fork()
    if child == 0:
        with locks.exclusive(fresh_state.locks / f"load-{'a' * 16}.lock"):
            os.write(ready_write, b"x")
            signal.pause()
    os.read(ready_read, 1)
    try:
        assert store.stale() == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert store.stale() == [half]
    os.close(ready_read)
    os.close(ready_write)


def test_packing_is_canonical(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        tree = tmp_path / name
        tree.mkdir()
        for file in ("b", "a") if name == "one" else ("a", "b"):
            (tree / file).write_text(file)
            os.utime(tree / file, (1, 1))
        os.utime(tree, (1, 1))
        digests.append(pack.pack_tree(tree, tmp_path / f"{name}.tar.zst"))
    assert digests[0] == digests[1]
    plain = process.run(["zstd", "-dc", tmp_path / "one.tar.zst"]).stdout
    assert hashlib.sha256(plain).hexdigest() == digests[0]


def test_what_cannot_be_packed_says_why(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(8 << 20))
    with pytest.raises(DiskFullError, match="no space left"):
        pack.pack_tree(tmp_path, Path("/dev/full"))
    with pytest.raises(CommandError, match="tar failed"):
        pack.pack_tree(tmp_path / "nothing", tmp_path / "x.tar.zst")


def test_damaged_archives_are_an_error_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "x.tar.zst").write_bytes(b"no archive")
    (tmp_path / "tree").mkdir()
    with pytest.raises(ImageError):
        pack.unpack(tmp_path / "x.tar.zst", tmp_path / "tree")
