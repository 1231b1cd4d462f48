"""Sources from this machine: an sdist file is copied into the cache, a project directory is packed into a tar archive there.

The host looks at names, kinds and sizes only. No content is interpreted, no symbolic link is followed, and no program reads
configuration of the tree's own (:mod:`lxcbuild.pypi.files.projectfiles`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct, field

from lxcbuild.errors import BadNameError, InputError, WrongHashError
from lxcbuild.events import Monitor, Note, NullMonitor
from lxcbuild.files import disk_full_or, sha256_of
from lxcbuild.model import Source, SourceKind
from lxcbuild.pypi.files.download import DEFAULT_MAX_BYTES, store
from lxcbuild.pypi.files.identity import canonical, sdist_suffix, split_sdist_name
from lxcbuild.pypi.files.projectfiles import open_parent, project_files
from lxcbuild.state.paths import StateDirs

#: What all files carry, so that equal files make equal archives: 1980, the first year that a zip archive knows.
_TIME = 315_532_800
_CHUNK = 1 << 20


def from_path(
    path: Path, dirs: StateDirs, *, monitor: Monitor | None = None, max_bytes: int = DEFAULT_MAX_BYTES
) -> Source:
    """A local sdist or project directory as a source in the cache; name and version are what the file's name claims.

    Raises :class:`InputError` for what is neither, for what is too large, :class:`BadNameError`, :class:`DiskFullError`.
    """
    watcher = monitor or NullMonitor()
    try:
        if path.is_dir():
            return _from_directory(path, dirs, watcher, max_bytes)
        return _from_file(path, dirs, max_bytes)
    except FileNotFoundError:
        raise InputError(f"there is no file or directory {str(path)[:200]}", resolution="check the path") from None
    except PermissionError as error:
        raise InputError(f"{error.filename or path} cannot be read: permission denied") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{str(path)[:200]} is, or holds, a name that is too long") from error
        raise disk_full_or(error, dirs.downloads) from error


def _from_file(path: Path, dirs: StateDirs, max_bytes: int) -> Source:
    if not path.exists():
        raise FileNotFoundError(path)
    if sdist_suffix(path.name) is None:
        raise InputError(
            f"{path.name[:100]} is not a source archive",
            resolution="give an sdist (.tar.gz, .zip, .tar.bz2, .tar.xz) or a project's directory",
        )
    identity = split_sdist_name(path.name)
    place, digest, size = copy_into_cache(path, dirs, name=_safe_name(path.name), max_bytes=max_bytes)
    return Source(
        kind=SourceKind.SDIST,
        name=identity[0] if identity else canonical(path.name[: -len(sdist_suffix(path.name) or "")]),
        version=str(identity[1]) if identity else "",
        path=place,
        sha256=digest,
        size_bytes=size,
    )


def copy_into_cache(
    path: Path,
    dirs: StateDirs,
    *,
    name: str,
    max_bytes: int = DEFAULT_MAX_BYTES,
    expected: tuple[str, int] | None = None,
) -> tuple[Path, str, int]:
    """A local file's place in the cache, its SHA-256 and its size; ``name`` is a checked file name. Raises OSError, InputError.

    With ``expected`` (SHA-256 and size) another file raises :class:`WrongHashError` before it is kept: a link among hostile files
    may lead to one that only root can read, and the cache is for everybody.
    """
    limit = max_bytes if expected is None else min(max_bytes, expected[1] + 1)
    with _incoming(dirs) as (fresh, stream):
        digest = hashlib.sha256()
        size = 0
        with _open_regular(path) as original:
            while data := original.read(min(_CHUNK, limit - size + 1)):
                size += len(data)
                digest.update(data)
                stream.write(data)
                if size > limit:
                    break
        stream.close()
        if expected is not None and (digest.hexdigest(), size) != expected:
            raise WrongHashError(
                f"{name} is not the file that was described",
                details=f"expected sha256 {expected[0]}, {expected[1]} bytes",
                resolution="fetch it again",
            )
        if size > max_bytes:
            raise _too_large(path, max_bytes)
        return store(dirs.downloads, fresh, digest.hexdigest(), name), digest.hexdigest(), size


def _from_directory(path: Path, dirs: StateDirs, monitor: Monitor, max_bytes: int) -> Source:
    root = path.resolve(strict=True)
    name = canonical(root.name)
    if not name.strip("-") or not name.isascii() or len(name) > 200:
        raise BadNameError(f"the directory's name {root.name[:80]!r} cannot name a project", resolution="rename it")
    files = project_files(root, lambda text: monitor.emit(Note(text=text, warning=True)))
    with _incoming(dirs) as (fresh, stream):
        packer = _Packer(root=root, top=_safe_name(root.name), max_bytes=max_bytes)
        packer.pack(files, stream)
        size = stream.tell()
        stream.close()
        digest = sha256_of(fresh)
        place = store(dirs.downloads, fresh, digest, f"{_safe_name(root.name)}.tar")
    for text in packer.skipped[:5]:
        monitor.emit(Note(text=text, warning=True))
    return Source(kind=SourceKind.TREE, name=name, version="", path=place, sha256=digest, size_bytes=size)


# -- packing ----------------------------------------------------------------------------------------------------


class _Packer(Struct):
    """Writes a tar archive that depends on names, contents and executable bits only."""

    root: Path
    top: str
    max_bytes: int
    total: int = 0
    skipped: list[str] = field(default_factory=list)

    def pack(self, files: list[str], stream: BinaryIO) -> None:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
            top = self._member("", mode=0o755)
            top.type = tarfile.DIRTYPE
            archive.addfile(top)
            for name in files:
                self._add(archive, name)

    def _add(self, archive: tarfile.TarFile, name: str) -> None:
        with contextlib.ExitStack() as stack:
            try:
                parent = open_parent(self.root, name, stack)
                leaf = name.rsplit("/", 1)[-1]
                facts = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                return  # tracked by git, deleted in the tree
            except OSError as error:
                self.skipped.append(f"{name} was left out of the sources: {error.strerror}")
                return
            if stat.S_ISLNK(facts.st_mode):
                member = self._member(name, mode=0o777)
                member.type, member.linkname = tarfile.SYMTYPE, os.readlink(leaf, dir_fd=parent)
                archive.addfile(member)
            elif stat.S_ISREG(facts.st_mode):
                self._add_file(archive, name, leaf, parent)
            elif not stat.S_ISDIR(facts.st_mode):
                self.skipped.append(f"{name} was left out of the sources: it is not a regular file")

    def _add_file(self, archive: tarfile.TarFile, name: str, leaf: str, parent: int) -> None:
        descriptor = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        with os.fdopen(descriptor, "rb") as content:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise InputError(f"{name} changed while it was packed", resolution="run the command again")
            self.total += facts.st_size
            if self.total > self.max_bytes:
                raise _too_large(self.root, self.max_bytes)
            member = self._member(name, mode=0o755 if facts.st_mode & stat.S_IXUSR else 0o644)
            member.size = facts.st_size
            try:
                archive.addfile(member, content)
            except OSError as error:
                if error.errno is not None:
                    raise
                raise InputError(f"{name} changed while it was packed", resolution="run the command again") from error

    def _member(self, name: str, *, mode: int) -> tarfile.TarInfo:
        member = tarfile.TarInfo(f"{self.top}/{name}" if name else self.top)
        member.mode, member.mtime = mode, _TIME
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member


# -- small things -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _incoming(dirs: StateDirs) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file next to its later place; gone at the end of the block unless it was moved there."""
    directory = dirs.downloads / "partial"
    directory.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=directory, prefix="local-")
    stream: BinaryIO = os.fdopen(descriptor, "r+b")
    try:
        yield Path(name), stream
    finally:
        stream.close()
        Path(name).unlink(missing_ok=True)


def _open_regular(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def _safe_name(name: str) -> str:
    return (
        "".join(c if c.isascii() and (c.isalnum() or c in "._+!~-") else "_" for c in name)[:200].lstrip(".-")
        or "source"
    )


def _too_large(path: Path, max_bytes: int) -> InputError:
    return InputError(f"{path} holds more than {max_bytes} bytes", resolution="remove or ignore what is no source")
