"""Cold builds are measured where no layer is, without touching the layers that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxcbuild.bench.cold import forget_layers, layerless
from lxcbuild.cli.options import host_target
from lxcbuild.events import NullMonitor
from lxcbuild.images.hot import HotStore
from lxcbuild.images.store import ImageStore
from lxcbuild.state.paths import StateDirs

pytestmark = pytest.mark.root


def contents(dirs: StateDirs) -> dict[Path, tuple[int, int]]:
    """Every file of the caches with its size and time."""
    found = {path: path.lstat() for path in dirs.cache.rglob("*") if path.is_file() and not path.is_symlink()}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


@pytest.mark.usefixtures("rootfs")
def test_it_has_the_image_and_no_layer_and_leaves_nothing(state: StateDirs) -> None:
    target = host_target()
    before = contents(state)
    with layerless(state, target) as fresh:
        images = ImageStore(fresh)
        image = images.get(target)
        assert (image.path / "usr/bin/dpkg").exists()
        assert list(fresh.images.glob("layers/*.json")) == []
        hot = HotStore(fresh, NullMonitor())
        fresh.hot.joinpath("0" * 16).mkdir()
        (fresh.images / "layers").mkdir(exist_ok=True)
        (fresh.images / "layers" / "x.json").write_text("{}")
        forget_layers(fresh, target)
        assert set(hot.digests()) == {image.path.name}
        assert not (fresh.images / "layers").exists()
        images.close()
    assert not fresh.cache.exists()
    assert not fresh.hot.is_mount()
    assert contents(state) == before
