"""The content-addressed cache of fetched files: ``sha256/ab/<digest>/<file name>``, hash-checked on every use.

A file comes into the cache by one rename, after its hash was checked. Downloads resume where they broke off; two processes
that want the same file fetch it once, because they hold the lock of its partial copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field

from lxcbuild.errors import InputError, NetworkError, WrongHashError
from lxcbuild.events import Monitor, Note, Progress
from lxcbuild.files import disk_full_or, sha256_of, write_whole
from lxcbuild.pypi.index.http import Answer, Http, TransientError, host_of
from lxcbuild.pypi.index.model import IndexFile
from lxcbuild.state.paths import StateDirs

DEFAULT_MAX_BYTES = 1024**3
_CHUNK = 256 * 1024
#: From the strongest to the weakest; the last two do not protect against a deliberate forgery.
_ALGORITHMS = ("sha256", "sha512", "sha384", "sha3_256", "sha3_512", "blake2b", "blake2s", "sha224", "sha1", "md5")
_WEAK = ("sha1", "md5")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _Partial(Struct):
    """A file on its way in: how much of it is there, and the validator that lets it go on."""

    path: Path
    key: str
    etag: str | None = None
    size: int = 0
    hashers: dict[str, hashlib._Hash] = field(default_factory=dict)


class Downloads:
    """The cache below ``StateDirs.downloads``."""

    def __init__(self, dirs: StateDirs, http: Http, monitor: Monitor) -> None:
        self._root = dirs.downloads
        self._http = http
        self._monitor = monitor

    def fetch(self, file: IndexFile, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Path:
        """The path of a file's verified copy, fetched when needed. Raises :class:`NetworkError`, :class:`WrongHashError`,
        :class:`DiskFullError`, and :class:`InputError` when it is larger than ``max_bytes``.
        """
        try:
            return self._fetch(file, max_bytes)
        except OSError as error:
            raise disk_full_or(error, self._root) from error

    def _fetch(self, file: IndexFile, max_bytes: int) -> Path:
        if file.size_bytes is not None and file.size_bytes > max_bytes:
            raise _too_large(file, max_bytes)
        expected = file.hashes.get("sha256") or self._first_seen(file)
        if expected and (found := self._cached(expected, file.filename)):
            return found
        key = hashlib.sha256(f"{expected or ''} {file.url}".encode()).hexdigest()
        with self._locked(key) as path:
            # Another process may have finished it while this one waited.
            if expected and (found := self._cached(expected, file.filename)):
                return found
            if file.url.startswith("file:"):
                partial = self._copy(file, path, key, max_bytes)
            else:
                partial = self._download(file, path, key, max_bytes)
            digest = partial.hashers["sha256"].hexdigest()
            if expected is None:
                self._remember(file, digest)
            return store(self._root, path, digest, file.filename)

    def _cached(self, digest: str, filename: str) -> Path | None:
        path = content_path(self._root, digest, filename)
        try:
            actual = sha256_of(path)
        except FileNotFoundError:
            return None
        if actual == digest:
            return path
        self._monitor.emit(Note(text=f"the cached copy of {filename} was damaged; fetching it again", warning=True))
        path.unlink(missing_ok=True)
        return None

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[Path]:
        """The path of a partial copy, locked; the lock file goes away together with the partial copy."""
        directory = self._root / "partial"
        directory.mkdir(parents=True, exist_ok=True)
        lock = directory / f"{key}.lock"
        path = directory / f"{key}.part"
        with _hold(lock):
            yield path
            path.with_suffix(".json").unlink(missing_ok=True)
            lock.unlink(missing_ok=True)

    # -- from the network ---------------------------------------------------------------------------------------

    def _download(self, file: IndexFile, path: Path, key: str, max_bytes: int) -> _Partial:
        resumed = path.exists() and path.stat().st_size > 0
        while True:
            partial = self._http.retrying(file.url, lambda: self._attempt(file, path, key, max_bytes))
            try:
                self._verify(file, partial)
            except WrongHashError:
                path.unlink(missing_ok=True)
                if not resumed:
                    raise
                # The first half may have come from another edition of the file: once more, from its beginning.
                resumed = False
                continue
            return partial

    def _attempt(self, file: IndexFile, path: Path, key: str, max_bytes: int) -> _Partial:
        partial = _load_partial(path, key)
        headers = {"Accept": "*/*"}
        if partial.size:
            headers["Range"] = f"bytes={partial.size}-"
            if partial.etag:
                headers["If-Range"] = partial.etag
        with self._http.get(file.url, headers, raw=True) as answer:
            if answer.status in (404, 410):
                raise NetworkError(
                    f"{host_of(file.url)} lists {file.filename} but does not have it",
                    details=f"{file.url}: {answer.status}",
                )
            if answer.status == 416 or (answer.status == 206 and not _continues(answer, partial.size)):
                path.unlink(missing_ok=True)
                raise TransientError("the download cannot be resumed")
            append = answer.status == 206
            if not append:
                partial = _Partial(path, key)
            self._receive(file, answer, partial, append=append, max_bytes=max_bytes)
        return partial

    def _receive(self, file: IndexFile, answer: Answer, partial: _Partial, *, append: bool, max_bytes: int) -> None:
        etag = answer.headers.get("etag", "")
        # Only a strong validator makes sure that the second half belongs to the first (RFC 9110, 13.1.5).
        partial.etag = etag if etag.startswith('"') else None
        partial.path.with_suffix(".json").write_text(json.dumps({"etag": partial.etag}))
        length = answer.headers.get("content-length", "")
        total = partial.size * append + int(length) if length.isascii() and length.isdigit() else file.size_bytes
        if total is not None and total > max_bytes:
            raise _too_large(file, max_bytes)
        hashers = _hashers(file)
        with partial.path.open("r+b" if append else "wb") as stream:
            if append:
                _feed(stream, hashers)
            shown_at = 0.0
            for data in answer.chunks():
                stream.write(data)
                for hasher in hashers.values():
                    hasher.update(data)
                partial.size += len(data)
                if partial.size > max_bytes:
                    raise _too_large(file, max_bytes)
                if time.monotonic() - shown_at > 0.1:
                    shown_at = time.monotonic()
                    self._monitor.emit(Progress(task=file.filename, done=partial.size, total=total))
        partial.hashers = hashers
        if file.size_bytes is not None and partial.size < file.size_bytes:
            raise TransientError(f"only {partial.size} of {file.size_bytes} bytes came")
        self._monitor.emit(Progress(task=file.filename, done=partial.size, total=partial.size))

    # -- from a local path --------------------------------------------------------------------------------------

    def _copy(self, file: IndexFile, path: Path, key: str, max_bytes: int) -> _Partial:
        source = Path(unquote(urlsplit(file.url).path))
        partial = _Partial(path, key, hashers=_hashers(file))
        try:
            incoming = source.open("rb")
        except FileNotFoundError:
            raise InputError(f"{source} is listed by the local index, but does not exist") from None
        with incoming, path.open("wb") as stream:
            while data := incoming.read(_CHUNK):
                partial.size += len(data)
                if partial.size > max_bytes:
                    raise _too_large(file, max_bytes)
                stream.write(data)
                for hasher in partial.hashers.values():
                    hasher.update(data)
        try:
            self._verify(file, partial)
        except WrongHashError:
            path.unlink(missing_ok=True)
            raise
        return partial

    # -- hashes -------------------------------------------------------------------------------------------------

    def _verify(self, file: IndexFile, partial: _Partial) -> None:
        expected = dict(file.hashes)
        first_seen = self._first_seen(file)
        if "sha256" not in expected and first_seen:
            expected["sha256"] = first_seen
        for algorithm, digest in expected.items():
            if algorithm in partial.hashers and partial.hashers[algorithm].hexdigest() != digest:
                raise WrongHashError(
                    f"{file.filename} is not the file that was promised: its {algorithm} differs",
                    details=f"promised: {digest}\nfetched:  {partial.hashers[algorithm].hexdigest()}\nfrom:     {file.url}",
                    resolution="try again later; when it stays so, tell the project: the file may have been tampered with",
                )
        if not any(algorithm in file.hashes and algorithm not in _WEAK for algorithm in _ALGORITHMS):
            kind = "only a weak hash" if any(algorithm in file.hashes for algorithm in _WEAK) else "no hash"
            digest = partial.hashers["sha256"].hexdigest()
            self._monitor.emit(
                Note(
                    text=f"the index gives {kind} of {file.filename}: trusted on first use, sha256 {digest}",
                    warning=True,
                )
            )

    def _first_seen(self, file: IndexFile) -> str | None:
        try:
            data = json.loads(self._first_seen_path(file).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        digest = data.get("sha256") if isinstance(data, dict) else None
        return digest if isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest) else None

    def _remember(self, file: IndexFile, digest: str) -> None:
        # A local file may be made anew under its old name; only what came over the network must stay what it was.
        if not file.url.startswith("file:"):
            place = self._first_seen_path(file)
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, json.dumps({"url": file.url, "sha256": digest}), durable=False, mode=0o600)

    def _first_seen_path(self, file: IndexFile) -> Path:
        return self._root / "first-seen" / f"{hashlib.sha256(file.url.encode()).hexdigest()}.json"


def content_path(downloads: Path, digest: str, filename: str) -> Path:
    """Where a file of that SHA-256 lies: its name is kept, because tools judge archives by their suffix."""
    return downloads / "sha256" / digest[:2] / digest / filename


def store(downloads: Path, path: Path, digest: str, filename: str) -> Path:
    """Move a complete, verified file of the same file system into its place; returns that place."""
    place = content_path(downloads, digest, filename)
    place.parent.mkdir(parents=True, exist_ok=True)
    path.chmod(0o644)
    path.replace(place)
    return place


@contextlib.contextmanager
def _hold(lock: Path) -> Iterator[None]:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The one who held it before may have removed the file: then this lock guards nothing.
            with contextlib.suppress(FileNotFoundError):
                if lock.stat().st_ino == os.fstat(descriptor).st_ino:
                    yield
                    return
        finally:
            os.close(descriptor)


def _load_partial(path: Path, key: str) -> _Partial:
    try:
        size = path.stat().st_size
        etag = json.loads(path.with_suffix(".json").read_bytes())["etag"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return _Partial(path, key)
    return _Partial(path, key, etag=etag if isinstance(etag, str) else None, size=size)


def _continues(answer: Answer, size: int) -> bool:
    match = _RANGE.fullmatch(answer.headers.get("content-range", ""))
    return match is not None and int(match[1]) == size


def _hashers(file: IndexFile) -> dict[str, hashlib._Hash]:
    wanted = {"sha256", *(algorithm for algorithm in file.hashes if algorithm in _ALGORITHMS)}
    return {algorithm: hashlib.new(algorithm, usedforsecurity=algorithm not in _WEAK) for algorithm in sorted(wanted)}


def _feed(stream: BinaryIO, hashers: dict[str, hashlib._Hash]) -> None:
    while data := stream.read(_CHUNK):
        for hasher in hashers.values():
            hasher.update(data)


def _too_large(file: IndexFile, max_bytes: int) -> InputError:
    return InputError(
        f"{file.filename} is larger than {max_bytes} bytes",
        details=file.url,
        resolution="fetch it by hand and build from the file",
    )
