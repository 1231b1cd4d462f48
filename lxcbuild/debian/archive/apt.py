"""Dependency resolution and downloads by the host's apt, for any suite, in a private apt root per target.

apt never runs in a sandbox with a network, and nothing of the host's own apt state is read or written: lists, caches, sources
and status file are the target's. The host's proxies and certificates are inherited, its hooks and other tastes are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import unquote

from msgspec import Struct

from lxcbuild import process
from lxcbuild.debian.archive import sources
from lxcbuild.debian.archive.aptroot import AptRoot, network_or
from lxcbuild.errors import BadNameError, CommandError, DependencyError, WrongHashError
from lxcbuild.events import Monitor, Note, NullMonitor, Progress
from lxcbuild.files import sha256_of
from lxcbuild.state import locks
from lxcbuild.state.paths import StateDirs

#: Package lists are as fresh as this unless asked otherwise. A file that vanished meanwhile makes :class:`LayerStore` ask for more.
DEFAULT_MAX_AGE_S = 24 * 3600.0

_NAME = r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9-]+)?"
#: The grammar of dpkg's own reader (Dpkg::Deps::Simple), which is what debian/control is written for.
_ONE = (
    rf"{_NAME}(?:\s*\(\s*(?:<<|<=|=|>=|>>|[<>])\s*[A-Za-z0-9.+:~-]+\s*\))?"
    r"(?:\s*\[[A-Za-z0-9!\s-]+\])?(?:\s*<[a-z0-9!\s.-]+>)*"
)
_RELATION = re.compile(rf"\s*{_ONE}(?:\s*[|,]\s*{_ONE})*\s*")
_URI_LINE = re.compile(r"'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})")


class ResolvedPackage(Struct, frozen=True, kw_only=True, order=True):
    """One package file that has to be installed; the hash comes from package lists that the archive signed."""

    name: str
    version: str
    architecture: str
    sha256: str
    size_bytes: int
    filename: str  # as apt names it: <name>_<version, colons as %3a>_<architecture>.deb
    uri: str


class ResolvedSet(Struct, frozen=True, kw_only=True):
    """Everything that is missing below a status file to satisfy some relations, sorted by name; may be empty."""

    packages: tuple[ResolvedPackage, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes to download when nothing is cached."""
        return sum(package.size_bytes for package in self.packages)


