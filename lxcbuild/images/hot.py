"""Unpacked images and layers: one tmpfs per state directory, or the disk where memory is short or the kernel wants it so.

Trees appear by rename, so readers need no lock. Whoever uses a tree pins it with a shared lock that ends with the process;
a pinned tree is never removed (a file that vanishes below a mounted overlay breaks the sandbox above).
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from lxcbuild import files
from lxcbuild.errors import KernelError
from lxcbuild.events import Monitor, Note
from lxcbuild.images import tmpfs_maps
from lxcbuild.images.image import Storage
from lxcbuild.linux import syscalls
from lxcbuild.state import locks
from lxcbuild.state.paths import StateDirs

GIB = 1024**3
_MS_NOSUID, _MS_NODEV = 2, 4


def memory_floor_bytes(total_bytes: int) -> int:
    """How much memory must stay available after an image is loaded: 1 GiB, or 15 % of a larger machine."""
    return max(GIB, total_bytes * 15 // 100)


def choose_storage(size_bytes: int, *, total_bytes: int, available_bytes: int, free_bytes: int) -> tuple[Storage, str]:
    """RAM when it leaves enough for builds, else the disk; with the reason in words."""
    floor = memory_floor_bytes(total_bytes)
    mib = 1024**2
    if available_bytes - size_bytes < floor:
        return Storage.DISK, (
            f"{size_bytes // mib} MiB in memory would leave less than {floor // mib} MiB of {available_bytes // mib} MiB available"
        )
    if size_bytes > free_bytes:
        return Storage.DISK, f"the images in memory have only {free_bytes // mib} MiB left of their share"
    return Storage.RAM, "enough memory is available"


def _flush(tree: Path) -> None:
    """Bring a tree to the disk before it gets its name: after a loss of power it is there whole or not at all."""
    fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)


class HotStore:
    """Finds, places, pins and drops unpacked trees, named by digest."""

    def __init__(self, dirs: StateDirs, monitor: Monitor) -> None:
        self._dirs = dirs
        self._monitor = monitor
        self._pins: dict[str, int] = {}
        self._guard = threading.Lock()

    @property
    def _disk(self) -> Path:
        return self._dirs.cache / "unpacked"

    def find(self, digest: str) -> tuple[Path, Storage] | None:
        """The tree of that digest, pinned for the life of this process (or until :meth:`unpin`), if it is there."""
        self._pin(digest)
        for place, storage in ((self._dirs.hot, Storage.RAM), (self._disk, Storage.DISK)):
            tree = place / digest[:16]
            if tree.is_dir():
                return tree, storage
        return None

    def place(self, digest: str, *, size_bytes: int, what: str, fill: Callable[[Path], None]) -> tuple[Path, Storage]:
        """The tree of that digest, made by ``fill`` (which gets an empty directory) if it is not there; pinned.

        Single-flight across processes. ``what`` names it for people.
        """
        found = self.find(digest)
        if found is not None:
            return found
        with self.loading(digest, what):
            found = self.find(digest)
            if found is not None:
                return found
            storage = self._choose(size_bytes, what)
            place = self._dirs.hot if storage is Storage.RAM else self._disk
            place.mkdir(parents=True, exist_ok=True)
            fresh = place / f"new-{digest[:16]}"
            for left in (fresh, *place.glob(f".new-{digest[:16]}.*")):
                if left.exists():
                    shutil.rmtree(left)  # we hold the lock, so its maker is dead
            fresh.mkdir(mode=0o755)
            try:
                fill(fresh)
                if storage is Storage.DISK:
                    _flush(fresh)
                fresh.rename(place / digest[:16])
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
            return place / digest[:16], storage

    def loading(self, digest: str, what: str = "a layer") -> AbstractContextManager[None]:
        """While this is held, no other process loads (or removes) the tree of that digest."""
        waiting = Note(text=f"waiting for another process that loads {what}")
        return locks.exclusive(
            self._dirs.locks / f"load-{digest[:16]}.lock", on_wait=lambda: self._monitor.emit(waiting)
        )

    def _choose(self, size_bytes: int, what: str) -> Storage:
        refusal = tmpfs_maps.refusal(self._dirs)
        if refusal is not None:
            self._monitor.emit(Note(text=f"{what} is unpacked on disk, not in memory: {refusal}"))
            return Storage.DISK
        self._mount()
        memory, tmpfs = files.memory(), os.statvfs(self._dirs.hot)
        storage, reason = choose_storage(
            size_bytes,
            total_bytes=memory["MemTotal"],
            available_bytes=memory["MemAvailable"],
            free_bytes=tmpfs.f_bavail * tmpfs.f_frsize,
        )
        if storage is Storage.DISK:
            self._monitor.emit(Note(text=f"{what} is unpacked on disk, not in memory: {reason}", warning=True))
        return storage

    def _mount(self) -> None:
        """Mount the tmpfs if it is not there (first use, or after a boot)."""
        hot = self._dirs.hot
        if hot.is_mount():
            return
        with locks.exclusive(self._dirs.locks / "hot.lock"):
            if hot.is_mount():
                return
            hot.mkdir(parents=True, exist_ok=True)
            half = files.memory()["MemTotal"] // 2
            try:
                syscalls.mount(
                    f"lxcbuild-{self._dirs.tag}-hot",
                    os.fspath(hot),
                    fstype="tmpfs",
                    flags=_MS_NOSUID | _MS_NODEV,
                    data=f"mode=0755,size={half}",
                )
            except OSError as error:
                raise KernelError(
                    f"cannot mount a tmpfs at {hot}: {error.strerror}", resolution="run as root: sudo lxcbuild ..."
                ) from error

    # -- users ------------------------------------------------------------------------------------------------

    def _lock_of(self, digest: str) -> Path:
        return self._dirs.locks / f"use-{digest[:16]}.lock"

    def _pin(self, digest: str) -> None:
        with self._guard:
            if digest not in self._pins:
                self._pins[digest] = locks.take_shared(self._lock_of(digest))

    def unpin(self, digest: str) -> None:
        """Give up the use of a tree; others may still use it."""
        with self._guard:
            fd = self._pins.pop(digest, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Give up all uses."""
        for digest in tuple(self._pins):
            self.unpin(digest)

    def uses(self, digest: str) -> bool:
        """Whether this object has handed out that tree."""
        return digest in self._pins

    def drop(self, digest: str) -> bool:
        """Remove the tree unless somebody uses it; whether it is gone now."""
        self.unpin(digest)
        with locks.try_exclusive(self._lock_of(digest)) as alone:
            if not alone:
                return False
            for place in (self._dirs.hot, self._disk):
                tree = place / digest[:16]
                if tree.is_dir():
                    doomed = place / f"old-{digest[:16]}"
                    if doomed.exists():
                        shutil.rmtree(doomed)
                    tree.rename(doomed)
                    shutil.rmtree(doomed)
        return True

    def digests(self) -> dict[str, Path]:
        """The first 16 digits of what is unpacked, and where."""
        found = {}
        for place in (self._disk, self._dirs.hot):
            if place.is_dir():
                found.update({path.name: path for path in place.iterdir() if len(path.name) == 16})
        return found

    def stale(self) -> list[Path]:
        """Half-made or half-removed trees whose maker is dead."""
        found = []
        for place in (self._dirs.hot, self._disk):
            if not place.is_dir():
                continue
            for path in place.iterdir():
                # A tree that is being saved has a staging directory of its own beside it: .new-<digest>.<random>
                kind, _, rest = path.name.lstrip(".").partition("-")
                digest = rest[:16]
                lock = {"new": f"load-{digest}.lock", "old": f"use-{digest}.lock"}.get(kind)
                if lock is None:
                    continue
                with locks.try_exclusive(self._dirs.locks / lock) as alone:
                    if alone:
                        found.append(path)
        return found
