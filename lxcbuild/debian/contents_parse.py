"""Reads Contents files: hundreds of megabytes of lines ``path   section/package,section/package``, sorted by path.

Only lines that can answer a question are looked at twice, which is what keeps a suite at some seconds. The format is that of
the repository's "Contents" indices: the last word is the location, everything before it is the path.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import field
from pathlib import Path
from typing import IO

from lxcbuild import process
from lxcbuild.debian.names import canonical_or_none
from lxcbuild.errors import ImageError
from lxcbuild.values import dataclass

#: Tables and columns; ``package`` is a row of the table of package names.
TABLES: dict[str, tuple[str, ...]] = {
    "dist": ("name", "version", "package"),
    "module": ("name", "package"),
    "header": ("name", "path", "package"),
    "pkgconfig": ("name", "package"),
    "library": ("name", "package"),
    "executable": ("name", "package"),
    "file": ("name", "package"),
}

_BUFFER_BYTES = 1 << 20
_APT_HELPER = Path("/usr/lib/apt/apt-helper")
_PYTHON = re.compile(rb"usr/lib/python3(?:\.\d+)?/dist-packages/([^/]+)(/)?")
_METADATA = re.compile(r"(.+?)-([0-9][^-]*)(?:-py[0-9.]+)?(?:-[^-]+)?\.(?:dist|egg)-info")
_MODULE = re.compile(r"([^\W\d]\w*)(?:\.py|(?:\.(?:cpython|abi3|pypy)[\w.-]*)?\.so)")
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_TRIPLET = re.compile(rb"[a-z0-9_]+-(?:linux|kfreebsd|gnu)[a-z0-9-]*/")
_HEADER = re.compile(rb"\.(?:h|hh|hpp|hxx|h\+\+|H|inc|ipp)$")
_LIBRARY = re.compile(rb"(?:usr/)?lib(?:64)?/(?:[a-z0-9_]+-linux-[a-z0-9]+/)?(lib[^/]+\.(?:so(?:\.[0-9][^/]*)?|a))$")
_EXECUTABLE = re.compile(rb"(?:usr/)?(?:s?bin|games)/([^/]+)$")
#: Files that programs of the system act on without being asked for the package, by their whole paths.
_FILE = re.compile(
    rb"etc/|usr/lib/pam\.d/"
    rb"|usr/share/(?:polkit-1/rules\.d|pam-configs|bash-completion/completions|zsh/vendor-completions|fish/vendor_completions\.d)/"
)
_STARTS = (
    b"etc/",
    b"usr/share/bash-completion/",
    b"usr/share/fish/",
    b"usr/share/pam-configs/",
    b"usr/share/pkgconfig/",
    b"usr/share/polkit-1/",
    b"usr/share/zsh/",
    b"usr/lib",
    b"usr/include/",
    b"usr/bin/",
    b"usr/sbin/",
    b"usr/games/",
    b"lib",
    b"bin/",
    b"sbin/",
)


@dataclass(slots=True)
class Tables:
    """Rows per table, with numbered packages."""

    packages: dict[str, int] = field(default_factory=dict)
    rows: dict[str, set[tuple[str | int, ...]]] = field(default_factory=lambda: {table: set() for table in TABLES})

    def add(self, table: str, location: bytes, *values: str) -> None:
        """Add one row for each package of a location such as ``python/python3-idna,oldlibs/x``."""
        for place in location.decode("utf-8", "replace").split(","):
            name = place.rsplit("/", 1)[-1]
            number = self.packages.setdefault(name, len(self.packages) + 1)
            self.rows[table].add((*values, number))


def parse_contents(files: Iterable[Path]) -> Tables:
    """Read all files of a suite; raises :class:`ImageError` for one that is damaged or of an unknown kind."""
    tables = Tables()
    for path in files:
        try:
            with _open(path) as stream:
                for line in stream:
                    if line.startswith(_STARTS):
                        _take(tables, line)
        except (OSError, EOFError, zlib.error) as error:
            raise ImageError(
                f"the Contents file {path.name} cannot be read: {error}",
                resolution=f"remove {path} and run the command again",
            ) from error
    return tables


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Iterable[bytes]]:
    """The lines of a file in any form in which apt keeps it."""
    if path.suffix == ".gz":
        # The buffer makes lines in C; GzipFile's own iteration is Python code and takes three times as long.
        with gzip.open(path, "rb") as unzipped, io.BufferedReader(unzipped, _BUFFER_BYTES) as lines:
            yield lines
    elif path.suffix in (".lz4", ".xz", ".zst", ".bz2"):
        yield from _decompressed_by_apt(path)
    else:
        with path.open("rb") as plain:
            yield plain


def _decompressed_by_apt(path: Path) -> Iterator[IO[bytes]]:
    # Python 3.11 knows no lz4, which is what apt stores; apt's own helper knows everything that apt stores.
    argv = [os.fspath(_APT_HELPER), "cat-file", os.fspath(path)]
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=_BUFFER_BYTES) as stream:
        try:
            with process.spawn(argv, stdout=writing) as child:
                os.close(writing)
                writing = -1
                yield stream
                status = child.wait()
        finally:
            if writing >= 0:
                os.close(writing)
    if status != 0:
        raise EOFError(f"{_APT_HELPER} cannot decompress it (exit status {status})")


def _take(tables: Tables, line: bytes) -> None:
    try:
        path, location = line.rsplit(None, 1)
    except ValueError:
        return
    if path.startswith(b"usr/include/"):
        _header(tables, path[12:], location)
    elif path.startswith(b"usr/lib/python3"):
        _python(tables, path, location)
    elif path.endswith(b".pc"):
        if b"/pkgconfig/" in path:
            tables.add("pkgconfig", location, _text(path).rsplit("/", 1)[-1][:-3])
    elif _FILE.match(path) is not None:
        tables.add("file", location, _text(path))
    elif (match := _EXECUTABLE.match(path)) is not None:
        tables.add("executable", location, _text(match[1]))
    elif (match := _LIBRARY.match(path)) is not None:
        tables.add("library", location, _text(match[1]))
    elif b"/include/" in path:
        # Generated headers live beside the libraries: usr/lib/<triplet>/glib-2.0/include/glibconfig.h.
        _header(tables, path.rsplit(b"/include/", 1)[1], location)


def _header(tables: Tables, path: bytes, location: bytes) -> None:
    if _HEADER.search(path) is not None:
        match = _TRIPLET.match(path)
        text = _text(path[match.end() :] if match else path)
        tables.add("header", location, text.rsplit("/", 1)[-1], text)


def _python(tables: Tables, path: bytes, location: bytes) -> None:
    match = _PYTHON.match(path)
    if match is None:
        return
    entry = _text(match[1])
    if entry.endswith("-info"):
        metadata = _METADATA.fullmatch(entry)
        name = canonical_or_none(metadata[1]) if metadata else None
        if metadata and name:
            tables.add("dist", location, name, metadata[2])
    elif match[2]:
        if _IDENTIFIER.fullmatch(entry):
            tables.add("module", location, entry)
    elif (module := _MODULE.fullmatch(entry)) is not None:
        tables.add("module", location, module[1])
    elif entry.endswith(".pth"):
        tables.add("file", location, _text(path))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