class AptArchive:
    """The archive of one target: package lists, resolution, a shared cache of package files."""

    def __init__(
        self,
        dirs: StateDirs,
        name: str,
        *,
        source_lines: Callable[[], Sequence[str]],
        architecture: str = "amd64",
        monitor: Monitor | None = None,
    ) -> None:
        """``name`` is the image's (``debian-bookworm``); ``source_lines`` is asked only when lists are fetched."""
        self._dirs = dirs
        self.name = name
        self._monitor = monitor or NullMonitor()
        self._source_lines = source_lines
        base = dirs.archives / name
        self._binary = AptRoot(base / "apt", architecture=architecture)
        self._contents = AptRoot(base / "contents", architecture=architecture, targets="contents")
        self._sources = AptRoot(base / "sources", architecture=architecture, targets="sources")

    # -- package lists ----------------------------------------------------------------------------------------

    def refresh(self, *, max_age_s: float = DEFAULT_MAX_AGE_S) -> bool:
        """Fetch the package lists if they are older than ``max_age_s``; whether they were fetched.

        Single-flight across processes. Raises :class:`NetworkError` when a mirror cannot be reached.
        """
        return self._update(self._binary, max_age_s=max_age_s)

    def _update(self, root: AptRoot, *, max_age_s: float) -> bool:
        if root.is_fresh(max_age_s=max_age_s):
            return False
        with self._lock(root):
            if root.is_fresh(max_age_s=max_age_s):
                return False
            what = {"apt": "package lists", "contents": "lists of files", "sources": "lists of source packages"}[
                root.path.name
            ]
            self._monitor.emit(Note(text=f"fetching the {what} of {self.name}"))
            failed = root.update(self._source_lines(), sources.inherited_options())
            if failed is not None:
                self._monitor.emit(Note(text=f"the {what} of {self.name} are incomplete: {failed}", warning=True))
        return True

    @property
    def has_lists(self) -> bool:
        """Whether package lists were ever fetched."""
        return self._binary.is_fresh(max_age_s=float("inf"))

    @property
    def lists_digest(self) -> str:
        """SHA-256 over the signed Release files of the package lists: equal for equal lists. Fetches missing ones."""
        self._ensure_lists()
        return self._binary.digest()

    def _ensure_lists(self) -> None:
        self._update(self._binary, max_age_s=float("inf"))

    def _lock(self, root: AptRoot) -> AbstractContextManager[None]:
        waiting = Note(text=f"waiting for another process that fetches the {root.path.name} lists of {self.name}")
        return locks.exclusive(self._lock_path(root), on_wait=lambda: self._monitor.emit(waiting))

    def _lock_path(self, root: AptRoot) -> Path:
        return self._dirs.locks / f"apt-{self.name}-{root.path.name}.lock"

    # -- resolution -------------------------------------------------------------------------------------------

    def resolve(self, relations: Sequence[str], *, status: Path, local_debs: Sequence[Path] = ()) -> ResolvedSet:
        """What must be installed on top of ``status`` (a dpkg status file) so that all ``relations`` hold.

        Relations are written as in Depends (versions, alternatives, commas). Recommends are not followed, nothing installed
        is removed. ``local_debs`` take part as if the archive had them; they are not in the result. Raises
        :class:`DependencyError` with apt's explanation, :class:`BadNameError` for what is not a relation.
        """
        wanted = check_relations(relations)
        if not wanted:
            return ResolvedSet(packages=())
        self._ensure_lists()
        command = ["--no-remove", "--no-install-recommends", "-o", "Acquire::ForceHash=SHA256"]
        for deb in local_debs:
            command += ["--with-source", str(deb)]
        command += ["--print-uris", "satisfy", "--", *wanted]
        with locks.shared(self._lock_path(self._binary)):
            done = self._binary.run("apt-get", ["-qq", *command], status=status, check=False)
            if done.status != 0:
                explained = self._binary.run("apt-get", ["-q", *command], status=status, check=False)
                raise _unsatisfiable(self.name, explained)
        return ResolvedSet(packages=parse_uris(done.stdout.decode(errors="replace")))

    def candidate(self, binary: str) -> str | None:
        """The version that would be installed, or None when the suite has no such package."""
        return self.candidates([binary]).get(binary)

    def candidates(self, binaries: Iterable[str]) -> Mapping[str, str]:
        """The versions that would be installed, for those of the names that the suite has; one run of apt for all."""
        names = _check_names(binaries)
        if not names:
            return {}
        self._ensure_lists()
        with locks.shared(self._lock_path(self._binary)):
            done = self._binary.run("apt-cache", ["policy", "--", *names])
        return parse_policy(done.stdout.decode(errors="replace"))

    def show(self, binary: str) -> Mapping[str, str]:
        """The fields of the candidate's entry in the package lists; empty when the suite has no such package."""
        return self.show_all([binary]).get(binary, {})

    def show_all(self, binaries: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """The same for those of the names that the suite has; one run of apt for all."""
        names = _check_names(binaries)
        if not names:
            return {}
        self._ensure_lists()
        with locks.shared(self._lock_path(self._binary)):
            done = self._binary.run("apt-cache", ["--no-all-versions", "show", "--", *names], check=False)
        found = parse_stanzas(done.stdout.decode(errors="replace"))
        return {fields.get("Package", ""): fields for fields in reversed(found)}

    def sources_of(self, binaries: Iterable[str]) -> Mapping[str, str]:
        """The source packages of those of the names that the suite has; what is no name of a package is none of its."""
        shown = self.show_all(name for name in binaries if re.fullmatch(_NAME, name))
        return {name: fields.get("Source", name).split(" ")[0] for name, fields in shown.items()}

    def source_packages(self, name: str, *, max_age_s: float = 7 * 86400.0) -> tuple[Mapping[str, str], ...]:
        """The suite's source packages of that name (or that make a binary of that name): fields such as Build-Depends."""
        (checked,) = _check_names([name])
        self._update(self._sources, max_age_s=max_age_s)
        with locks.shared(self._lock_path(self._sources)):
            done = self._sources.run("apt-cache", ["showsrc", "--", checked], check=False)
        return parse_stanzas(done.stdout.decode(errors="replace"))

    def contents_files(self, *, max_age_s: float = 7 * 86400.0) -> tuple[Path, ...]:
        """The suite's Contents files (compressed as the archive has them), verified against the signed Release file.

        Fetched when older than ``max_age_s``. Raises :class:`NetworkError`.
        """
        self._update(self._contents, max_age_s=max_age_s)
        with locks.shared(self._lock_path(self._contents)):
            done = self._contents.run("apt-get", ["indextargets", "--format", "$(FILENAME)"])
        named = {Path(line) for line in done.stdout.decode().splitlines() if "Contents" in line}
        return tuple(sorted(path for path in named if path.is_file()))

    def python_packages(self) -> Mapping[str, tuple[str, str]]:
        """The packages whose names begin with ``python3-``: the version that would be installed, and the source."""
        self._ensure_lists()
        with locks.shared(self._lock_path(self._binary)):
            done = self._binary.run("apt-cache", ["pkgnames", "python3-"])
        shown = self.show_all(sorted(done.stdout.decode(errors="replace").split()))
        return {
            name: (fields["Version"], fields.get("Source", name).split(" ")[0])
            for name, fields in shown.items()
            if "Version" in fields
        }

    # -- package files ----------------------------------------------------------------------------------------

    def deb_path(self, package: ResolvedPackage) -> Path:
        """Where the cache keeps (or would keep) that file: named by content, shared by all targets."""
        return self._dirs.archives / "debs" / package.sha256[:2] / f"{package.sha256}.deb"

    def fetch(self, resolved: ResolvedSet) -> tuple[Path, ...]:
        """Download what the cache lacks, check hashes, and return the files in the set's order.

        Interrupted downloads are resumed; processes that fetch at once do it one after the other. Raises
        :class:`NetworkError`, :class:`WrongHashError`.
        """
        if self._missing(resolved):
            waiting = Note(text="waiting for another process that downloads packages")
            with locks.exclusive(self._dirs.locks / "debs.lock", on_wait=lambda: self._monitor.emit(waiting)):
                self._download(self._missing(resolved))
        return tuple(self.deb_path(package) for package in resolved.packages)

    def _missing(self, resolved: ResolvedSet) -> list[ResolvedPackage]:
        return [package for package in resolved.packages if not self.deb_path(package).is_file()]

    def _download(self, missing: Sequence[ResolvedPackage]) -> None:
        partial = self._dirs.archives / "debs" / "partial"
        partial.mkdir(parents=True, exist_ok=True)
        total, done = sum(package.size_bytes for package in missing), 0
        for batch in _batches(missing):
            self._monitor.emit(Progress(task=f"packages of {self.name}", done=done, total=total))
            triples = [
                word
                for package in batch
                for word in (package.uri, str(partial / package.sha256), f"SHA256:{package.sha256}")
            ]
            with network_or(f"the packages of {self.name}"):
                self._binary.run("/usr/lib/apt/apt-helper", ["-q", "download-file", *triples])
            for package in batch:
                self._accept(partial / package.sha256, package)
                done += package.size_bytes
        self._monitor.emit(Progress(task=f"packages of {self.name}", done=done, total=total))

    def _accept(self, path: Path, package: ResolvedPackage) -> None:
        found = sha256_of(path)
        if found != package.sha256:
            path.unlink()
            raise WrongHashError(
                f"{package.filename} is not the file that the archive signed",
                details=f"expected sha256 {package.sha256}\nfound    sha256 {found}",
            )
        final = self.deb_path(package)
        final.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(0o644)
        path.rename(final)


# -- pure parts -----------------------------------------------------------------------------------------------


def check_relations(relations: Iterable[str]) -> tuple[str, ...]:
    """Relations without empty ones, each once, sorted; raises :class:`BadNameError` for anything that is not a relation."""
    kept = set()
    for relation in relations:
        if not relation.strip():
            continue
        if len(relation) > 20_000 or not _RELATION.fullmatch(relation):
            raise BadNameError(f"{relation[:80]!r} is not a relation between Debian packages")
        kept.add(" ".join(relation.split()))
    return tuple(sorted(kept))


def _check_names(names: Iterable[str]) -> tuple[str, ...]:
    checked = tuple(dict.fromkeys(names))
    for name in checked:
        if not re.fullmatch(_NAME, name):
            raise BadNameError(f"{name[:80]!r} is not the name of a Debian package")
    return checked


def parse_uris(printed: str) -> tuple[ResolvedPackage, ...]:
    """Read what ``apt-get --print-uris`` printed; raises :class:`CommandError` for a line without a SHA-256."""
    packages = []
    for line in printed.splitlines():
        if not line.startswith("'"):
            continue
        match = _URI_LINE.fullmatch(line.strip())
        if match is None:
            raise CommandError("apt named a package without a SHA-256", details=line[:500])
        uri, filename, size, sha256 = match.groups()
        if uri.startswith("file:") and filename.endswith(".deb") and filename.count("_") < 2:
            continue  # a local file given with --with-source
        name, version, rest = filename.split("_", 2)
        packages.append(
            ResolvedPackage(
                name=name,
                version=unquote(version),
                architecture=rest.removesuffix(".deb"),
                sha256=sha256,
                size_bytes=int(size),
                filename=filename,
                uri=uri,
            )
        )
    return tuple(sorted(packages))


def parse_policy(printed: str) -> dict[str, str]:
    """Read ``apt-cache policy``: package to candidate version, without those that have none."""
    found: dict[str, str] = {}
    name = ""
    for line in printed.splitlines():
        if line and not line.startswith(" "):
            name = line.rstrip(":")
        elif line.startswith("  Candidate: ") and line[13:] != "(none)":
            found[name] = line[13:].strip()
    return found


def parse_stanzas(printed: str) -> tuple[Mapping[str, str], ...]:
    """Read deb822 paragraphs into dictionaries; continuation lines keep their line breaks."""
    stanzas = []
    for block in re.split(r"\n\s*\n", printed.strip()):
        fields: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if line.startswith((" ", "\t")) and key:
                fields[key] += f"\n{line.strip()}"
            elif ":" in line:
                key, _, value = line.partition(":")
                fields[key] = value.strip()
        if fields:
            stanzas.append(fields)
    return tuple(stanzas)


def _batches(packages: Sequence[ResolvedPackage], *, size: int = 40) -> list[Sequence[ResolvedPackage]]:
    """Short enough command lines, and a progress that moves."""
    return [packages[start : start + size] for start in range(0, len(packages), size)]


def _unsatisfiable(name: str, explained: process.Completed) -> DependencyError:
    lines = explained.stdout.decode(errors="replace").splitlines()
    start = next((i for i, line in enumerate(lines) if "unmet dependencies" in line), None)
    if start is not None:
        details = "\n".join(line.rstrip() for line in lines[start + 1 :] if line.strip())
    else:
        details = explained.stderr.decode(errors="replace").strip()
    details = details.replace("satisfy:command-line : ", "")
    return DependencyError(f"{name} cannot satisfy what is asked for", details=details)
