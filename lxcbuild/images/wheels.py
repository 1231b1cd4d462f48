"""Build-only layers of wheels from the package index: newer or missing build backends, put before the suite's own.

They lie outside dist-packages, so that nothing which collects a package's files ever sees them, and a ``.pth`` file of this layer
alone puts them first on the path of the Python that they were chosen for. What is in them comes from the index, not from the
archive's signatures: the record says ``origin: index``, and no sandbox but a build's own ever stands on such a layer.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from lxcbuild.debian.source import backend as inside
from lxcbuild.debian.steps import InsideStep
from lxcbuild.errors import ImageError
from lxcbuild.events import Monitor, Note, NullMonitor
from lxcbuild.images.image import Image
from lxcbuild.images.install import provision_policy
from lxcbuild.images.layer import Layer
from lxcbuild.images.layers import LayerStore
from lxcbuild.pypi.versions.buildset import Chosen
from lxcbuild.sandbox.base import Backend, Bind, Instance, InstanceSpec, Step, User

#: Goes into every key: raise it when the same wheels are laid out in another way.
LAYOUT_VERSION = 1
_UNPACKED_FACTOR = 8
_PTH = Path("usr/lib/python3/dist-packages/000-lxcbuild-build-python.pth")
# One line, because site only runs lines; a .pth file of a wheel (setuptools has one) is honoured like in dist-packages.
_PTH_TEXT = (
    "import os, site, sys; _p = '{root}/%d.%d' % sys.version_info[:2]; "
    "os.path.isdir(_p) and _p not in sys.path and (sys.path.insert(0, _p), site.addsitedir(_p))\n"
)


class WheelLayer(Struct, frozen=True, kw_only=True):
    """The stack with the wheels on top, and the directories of their programs for PATH."""

    layer: Layer
    program_paths: tuple[str, ...]


class WheelLayers:
    """Makes and finds layers of wheels; they are kept beside all others in a :class:`LayerStore`."""

    def __init__(self, layers: LayerStore, backend: Backend, monitor: Monitor | None = None) -> None:
        self._layers = layers
        self._backend = backend
        self._monitor = monitor or NullMonitor()

    def provide(self, image: Image, below: Layer, sets: Mapping[str, Sequence[Chosen]]) -> WheelLayer:
        """``below`` with the wheels for each Python (``3.11``) on top; raises :class:`ImageError` for a wheel that is unsound.

        ``below`` must have those Pythons. The same wheels for the same image are laid out once, whatever is below them.
        """
        started = time.monotonic()
        key = wheels_key(image.digest, sets)
        wheels = {chosen.wheel.name: chosen for chosen_set in sets.values() for chosen in chosen_set}
        size = sum(chosen.wheel.stat().st_size for chosen in wheels.values())
        record = {
            "origin": "index",
            "installed": [],
            "packages": [],
            "wheels": {python: [describe(c) for c in chosen_set] for python, chosen_set in sorted(sets.items())},
        }

        def fill(tree: Path, workdir: Path) -> None:
            self._monitor.emit(Note(text=f"laying out {len(wheels)} wheels for {image.target}, once"))
            source = workdir / "wheels"
            source.mkdir()
            for name, chosen in wheels.items():
                shutil.copyfile(chosen.wheel, source / name)
            self._lay(key, below, sets, source, tree)

        path, hit = self._layers.provide_tree(
            key, parent=image.digest, size_bytes=size * _UNPACKED_FACTOR, record=record, fill=fill
        )
        layer = replace(
            below,
            key=key,
            lowers=(path, *below.lowers),
            hit=hit and below.hit,
            seconds=below.seconds + time.monotonic() - started,
            savings={**below.savings, key: self._layers.seconds_to_make(key) if hit else 0.0},
        )
        return WheelLayer(layer=layer, program_paths=tuple(f"{inside.BUILD_PYTHON}/{python}/bin" for python in sets))

    def _lay(self, key: str, below: Layer, sets: Mapping[str, Sequence[Chosen]], source: Path, tree: Path) -> None:
        size = sum(path.stat().st_size for path in source.iterdir())
        spec = InstanceSpec(
            instance_id=f"wheels-{key[:16]}-{os.getpid()}-{secrets.token_hex(3)}",
            lowers=below.lowers,
            policy=replace(provision_policy(size), name="wheels", seccomp="build"),
            binds=(Bind(host=source, inside="/in/wheels"),),
        )
        job = inside.lay_wheels_job({python: tuple(c.wheel.name for c in chosen) for python, chosen in sets.items()})
        with self._backend.create(spec) as instance:
            instance.start()
            for name, content in job.files.items():
                instance.put(name, content)
            for step in job.steps:
                _run(instance, step)
            for python in sorted(sets):
                # Old syntax in a file that nobody imports is no reason to stop; the status says nothing of use.
                _run(instance, _compile_step(python), must_succeed=False)
            instance.stop()
            instance.save_delta(tree / "delta")
        _take(tree)


def wheels_key(parent: str, sets: Mapping[str, Sequence[Chosen]]) -> str:
    """SHA-256 of parent key, name=version=sha256 of every wheel by Python, and the layout's version."""
    wheels = {python: sorted(f"{c.name}={c.version}={c.sha256}" for c in chosen) for python, chosen in sets.items()}
    text = json.dumps(["index", parent, wheels, LAYOUT_VERSION], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def describe(chosen: Chosen) -> dict[str, str]:
    """What the record of a build says about one release of the index."""
    return {
        "name": chosen.name,
        "version": chosen.version,
        "filename": chosen.file.filename,
        "sha256": chosen.sha256,
        "url": chosen.file.url,
    }


def _compile_step(python: str) -> InsideStep:
    argv = (
        f"/usr/bin/python{python}", "-I", "-S", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash",
        "-s", inside.LAID_WHEELS, "-p", inside.BUILD_PYTHON, f"{inside.LAID_WHEELS}/{python}",
    )  # fmt: skip
    return InsideStep(argv=argv)


def _run(instance: Instance, step: InsideStep, *, must_succeed: bool = True) -> None:
    tail: list[bytes] = []

    def hear(data: bytes) -> None:
        tail.append(data)
        del tail[:-100]

    result = instance.run(Step(argv=step.argv, env=step.env, cwd=step.cwd, user=User.BUILD), hear)
    if result.stopped_by is not None or (must_succeed and not result.ok):
        said = b"".join(tail).decode(errors="replace").splitlines()
        raise ImageError("wheels of the index cannot be laid out", details="\n".join(said[-20:]))


def _take(tree: Path) -> None:
    """Of all that the sandbox wrote only the laid wheels become the layer; they belong to root, as every layer does."""
    delta = tree / "delta"
    home = tree / inside.BUILD_PYTHON.lstrip("/")
    pth = tree / _PTH
    home.parent.mkdir(parents=True)
    pth.parent.mkdir(parents=True)
    (delta / inside.LAID_WHEELS.lstrip("/")).rename(home)
    shutil.rmtree(delta)
    for place, directories, files in os.walk(home):
        for name in (*directories, *files):
            os.chown(Path(place) / name, 0, 0, follow_symlinks=False)
    os.chown(home, 0, 0)
    pth.write_text(_PTH_TEXT.format(root=inside.BUILD_PYTHON))
    pth.chmod(0o644)
    for directory in (
        tree,
        *[parent for path in (home, pth) for parent in path.parents if parent.is_relative_to(tree)],
    ):
        directory.chmod(0o755)
