"""The anchors of an HTML page of a package index."""

from __future__ import annotations

from html.parser import HTMLParser


class Anchors(HTMLParser):
    """Collects anchors, up to one more than ``limit``, and the first ``<base>``."""

    def __init__(self, *, limit: int) -> None:
        super().__init__(convert_charrefs=True)
        self._limit = limit
        self.base: str | None = None
        self.links: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take ``<a href>`` and ``<base href>``."""
        attributes = dict(attrs)
        if not attributes.get("href"):
            return
        if tag == "a" and len(self.links) <= self._limit:
            self.links.append(attributes)
        elif tag == "base" and self.base is None:
            self.base = attributes["href"]
