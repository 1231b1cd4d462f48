"""Directories that are complete or not there."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lxcbuild.errors import DiskFullError, ExtractionError


@contextlib.contextmanager
def staged_directory(destination: Path) -> Iterator[Path]:
    """A new directory beside ``destination`` that takes its place when the block ends well, and vanishes when it does not.

    Raises :class:`ExtractionError` when ``destination`` holds something, :class:`DiskFullError` when there is no room.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name[:64]}.", dir=destination.parent))
    try:
        staging.chmod(0o755)
        yield staging
        try:
            staging.rename(destination)
        except OSError as error:
            raise ExtractionError(f"{destination} cannot be written: {error.strerror}") from error
    except BaseException as error:
        shutil.rmtree(staging)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"no room for {destination}", resolution="free some space there") from error
        raise
