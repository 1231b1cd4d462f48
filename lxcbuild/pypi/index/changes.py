"""What is new in the index since it was last looked at: projects by serials, releases by files. Knows nothing of building.

An index that says serials has ``X-PyPI-Last-Serial`` in its answers and ``_last-serial`` of every project in its list of all
projects (PEP 691 leaves keys that begin so to the index; the meaning is Warehouse's). One question then tells which projects have
changed. Other indexes are asked project by project, with conditional requests.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from packaging.version import Version

from lxcbuild.errors import NetworkError, UnknownProjectError
from lxcbuild.files import Closing
from lxcbuild.pypi.files.identity import canonical
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.pypi.index.config import PipConfig, load_pip_config
from lxcbuild.pypi.index.http import Http, TransientError, host_of
from lxcbuild.pypi.index.model import IndexFile, ProjectPage
from lxcbuild.pypi.versions.selection import ReleaseFiles, releases_by_version
from lxcbuild.state.paths import StateDirs

_ACCEPT_LIST = "application/vnd.pypi.simple.v1+json"
#: Bytes of a list of all projects: the largest public index needs 45 MB for 650,000 projects.
MAX_LIST_BYTES = 512 * 1024 * 1024


class NewRelease(Struct, frozen=True, kw_only=True):
    """A release that can be built and was not there before, or whose source archive is another one than before.

    ``digest`` is the archive's SHA-256 as the index says it, "" where it says none; ``uploaded_at`` is ISO 8601.
    """

    name: str  # normalised
    version: str
    digest: str
    uploaded_at: str | None = None

    @property
    def requirement(self) -> str:
        """What asks for exactly this release."""
        return f"{self.name}=={self.version}"


class PauseError(NetworkError):
    """The index wants to be left alone, or cannot be reached: ask again later, after ``retry_after_s`` if it says so."""

    def __init__(self, brief: str, *, retry_after_s: float | None = None, details: str | None = None) -> None:
        super().__init__(brief, details=details)
        self.retry_after_s = retry_after_s


def known_releases(name: str, files: Iterable[IndexFile]) -> dict[str, str]:
    """The releases of a project that have a source archive, yanked ones too: version to digest ("" where none is said)."""
    return {str(each.version): _digest(each) for each in releases_by_version(name, files) if each.sdists}


def new_releases(
    name: str, files: Iterable[IndexFile], known: Mapping[str, str], *, allow_pre: bool = False
) -> list[NewRelease]:
    """The releases that ``known`` lacks or has with another archive, oldest first; yanked ones are left out.

    So are pre-releases, unless ``allow_pre`` or as long as the project has nothing else (the rule of PEP 440).
    """
    present = [each for each in releases_by_version(name, files) if each.sdists and each.yanked is None]
    only_pre = all(each.version.is_prerelease for each in present)
    return [
        NewRelease(name=name, version=str(each.version), digest=_digest(each), uploaded_at=each.sdists[0].uploaded_at)
        for each in present
        if (allow_pre or only_pre or not each.version.is_prerelease) and _is_new(each, known)
    ]


def newest(releases: Iterable[NewRelease]) -> NewRelease | None:
    """The one of the highest version."""
    return max(releases, key=lambda each: Version(each.version), default=None)


def _is_new(release: ReleaseFiles, known: Mapping[str, str]) -> bool:
    before, digest = known.get(str(release.version)), _digest(release)
    return before is None or bool(before and digest and before != digest)


def _digest(release: ReleaseFiles) -> str:
    # Of several archives the first by name, so that the order of a page changes nothing.
    first = min(release.sdists, key=lambda file: file.filename)
    return first.hashes.get("sha256", "")


class IndexWatcher(Closing):
    """Asks what has changed. Never retries by itself: whoever watches waits. A context manager; for one thread at a time."""

    def __init__(self, dirs: StateDirs, *, config: PipConfig | None = None) -> None:
        configured = config if config is not None else load_pip_config()
        self.config = replace(configured, retries=0)
        # Pages go through the cache that builds use: a build that follows sees what was seen here.
        self._index = IndexClient(dirs, config=self.config, max_page_age_s=0.0)
        self._http = Http(self.config)
        self._etags: dict[str, str] = {}
        self._lists: dict[str, dict[str, int]] = {}

    def close(self) -> None:
        """Close all connections."""
        self._index.close()
        self._http.close()

    def look(self, name: str) -> ProjectPage | None:
        """What the index lists of a project now; None when it knows no such project.

        Raises :class:`PauseError` where waiting may help, otherwise :class:`NetworkError`.
        """
        try:
            return self._index.look(name)
        except UnknownProjectError:
            return None
        except NetworkError as error:
            raise _asks_for_a_pause(error) from error

    def serials(self, names: Container[str]) -> dict[str, dict[str, int]] | None:
        """The serial of every project of ``names`` by the index's URL and the project's name; None where an index says none.

        One question per index, which is answered with nothing when nothing has changed. Raises as :meth:`look`.
        """
        if self.config.find_links or any(not url.startswith(("http:", "https:")) for url in self.config.indexes):
            return None
        found: dict[str, dict[str, int]] = {}
        for index in self.config.indexes:
            try:
                listed = self._http.retrying(index, lambda url=index: self._list(url, names))  # type: ignore[misc]
            except NetworkError as error:
                raise _asks_for_a_pause(error) from error
            if listed is None:
                return None
            found[index] = listed
        return found

    def _list(self, index: str, names: Container[str]) -> dict[str, int] | None:
        headers = {"Accept": _ACCEPT_LIST}
        if index in self._etags:
            headers["If-None-Match"] = self._etags[index]
        with self._http.get(f"{index.rstrip('/')}/", headers) as answer:
            if answer.status == 304:
                return self._lists[index]
            kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            if answer.status != 200 or not kind.endswith("json"):
                return None
            listed = _parse_list(answer.read(max_bytes=MAX_LIST_BYTES), names, url=index)
            # Which projects are tracked does not change while a watcher lives: what was left out stays unneeded.
            if listed is not None and "etag" in answer.headers:
                self._etags[index], self._lists[index] = answer.headers["etag"], listed
            return listed


def _parse_list(body: bytes, names: Container[str], *, url: str) -> dict[str, int] | None:
    """The serials in a list of all projects; None when it holds none.

    Every entry is dropped as soon as it is read unless somebody wants it: half a million dictionaries would take 300 MB.
    """
    found: dict[str, int] = {}
    says_serials = False

    def keep(entry: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal says_serials
        name, serial = entry.get("name"), entry.get("_last-serial")
        if not isinstance(name, str):
            return entry if "projects" in entry else None
        if isinstance(serial, int) and not isinstance(serial, bool):
            says_serials = True
            plain = canonical(name)
            if plain in names:
                found[plain] = serial
        return None

    try:
        page = json.loads(body, object_hook=keep)
    except (ValueError, RecursionError):
        page = None
    if not isinstance(page, dict) or not isinstance(page.get("projects"), list):
        raise NetworkError(f"the list of projects of {host_of(url)} cannot be understood", details=url)
    return found if says_serials else None


def _asks_for_a_pause(error: NetworkError) -> NetworkError:
    """A :class:`PauseError` for what waiting may mend, else an error of the same words."""
    cause = error.__cause__
    if isinstance(cause, TransientError):
        return PauseError(error.brief, retry_after_s=cause.retry_after_s, details=error.details)
    return NetworkError(error.brief, details=error.details, resolution=error.resolution)
