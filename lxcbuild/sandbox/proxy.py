"""The way out that a policy may grant: an HTTP proxy with a list of hosts, outside the sandbox.

It runs in the guard's process (see sinkhole.py), which is in the host's network; only its listening socket was made inside, where
it is 127.0.0.1:3128. So nothing needs to be forwarded, and there is no path from inside to the host but this parser. ``CONNECT``
and plain ``http://`` requests, one per connection. Standard library only.

Names are resolved here, once, and the connection goes to the address that was checked: addresses of this machine and of private
networks are refused, unless the list has the address itself. Where the host uses a proxy of its own, requests go on to that one,
which then resolves the names.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import re
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # not in typeshed

from lxcbuild.sandbox.sinkhole import Attempt
from lxcbuild.values import dataclass

if TYPE_CHECKING:
    from lxcbuild.sandbox.sinkhole import Guard

MAX_CONNECTIONS = 32
_HEAD_BYTES, _HEAD_S = 16 * 1024, 10.0
_CONNECT_S, _IDLE_S, _LIFE_S = 20.0, 60.0, 1800.0
#: All that goes through in one sandbox's life, both ways.
_MAX_BYTES = 4 * 1024**3
_CHUNK = 65536
_REQUEST = re.compile(rb"([A-Z]{1,16}) ([!-~]{1,8000}) HTTP/1\.[01]")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9_])?|[0-9a-f:.]{2,45}")
_USUAL_PORTS = (80, 443)
_HOP_BY_HOP = (b"proxy-", b"connection:", b"keep-alive:", b"host:", b"upgrade:")


class BadRequestError(ValueError):
    """A request that is no HTTP proxy request of a kind that we serve."""


@dataclass(frozen=True)
class Request:
    """One request: where to, and for plain HTTP the head that the server gets."""

    tunnel: bool
    host: str
    port: int
    method: bytes = b"CONNECT"
    path: bytes = b""
    headers: tuple[bytes, ...] = ()

    @property
    def authority(self) -> bytes:
        """``host:port``, as in a request line; the usual port of plain HTTP is left out there."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == 80 and not self.tunnel else f"{host}:{self.port}").encode()

    def head(self, *, absolute: bool, authorization: bytes = b"") -> bytes:
        """The request as the server gets it, or with ``absolute`` the next proxy."""
        target = self.authority if self.tunnel else self.path
        if absolute and not self.tunnel:
            target = b"http://" + self.authority + self.path
        lines = [self.method + b" " + target + b" HTTP/1.1", b"Host: " + self.authority, *self.headers]
        lines += [authorization] if authorization else []
        lines += [] if self.tunnel else [b"Connection: close"]
        return b"\r\n".join(lines) + b"\r\n\r\n"


def parse_request(head: bytes) -> Request:
    """Read the head of a request; raises :class:`BadRequestError`."""
    first, *rest = head.split(b"\r\n")
    found = _REQUEST.fullmatch(first)
    if found is None:
        raise BadRequestError("no request line")
    method, target = found[1], found[2].decode("ascii")
    tunnel = method == b"CONNECT"
    if not tunnel and not target.lower().startswith("http://"):
        raise BadRequestError("only CONNECT and http:// are served")
    try:
        url = urlsplit("//" + target if tunnel else target)
        host, port = (url.hostname or "").rstrip("."), url.port or (443 if tunnel else 80)
    except ValueError as error:
        raise BadRequestError("no host and port") from error
    if not _HOST.fullmatch(host) or url.username is not None:
        raise BadRequestError("no host name")
    if tunnel:
        return Request(tunnel=True, host=host, port=port)
    headers = tuple(line for line in rest if line and not line.lower().startswith(_HOP_BY_HOP))
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return Request(tunnel=False, host=host, port=port, method=method, path=path.encode(), headers=headers)


def is_listed(host: str, port: int, hosts: Sequence[str]) -> bool:
    """Whether the policy's list has the host: ``name``, ``*.domain``, either with ``:port``; without, ports 80 and 443."""
    for entry in hosts:
        pattern, colon, wanted = entry.lower().rpartition(":")
        if not colon or not wanted.isdecimal():
            pattern, wanted = entry.lower(), ""
        matches = host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
        if matches and (port == int(wanted) if wanted else port in _USUAL_PORTS):
            return True
    return False


