"""What a suite's archive ships, as a small SQLite database made from its Contents files (see ``contents_parse``).

Made once per suite, by one process at a time, and put in place by one rename; readers take no lock. What Contents files do not
say: they describe the suite as released, so a newer version in ``-updates`` or ``-security`` shows only in the candidate that
apt names; and a distribution's version there is what its metadata claims, which for a few packages is ``0.0.0``.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from lxcbuild.debian.archive.apt import AptArchive
from lxcbuild.debian.archive.contents_parse import TABLES, Tables, parse_contents
from lxcbuild.debian.names import Distribution, canonical_or_none, normalise
from lxcbuild.debian.versions import upstream_of
from lxcbuild.errors import DiskFullError, ImageError, NetworkError
from lxcbuild.events import Monitor, Note, NullMonitor
from lxcbuild.files import Closing, write_whole
from lxcbuild.model import Target
from lxcbuild.state import locks
from lxcbuild.state.paths import StateDirs

#: A week: Contents files of a released suite change with point releases only.
DEFAULT_MAX_AGE_S = 7 * 86_400.0
_FORMAT = 3
#: What tells the packages of Python modules, their versions and their sources (``AptArchive.python_packages``).
PythonPackages = Callable[[], Mapping[str, tuple[str, str]]]
#: How long a mirror whose Contents files do not match its signed Release file is not asked again.
_RETRY_S = 3600.0


class ContentsIndex(Closing):
    """Read-only look-ups; every one takes well under five milliseconds. A context manager."""

    def __init__(self, path: Path) -> None:
        """Open a finished database; use :meth:`open` to have it made."""
        self.path = path
        # Immutable: the file is replaced, never written to, so no reader needs locks or a journal.
        self._connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True, check_same_thread=False)

    @classmethod
    def open(
        cls,
        dirs: StateDirs,
        target: Target,
        contents_files: Callable[[], Sequence[Path]],
        *,
        python_packages: PythonPackages | None = None,
        max_age_s: float = DEFAULT_MAX_AGE_S,
        monitor: Monitor | None = None,
    ) -> Self:
        """The index of a target, made or refreshed when it is missing or older than ``max_age_s``.

        ``contents_files`` gives the suite's verified Contents files (``AptArchive.contents_files``) and is called only then;
        unless they changed, the database stays as it is. Where they cannot be had, the last database serves, else one of package
        names alone from ``python_packages`` (``AptArchive.python_packages``); a warning says so, once for each call. Raises
        what ``contents_files`` raises where neither is there, :class:`ImageError` when the files cannot be read,
        :class:`DiskFullError`.
        """
        path = database_path(dirs, target)
        watcher = monitor or NullMonitor()
        if not _is_current(path, max_age_s=max_age_s) and not _is_resting(path):
            waiting = Note(text=f"waiting for another process that reads what {target} ships")
            with locks.exclusive(dirs.locks / f"{path.name}.lock", on_wait=lambda: watcher.emit(waiting)):
                if not _is_current(path, max_age_s=max_age_s) and not _is_resting(path):
                    _make_or_rest(path, contents_files, python_packages, target, watcher)
        index = cls(path)
        if (missing := index.missing(target)) is not None:
            watcher.emit(Note(text=missing, warning=True))
        return index

    @classmethod
    def of_archive(
        cls, dirs: StateDirs, target: Target, archive: AptArchive, *, monitor: Monitor | None = None
    ) -> Self:
        """The index of a target, from its archive; see :meth:`open`."""
        return cls.open(dirs, target, archive.contents_files, python_packages=archive.python_packages, monitor=monitor)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def find_distribution(self, name: str) -> Distribution | None:
        """Who ships a Python project: exact name, upstream version, binary package. None means: not official."""
        plain = normalise(name)
        rows = self._connection.execute(
            "SELECT d.version, p.name FROM dist d JOIN package p ON p.id = d.package WHERE d.name = ?", (plain,)
        ).fetchall()
        if not rows:
            return None
        version, package = min(rows, key=lambda row: _preference(plain, row[1]))
        return Distribution(plain, version, package)

    def modules(self, name: str) -> tuple[str, ...]:
        """Packages that have a top-level Python module of that name."""
        return self._packages("module", name)

    def headers(self, path: str) -> tuple[str, ...]:
        """Packages that have a C header which ``#include <path>`` can mean, the shortest path first."""
        rows = self._connection.execute(
            "SELECT h.path, p.name FROM header h JOIN package p ON p.id = h.package WHERE h.name = ?",
            (path.rsplit("/", 1)[-1],),
        ).fetchall()
        fitting = [row for row in rows if f"/{row[0]}".endswith(f"/{path}")]
        return tuple(dict.fromkeys(package for _, package in sorted(fitting, key=lambda row: (len(row[0]), row))))

    def system_headers(self, path: str) -> tuple[str, ...]:
        """Packages that have a C header of that path where compilers look for all programs."""
        rows = self._connection.execute(
            "SELECT DISTINCT p.name FROM header h JOIN package p ON p.id = h.package WHERE h.name = ? AND h.path = ?",
            (path.rsplit("/", 1)[-1], path),
        ).fetchall()
        return tuple(sorted(row[0] for row in rows))

    def pkgconfig(self, name: str) -> tuple[str, ...]:
        """Packages that have ``<name>.pc``."""
        return self._packages("pkgconfig", name.removesuffix(".pc"))

    def libraries(self, name: str) -> tuple[str, ...]:
        """Packages that have a library: by file name (``libffi.so.8``), or what ``-l<name>`` needs (``ffi``)."""
        if name.startswith("lib") and (".so" in name or name.endswith(".a")):
            return self._packages("library", name)
        return self._packages("library", f"lib{name}.so") or self._packages("library", f"lib{name}.a")

    def shared_libraries(self, name: str) -> tuple[str, ...]:
        """Packages that have what ``dlopen`` needs: by file name (``libffi.so.8``), or what is called ``libffi.so``, ``libffi``,
        ``ffi`` or ``FFI``, the newest first. Development packages, whose links are for compilers, do not count."""
        if ".so." in name:
            return self._packages("library", name)
        stem = name.removesuffix(".so").removeprefix("lib")
        for exactly in dict.fromkeys((glob.escape(stem), glob.escape(stem.lower()))):
            rows = self._connection.execute(
                "SELECT t.name, p.name FROM library t JOIN package p ON p.id = t.package WHERE t.name GLOB ? OR t.name GLOB ?",
                (f"lib{exactly}.so.[0-9]*", f"lib{exactly}-[0-9]*.so.[0-9]*"),
            ).fetchall()
            rows.sort(key=lambda row: ([-int(number) for number in re.findall(r"\d+", row[0])], row))
            found = [package for _, package in rows if not package.endswith("-dev")]
            if found:
                return tuple(dict.fromkeys(found))
        return ()

    def executables(self, name: str) -> tuple[str, ...]:
        """Packages that put a program of that name on the PATH."""
        return self._packages("executable", name)

    def files(self, path: str) -> tuple[str, ...]:
        """Packages that have a file which programs of the system act on: below /etc, startup files, completions, rules."""
        return self._packages("file", path)

    def directories(self, path: str) -> tuple[str, ...]:
        """Packages that have files below a directory ``etc/x`` or ``usr/share/x``."""
        top, _, name = path.rpartition("/")
        if top == "usr/share":
            return self._packages("share", name)
        rows = self._connection.execute(
            "SELECT DISTINCT p.name FROM file f JOIN package p ON p.id = f.package WHERE f.name > ? AND f.name < ?",
            (f"{path}/", f"{path}0"),
        ).fetchall()
        return tuple(sorted(row[0] for row in rows))

    def catalogues(self, name: str) -> tuple[str, ...]:
        """Packages that have translations of that domain (``sudo`` for ``sudo.mo``)."""
        return self._packages("catalogue", name)

    def trees(self, path: str) -> tuple[str, ...]:
        """Packages that have a package of Python modules (``zope/interface``) for themselves."""
        return self._packages("tree", path)

    def counts(self) -> dict[str, int]:
        """Rows per table, for people who wonder whether the index is sound."""
        counts = {}
        for table in ("package", *TABLES):
            counts[table] = int(self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
        return counts

    @property
    def names_only(self) -> bool:
        """Whether it was made of the names of packages, because no Contents file could be had."""
        return ("origin", "names") in self._connection.execute("SELECT key, value FROM fact").fetchall()

    def missing(self, target: Target) -> str | None:
        """What a person should know of an index whose Contents files could not be had; None for any other."""
        if not (resting := _resting_path(self.path)).exists():
            return None
        why = f"the mirror's Contents files of {target} cannot be used ({resting.read_text().strip()})"
        if self.names_only:
            return f"{why}: official packages are known by their names only, and owners of files are not checked"
        return f"{why}: those of {time.strftime('%Y-%m-%d', time.gmtime(self.made_at))} are used"

    @property
    def made_at(self) -> float:
        """When its Contents files were last compared with the archive, in seconds since the epoch."""
        return self.path.stat().st_mtime

    def _packages(self, table: str, name: str) -> tuple[str, ...]:
        assert table in TABLES
        rows = self._connection.execute(
            f"SELECT DISTINCT p.name FROM {table} t JOIN package p ON p.id = t.package WHERE t.name = ?",  # noqa: S608
            (name,),
        ).fetchall()
        return tuple(sorted((row[0] for row in rows), key=lambda package: (len(package), package)))


def database_path(dirs: StateDirs, target: Target) -> Path:
    """Where the database of a target lies."""
    return dirs.archives / f"contents-{target.image_name}-{target.architecture}.sqlite"


def _preference(name: str, package: str) -> tuple[bool, bool, int, str]:
    """Of several packages with the same distribution: the one named after it, then any of the interpreter's, then the shortest."""
    return package != f"python3-{name}", not package.startswith("python3-"), len(package), package


def _is_current(path: Path, *, max_age_s: float) -> bool:
    try:
        age_s = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    # A clock that went backwards makes it old; a database of another edition of lxcbuild is none at all.
    return 0 <= age_s < max_age_s and _stored_signature(path) is not None


def _resting_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.unusable")


def _is_resting(path: Path) -> bool:
    """Whether the mirror's Contents files were found unusable within the last hour, and something serves in their place."""
    try:
        age_s = time.time() - _resting_path(path).stat().st_mtime
    except FileNotFoundError:
        return False
    return 0 <= age_s < _RETRY_S and _stored_signature(path) is not None


def _make_or_rest(
    path: Path,
    contents_files: Callable[[], Sequence[Path]],
    python_packages: PythonPackages | None,
    target: Target,
    monitor: Monitor,
) -> None:
    try:
        files = contents_files()
    except NetworkError as error:
        if _stored_signature(path) is None:
            if python_packages is None:
                raise
            facts = {"format": str(_FORMAT), "signature": "names", "target": str(target), "origin": "names"}
            _replace(path, _from_names(python_packages()), facts)
            os.utime(path, (0, 0))  # never current: Contents files take its place as soon as they can be had
        write_whole(_resting_path(path), _apt_words(error) + "\n", durable=False)
        return
    _make(path, files, target, monitor)
    _resting_path(path).unlink(missing_ok=True)


def _apt_words(error: NetworkError) -> str:
    """The line in which apt says what is wrong with the mirror, without its addresses."""
    lines = [line.strip() for line in (error.details or "").splitlines()]
    said = next((line for line in lines if "unexpected size" in line or "Hash Sum mismatch" in line), None)
    said = said or next((line for line in lines if line.startswith(("E: ", "Err:"))), error.brief)
    return re.sub(r"^E: Failed to fetch \S+\s*|^E: |\s*\[IP: [^]]*\]", "", said).strip() or error.brief


def _from_names(packages: Mapping[str, tuple[str, str]]) -> Tables:
    """What names tell: by Debian's Python policy ``python3-foo`` has the module ``foo``, and a source is often called after its
    project (``pyyaml`` makes ``python3-yaml``)."""
    tables = Tables()
    made = Counter(source for _, source in packages.values())
    for package, (version, source) in packages.items():
        module = canonical_or_none(package.removeprefix("python3-"))
        project = canonical_or_none(source.removeprefix("python-")) if made[source] == 1 else None
        for name in {module, project} - {None}:
            tables.add("dist", package.encode(), str(name), upstream_of(version))
        if module is not None:
            tables.add("module", package.encode(), module.replace("-", "_"))
    return tables


def _stored_signature(path: Path) -> str | None:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
            facts = dict(connection.execute("SELECT key, value FROM fact").fetchall())
    except sqlite3.DatabaseError:
        return None
    return str(facts["signature"]) if facts.get("format") == str(_FORMAT) and "signature" in facts else None


def _signature(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        facts = path.stat()
        digest.update(f"{path.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _make(path: Path, files: Sequence[Path], target: Target, monitor: Monitor) -> None:
    if not files:
        raise ImageError(
            f"the archive of {target} has no Contents files",
            resolution="check the mirror in the recipe, or apt's sources",
        )
    signature = _signature(files)
    if path.exists() and _stored_signature(path) == signature:
        os.utime(path)
        return
    monitor.emit(Note(text=f"reading what {target} ships; this takes some seconds, once a week at most"))
    _replace(path, parse_contents(files), {"format": str(_FORMAT), "signature": signature, "target": str(target)})


def _replace(path: Path, tables: Tables, facts: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(descriptor)
    fresh = Path(name)
    try:
        _write(fresh, tables, facts)
        fresh.chmod(0o644)
        fresh.replace(path)
    except sqlite3.OperationalError as error:
        if "full" not in str(error):
            raise
        raise DiskFullError(
            f"no room left on the disk that holds {path.parent}",
            resolution="free some space there, or choose another place with --state-dir",
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def _write(path: Path, tables: Tables, facts: dict[str, str]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        # Nothing needs to survive a crash: the file gets its name only when it is whole.
        connection.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;"
        )
        connection.execute("CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        connection.executemany("INSERT INTO fact VALUES (?, ?)", facts.items())
        connection.execute("CREATE TABLE package (id INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany("INSERT INTO package VALUES (?, ?)", ((n, name) for name, n in tables.packages.items()))
        for table, columns in TABLES.items():
            rows = tables.rows[table]
            connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", rows)  # noqa: S608
            connection.execute(f"CREATE INDEX {table}_name ON {table} (name)")
        connection.commit()
