"""The cold form of a tree: a canonical tar, its digest, compressed with zstd; and back."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from lxcbuild import process
from lxcbuild.errors import CommandError, DiskFullError, ImageError
from lxcbuild.files import sha256_of

#: Overlay marks live in trusted.*; file capabilities of maintainer scripts in security.capability.
_XATTRS = (
    "--xattrs",
    "--xattrs-include=trusted.overlay.opaque",
    "--xattrs-include=security.capability",
)

_CHUNK_BYTES = 1 << 20
#: The end of what tar says, which may name every file of a hostile tree.
_SAID_BYTES = 1 << 16


def pack_tree(tree: Path, compressed: Path) -> str:
    """Write a directory as a tar, with a stable order and without names of users, compressed with zstd; SHA-256 of the plain tar.

    The tar itself is never on disk. Raises :class:`CommandError`, :class:`DiskFullError`.
    """
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as said, contextlib.ExitStack() as running:
        err = said.fileno()
        tar = running.enter_context(process.spawn(_tar(tree), stdout=process.PIPE, stderr=err))
        zstd = running.enter_context(process.spawn(_zstd(compressed), stdin=process.PIPE, stderr=err))
        plain, packed = process.piped(tar.stdout), process.piped(zstd.stdin)
        with contextlib.suppress(BrokenPipeError):  # zstd says why
            while chunk := plain.read(_CHUNK_BYTES):
                digest.update(chunk)
                packed.write(chunk)
            packed.close()
        # zstd first: tar, whose reader is gone when zstd has failed, is not what is to blame.
        for child, argv in ((zstd, _zstd(compressed)), (tar, _tar(tree))):
            status = child.wait()
            if status != 0:
                said.seek(max(0, said.seek(0, os.SEEK_END) - _SAID_BYTES))
                raise _full_disk_or(process.failed(process.Completed(tuple(argv), status, b"", said.read())))
    return digest.hexdigest()


def _tar(tree: Path) -> list[str]:
    return [
        "tar",
        "--create",
        "--file=-",
        f"--directory={tree}",
        "--sort=name",
        "--numeric-owner",
        "--format=posix",
        "--pax-option=delete=atime,delete=ctime,exthdr.name=%d/PaxHeaders/%f",
        "--one-file-system",
        *_XATTRS,
        ".",
    ]


def _zstd(compressed: Path, *more: str) -> list[str]:
    return ["zstd", "-q", "-3", "-T0", "-o", os.fspath(compressed), *more]


def compress(archive: Path, compressed: Path) -> str:
    """Compress with zstd, fast and on all CPUs, and remove the plain form; its SHA-256, taken at the same time."""
    from concurrent.futures import ThreadPoolExecutor  # 2 ms, for builds that make a layer

    with ThreadPoolExecutor(max_workers=1) as beside:
        digest = beside.submit(sha256_of, archive)
        _run(_zstd(compressed, os.fspath(archive)))
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
        raise _full_disk_or(error) from error


def _full_disk_or(error: CommandError) -> CommandError | DiskFullError:
    if "No space left on device" not in (error.details or ""):
        return error
    said = "no space left on device while an image is stored"
    return DiskFullError(said, details=error.details, resolution="lxcbuild gc")
