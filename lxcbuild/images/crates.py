"""Build-only layers of Rust crates from a registry, laid out as a directory that cargo takes in the registry's place.

The host hashes every file before it becomes part of a layer, and a layer's key is made of these hashes: one that is shared holds
exactly what its key says, whoever fetched it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from lxcbuild.debian import steps
from lxcbuild.debian.source import crates as naming
from lxcbuild.errors import ImageError
from lxcbuild.events import Monitor, Note, NullMonitor
from lxcbuild.files import sha256_of
from lxcbuild.images.image import Image
from lxcbuild.images.install import provision_policy
from lxcbuild.images.layer import Layer
from lxcbuild.images.layers import LayerStore
from lxcbuild.sandbox.base import Backend, Bind, InstanceSpec, Step, User

#: Goes into every key: raise it when the same crates are laid out in another way.
LAYOUT_VERSION = 1
_LAID = "/build/crates"
_UNPACKED_FACTOR = 8


class CrateFile(Struct, frozen=True, kw_only=True, order=True):
    """One file of a registry, hashed by this host."""

    name: str
    version: str
    sha256: str
    path: Path

    @property
    def stem(self) -> str:
        """As files and directories of crates are called."""
        return f"{self.name}-{self.version}"


class CrateLayers:
    """Makes and finds layers of crates; they are kept beside all others in a :class:`LayerStore`."""

    def __init__(self, layers: LayerStore, backend: Backend, monitor: Monitor | None = None) -> None:
        self._layers = layers
        self._backend = backend
        self._monitor = monitor or NullMonitor()

    def provide(self, image: Image, below: Layer, files: Sequence[CrateFile]) -> Layer:
        """``below`` with the crates on top; raises :class:`ImageError` for one that is unsound."""
        started = time.monotonic()
        wanted = sorted(files)
        key = crates_key(image.digest, wanted)
        record = {"origin": "registry", "installed": [], "packages": [], "crates": [describe(file) for file in wanted]}

        def fill(tree: Path, workdir: Path) -> None:
            self._monitor.emit(Note(text=f"laying out {len(wanted)} crates for {image.target}, once"))
            source = workdir / "crates"
            source.mkdir()
            for file in wanted:
                _copy_checked(file, source / f"{file.stem}.crate")
            self._lay(key, image, wanted, source, tree)

        size = sum(file.path.stat().st_size for file in wanted) * _UNPACKED_FACTOR
        path, hit = self._layers.provide_tree(key, parent=image.digest, size_bytes=size, record=record, fill=fill)
        return replace(
            below,
            key=key,
            lowers=(path, *below.lowers),
            hit=hit and below.hit,
            seconds=below.seconds + time.monotonic() - started,
            savings={**below.savings, key: self._layers.seconds_to_make(key) if hit else 0.0},
        )

    def _lay(self, key: str, image: Image, files: Sequence[CrateFile], source: Path, tree: Path) -> None:
        size = sum(path.stat().st_size for path in source.iterdir())
        spec = InstanceSpec(
            instance_id=f"crates-{key[:16]}-{os.getpid()}-{secrets.token_hex(3)}",
            lowers=(image.path,),
            policy=replace(provision_policy(size), name="crates", seccomp="build"),
            binds=(Bind(host=source, inside="/in/crates"),),
        )
        asked = {
            "crates": "/in/crates",
            "destination": _LAID,
            "checksums": {file.stem: file.sha256 for file in files},
        }
        step = steps.python_step("crates.lay_crates")
        said: list[bytes] = []
        with self._backend.create(spec) as instance:
            instance.start()
            for name, content in steps.request(asked).items():
                instance.put(name, content)
            result = instance.run(Step(argv=step.argv, env=step.env, cwd=step.cwd, user=User.BUILD), said.append)
            if not result.ok:
                lines = b"".join(said).decode(errors="replace").splitlines()
                raise ImageError("crates of the registry cannot be laid out", details="\n".join(lines[-20:]))
            instance.stop()
            instance.save_delta(tree / "delta")
        _take(tree)


def crates_key(parent: str, files: Sequence[CrateFile]) -> str:
    """SHA-256 of parent key, name=version=sha256 of every crate, and the layout's version."""
    crates = sorted(f"{file.name}={file.version}={file.sha256}" for file in files)
    return hashlib.sha256(json.dumps(["registry", parent, crates, LAYOUT_VERSION]).encode()).hexdigest()


def describe(file: CrateFile) -> dict[str, str]:
    """What the record of a build says about one crate."""
    return {"name": file.name, "version": file.version, "sha256": file.sha256}


def _copy_checked(file: CrateFile, destination: Path) -> None:
    """Nothing that changed since it was hashed becomes part of a layer."""
    shutil.copyfile(file.path, destination)
    if sha256_of(destination) != file.sha256:
        raise ImageError(f"the crate {file.stem} has changed since it was checked")


def _take(tree: Path) -> None:
    """Of all that the sandbox wrote only the laid crates become the layer; they belong to root, as every layer does."""
    delta = tree / "delta"
    home = tree / naming.FETCHED_REGISTRY.lstrip("/")
    home.parent.mkdir(parents=True)
    (delta / _LAID.lstrip("/")).rename(home)
    shutil.rmtree(delta)
    for place, directories, names in os.walk(home):
        for name in (*directories, *names):
            os.chown(Path(place) / name, 0, 0, follow_symlinks=False)
    os.chown(home, 0, 0)
    for directory in (tree, *[parent for parent in home.parents if parent.is_relative_to(tree)]):
        directory.chmod(0o755)
