"""The package index client: which release satisfies a requirement, and its source archive, verified, in the cache."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement

from lxcbuild.errors import BadNameError, InputError, NetworkError
from lxcbuild.events import Monitor, NullMonitor
from lxcbuild.files import Closing
from lxcbuild.model import Source, SourceKind
from lxcbuild.pypi.files.download import DEFAULT_MAX_BYTES, Downloads
from lxcbuild.pypi.files.identity import canonical, sdist_version, wheel_version
from lxcbuild.pypi.index.cache import Page, PageCache, max_age_s, serial_in
from lxcbuild.pypi.index.config import PipConfig, load_pip_config
from lxcbuild.pypi.index.http import Http
from lxcbuild.pypi.index.model import IndexFile, ProjectPage, Release
from lxcbuild.pypi.index.pages import ACCEPT, parse_page
from lxcbuild.pypi.versions.selection import choose_release, unknown_project
from lxcbuild.state.paths import StateDirs

MAX_PAGE_BYTES = 64 * 1024 * 1024
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def parse_requirement(text: str) -> Requirement:
    """Read a PEP 508 requirement as a user types it; :class:`BadNameError` for what no requirement looks like."""
    problem = "is not a requirement"
    if len(text) <= 1000:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            pass
        else:
            if requirement.url is not None:
                raise InputError(
                    f"{requirement.name} is asked for by URL, which is not supported",
                    resolution="download the file and give its path",
                )
            if set(requirement.name) <= _NAME_CHARACTERS and len(requirement.name) <= 200:
                return requirement
            problem = "names no project"
    raise BadNameError(
        f"{text[:80]!r} {problem}",
        resolution="write a project's name, perhaps with a version, for example idna or 'idna==3.10'",
    )


class Index(Protocol):
    """What choosing versions needs of an index."""

    def files(self, name: str) -> tuple[IndexFile, ...]:
        """Everything that is listed of a project; raises :class:`UnknownProjectError`."""

    def fetch(self, file: IndexFile, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Path:
        """The path of a file's verified copy."""


