"""Files on their way into a repository's pool: copied, hashed and read from the copy, then renamed to where their content says."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from lxcbuild.debian import sourcepackage
from lxcbuild.debian.gate import artifacts
from lxcbuild.debian.repository import aptindex
from lxcbuild.debian.repository.aptindex import IndexEntry
from lxcbuild.debian.stanza import ArtifactError
from lxcbuild.errors import RepositoryError
from lxcbuild.files import sync_directory

_CHUNK = 1 << 20


class Incoming:
    """A scratch directory inside the repository (one file system: renames are whole), gone at the end of the block."""

    def __init__(self, root: Path, scratch: Path, code: str) -> None:
        self._root, self._scratch, self._code = root, scratch, code
        self._copies: dict[str, Path] = {}  # by path in the pool

    def __enter__(self) -> Self:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(mode=0o700)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._scratch)

    def take(self, files: Iterable[Path]) -> Iterator[IndexEntry]:
        """Copy and read every .deb and .dsc; raises RepositoryError for one that no repository should hold."""
        for path in files:
            if path.suffix not in (".deb", ".dsc"):
                continue
            try:
                yield self._deb(path) if path.suffix == ".deb" else self._dsc(path)
            except ArtifactError as error:
                raise RepositoryError(f"{path.name} cannot be published: {error}") from error
            except OSError as error:
                raise RepositoryError(f"{path} cannot be read: {error.strerror}: {error.filename}") from error

    def settle(self, entries: Iterable[IndexEntry]) -> None:
        """Move the copies of these entries into the pool. They are seen when a suite names them."""
        for entry in entries:
            for file in entry.files:
                place = self._root / file.path
                place.parent.mkdir(parents=True, exist_ok=True)
                self._copies[file.path].rename(place)
                for parent in list(place.parents)[: len(Path(file.path).parents) - 1]:
                    sync_directory(parent)

    def _deb(self, path: Path) -> IndexEntry:
        copy, sha256, size = self._copy(path)
        fields = artifacts.read_control(copy)
        entry = aptindex.binary_entry(fields, code=self._code, sha256=sha256, size_bytes=size)
        self._copies[entry.files[0].path] = copy
        return entry

    def _dsc(self, path: Path) -> IndexEntry:
        copies = {path.name: self._copy(path)}
        data = copies[path.name][0].read_bytes()
        dsc = sourcepackage.read_dsc(data, what=path.name)
        for name, (sha256, size) in dsc.files.items():
            copies[name] = self._copy(path.with_name(name))
            if copies[name][1:] != (sha256, size):
                raise ArtifactError(f"{name} beside it is not the file that it names")
        fields = sourcepackage.dsc_fields(data, what=path.name)
        name = f"{dsc.source}_{dsc.version.partition(':')[2] or dsc.version}.dsc"
        copies[name] = copies.pop(path.name)
        listed = {name: (sha256, size) for name, (_copy, sha256, size) in copies.items()}
        entry = aptindex.source_entry(fields, listed, code=self._code, dsc=name)
        for file in entry.files:
            self._copies[file.path] = copies[file.path.rpartition("/")[2]][0]
        return entry

    def _copy(self, path: Path) -> tuple[Path, str, int]:
        """A copy that is on the disk, with the hash and size of what was copied. Links are not followed: artefacts are files."""
        to = self._scratch / secrets.token_hex(8)
        digest, size = hashlib.sha256(), 0
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as source, to.open("xb") as copy:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ArtifactError("it is not a regular file")
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                copy.write(chunk)
            copy.flush()
            os.fchmod(copy.fileno(), 0o644)
            os.fsync(copy.fileno())
        return to, digest.hexdigest(), size
