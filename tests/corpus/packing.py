"""Makes sdists of the small projects of this corpus, and archives that are not sdists at all."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

MISBEHAVING = Path(__file__).parent / "misbehaving"
MIB = 1 << 20


def metadata(name: str, version: str = "1.0") -> str:
    """What ``PKG-INFO`` says."""
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: A project that misbehaves\n"


def sdist(project: Path, folder: Path, *, version: str = "1.0", more: Mapping[str, bytes] | None = None) -> Path:
    """The source archive of one project of the corpus: its files and ``more``, a module of its name, and its metadata."""
    name = project.name
    files = sorted(path for path in project.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    members = {path.relative_to(project).as_posix(): path.read_bytes() for path in files}
    members |= more or {}
    members |= {"PKG-INFO": metadata(name, version).encode(), f"{name}.py": b'"""A module."""\n'}
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members.items():
            info = tarfile.TarInfo(f"{name}-{version}/{member}")
            info.size = len(content)
            info.mtime = 1_600_000_000
            tar.addfile(info, io.BytesIO(content))
    return path


def tar_with(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """A tar archive of anything below honest metadata: what ``path`` is called decides the name and version."""
    stem = path.name.removesuffix(".tar.gz")
    info = tarfile.TarInfo(f"{stem}/PKG-INFO")
    content = metadata(*stem.rsplit("-", 1)).encode()
    info.size = len(content)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(info, io.BytesIO(content))
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def gzip_bomb(path: Path, *, size_bytes: int) -> Path:
    """A tar archive of one huge file of zeros: the same compressed MiBs again and again, made in no time."""
    stem = path.name.removesuffix(".tar.gz")
    info = tarfile.TarInfo(f"{stem}/zeros")
    info.size = size_bytes
    block = gzip.compress(bytes(64 * MIB), 9)
    with path.open("wb") as file:
        file.write(gzip.compress(info.tobuf()))
        for _ in range(size_bytes // (64 * MIB)):
            file.write(block)
        file.write(gzip.compress(bytes(1024)))
    return path


def xz_bomb(path: Path, *, size_bytes: int) -> Path:
    """The same, a hundred times denser: xz streams one after another are one xz file."""
    stem = path.name.removesuffix(".tar.xz")
    info = tarfile.TarInfo(f"{stem}/zeros")
    info.size = size_bytes
    block = lzma.compress(bytes(64 * MIB), preset=1)
    with path.open("wb") as file:
        file.write(lzma.compress(info.tobuf()))
        for _ in range(size_bytes // (64 * MIB)):
            file.write(block)
        file.write(lzma.compress(bytes(1024)))
    return path


def zip_bomb(path: Path, *, size_bytes: int) -> Path:
    """One member that unpacks to ``size_bytes`` of zeros."""
    stem = path.name.removesuffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(f"{stem}/PKG-INFO", metadata(*stem.rsplit("-", 1)))
        info = zipfile.ZipInfo(f"{stem}/zeros")
        info.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(info, "w", force_zip64=True) as member:
            for _ in range(size_bytes // (16 * MIB)):
                member.write(bytes(16 * MIB))
    return path


def zip_with(path: Path, *members: tuple[str, bytes]) -> Path:
    """A zip archive of anything below honest metadata."""
    stem = path.name.removesuffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{stem}/PKG-INFO", metadata(*stem.rsplit("-", 1)))
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data)
    return path
