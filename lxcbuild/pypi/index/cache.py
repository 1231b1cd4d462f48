"""Keeps index pages, already parsed, for as long as the index says; and small facts about files, such as a first-seen hash."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec.structs
from msgspec import Struct

from lxcbuild.files import write_whole
from lxcbuild.pypi.index.model import IndexFile

#: Seconds for which a page is believed when the index does not say.
DEFAULT_MAX_AGE_S = 600.0
_LONGEST_S = 86_400.0
_FORMAT = 1


class Page(Struct, frozen=True, kw_only=True):
    """A project's page as it was at ``fetched_at`` (seconds since the epoch); ``files`` is None when there was none."""

    files: tuple[IndexFile, ...] | None
    fetched_at: float
    max_age_s: float
    etag: str | None = None
    last_modified: str | None = None
    serial: int | None = None  # grows with every change of the project, where the index says it

    @property
    def fresh(self) -> bool:
        """Whether the index allows using it without asking again. A clock that went backwards makes it stale."""
        return 0 <= time.time() - self.fetched_at < self.max_age_s


class PageCache:
    """One file per URL below ``root``; unreadable ones count as absent, so that a damaged cache mends itself."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def load(self, url: str) -> Page | None:
        """The stored page of a URL, fresh or not."""
        try:
            data = json.loads(self._path(url).read_bytes())
            if data["format"] != _FORMAT or data["url"] != url:
                return None
            files = data.pop("files")
            entries = None if files is None else tuple(IndexFile(**entry) for entry in files)
            return Page(
                files=entries,
                fetched_at=float(data["fetched_at"]),
                max_age_s=float(data["max_age_s"]),
                etag=data["etag"],
                last_modified=data["last_modified"],
                serial=data.get("serial"),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def store(self, url: str, page: Page) -> None:
        """Keep a page; raises :class:`DiskFullError`."""
        data: dict[str, Any] = {"format": _FORMAT, "url": url, **{k: getattr(page, k) for k in Page.__struct_fields__}}
        if page.files is not None:
            data["files"] = [_as_dict(file) for file in page.files]
        place = self._path(url)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, json.dumps(data, separators=(",", ":")), durable=False, mode=0o600)

    def forget(self, url: str) -> None:
        """Drop a page."""
        self._path(url).unlink(missing_ok=True)

    def _path(self, url: str) -> Path:
        return self._root / f"{hashlib.sha256(url.encode()).hexdigest()}.json"


def max_age_s(cache_control: str) -> float | None:
    """What a ``Cache-Control`` header allows: seconds, or None for no storing at all (at most a day is believed)."""
    text = cache_control.lower()
    if "no-store" in text:
        return None
    if "no-cache" in text:
        return 0.0
    match = re.search(r"(?<![a-z-])max-age\s*=\s*\"?(\d{1,12})", text)
    return min(float(match[1]), _LONGEST_S) if match else DEFAULT_MAX_AGE_S


def serial_in(headers: Mapping[str, str]) -> int | None:
    """The serial of an answer (keys in lower case): it grows with every change of the index. None where there is none."""
    text = headers.get("x-pypi-last-serial", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _as_dict(file: IndexFile) -> dict[str, Any]:
    return {
        slot.name: value
        for slot in msgspec.structs.fields(file)
        if (value := getattr(file, slot.name)) not in (None, {})
    }
