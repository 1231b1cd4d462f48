"""Rust parts: crates come from a registry that the administrator names, checked, or the build ends before compiling."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import crate_registry
from tests.e2e.crate_registry import LEAF, ROOT, Registry
from tests.support.command import LxcBuild

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.usefixtures("nothing_left")]
TARGET = "debian/bookworm"


@pytest.fixture
def registry(made_image: Callable[[str], None]) -> Iterator[Registry]:
    made_image(TARGET)
    with crate_registry.served() as made:
        yield made


def configured(tmp_path: Path, registry: Registry) -> dict[str, str]:
    place = tmp_path / "etc"
    place.mkdir()
    (place / "cargo.yaml").write_text(f"registry: {registry.address}\n")
    return {"LXCBUILD_CONFIG_DIR": str(place)}


def test_without_a_registry_the_crates_are_named_and_nothing_is_compiled(
    tmp_path: Path, registry: Registry, lxcbuild: LxcBuild
) -> None:
    root = crate_registry.project(tmp_path / "project", registry.lock())
    env = {"LXCBUILD_CONFIG_DIR": str(tmp_path / "none")}
    done = lxcbuild("build", root, "--target", TARGET, "--json", env=env)
    (build,) = done.document["builds"]
    failure = build["failure"]
    assert (failure["class"], failure["phase"]) == ("build-dep-missing", "provision"), done.stderr
    assert f"{ROOT} 1 (no package)" in failure["brief"]
    assert "cargo.yaml" in failure["resolution"]
    assert registry.asked == []


@pytest.mark.slow
@pytest.mark.parametrize("locked", [True, False])
def test_crates_of_a_registry_are_fetched_checked_and_built_with(
    tmp_path: Path, registry: Registry, lxcbuild: LxcBuild, locked: bool
) -> None:
    root = crate_registry.project(tmp_path / "project", registry.lock() if locked else None)
    env = configured(tmp_path, registry)
    out = tmp_path / "out"
    done = lxcbuild("build", root, "--target", TARGET, "--json", "--rebuild", "-o", out, env=env)
    (build,) = done.document["builds"]
    assert build["status"] == "built", done.stderr
    log = Path(build["log"]).read_text()
    for name in (LEAF, ROOT):
        assert f"crate from the registry: {name} 1.0.0 sha256:{registry.checksums[name]}" in log
    assert any("2 crates from the registry" in note for note in build["notes"])
    (document,) = out.glob("*.provenance.json")
    inputs = json.loads(document.read_text())["predicate"]["buildDefinition"]["resolvedDependencies"]
    recorded = {item["name"]: item["digest"]["sha256"] for item in inputs if item["annotations"]["kind"] == "crate"}
    assert recorded == {f"{name}-1.0.0.crate": registry.checksums[name] for name in (LEAF, ROOT)}
    before = len(registry.asked)
    again = lxcbuild("build", root, "--target", TARGET, "--json", "--rebuild", env=env)
    assert again.document["builds"][0]["status"] == "built", again.stderr
    if locked:
        assert len(registry.asked) == before, "crates that are known by their checksums are not fetched again"


@pytest.mark.slow
def test_a_crate_that_the_lock_file_does_not_mean_ends_the_build(
    tmp_path: Path, registry: Registry, lxcbuild: LxcBuild
) -> None:
    registry.files[LEAF] = crate_registry.crate(LEAF, marker="// something else\n")
    root = crate_registry.project(tmp_path / "project", registry.lock())
    done = lxcbuild("build", root, "--target", TARGET, "--json", "--rebuild", env=configured(tmp_path, registry))
    (build,) = done.document["builds"]
    failure = build["failure"]
    assert (failure["class"], failure["phase"]) == ("build-dep-missing", "provision"), done.stderr
    assert LEAF in failure["details"]
    assert "checksum" in failure["details"]
