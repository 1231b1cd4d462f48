"""The store of a farm: files by their content, and results of jobs by name, in a directory or wherever fsspec reaches.

Every file appears whole or not at all, and is checked against its hash when it is fetched: the store may be on a disk or a server
that others use. Results are JSON that is checked when it is read; nobody unpickles what lies in a store.
"""

from __future__ import annotations

import errno
import hashlib
import io
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from lxcbuild.errors import DiskFullError, FarmError, WrongHashError
from lxcbuild.farm.engines.engine import StoredFile
from lxcbuild.files import sha256_of, write_whole

MAX_DOCUMENT_BYTES = 64 << 20
_BLOCK = 1 << 20


class ArtifactStore(Protocol):
    """What both kinds of store do. Raises DiskFullError, FarmError for a store that cannot be used."""

    def put(self, path: Path) -> StoredFile:
        """Keep a file; one that is there already is not copied again."""

    def get(self, file: StoredFile, directory: Path) -> Path:
        """A copy in a directory, under its name; raises WrongHashError when the store has something else."""

    def write(self, place: str, data: bytes) -> None:
        """Keep a small document under a name (``a/b.json``), in place of an older one; there even after a power loss."""

    def read(self, place: str) -> bytes | None:
        """A document; None when there is none. Raises FarmError for one of more than :data:`MAX_DOCUMENT_BYTES`."""

    def list(self, directory: str) -> list[str]:
        """Names of all documents directly below ``directory``, as :meth:`read` takes them."""

    def remove(self, place: str) -> None:
        """Drop a document, if it is there."""


def open_store(url: str) -> ArtifactStore:
    """The store at an absolute path or URL; made when it is not there."""
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        return DirectoryStore(Path(parts.path))
    return RemoteStore(url)


def object_place(sha256: str) -> str:
    """Where a file of that content lies."""
    return f"objects/{sha256[:2]}/{sha256}"


