"""Unpack a source archive safely: PEP 706's rules by hand (older CPythons lack them), with caps on members, bytes and depth.

What is refused is the archive's fault (class ``broken-sdist``): absolute names, ``..``, links that lead out, devices, more than one
top-level directory. Owners, setuid bits and odd modes are not carried over.
"""

from __future__ import annotations

import calendar
import contextlib
import errno
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lxcbuild.debian.inside.report import refuse

MAX_MEMBERS = 200_000
MAX_BYTES = 8 * 1024**3
MAX_DEPTH = 64
MAX_NAME = 1024
_CHUNK = 1 << 20
_TAR_ENDS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar")
# The earliest and latest times that every file system and tar reader takes (ZIP begins in 1980).
_MTIME_RANGE = (315532800, 4102444800)


@dataclass(frozen=True)
class Unpacked:
    """What came out: the name of the single top-level directory, and the format (``tar.gz``, ``tar``, ``zip`` ...)."""

    top_level: str
    archive_format: str
    members: int
    size_bytes: int


@dataclass
class _Member:
    parts: tuple[str, ...]
    kind: str  # "file", "dir", "symlink", "hardlink"
    executable: bool = False
    mtime: float = 0.0
    link: str = ""
    size: int = 0
    raw: object = None


class _Writer:
    """Creates members below one new directory and never follows a link while doing so."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.members = 0
        self.size_bytes = 0

    def parent(self, parts: tuple[str, ...]) -> Path:
        place = self.root
        for part in parts[:-1]:
            place = place / part
            with contextlib.suppress(FileExistsError):
                place.mkdir(0o755)
            if not stat.S_ISDIR(place.lstat().st_mode):
                refuse("broken-sdist", f"a member lies below {'/'.join(parts[:-1])[:200]!r}, which is not a directory")
        return place

    def add(self, member: _Member, data: IO[bytes] | None) -> None:
        self.members += 1
        if self.members > MAX_MEMBERS:
            refuse("broken-sdist", f"the archive has more than {MAX_MEMBERS} members")
        path = self.parent(member.parts) / member.parts[-1]
        if member.kind == "dir":
            if not (path.exists() and not path.is_symlink() and path.is_dir()):
                self._replace(path)
                path.mkdir(0o755)
            return
        self._replace(path)
        if member.kind == "symlink":
            self._check_symlink(member)
            path.symlink_to(member.link)
        elif member.kind == "hardlink":
            self._copy_of(member, path)
        else:
            assert data is not None
            self._write(path, data)
            path.chmod(0o755 if member.executable else 0o644)
            low, high = _MTIME_RANGE
            when = min(max(member.mtime, low), high)
            os.utime(path, (when, when))

    @staticmethod
    def _replace(path: Path) -> None:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            refuse("broken-sdist", f"{path.name[:200]!r} is both a directory and a file in the archive")

    def _check_symlink(self, member: _Member) -> None:
        if not member.link or member.link.startswith("/") or len(member.link) > MAX_NAME or "\0" in member.link:
            refuse("broken-sdist", f"{'/'.join(member.parts)[:200]!r} is a link to an absolute or odd place")
        # Each ".." counts from the link's own directory; the top-level directory itself must not be left.
        depth = len(member.parts) - 1
        for part in member.link.split("/"):
            depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
            if depth < 1:
                refuse("broken-sdist", f"{'/'.join(member.parts)[:200]!r} is a link that leads out of the archive")

    def _copy_of(self, member: _Member, path: Path) -> None:
        target = self.root
        for part in split_name(member.link):
            target = target / part
            if target.is_symlink():
                refuse("broken-sdist", f"the hard link {'/'.join(member.parts)[:200]!r} leads through a link")
        if not target.is_file():
            refuse("broken-sdist", f"the hard link {'/'.join(member.parts)[:200]!r} leads nowhere")
        with target.open("rb") as data:
            self._write(path, data)
        shutil.copystat(target, path)

    def _write(self, path: Path, data: IO[bytes]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o644), "wb") as out:
            while True:
                chunk = data.read(_CHUNK)
                if not chunk:
                    return
                self.size_bytes += len(chunk)
                if self.size_bytes > MAX_BYTES:
                    refuse("broken-sdist", f"the archive unpacks to more than {MAX_BYTES} bytes")
                out.write(chunk)


def split_name(name: str) -> tuple[str, ...]:
    """The components of a member's name; refuses what could leave the directory or what no file system holds."""
    if name.startswith("/") or "\0" in name or "\\" in name.split("/")[0]:
        refuse("broken-sdist", f"the archive has a member with an absolute or odd name: {name[:200]!r}")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        refuse("broken-sdist", f"the archive has a member that leads out of it: {name[:200]!r}")
    if len(parts) > MAX_DEPTH or len(os.fsencode(name)) > MAX_NAME or any(len(os.fsencode(p)) > 255 for p in parts):
        refuse("broken-sdist", f"the archive has a member with too deep or too long a name: {name[:200]!r}")
    return parts


