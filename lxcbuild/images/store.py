"""Base images: made once, kept compressed on disk, unpacked in memory, shared read-only by all builds.

Cold: ``<images>/<name>-<digest>.tar.zst`` and ``<images>/<name>.json``, the record that says which archive is current; each
appears by rename, so an interrupted make changes nothing. Hot: see :mod:`lxcbuild.images.hot`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from msgspec import Struct

from lxcbuild.config.recipes import Recipe, load_recipe, load_recipes
from lxcbuild.debian.archive import sources
from lxcbuild.debian.archive.apt import AptArchive
from lxcbuild.errors import ImageMissingError
from lxcbuild.events import Monitor, Note, NullMonitor
from lxcbuild.files import write_whole
from lxcbuild.images import make as making
from lxcbuild.images import pack
from lxcbuild.images.hot import HotStore
from lxcbuild.images.image import Image, ImageRecord
from lxcbuild.model import Target
from lxcbuild.sandbox.inside import compiled
from lxcbuild.state import locks
from lxcbuild.state.paths import StateDirs

DAY_S = 86400.0


class Listed(Struct, frozen=True, kw_only=True):
    """One line of ``lxcbuild rootfs list``: a recipe, and its image if one was made."""

    recipe: Recipe
    target: Target
    record: ImageRecord | None
    expired: bool
    loaded: Path | None


class ImageStore:
    """The base images of one state directory. Images that it handed out stay in place until it is closed or the process ends."""

    def __init__(self, dirs: StateDirs, monitor: Monitor | None = None) -> None:
        self._dirs = dirs
        self._monitor = monitor or NullMonitor()
        self._told: set[str] = set()
        self.hot = HotStore(dirs, self._monitor)

    def get(self, target: Target) -> Image:
        """The image of a target, loaded; raises :class:`ImageMissingError`, :class:`UnknownTargetError`.

        An expired image is used all the same, and a note says so.
        """
        recipe = load_recipe(target)
        record = self._record(target)
        if record is None:
            raise ImageMissingError(
                f"there is no base image of {target} yet", resolution=f"lxcbuild rootfs make {target}"
            )
        return self._load(target, recipe, record)

    def ensure(self, target: Target) -> Image:
        """The image of a target, made if there is none."""
        recipe = load_recipe(target)
        record = self._record(target) or self._make(target, recipe, newer_than=None)
        return self._load(target, recipe, record)

    def refresh(self, target: Target) -> Image:
        """A newly made image of a target; processes that ask at the same time share one."""
        recipe = load_recipe(target)
        before = self._record(target)
        record = self._make(target, recipe, newer_than=None if before is None else before.created_at)
        return self._load(target, recipe, record)

    def remove(self, target: Target) -> bool:
        """Forget the image of a target; False when it still lies unpacked because builds use it (``gc`` removes it later)."""
        load_recipe(target)
        with locks.exclusive(self._make_lock(target)):
            record = self._record(target)
            if record is None:
                return True
            self._record_path(target).unlink()
            self._archive(record).unlink(missing_ok=True)
        compiled.forget(self._dirs, record.digest)
        return self.hot.drop(record.digest)

    def list(self) -> tuple[Listed, ...]:
        """All recipes with their images, in the order of their names."""
        hot = self.hot.digests()
        found = []
        for recipe in load_recipes():
            target = recipe.target()
            record = self._record(target)
            found.append(
                Listed(
                    recipe=recipe,
                    target=target,
                    record=record,
                    expired=record is not None and self._expired(recipe, record),
                    loaded=None if record is None else hot.get(record.digest[:16]),
                )
            )
        return tuple(found)

    def record(self, target: Target) -> ImageRecord:
        """The record of a target's image, without loading it; raises like :meth:`get`."""
        load_recipe(target)
        record = self._record(target)
        if record is None:
            raise ImageMissingError(
                f"there is no base image of {target} yet", resolution=f"lxcbuild rootfs make {target}"
            )
        return record

    def archive(self, image: Image) -> AptArchive:
        """The apt archive of an image: the host's mirrors as they are when lists are fetched, else those of the making."""
        return self._apt_archive(image.target, image.record)

    def other_archives(self, target: Target) -> tuple[AptArchive, ...]:
        """The archives of the other images there are, the images themselves not being loaded."""
        return tuple(
            self._apt_archive(listed.target, listed.record)
            for listed in self.list()
            if listed.record is not None and listed.target != target
        )

    def _apt_archive(self, target: Target, record: ImageRecord) -> AptArchive:
        recipe = load_recipe(target)

        def lines() -> tuple[str, ...]:
            now = sources.source_lines(recipe, sources.host_mirrors(), keyring=sources.keyring_path(recipe))
            return now or record.sources

        return AptArchive(
            self._dirs, record.name, source_lines=lines, architecture=target.architecture, monitor=self._monitor
        )

    def close(self) -> None:
        """Stop using the images that were handed out."""
        self.hot.close()

    # -- cold -------------------------------------------------------------------------------------------------

    def _record_path(self, target: Target) -> Path:
        return self._dirs.images / f"{target.image_name}.json"

    def _archive(self, record: ImageRecord) -> Path:
        return self._dirs.images / f"{record.name}-{record.digest[:16]}.tar.zst"

    def _make_lock(self, target: Target) -> Path:
        return self._dirs.locks / f"make-{target.image_name}.lock"

    def _record(self, target: Target) -> ImageRecord | None:
        try:
            record = ImageRecord.from_json(self._record_path(target).read_text())
        except FileNotFoundError:
            return None
        return record if self._archive(record).is_file() else None

    def _make(self, target: Target, recipe: Recipe, *, newer_than: str | None) -> ImageRecord:
        waiting = Note(text=f"waiting for another process that makes the image {target}")
        with locks.exclusive(self._make_lock(target), on_wait=lambda: self._monitor.emit(waiting)):
            record = self._record(target)
            if record is not None and record.created_at != newer_than:
                return record  # somebody made it while we waited
            workdir = self._dirs.images / f"new-{target.image_name}"
            if workdir.exists():
                shutil.rmtree(workdir)  # we hold the lock, so its maker is dead
            workdir.mkdir(parents=True)
            try:
                plan = making.plan(recipe, target)
                self._monitor.emit(
                    Note(
                        text=f"making the image {target} (maintainer scripts run {_how(plan.mode)}); takes about half a minute"
                    )
                )
                archive, made = making.make(plan, workdir, self._monitor)
                archive.rename(self._archive(made))
                write_whole(self._record_path(target), made.to_json(), durable=False)
            finally:
                shutil.rmtree(workdir, ignore_errors=True)
            if record is not None and record.digest != made.digest:
                self._archive(record).unlink(missing_ok=True)
                compiled.forget(self._dirs, record.digest)
                if not self.hot.uses(record.digest):  # a build of this very process may lie on it
                    self.hot.drop(record.digest)
            self._monitor.emit(
                Note(text=f"image {target} is ready: {len(made.packages)} packages, Python {made.python_version}")
            )
            return made

    def _tell(self, text: str, *, warning: bool = False) -> None:
        """Once is enough: phases ask for the same image again and again."""
        if text not in self._told:
            self._told.add(text)
            self._monitor.emit(Note(text=text, warning=warning))

    def _load(self, target: Target, recipe: Recipe, record: ImageRecord) -> Image:
        expired = self._expired(recipe, record)
        if expired:
            days = int(record.age_s // DAY_S)
            self._tell(
                f"the image {target} is {days} days old; to renew it: lxcbuild rootfs refresh {target}", warning=True
            )
        elif record.recipe_hash != making.recipe_hash(recipe):
            self._tell(f"the recipe of {target} has changed since its image was made: lxcbuild rootfs refresh {target}")
        path, storage = self.hot.place(
            record.digest,
            size_bytes=record.unpacked_bytes,
            what=f"the image {target}",
            fill=lambda tree: pack.unpack(self._archive(record), tree),
        )
        return Image(target=target, path=path, storage=storage, record=record, expired=expired)

    @staticmethod
    def _expired(recipe: Recipe, record: ImageRecord) -> bool:
        return record.age_s > recipe.expires_after_s

    # -- leftovers --------------------------------------------------------------------------------------------

    def stale(self) -> tuple[Path, ...]:
        """Files and directories that interrupted makes, of images or layers, left and that no live process owns."""
        found = self.hot.stale()
        for place, lock in ((self._dirs.images, "make"), (self._dirs.images / "layers", "make-layer")):
            for path in place.glob("new-*"):
                with locks.try_exclusive(self._dirs.locks / f"{lock}-{path.name[4:]}.lock") as alone:
                    if alone:
                        found.append(path)
        return tuple(found)

    def sweep(self) -> tuple[Path, ...]:
        """Remove what :meth:`stale` lists, and unpacked trees that no record names and nobody uses; what was removed."""
        gone = self.stale()
        for path in gone:
            shutil.rmtree(path, ignore_errors=True)
        return gone


def _how(mode: str) -> str:
    return "in a user namespace" if mode == "unshare" else "as root: no subordinate ids for root, see lxcbuild doctor"