class DirectoryStore:
    """A directory, perhaps of a network file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, path: Path) -> StoredFile:
        """See :class:`ArtifactStore`."""
        digest = sha256_of(path)
        found = StoredFile(name=path.name, sha256=digest, size_bytes=path.stat().st_size)
        place = self.root / object_place(digest)
        if not (place.is_file() and place.stat().st_size == found.size_bytes):
            with path.open("rb") as source:
                self._place(place, source)
        return found

    def get(self, file: StoredFile, directory: Path) -> Path:
        """See :class:`ArtifactStore`."""
        try:
            with (self.root / object_place(file.sha256)).open("rb") as source:
                return _checked_copy(source, file, directory)
        except FileNotFoundError:
            raise FarmError(f"{file.name} is not in the store {self.root}", resolution="build it again") from None

    def write(self, place: str, data: bytes) -> None:
        """See :class:`ArtifactStore`."""
        self._place(self.root / place, data)

    def read(self, place: str) -> bytes | None:
        """See :class:`ArtifactStore`."""
        try:
            with (self.root / place).open("rb") as source:
                return _document(source, place)
        except FileNotFoundError:
            return None

    def list(self, directory: str) -> list[str]:
        """See :class:`ArtifactStore`."""
        try:
            names = sorted(entry.name for entry in (self.root / directory).iterdir() if entry.is_file())
        except FileNotFoundError:
            return []
        return [f"{directory}/{name}" for name in names if not name.startswith(".")]

    def remove(self, place: str) -> None:
        """See :class:`ArtifactStore`."""
        (self.root / place).unlink(missing_ok=True)

    def _place(self, place: Path, source: IO[bytes] | bytes) -> None:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, source, durable=True)
        except OSError as error:
            raise _named(error, str(self.root)) from error


class RemoteStore:
    """Anything that fsspec reaches: S3-compatible services, HTTP servers that take files, memory (for tests)."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            filesystem, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise FarmError(
                f"the store {url.split('?')[0]} cannot be used: {error}",
                resolution="install what fsspec needs for it (s3fs for s3://), or use a directory",
            ) from error
        self._fs: Any = filesystem
        self._root = str(root).rstrip("/")
        self.url = url

    def put(self, path: Path) -> StoredFile:
        """See :class:`ArtifactStore`."""
        digest = sha256_of(path)
        found = StoredFile(name=path.name, sha256=digest, size_bytes=path.stat().st_size)
        place = f"{self._root}/{object_place(digest)}"
        try:
            if not (self._fs.exists(place) and self._fs.size(place) == found.size_bytes):
                with path.open("rb") as source:
                    self._upload(place, source)
        except OSError as error:
            raise _named(error, self.url) from error
        return found

    def get(self, file: StoredFile, directory: Path) -> Path:
        """See :class:`ArtifactStore`."""
        try:
            with self._fs.open(f"{self._root}/{object_place(file.sha256)}", "rb") as source:
                return _checked_copy(source, file, directory)
        except FileNotFoundError:
            raise FarmError(f"{file.name} is not in the store {self.url}", resolution="build it again") from None

    def write(self, place: str, data: bytes) -> None:
        """See :class:`ArtifactStore`."""

        try:
            self._upload(f"{self._root}/{place}", io.BytesIO(data))
        except OSError as error:
            raise _named(error, self.url) from error

    def read(self, place: str) -> bytes | None:
        """See :class:`ArtifactStore`."""
        try:
            with self._fs.open(f"{self._root}/{place}", "rb") as source:
                return _document(source, place)
        except FileNotFoundError:
            return None

    def list(self, directory: str) -> list[str]:
        """See :class:`ArtifactStore`."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(f"{self._root}/{directory}", detail=True)
        except FileNotFoundError:
            return []
        names = sorted(str(entry["name"]).rsplit("/", 1)[-1] for entry in found if entry["type"] == "file")
        return [f"{directory}/{name}" for name in names if not name.startswith(".")]

    def remove(self, place: str) -> None:
        """See :class:`ArtifactStore`."""
        try:
            self._fs.rm_file(f"{self._root}/{place}")
        except FileNotFoundError:
            return

    def _upload(self, place: str, source: IO[bytes]) -> None:
        """Under another name first where moving is one step; object stores show an object only when it is complete."""
        parent, _, name = place.rpartition("/")
        self._fs.makedirs(parent, exist_ok=True)
        fresh = f"{parent}/.{name}.{secrets.token_hex(6)}"
        with self._fs.open(fresh, "wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
        self._fs.mv(fresh, place)


def _document(source: IO[bytes], place: str) -> bytes:
    data = source.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise FarmError(f"{place} in the store has more than {MAX_DOCUMENT_BYTES} bytes", resolution="remove it")
    return data


def _checked_copy(source: IO[bytes], file: StoredFile, directory: Path) -> Path:
    place = directory / Path(file.name).name
    fresh = place.with_name(f".{place.name}.{secrets.token_hex(6)}")
    digest, left = hashlib.sha256(), file.size_bytes + 1
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with fresh.open("xb") as target:
            while block := source.read(min(_BLOCK, left)):
                digest.update(block)
                target.write(block)
                left -= len(block)
        if digest.hexdigest() != file.sha256:
            raise WrongHashError(
                f"the store has something else under the hash of {file.name}",
                details=f"expected {file.sha256}, found {digest.hexdigest()}",
                resolution="remove that object from the store, and build again",
            )
        fresh.replace(place)
    except OSError as error:
        raise _named(error, str(directory)) from error
    finally:
        fresh.unlink(missing_ok=True)
    return place


def _named(error: OSError, where: str) -> DiskFullError | FarmError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"no space left in {where}", resolution="free some space (lxcbuild gc helps)")
    return FarmError(f"the store {where} cannot be used: {error}", resolution="check the path and who may write there")


def walk_results(store: ArtifactStore, run: str) -> Iterator[tuple[str, bytes]]:
    """Places and contents of all results that workers have left for a run."""
    for place in store.list(f"results/{run}"):
        data = store.read(place)
        if data is not None:
            yield place, data
