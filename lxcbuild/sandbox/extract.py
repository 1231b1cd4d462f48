"""Reading what a dead sandbox left behind: output files, changed paths, the writable layer as a new lower directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from lxcbuild.model import OutputLimits
from lxcbuild.sandbox.base import Change, ExtractedFile


def extract(root_fd: int, inside_dir: str, destination: Path, limits: OutputLimits) -> list[ExtractedFile]:
    """Copy the regular files below ``inside_dir`` of the merged tree ``root_fd`` to the new directory ``destination``."""
    ...


def changes(upper_fd: int, *, prefixes: Sequence[str] = ("/",), max_entries: int = 200_000) -> Iterator[Change]:
    """What the overlay's upper directory holds below the prefixes, sorted, bounded."""
    ...


def save_delta(upper_fd: int, destination: Path, *, id_start: int, id_count: int = 65536, trusted: bool = False) -> None:
    """Copy the upper directory to the new directory ``destination`` as an overlay lower owned by 0-based ids."""
    ...
