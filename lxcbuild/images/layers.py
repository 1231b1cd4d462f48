"""Dependency layers: what was once installed on top of an image or layer, kept as an overlay lower and shared by all builds.

A layer's key says everything that its content depends on, so a known key is never installed again: in memory it costs
nothing, on disk one unpacking. Which packages a set of requirements means is remembered too, so that apt does not run either.
A set that has no layer starts from a known one that is a subset of it; :mod:`lxcbuild.plan.layers` says from which.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace

from lxcbuild.debian.archive.apt import AptArchive, ResolvedPackage, ResolvedSet, check_relations
from lxcbuild.errors import ImageError, NetworkError
from lxcbuild.events import Monitor, Note, NullMonitor
from lxcbuild.files import write_whole
from lxcbuild.images import pack
from lxcbuild.images.hot import HotStore
from lxcbuild.images.image import STATUS_FILE, Image, InstalledPackage, read_status
from lxcbuild.images.install import install
from lxcbuild.images.layer import Chooser, Layer, LayerRecord, NeighbourLayers, layer_key
from lxcbuild.images.layer_records import LayerRecords, package_id
from lxcbuild.sandbox.base import Backend
from lxcbuild.sandbox.inside import compiled
from lxcbuild.state import locks
from lxcbuild.state.paths import StateDirs

#: Places of the sandbox itself: mount points and scratch space are no part of what was installed.
_NOT_INSTALLED = ("in", "out", "build", "dev", "proc", "sys", "run", "tmp")

#: Room that an installed package needs, as a multiple of its compressed size (measured: 3.2 for a toolchain), for choosing a place.
_UNPACKED_FACTOR = 5


class LayerStore:
    """The layers of one state directory. Layers that it handed out stay in place until it is closed or the process ends.

    ``choose`` picks what a new set starts from; without it every set is installed on its ground. ``share`` has what neighbours
    made.
    """

    def __init__(
        self,
        dirs: StateDirs,
        backend: Backend,
        monitor: Monitor | None = None,
        *,
        choose: Chooser | None = None,
        share: NeighbourLayers | None = None,
    ) -> None:
        self._dirs = dirs
        self._backend = backend
        self._monitor = monitor or NullMonitor()
        self._choose = choose
        self._share = share
        self.layer_records = LayerRecords(dirs.images / "layers")
        self.hot = HotStore(dirs, self._monitor)
        self.made = 0  # layers that this object has added

    def provide(self, image: Image, archive: AptArchive, *groups: Sequence[str]) -> Layer:
        """A stack of layers, one per group of relations in that order (toolchain first), each resolved on top of the one before.

        A known stack runs neither apt nor dpkg. Raises :class:`DependencyError`, :class:`NetworkError`, :class:`ImageError`.
        """
        started = time.monotonic()
        self._freshen(archive)
        try:
            layer = self._stack(image, archive, groups)
        except NetworkError as error:
            if "404" not in (error.details or "") or not archive.refresh(max_age_s=0):
                raise
            layer = self._stack(image, archive, groups)  # the lists named files that the mirror has replaced since
        return _timed(layer, started)

    def _stack(self, image: Image, archive: AptArchive, groups: Sequence[Sequence[str]]) -> Layer:
        layer = self.base(image)
        for group in groups:
            resolved = self.resolve(image, layer, archive, group)
            layer = self.extend(image, layer, archive, resolved, hit_so_far=layer.hit)
        return layer

    def _freshen(self, archive: AptArchive) -> None:
        """Package lists of today where the network allows it; older ones do too, because what they name may be cached."""
        try:
            archive.refresh()
        except NetworkError as error:
            if not archive.has_lists:
                raise
            self._monitor.emit(Note(text=f"using older package lists of {archive.name}: {error.brief}", warning=True))

    def ensure(self, image: Image, archive: AptArchive, *resolved_sets: ResolvedSet) -> Layer:
        """The same for sets that are already resolved."""
        started = time.monotonic()
        layer = self.base(image)
        for resolved in resolved_sets:
            layer = self.extend(image, layer, archive, resolved, hit_so_far=layer.hit)
        return _timed(layer, started)

    def base(self, image: Image) -> Layer:
        """The image itself as the lowest layer."""
        compiled.provide(self._dirs, self._backend, image.path)
        return Layer(key=image.digest, lowers=(image.path,), packages=image.packages, hit=True, seconds=0.0)

    # -- from requirements to packages ------------------------------------------------------------------------

    def resolve(self, image: Image, parent: Layer, archive: AptArchive, relations: Sequence[str]) -> ResolvedSet:
        """What the relations need on top of ``parent``; remembered for as long as the package lists do not change."""
        wanted = check_relations(relations)
        if not wanted:
            return ResolvedSet(packages=())
        text = json.dumps([parent.key, archive.lists_digest, wanted, image.target.architecture])
        memo = self._memos / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
        if memo.is_file():
            return ResolvedSet(packages=tuple(ResolvedPackage(**p) for p in json.loads(memo.read_text())))
        resolved = archive.resolve(wanted, status=parent.status)
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_whole(memo, json.dumps([asdict(package) for package in resolved.packages]), durable=False)
        return resolved

    @property
    def _memos(self) -> Path:
        return self._dirs.images / "layers" / "resolved"

    # -- from packages to layers ------------------------------------------------------------------------------

    def extend(
        self, image: Image, parent: Layer, archive: AptArchive, resolved: ResolvedSet, *, hit_so_far: bool = True
    ) -> Layer:
        """The packages on top of ``parent``, in one layer or several; the parent itself when nothing is missing in it.

        Its key names the configuration, all packages on that parent, by whatever steps it was reached.
        """
        started = time.monotonic()
        if not resolved.packages:
            return parent
        while True:
            try:
                layer = self._extended(image, parent, archive, resolved)
            except _EvictedError:
                continue  # between finding and loading it; it is made again
            return replace(layer, hit=layer.hit and hit_so_far, seconds=time.monotonic() - started)

    def _extended(self, image: Image, parent: Layer, archive: AptArchive, resolved: ResolvedSet) -> Layer:
        key = layer_key(parent.key, resolved, architecture=image.target.architecture)
        way, hit = self.layer_records.way(key), True
        if way is None:
            with self._making(key):
                way = self.layer_records.way(key)
                if way is None and self._share is not None:
                    way = self._share.fetch(key, parent.key)
                if way is None:
                    way, hit = self._make(key, image, parent, archive, resolved), False
                    if self._share is not None:
                        self._share.offer(key, way)
        if hit:
            for step in way:
                self.layer_records.used(step)
        lowers = tuple(self._load(step) for step in reversed(way))
        record = self.layer_records.document(way[-1])
        if record is None:
            raise _EvictedError(way[-1])
        packages = tuple(InstalledPackage(**package) for package in record["packages"])
        savings = {**parent.savings, **{step: self.seconds_to_make(step) for step in way[:-1]}}
        savings[way[-1]] = _seconds_of(record) if hit else 0.0
        lowers = (*lowers, *parent.lowers)
        return Layer(key=key, lowers=lowers, packages=packages, hit=hit, seconds=0.0, savings=savings)

    def seconds_to_make(self, key: str) -> float:
        """What making a known layer took; 0 for one that is gone."""
        return _seconds_of(self.layer_records.document(key) or {})

    def _making(self, key: str) -> AbstractContextManager[None]:
        waiting = Note(text="waiting for another process that installs the same packages")
        return locks.exclusive(
            self._dirs.locks / f"make-layer-{key[:16]}.lock", on_wait=lambda: self._monitor.emit(waiting)
        )

    def _make(
        self, key: str, image: Image, parent: Layer, archive: AptArchive, resolved: ResolvedSet
    ) -> tuple[str, ...]:
        """Install what is missing, on the parent or on a stack that has a part of it; the keys of all layers, the lowest first."""
        stacks = self.layer_records.stacks(parent.key) if self._choose is not None else {}
        wanted = {package_id(asdict(package)): package.size_bytes for package in resolved.packages}
        start = self._choose(wanted, stacks) if self._choose is not None else None
        if start is None:
            self._install(key, image, parent, archive, resolved)
            return (key,)
        below = stacks[start]
        for step in below.way:
            self.layer_records.used(step)
        lowers = tuple(self._load(step) for step in reversed(below.way))
        ground = replace(parent, key=start, lowers=(*lowers, *parent.lowers))
        rest = tuple(each for each in resolved.packages if package_id(asdict(each)) not in below.packages)
        step = layer_key(start, ResolvedSet(packages=rest), architecture=image.target.architecture)
        with self._making(step):
            if not self.layer_records.known(step):
                self._install(step, image, ground, archive, ResolvedSet(packages=rest))
        self.layer_records.keep_way(key, (*below.way, step))
        return (*below.way, step)

    def _install(self, key: str, image: Image, parent: Layer, archive: AptArchive, resolved: ResolvedSet) -> None:
        started = time.monotonic()
        debs = archive.fetch(resolved)
        above = f" on top of {len(parent.lowers) - 1} layers" if len(parent.lowers) > 1 else ""
        self._monitor.emit(Note(text=f"installing {len(debs)} packages for {image.target}{above}, once"))
        workdir = self._dirs.images / "layers" / f"new-{key[:16]}"
        if workdir.exists():
            shutil.rmtree(workdir)  # we hold the lock, so its maker is dead
        (workdir / "debs").mkdir(parents=True)
        try:
            for package, deb in zip(resolved.packages, debs, strict=True):
                (workdir / "debs" / package.filename).hardlink_to(deb)
            saved = install(
                self._backend,
                instance_id=f"layer-{key[:16]}-{os.getpid()}-{secrets.token_hex(3)}",
                lowers=parent.lowers,
                debs=workdir / "debs",
                names=tuple(package.filename for package in resolved.packages),
                download_bytes=resolved.size_bytes,
            )
            with saved as save_delta:
                self._keep(key, image, parent, resolved, workdir=workdir, save_delta=save_delta, started=started)
        finally:
            shutil.rmtree(workdir, ignore_errors=True)

    def _keep(
        self,
        key: str,
        image: Image,
        parent: Layer,
        resolved: ResolvedSet,
        *,
        workdir: Path,
        save_delta: Callable[[Path], None],
        started: float,
    ) -> None:
        def fill(tree: Path) -> None:
            tree.rmdir()
            save_delta(tree)
            tree.chmod(0o755)
            for name in _NOT_INSTALLED:
                shutil.rmtree(tree / name, ignore_errors=True)
            packages = read_status((tree / STATUS_FILE).read_text())
            record = {
                "architecture": image.target.architecture,
                "made_in_s": round(time.monotonic() - started, 3),
                "installed": [asdict(package) for package in resolved.packages],
                "packages": [asdict(package) for package in packages],
            }
            self._store(tree, key, parent=parent.key, workdir=workdir, record=record)

        self._place_new(key, size_bytes=resolved.size_bytes * _UNPACKED_FACTOR, fill=fill)

    def _place_new(self, key: str, *, size_bytes: int, fill: Callable[[Path], None]) -> Path:
        """Fill the tree of a layer that has no record yet; what lies there without one cannot be trusted to be whole."""
        self.hot.drop(key)
        path, _ = self.hot.place(key, size_bytes=size_bytes, what="a layer", fill=fill)
        if not self.layer_records.known(key):
            raise ImageError(
                f"the layer {key[:16]} is in use and its record is lost",
                resolution="end the builds that use it, then: lxcbuild gc --hot",
            )
        return path

    def _store(self, tree: Path, key: str, *, parent: str, workdir: Path, record: Mapping[str, object]) -> None:
        """The cold form of a layer: its archive, then the record that makes it known."""
        digest = pack.pack_tree(tree, workdir / "layer.tar.zst")
        complete = {
            "key": key,
            "parent": parent,
            "digest": digest,
            "created_at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
            "unpacked_bytes": pack.tree_bytes(tree),
            "archive_bytes": (workdir / "layer.tar.zst").stat().st_size,
            **record,
        }
        (workdir / "layer.tar.zst").rename(self.layer_records.archive_path(key))
        write_whole(self.layer_records.record_path(key), json.dumps(complete, indent=1) + "\n", durable=False)
        self.made += 1

    def provide_tree(
        self,
        key: str,
        *,
        parent: str,
        size_bytes: int,
        record: Mapping[str, object],
        fill: Callable[[Path, Path], None],
    ) -> tuple[Path, bool]:
        """A layer that is not made of Debian packages, and whether it was known; single-flight, kept and found as all layers.

        ``fill`` gets the empty tree and a directory for what it needs meanwhile; ``parent`` is the key below it.
        """
        if self.layer_records.known(key):
            self.layer_records.used(key)
            return self._load(key), True
        with self._making(key):
            if self.layer_records.known(key):
                self.layer_records.used(key)
                return self._load(key), True
            started = time.monotonic()
            workdir = self._dirs.images / "layers" / f"new-{key[:16]}"
            if workdir.exists():
                shutil.rmtree(workdir)  # we hold the lock, so its maker is dead
            workdir.mkdir(parents=True)

            def make(tree: Path) -> None:
                fill(tree, workdir)
                made = {"made_in_s": round(time.monotonic() - started, 3), **record}
                self._store(tree, key, parent=parent, workdir=workdir, record=made)

            try:
                path = self._place_new(key, size_bytes=size_bytes, fill=make)
            finally:
                shutil.rmtree(workdir, ignore_errors=True)
            return path, False

    def _load(self, key: str) -> Path:
        found = self.hot.find(key)
        if found is not None:
            return found[0]
        record = self.layer_records.document(key)
        if record is None:
            raise _EvictedError(key)

        def fill(tree: Path) -> None:  # under the lock that remove() takes
            if not self.layer_records.known(key):
                raise _EvictedError(key)
            pack.unpack(self.layer_records.archive_path(key), tree)

        path, _ = self.hot.place(key, size_bytes=record["unpacked_bytes"], what="a layer", fill=fill)
        return path

    def records(self, layer: Layer) -> tuple[LayerRecord, ...]:
        """What the layers of a stack were made of, the lowest first; the image below them has its own record."""
        found = []
        for lower in reversed(layer.lowers):
            path = self._dirs.images / "layers" / f"{lower.name}.json"  # trees and records are named alike
            if path.is_file():
                record = json.loads(path.read_text())
                found.append(
                    LayerRecord(key=record["key"], digest=record["digest"], installed=tuple(record["installed"]))
                )
        return tuple(found)

    # -- housekeeping -----------------------------------------------------------------------------------------

    def remove(self, key: str) -> bool:
        """Forget one layer; False when it stays for now because builds use it."""
        with self.hot.loading(key):
            if not self.hot.drop(key):
                return False
            self.layer_records.forget(key)  # only now: a tree always has its record
        return True

    def stale(self) -> list[Path]:
        """What interrupted installations left and no live process owns."""
        found = []
        for path in (self._dirs.images / "layers").glob("new-*"):
            with locks.try_exclusive(self._dirs.locks / f"make-layer-{path.name[4:]}.lock") as alone:
                if alone:
                    found.append(path)
        return found

    def orphans(self, image_digests: Collection[str]) -> list[str]:
        """Keys of layers that stand on none of these images: nobody can ask for them any more."""
        parents = self.layer_records.grounds()
        keys = []
        for record in self.layer_records.documents():
            parents[record["key"]] = record["parent"]
            keys.append(record["key"])
        found = []
        for key in keys:
            ground = key
            while ground in parents:
                ground = parents[ground]
            if ground not in image_digests:
                found.append(key)
        return found

    def close(self) -> None:
        """Stop using the layers that were handed out."""
        self.hot.close()


class _EvictedError(Exception):
    """A layer was removed by another process after it had been found."""


def _seconds_of(record: Mapping[str, Any]) -> float:
    return float(record.get("made_in_s", 0.0))


def _timed(layer: Layer, started: float) -> Layer:
    return replace(layer, seconds=time.monotonic() - started)
