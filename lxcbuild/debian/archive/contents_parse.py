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
from pathlib import Path
from typing import IO

from msgspec import Struct, field

from lxcbuild import process
from lxcbuild.debian.names import canonical_or_none
from lxcbuild.errors import ImageError

#: Tables and columns; ``package`` is a row of the table of package names.
TABLES: dict[str, tuple[str, ...]] = {
    "dist": ("name", "version", "package"),
    "module": ("name", "package"),
    "header": ("name", "path", "package"),
    "pkgconfig": ("name", "package"),
    "library": ("name", "package"),
    "executable": ("name", "package"),
    "file": ("name", "package"),
    "share": ("name", "package"),
    "catalogue": ("name", "package"),
    "tree": ("name", "package"),
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
    rb"|usr/share/(?:polkit-1/rules\.d|pam-configs|applications|mime/packages|bash-completion/completions|zsh/vendor-completions|fish/vendor_completions\.d)/"
)
_ACTED_ON = (b"applications", b"bash-completion", b"fish", b"mime", b"pam-configs", b"polkit-1", b"zsh")
_STARTS = (
    b"usr/lib",
    b"usr/share/",
    b"usr/include/",
    b"usr/bin/",
    b"usr/sbin/",
    b"usr/games/",
    b"etc/",
    b"lib",
    b"bin/",
    b"sbin/",
)
#: Most of all lines; nobody asks of them, and no project gets the directory.
_SKIPPED = tuple(
    b"usr/share/%s/" % name
    for name in (
        b"cargo",
        b"doc",
        b"games",
        b"gimp",
        b"gocode",
        b"help",
        b"icons",
        b"libreoffice",
        b"man",
        b"nodejs",
        b"perl5",
        b"pixmaps",
        b"texlive",
    )
)
_CATALOGUE = re.compile(rb"[^/]+/LC_MESSAGES/([^/]+)\.mo$")
_INNER = re.compile(rb"usr/lib/python3(?:\.\d+)?/dist-packages/(.+)/([^/]+)$")


class Tables(Struct):
    """Rows per table, with numbered packages."""

    packages: dict[str, int] = field(default_factory=dict)
    rows: dict[str, set[tuple[str | int, ...]]] = field(default_factory=lambda: {table: set() for table in TABLES})
    shared: set[tuple[bytes, bytes]] = field(default_factory=set)  # what went into "share"
    #: Directories with Python code, to locations: of all that is below them, and of their __init__.
    below: dict[str, set[bytes]] = field(default_factory=dict)
    initial: dict[str, set[bytes]] = field(default_factory=dict)

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
                    if line.startswith(_STARTS) and not line.startswith(_SKIPPED):
                        _take(tables, line)
        except (OSError, EOFError, zlib.error) as error:
            raise ImageError(
                f"the Contents file {path.name} cannot be read: {error}",
                resolution=f"remove {path} and run the command again",
            ) from error
    _trees(tables)
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
    if path.startswith(b"usr/share/") and not path.endswith(b".pc"):
        _share(tables, path, location)
    elif path.startswith(b"usr/include/"):
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


def _share(tables: Tables, path: bytes, location: bytes) -> None:
    top, _, inner = path[10:].partition(b"/")
    if top == b"locale" and (match := _CATALOGUE.match(inner)) is not None:
        tables.add("catalogue", location, _text(match[1]))
    # Millions of lines in thousands of directories.
    elif inner and (top, location) not in tables.shared:
        tables.shared.add((top, location))
        tables.add("share", location, _text(top))
    if top in _ACTED_ON and _FILE.match(path) is not None:
        tables.add("file", location, _text(path))


def _trees(tables: Tables) -> None:
    """The topmost packages of modules that one Debian package has for itself: no namespaces, none with others' plugins."""
    for place, locations in tables.initial.items():
        above = place.split("/")
        parents = ("/".join(above[:depth]) for depth in range(1, len(above)))
        if tables.below[place] <= locations and not any(
            parent in tables.initial and tables.below[parent] <= tables.initial[parent] for parent in parents
        ):
            for location in locations:
                tables.add("tree", location, place)


def _inner(tables: Tables, path: bytes, location: bytes) -> None:
    match = _INNER.match(path)
    if match is None:
        return
    place, names = _text(match[1]), tables.below
    if match[2] == b"__init__.py":
        tables.initial.setdefault(place, set()).add(location)
    while place and location not in (known := names.setdefault(place, set())):
        known.add(location)
        place = place.rpartition("/")[0]


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
        _inner(tables, path, location)
        if _IDENTIFIER.fullmatch(entry):
            tables.add("module", location, entry)
    elif (module := _MODULE.fullmatch(entry)) is not None:
        tables.add("module", location, module[1])
    elif entry.endswith(".pth"):
        tables.add("file", location, _text(path))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