def is_public(address: str) -> bool:
    """Whether an address is one of the internet, and neither of this machine nor of its networks."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        for inner in (parsed.ipv4_mapped, parsed.sixtofour, parsed.teredo[1] if parsed.teredo else None):
            if inner is not None:
                return is_public(str(inner))
        if parsed in ipaddress.IPv6Network("64:ff9b::/96"):  # NAT64 (RFC 6052)
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
    return parsed.is_global and not parsed.is_multicast


def serve_in_background(listener: socket.socket, hosts: list[str], guard: Guard) -> None:
    """Serve in threads of this process until it ends."""
    threading.Thread(target=_Proxy(listener, hosts, guard).serve, name="proxy", daemon=True).start()


class _Proxy:
    def __init__(self, listener: socket.socket, hosts: list[str], guard: Guard) -> None:
        self._listener = listener
        self._hosts = hosts
        self._guard = guard
        self._places = threading.Semaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._bytes_left = _MAX_BYTES

    def serve(self) -> None:
        while True:
            self._places.acquire()  # more of them wait in the backlog
            client, peer = self._listener.accept()
            threading.Thread(target=self._serve_one, args=(client, peer), daemon=True).start()

    def _serve_one(self, client: socket.socket, peer: tuple[Any, ...]) -> None:
        try:
            with client:
                try:
                    self._converse(client, peer)
                except BadRequestError as error:
                    _refuse(client, "400 Bad Request", str(error))
                except OSError as error:
                    _refuse(client, "502 Bad Gateway", str(error))
        finally:
            self._places.release()

    def _converse(self, client: socket.socket, peer: tuple[Any, ...]) -> None:
        head, rest = _read_head(client)
        request = parse_request(head)
        upstream = _upstream(request)
        address, why = self._judge(request, resolve=upstream is None)
        own = client.getsockname()
        self._guard.recorder.add(
            Attempt("proxy", request.host, None, request.port, allowed=why is None),
            lambda: self._guard.local_peer(peer, own, socket.IPPROTO_TCP),
        )
        if why is not None:
            _refuse(client, "403 Forbidden", why)
            return
        with socket.create_connection(upstream[0] if upstream else (address, request.port), _CONNECT_S) as server:
            if upstream is not None:
                server.sendall(request.head(absolute=True, authorization=upstream[1]) + rest)
            elif request.tunnel:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                server.sendall(rest)
            else:
                server.sendall(request.head(absolute=False) + rest)
            self._relay(client, server)

    def _judge(self, request: Request, *, resolve: bool) -> tuple[str | None, str | None]:
        """The address to connect to, or why not."""
        if not is_listed(request.host, request.port, self._hosts):
            return None, f"{request.host}:{request.port} is not in the policy's proxy_hosts"
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(request.host)
            return request.host, None  # the address itself is on the list
        if not resolve:
            return None, None
        for *_, where in socket.getaddrinfo(request.host, request.port, type=socket.SOCK_STREAM):
            address = str(where[0])
            if is_public(address) or is_listed(address, request.port, self._hosts):
                return address, None
        return None, f"{request.host} is in a private network, and its address is not in the policy's proxy_hosts"

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        """Pass bytes both ways until both sides are done, nothing comes for a while, or a bound is reached."""
        for sock in (client, server):
            sock.settimeout(_IDLE_S)
        other = {client: server, server: client}
        reading = [client, server]
        deadline = time.monotonic() + _LIFE_S
        while reading and time.monotonic() < deadline:
            ready, _, _ = select.select(reading, [], [], _IDLE_S)
            if not ready:
                return
            for sock in ready:
                data = sock.recv(_CHUNK)
                if not self._take(len(data)):
                    return
                if data:
                    other[sock].sendall(data)
                    continue
                reading.remove(sock)
                with contextlib.suppress(OSError):
                    other[sock].shutdown(socket.SHUT_WR)

    def _take(self, count: int) -> bool:
        with self._lock:
            self._bytes_left -= count
            return self._bytes_left >= 0


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    """The head of a request without its empty line, and what came behind it."""
    data = b""
    deadline = time.monotonic() + _HEAD_S
    while b"\r\n\r\n" not in data:
        client.settimeout(max(0.01, deadline - time.monotonic()))
        more = client.recv(_CHUNK)
        data += more
        if not more or len(data) > _HEAD_BYTES:
            raise BadRequestError("no complete request")
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _refuse(client: socket.socket, status: str, why: str) -> None:
    body = f"lxcbuild: {why}\n".encode(errors="replace")
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with contextlib.suppress(OSError):
        client.sendall(head.encode() + body)


def _upstream(request: Request) -> tuple[tuple[str, int], bytes] | None:
    """The host's own proxy for this request: its address, and a header that it wants; None when it has none."""
    proxies = getproxies_environment()
    text = proxies.get("https" if request.tunnel else "http") or proxies.get("all")
    if not text or proxy_bypass_environment(f"{request.host}:{request.port}", proxies):
        return None
    url = urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme != "http" or not url.hostname:
        return None  # SOCKS and proxies behind TLS are not spoken here: straight ahead
    authorization = b""
    if url.username is not None:
        secret = f"{unquote(url.username)}:{unquote(url.password or '')}"
        authorization = b"Proxy-Authorization: Basic " + base64.b64encode(secret.encode())
    return (url.hostname, url.port or 80), authorization
