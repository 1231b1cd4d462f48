"""Reads an index's answer for one project: PEP 691 JSON or PEP 503 HTML. The bytes are hostile; nothing in them is trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from lxcbuild.errors import NetworkError
from lxcbuild.pypi.index.config import split_credentials
from lxcbuild.pypi.index.model import IndexFile

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
#: More files than any project has; a page with more is cut with an error, not believed.
MAX_FILES = 200_000
_HASH = re.compile(r"(sha256|sha512|sha384|sha224|sha1|md5|blake2b|blake2s|sha3_256|sha3_512)=([0-9a-fA-F]{16,128})")
_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!~=@-]{0,254}", re.ASCII)


def parse_page(body: bytes, *, content_type: str, url: str) -> list[IndexFile]:
    """The files on a page that was fetched from ``url``; raises :class:`NetworkError` when it is not what it claims to be."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind.endswith("json"):
        found = _json_files(body, url)
    elif kind in ("text/html", "application/vnd.pypi.simple.v1+html", "application/xhtml+xml", ""):
        found = _html_files(body, url)
    else:
        raise _bad_page(url, f"it answers with {kind[:60]!r}, which is not an index format")
    files = []
    for file in found:
        files.append(file)
        if len(files) > MAX_FILES:
            raise _bad_page(url, f"it lists more than {MAX_FILES} files")
    return files


def _json_files(body: bytes, url: str) -> Iterator[IndexFile]:
    try:
        page = json.loads(body)
    except (ValueError, RecursionError):
        raise _bad_page(url, "it sent broken JSON") from None
    if not isinstance(page, dict) or not isinstance(page.get("files"), list):
        raise _bad_page(url, "its JSON lacks the list of files")
    meta = page.get("meta")
    version = str(meta.get("api-version", "1.0")) if isinstance(meta, dict) else "1.0"
    if version.partition(".")[0] != "1":
        raise _bad_page(url, f"it speaks version {version[:20]} of the index protocol, and lxcbuild speaks version 1")
    for entry in page["files"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("url"), str):
            continue
        hashes = entry.get("hashes")
        pairs = hashes.items() if isinstance(hashes, dict) else ()
        yanked = entry.get("yanked", False)
        size = entry.get("size")
        file = _file(
            url,
            href=entry["url"],
            filename=_text(entry.get("filename")),
            hashes=_hashes(f"{k}={v}" for k, v in pairs),
            requires_python=_text(entry.get("requires-python")),
            yanked=_text(yanked) or "" if yanked else None,
            uploaded_at=_text(entry.get("upload-time")),
            size_bytes=size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None,
            metadata_hashes=_json_metadata(entry),
        )
        if file is not None:
            yield file


def _html_files(body: bytes, url: str) -> Iterator[IndexFile]:
    from lxcbuild.pypi.index.anchors import Anchors  # html.parser, 8 ms; most indexes speak JSON

    try:
        page = Anchors(body.decode("utf-8", errors="replace"), limit=MAX_FILES)
        base = urljoin(url, page.base) if page.base else url
    except ValueError as error:
        raise _bad_page(url, str(error)) from None
    for attributes in page.links:
        href, fragment = urldefrag(attributes["href"] or "")
        size = attributes.get("data-size")
        file = _file(
            base,
            href=href,
            filename=None,
            hashes=_hashes(fragment.split("&")),
            requires_python=attributes.get("data-requires-python"),
            yanked=(attributes["data-yanked"] or "") if "data-yanked" in attributes else None,
            uploaded_at=attributes.get("data-upload-time"),
            size_bytes=int(size) if size and size.isascii() and size.isdigit() and len(size) < 16 else None,
            metadata_hashes=_hashes(
                [attributes.get("data-core-metadata") or attributes.get("data-dist-info-metadata") or ""]
            ),
        )
        if file is not None:
            yield file


def _file(
    base: str,
    *,
    href: str,
    filename: str | None,
    hashes: Mapping[str, str],
    requires_python: str | None,
    yanked: str | None,
    uploaded_at: str | None,
    size_bytes: int | None,
    metadata_hashes: Mapping[str, str],
) -> IndexFile | None:
    try:
        url, _ = split_credentials(urldefrag(urljoin(base, href.strip())).url)
        parts = urlsplit(url)
    except ValueError:
        return None
    # A page from the network must not be able to name a file of this machine.
    if parts.scheme not in ("https", "http") and not (parts.scheme == "file" and base.startswith("file:")):
        return None
    name = filename or unquote(parts.path).rsplit("/", 1)[-1]
    if not _FILENAME.fullmatch(name):
        return None
    return IndexFile(
        filename=name,
        url=url,
        hashes={algorithm: digest.lower() for algorithm, digest in hashes.items()},
        size_bytes=size_bytes,
        requires_python=requires_python.strip()[:200] or None if requires_python else None,
        yanked=yanked[:1000] if yanked is not None else None,
        uploaded_at=uploaded_at[:40] if uploaded_at else None,
        metadata_hashes={algorithm: digest.lower() for algorithm, digest in metadata_hashes.items()},
    )


def _json_metadata(entry: Mapping[str, Any]) -> dict[str, str]:
    offered = entry.get("core-metadata", entry.get("dist-info-metadata"))
    return _hashes(f"{k}={v}" for k, v in offered.items()) if isinstance(offered, dict) else {}


def _hashes(pairs: Iterable[str]) -> dict[str, str]:
    return {match[1]: match[2] for pair in pairs if (match := _HASH.fullmatch(pair))}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _bad_page(url: str, what: str) -> NetworkError:
    return NetworkError(
        f"the package index at {urlsplit(url).netloc or 'a local path'} cannot be understood: {what}",
        details=split_credentials(url)[0],
        resolution="check the index-url that pip is configured with: pip config list",
    )
