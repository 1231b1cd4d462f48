"""A small, real package index on a loopback port, which can be told to misbehave."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class File:
    """One file of the index and how its listing looks."""

    name: str
    data: bytes
    hashed: bool = True
    requires_python: str | None = None
    yanked: str | None = None
    uploaded_at: str | None = None
    sha256: str | None = None  # what the listing claims; the truth when None
    metadata: bytes | None = None  # a wheel's metadata, offered alone (PEP 658)

    @property
    def digest(self) -> str:
        return self.sha256 or hashlib.sha256(self.data).hexdigest()


@dataclass
class Index:
    """State of the server: projects, and per-path misbehaviour that is used up request by request."""

    url: str = ""
    speaks_json: bool = True
    max_age_s: int = 600
    projects: dict[str, list[File]] = field(default_factory=dict)
    faults: dict[str, list[Callable[[Any], None]]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    supports_range: bool = True
    password: str | None = None
    says_serials: bool = False
    serials: dict[str, int] = field(default_factory=dict)  # of the last change of each project

    def add(self, project: str, *files: File) -> None:
        # A page is made of one list: a reader sees all of the new files or none.
        self.projects[project] = [*self.projects.get(project, []), *files]
        self.serials[project] = sum(map(len, self.projects.values()))

    def fail(self, path: str, *faults: Callable[[Any], None]) -> None:
        self.faults.setdefault(path, []).extend(faults)

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]


def status(code: int, **headers: str) -> Callable[[Any], None]:
    def fault(handler: Any) -> None:
        handler.reply(code, b"no", **headers)

    return fault


def truncate(after: int) -> Callable[[Any], None]:
    """Promise the whole file, send the first bytes of it, and hang up."""

    def fault(handler: Any) -> None:
        handler.serve_file(cut=after)
        handler.close_connection = True

    return fault


def send(body: bytes, content_type: str) -> Callable[[Any], None]:
    def fault(handler: Any) -> None:
        handler.reply(200, body, Content_Type=content_type)

    return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10
    index: Index

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.index.requests.append((self.path, dict(self.headers)))
        if self.index.password and self.headers.get("Authorization") != self.index.password:
            return self.reply(401, b"who are you")
        faults = self.index.faults.get(self.path)
        if faults:
            return faults.pop(0)(self)
        if match := re.fullmatch(r"/simple/([a-z0-9-]+)/", self.path):
            return self.serve_page(match[1])
        if self.path == "/simple/":
            return self.serve_list()
        return self.serve_file()

    def serve_page(self, project: str) -> None:
        files = self.index.projects.get(project)
        if files is None:
            return self.reply(404, b"not found")
        as_json = self.index.speaks_json and "json" in self.headers["Accept"].split(",")[0]
        body = _json(files) if as_json else _html(files)
        etag = '"' + hashlib.md5(body).hexdigest() + '"'
        cache = {"ETag": etag, "Cache_Control": f"max-age={self.index.max_age_s}, public"}
        if self.index.says_serials:
            cache["X_PyPI_Last_Serial"] = str(self.index.serials[project])
        if self.headers.get("If-None-Match") == etag:
            return self.reply(304, b"", **cache)
        kind = "application/vnd.pypi.simple.v1+json" if as_json else "text/html; charset=utf-8"
        return self.reply(200, body, Content_Type=kind, **cache)

    def serve_list(self) -> None:
        """All projects, as PEP 691 has them, with serials where this index says any."""
        said = dict(self.index.serials)
        serials = [({"_last-serial": said[name]} if self.index.says_serials else {}) for name in said]
        projects = [{"name": name, **serial} for name, serial in zip(said, serials, strict=True)]
        body = json.dumps({"meta": {"api-version": "1.1"}, "projects": projects}).encode()
        etag = '"' + hashlib.md5(body).hexdigest() + '"'
        if self.headers.get("If-None-Match") == etag:
            return self.reply(304, b"", ETag=etag)
        return self.reply(200, body, Content_Type="application/vnd.pypi.simple.v1+json", ETag=etag)

    def serve_file(self, cut: int | None = None) -> None:
        name = self.path.rsplit("/", 1)[-1]
        listed = [f for files in self.index.projects.values() for f in files]
        data = next((f.data for f in listed if f.name == name), None)
        if data is None:
            data = next((f.metadata for f in listed if f"{f.name}.metadata" == name), None)
        if data is None:
            return self.reply(404, b"not found")
        etag = '"' + hashlib.md5(data).hexdigest() + '"'
        start, match = 0, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match and self.index.supports_range and self.headers.get("If-Range", etag) == etag:
            start = int(match[1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:] if cut is None else data[start : start + cut])
        return None


def _json(files: list[File]) -> bytes:
    entries = [
        {
            "filename": f.name,
            "url": f"../../files/{f.name}",
            "hashes": {"sha256": f.digest} if f.hashed else {},
            "requires-python": f.requires_python,
            "yanked": False if f.yanked is None else f.yanked or True,
            "upload-time": f.uploaded_at,
            "size": len(f.data),
            **({"core-metadata": {"sha256": hashlib.sha256(f.metadata).hexdigest()}} if f.metadata is not None else {}),
        }
        for f in files
    ]
    return json.dumps({"meta": {"api-version": "1.1"}, "name": "x", "files": entries}).encode()


def _html(files: list[File]) -> bytes:
    lines = ["<!DOCTYPE html><html><body>"]
    for f in files:
        attributes = f' data-requires-python="{escape(f.requires_python)}"' if f.requires_python else ""
        attributes += f' data-yanked="{escape(f.yanked)}"' if f.yanked is not None else ""
        attributes += f' data-upload-time="{f.uploaded_at}"' if f.uploaded_at else ""
        if f.metadata is not None:
            attributes += f' data-core-metadata="sha256={hashlib.sha256(f.metadata).hexdigest()}"'
        fragment = f"#sha256={f.digest}" if f.hashed else ""
        lines.append(f'<a href="../../files/{f.name}{fragment}"{attributes}>{f.name}</a><br/>')
    return "\n".join(lines).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients hang up on answers that they refuse; anything else is a fault of this server.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve() -> Iterator[Index]:
    """Run an index for the length of the block."""
    index = Index()
    handler = type("Handler", (_Handler,), {"index": index})
    server = _Server(("127.0.0.1", 0), handler)
    index.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
