"""Bounded readers for what a build leaves: .deb archives, taken as hostile bytes and never unpacked.

Nothing here is lenient: what two programs could read in two ways is refused, so that dpkg sees what the gate saw. A package is
read when ``dpkg-deb --build`` could have written it, byte for byte. Formats: deb(5), deb822(5), and the two modules for its shell
(:mod:`lxcbuild.debian.gate.debfile`) and its tar archives (:mod:`lxcbuild.debian.gate.debtar`).
"""

from __future__ import annotations

import contextlib
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from msgspec import Struct

from lxcbuild.debian.gate import debfile, debtar
from lxcbuild.debian.gate.debfile import Budget
from lxcbuild.debian.gate.debtar import TarMember
from lxcbuild.debian.stanza import ArtifactError, checksums, parse_stanza

__all__ = ["ArtifactError", "Budget", "Deb", "TarMember", "checksums", "parse_stanza", "read_control", "read_deb"]

MAX_CONTROL_BYTES = 4 * 1024 * 1024
MAX_DATA_BYTES = 8 * 1024**3
#: What the gate reads: members that programs take orders from.
_READ = re.compile(r"[^\0]*\.pth|usr/share/zsh/(?:vendor-completions|site-functions)/[^/]+")
_MAX_READ_BYTES = 64 * 1024


class Deb(Struct, frozen=True, kw_only=True):
    """A binary package: its control stanza, its other control files by name, its file tree with the data of what the gate reads."""

    path: Path
    control: dict[str, str]
    control_files: dict[str, bytes]
    members: tuple[TarMember, ...]


def read_deb(path: Path, *, max_data_bytes: int = MAX_DATA_BYTES, budget: Budget | None = None) -> Deb:
    """Read a .deb within the bounds; ``budget`` is one that several packages share.

    Raises :class:`ArtifactError` for anything that dpkg-deb would not have written.
    """
    budget = budget or Budget()
    with _reading(path) as file:
        control_part, data_part = debfile.parts(file)
        control_files = _control_files(file, control_part, budget)
        with debfile.opened(file, data_part, stem="data", limit=max_data_bytes, budget=budget) as stream:
            members = tuple(debtar.members(stream, keeps=_keeps))
    control = _control_stanza(control_files)
    return Deb(path=path, control=control, control_files=control_files, members=members)


def read_control(path: Path) -> dict[str, str]:
    """The control stanza of a .deb alone; the file tree is not looked at. Raises :class:`ArtifactError`."""
    with _reading(path) as file:
        return _control_stanza(_control_files(file, debfile.parts(file)[0], Budget()))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except (zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        raise ArtifactError(f"it cannot be read: {type(error).__name__}: {str(error)[:200]}") from None


def _keeps(name: str, size_bytes: int) -> bool:
    return size_bytes <= _MAX_READ_BYTES and _READ.fullmatch(name) is not None


def _control_files(file: IO[bytes], part: debfile.Part, budget: Budget) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with debfile.opened(file, part, stem="control", limit=MAX_CONTROL_BYTES, budget=budget) as stream:
        for member in debtar.members(stream, keeps=lambda _name, _size_bytes: True):
            if member.data is None:
                raise ArtifactError(
                    f"its control archive holds {member.name[:80]!r}, which is not a plain control file"
                )
            found[member.name] = member.data
    return found


def _control_stanza(control_files: dict[str, bytes]) -> dict[str, str]:
    """Takes the control file out of ``control_files``."""
    if "control" not in control_files:
        raise ArtifactError("it has no control file")
    return parse_stanza(control_files.pop("control"), what="the control file")