class IndexClient(Closing):
    """Asks the index that pip is configured with. A context manager; safe to use from one thread at a time."""

    def __init__(
        self,
        dirs: StateDirs,
        *,
        config: PipConfig | None = None,
        monitor: Monitor | None = None,
        backoff_s: float = 0.25,
        max_page_age_s: float = math.inf,
    ) -> None:
        """``max_page_age_s`` is for how long a page is believed at most, however long the index allows; 0: always asked again."""
        self._max_page_age_s = max_page_age_s
        self.config = config if config is not None else load_pip_config()
        self._http = Http(self.config, backoff_s=backoff_s)
        self._pages = PageCache(dirs.downloads / "index")
        self._downloads = Downloads(dirs, self._http, monitor or NullMonitor())

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def resolve(self, requirement: str | Requirement, *, python_version: str, allow_pre: bool | None = None) -> Release:
        """The newest release with an sdist that satisfies a requirement for a target whose Python is ``python_version``
        (``3.11`` or ``3.11.2``). A marker of the requirement is not looked at.

        Raises :class:`BadNameError`, :class:`UnknownProjectError`, :class:`UnknownVersionError`, :class:`YankedReleaseError`,
        :class:`NoSdistError` (an older release that has an sdist is never taken instead), :class:`NetworkError`.
        """
        wanted = parse_requirement(requirement) if isinstance(requirement, str) else requirement
        files = self.files(wanted.name)
        return choose_release(wanted, files, python_version=python_version, allow_pre=allow_pre)

    def files(self, name: str) -> tuple[IndexFile, ...]:
        """Everything that all configured places list of a project, links first; raises :class:`UnknownProjectError`."""
        return self.look(name).files

    def look(self, name: str) -> ProjectPage:
        """The same with the serials of the places that say them; raises :class:`UnknownProjectError`."""
        plain = canonical(parse_requirement(name).name)
        found: dict[tuple[str, str | None], IndexFile] = {}
        serials: dict[str, int] = {}
        known = False
        for place in self.config.find_links:
            for file in self._links(place):
                if _is_of(file.filename, plain):
                    found.setdefault((file.filename, file.hashes.get("sha256")), file)
                    known = True
        for index in self.config.indexes:
            page = self._page(f"{index.rstrip('/')}/{quote(plain)}/")
            if page is None or page.files is None:
                continue
            known = True
            if page.serial is not None:
                serials[index] = page.serial
            for file in page.files:
                found.setdefault((file.filename, file.hashes.get("sha256")), file)
        if not known:
            raise unknown_project(plain)
        return ProjectPage(files=tuple(found.values()), serials=serials)

    def fetch(self, file: IndexFile, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Path:
        """The path of a file's verified copy in the cache; see :meth:`Downloads.fetch`."""
        return self._downloads.fetch(file, max_bytes=max_bytes)

    def fetch_source(self, release: Release) -> Source:
        """Fetch a release's sdist; raises as :meth:`fetch`."""
        path = self.fetch(release.sdist)
        return Source(
            kind=SourceKind.SDIST,
            name=release.name,
            version=release.version,
            path=path,
            sha256=path.parent.name,
            size_bytes=path.stat().st_size,
            url=release.sdist.url,
            requires_python=release.requires_python,
            uploaded_at=release.uploaded_at,
        )

    def _links(self, place: str) -> tuple[IndexFile, ...]:
        parts = urlsplit(place)
        if parts.scheme != "file":
            page = self._page(place)
            return page.files or () if page is not None else ()
        path = Path(unquote(parts.path))
        if path.is_dir():
            return _directory(path)
        if path.suffix in (".html", ".htm"):
            return _local_page(path)
        return (IndexFile(filename=path.name, url=place),) if path.is_file() else ()

    def _page(self, url: str) -> Page | None:
        if url.startswith("file:"):
            directory = Path(unquote(urlsplit(url).path))
            page = directory / "index.html"
            if page.is_file():
                return _unkept(_local_page(page))
            return _unkept(_directory(directory)) if directory.is_dir() else None
        cached = self._pages.load(url)
        if cached is not None and cached.fresh and time.time() - cached.fetched_at < self._max_page_age_s:
            return cached
        return self._http.retrying(url, lambda: self._ask(url, cached))

    def _ask(self, url: str, cached: Page | None) -> Page | None:
        headers = {"Accept": ACCEPT}
        if cached is not None and cached.files is not None:
            if cached.etag:
                headers["If-None-Match"] = cached.etag
            elif cached.last_modified:
                headers["If-Modified-Since"] = cached.last_modified
        with self._http.get(url, headers) as answer:
            lifetime_s = max_age_s(answer.headers.get("cache-control", ""))
            old = cached if answer.status == 304 else None
            if old is not None:
                files = old.files
            elif answer.status in (404, 410):
                # A project may be published at any moment: its absence is never kept.
                self._pages.forget(url)
                return None
            elif answer.status == 200:
                body = answer.read(max_bytes=MAX_PAGE_BYTES)
                kind = answer.headers.get("content-type", "")
                files = tuple(parse_page(body, content_type=kind, url=answer.url))
            else:
                raise NetworkError(f"the index answers {answer.status} to a plain request", details=url)
            page = Page(
                files=files,
                fetched_at=time.time(),
                max_age_s=lifetime_s or 0.0,
                etag=answer.headers.get("etag") or (old.etag if old else None),
                last_modified=answer.headers.get("last-modified") or (old.last_modified if old else None),
                serial=serial_in(answer.headers) or (old.serial if old else None),
            )
            if lifetime_s is not None:
                self._pages.store(url, page)
            return page


def _unkept(files: tuple[IndexFile, ...]) -> Page:
    return Page(files=files, fetched_at=0.0, max_age_s=0.0)


def _is_of(filename: str, name: str) -> bool:
    return sdist_version(filename, name) is not None or wheel_version(filename, name) is not None


def _directory(path: Path) -> tuple[IndexFile, ...]:
    files = [entry for entry in sorted(path.iterdir()) if entry.is_file()]
    return tuple(
        IndexFile(filename=entry.name, url="file://" + quote(str(entry)), size_bytes=entry.stat().st_size)
        for entry in files
    )


def _local_page(path: Path) -> tuple[IndexFile, ...]:
    with path.open("rb") as stream:
        body = stream.read(MAX_PAGE_BYTES + 1)
    if len(body) > MAX_PAGE_BYTES:
        raise InputError(f"{path} is larger than {MAX_PAGE_BYTES} bytes")
    return tuple(parse_page(body, content_type="text/html", url="file://" + quote(str(path))))