def archive_format(name: str) -> str:
    """``tar.gz``, ``tar.bz2``, ``tar.xz``, ``tar`` or ``zip`` by the file name; refuses others."""
    lower = name.lower()
    if lower.endswith(".zip"):
        return "zip"
    for end in _TAR_ENDS:
        if lower.endswith(end):
            return {"tgz": "tar.gz", "tbz2": "tar.bz2", "txz": "tar.xz"}.get(end[1:], end[1:])
    refuse("broken-sdist", f"{name[:200]!r} is not a source archive (tar.gz, tar.bz2, tar.xz, tar or zip)")
    return None


def unpack(archive: Path, destination: Path) -> Unpacked:
    """Unpack ``archive`` and move its single top-level directory to ``destination`` (which must not exist)."""
    form = archive_format(archive.name)
    scratch = destination.with_name(destination.name + ".unpacking")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    writer = _Writer(scratch)
    try:
        if form == "zip":
            _unpack_zip(archive, writer)
        else:
            _unpack_tar(archive, writer)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM):
            raise
        refuse("broken-sdist", f"the archive cannot be read: {error}")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError,
            NotImplementedError, RecursionError, OverflowError) as error:  # fmt: skip
        refuse("broken-sdist", f"the archive cannot be read: {type(error).__name__}: {str(error)[:300]}")
    names = [path.name for path in scratch.iterdir()]
    tops = sorted(entry for entry in names if not entry.startswith("._") and entry != "__MACOSX")
    if len(tops) != 1 or not (scratch / tops[0]).is_dir() or (scratch / tops[0]).is_symlink():
        shown = ", ".join(tops[:5]) or "nothing"
        refuse("broken-sdist", f"the archive does not hold exactly one top-level directory (it holds {shown[:300]})")
    (scratch / tops[0]).rename(destination)
    shutil.rmtree(scratch)
    return Unpacked(tops[0], form, writer.members, writer.size_bytes)


def _unpack_tar(archive: Path, writer: _Writer) -> None:
    with tarfile.open(archive, "r:*", encoding="utf-8", errors="surrogateescape") as tar:
        for member in _tar_members(tar):
            info = member.raw
            assert isinstance(info, tarfile.TarInfo)
            if member.kind == "file":
                data = tar.extractfile(info)
                assert data is not None
                with data:
                    writer.add(member, data)
            else:
                writer.add(member, None)


def _tar_members(tar: tarfile.TarFile) -> Iterator[_Member]:
    while True:
        info = tar.next()
        if info is None:
            return
        # TarFile remembers every member; a million empty ones would fill the memory before the cap on members is met.
        tar.members = []  # type: ignore[attr-defined]
        parts = split_name(info.name)
        if not parts:
            continue
        if info.isdir():
            kind = "dir"
        elif info.issym():
            kind = "symlink"
        elif info.islnk():
            kind = "hardlink"
        elif info.isreg():
            kind = "file"
        else:
            refuse("broken-sdist", f"the archive holds a device or another special file: {info.name[:200]!r}")
        if kind == "file" and info.size > MAX_BYTES:
            refuse("broken-sdist", f"the archive unpacks to more than {MAX_BYTES} bytes")
        yield _Member(parts, kind, bool(info.mode & 0o100), float(info.mtime), info.linkname, info.size, info)


def _unpack_zip(archive: Path, writer: _Writer) -> None:
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            parts = split_name(info.filename.rstrip("/"))
            if not parts:
                continue
            mode = info.external_attr >> 16
            executable = bool(mode & 0o100)
            when = _zip_time(info)
            if info.is_dir():
                writer.add(_Member(parts, "dir"), None)
            elif stat.S_ISLNK(mode):
                if info.file_size > MAX_NAME:
                    refuse("broken-sdist", f"the link {info.filename[:200]!r} is too long")
                writer.add(_Member(parts, "symlink", link=os.fsdecode(zipped.read(info))), None)
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                refuse("broken-sdist", f"the archive holds a special file: {info.filename[:200]!r}")
            else:
                with zipped.open(info) as data:
                    writer.add(_Member(parts, "file", executable, when), data)


def _zip_time(info: zipfile.ZipInfo) -> float:
    try:
        return float(calendar.timegm((*info.date_time, 0, 0, 0)))
    except (ValueError, OverflowError):
        return float(_MTIME_RANGE[0])
