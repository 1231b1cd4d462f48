"""The cold form of a tree: a canonical tar, its digest, compressed with zstd; and back."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from lxcbuild import process
from lxcbuild.errors import CommandError, DiskFullError, ImageError

#: Overlay marks live in trusted.*; file capabilities of maintainer scripts in security.capability.
_XATTRS = (
    "--xattrs",
    "--xattrs-include=trusted.overlay.opaque",
    "--xattrs-include=security.capability",
)


def tar_tree(tree: Path, archive: Path) -> None:
    """Write a directory as an uncompressed tar with a stable order and without names of users."""
    _run(
        [
            "tar",
            "--create",
            f"--file={archive}",
            f"--directory={tree}",
            "--sort=name",
            "--numeric-owner",
            "--format=posix",
            "--pax-option=delete=atime,delete=ctime,exthdr.name=%d/PaxHeaders/%f",
            "--one-file-system",
            *_XATTRS,
            ".",
        ]
    )


def digest_of(archive: Path) -> str:
    """SHA-256 of a file."""
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compress(archive: Path, compressed: Path) -> str:
    """Compress with zstd, fast and on all CPUs, and remove the plain form; its SHA-256, taken at the same time."""
    from concurrent.futures import ThreadPoolExecutor  # not what a build that makes no layer has to load

    with ThreadPoolExecutor(max_workers=1) as beside:
        digest = beside.submit(digest_of, archive)
        _run(["zstd", "-q", "-3", "-T0", "-o", os.fspath(compressed), os.fspath(archive)])
        found = digest.result()
    archive.unlink()
    return found


def unpack(compressed: Path, tree: Path) -> None:
    """Unpack an archive of ours into an empty directory, owners and overlay marks as they were.

    Raises :class:`ImageError` when the archive is damaged, :class:`DiskFullError` when there is no room.
    """
    try:
        _run(
            [
                "tar",
                "--extract",
                f"--file={compressed}",
                "--use-compress-program=zstd",
                f"--directory={tree}",
                "--numeric-owner",
                "--same-owner",
                "--preserve-permissions",
                *_XATTRS,
            ]
        )
    except CommandError as error:
        raise ImageError(f"{compressed.name} cannot be unpacked", details=error.details) from error


def tree_bytes(tree: Path) -> int:
    """Bytes that the tree takes in a tmpfs: whole pages per file, one page per name."""
    page = 4096
    total = 0
    for directory, names, files in os.walk(tree):
        total += page * len(names)
        for name in files:
            total += page + -(-os.lstat(os.path.join(directory, name)).st_size // page) * page  # noqa: PTH118 - hot loop
    return total


def tar_bytes(archive: Path) -> int:
    """The same, estimated from an uncompressed tar: contents rounded to 512 bytes there, to pages here."""
    return int(archive.stat().st_size * 1.1)


def _run(argv: list[str]) -> None:
    try:
        process.run(argv)
    except CommandError as error:
        if "No space left on device" in (error.details or ""):
            raise DiskFullError(
                "no space left on device while an image is stored", details=error.details, resolution="lxcbuild gc"
            ) from error
        raise
