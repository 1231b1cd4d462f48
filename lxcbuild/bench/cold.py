"""What a first build costs: a state directory that has package files, package lists and the base image, and not one layer."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lxcbuild import process
from lxcbuild.errors import ImageError
from lxcbuild.events import NullMonitor
from lxcbuild.images.hot import HotStore
from lxcbuild.images.store import ImageStore
from lxcbuild.model import Target
from lxcbuild.state.paths import StateDirs

_LIMIT_S = 600.0
_PREFIX = "bench-"
#: What is only ever replaced as a whole may be shared by a link; lists and databases are copied.
_LINKED = (".deb", ".tar.zst", ".tar.gz", ".whl", ".zip")


@contextmanager
def layerless(dirs: StateDirs, target: Target) -> Iterator[StateDirs]:
    """A state directory beside ``dirs`` with what was downloaded, no layers and no archive read; the base image lies in memory."""
    with tempfile.TemporaryDirectory(dir=dirs.cache, prefix=_PREFIX) as place:
        fresh = StateDirs.choose(place)
        for path in dirs.cache.iterdir():
            if path.is_dir() and path.name not in ("unpacked", "readings") and not path.name.startswith(_PREFIX):
                shutil.copytree(path, fresh.cache / path.name, symlinks=True, copy_function=_copy, ignore=_layers)
        images = ImageStore(fresh)
        try:
            images.ensure(target)
            yield fresh
        finally:
            images.close()
            argv = (sys.executable, "-m", "lxcbuild", "--state-dir", place, "gc", "--hot")
            process.run(argv, env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}, timeout_s=_LIMIT_S)


def forget_layers(dirs: StateDirs, target: Target) -> None:
    """Remove every layer, unpacked ones too, and what is remembered of them. No build may run there."""
    if (dirs.images / "layers").is_dir():
        shutil.rmtree(dirs.images / "layers")
    hot, image = HotStore(dirs, NullMonitor()), ImageStore(dirs).record(target).digest
    for digest in hot.digests():
        if not image.startswith(digest) and not hot.drop(digest):
            raise ImageError(f"the layer {digest} is in use")


def _layers(directory: str, names: list[str]) -> list[str]:
    return ["layers"] if "layers" in names and Path(directory).name == "images" else []


def _copy(source: str, destination: str) -> None:
    if source.endswith(_LINKED):
        os.link(source, destination)
    else:
        shutil.copy2(source, destination)
