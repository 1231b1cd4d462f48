"""The way out that a policy may grant: an HTTP proxy with a list of hosts, outside the sandbox.

It runs in the guard's process (see sinkhole.py), which is in the host's network; only its listening socket was made inside, where
it is 127.0.0.1:3128. So nothing needs to be forwarded, and there is no path from inside to the host but this and its parser
(proxyrequest.py). ``CONNECT`` and plain ``http://`` requests, one per connection: a server gets a head that was written anew and no
byte more than the declared body. Standard library only.

Names are resolved here, once, and the connection goes to the address that was checked: addresses of this machine and of private
networks are refused, unless the list has the address itself. Where the host uses a proxy of its own, requests go on to that one,
which gets the name that was judged and resolves it; what is meant for a tunnel waits until that proxy has opened it.
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
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # not in typeshed

from lxcbuild.sandbox.network.attempts import Attempts, SeenAttempt
from lxcbuild.sandbox.network.attribution import Culprit
from lxcbuild.sandbox.network.proxyrequest import BadRequestError, Request, is_listed, is_public, parse_request

MAX_CONNECTIONS = 32
_HEAD_BYTES, _HEAD_S = 16 * 1024, 10.0
_CONNECT_S, _IDLE_S, _LIFE_S = 20.0, 60.0, 1800.0
#: All that goes through in one sandbox's life, both ways.
_MAX_BYTES = 4 * 1024**3
_CHUNK = 65536
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")


class Witness(Protocol):
    """Who writes requests down, and knows whose they are: the guard."""

    recorder: Attempts

    def local_peer(self, peer: tuple[Any, ...], own: tuple[Any, ...], protocol: int) -> Culprit | None:
        """The process behind ``peer``, which talks to our address ``own``."""


def serve_in_background(listener: socket.socket, hosts: list[str], witness: Witness) -> None:
    """Serve in threads of this process until it ends."""
    threading.Thread(target=_Proxy(listener, hosts, witness).serve, name="proxy", daemon=True).start()


class _Proxy:
    def __init__(self, listener: socket.socket, hosts: list[str], witness: Witness) -> None:
        self._listener = listener
        self._hosts = hosts
        self._witness = witness
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
        head, rest = _read_head(client, longest_s=_HEAD_S)
        request = parse_request(head)
        upstream = _upstream(request)
        address, why = self._judge(request, resolve=upstream is None)
        own = client.getsockname()
        self._witness.recorder.add(
            SeenAttempt("proxy", request.host, None, request.port, allowed=why is None),
            lambda: self._witness.local_peer(peer, own, socket.IPPROTO_TCP),
        )
        if why is not None:
            _refuse(client, "403 Forbidden", why)
            return
        with socket.create_connection(upstream[0] if upstream else (address, request.port), _CONNECT_S) as server:
            if request.tunnel:
                early = _open_tunnel(server, request, upstream[1]) if upstream is not None else b""
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n" + early)
                self._relay(client, server, rest)
            else:
                server.sendall(
                    request.head(absolute=upstream is not None, authorization=upstream[1] if upstream else b"")
                )
                self._relay(client, server, rest, up_bytes=request.length or 0)

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

    def _relay(
        self, client: socket.socket, server: socket.socket, begun: bytes, *, up_bytes: int | None = None
    ) -> None:
        """Pass bytes both ways until both sides are done, nothing comes for a while, or a bound is reached.

        ``begun`` was read from the client before. With ``up_bytes`` the server gets that many, and the rest is thrown away.
        """
        for sock in (client, server):
            sock.settimeout(_IDLE_S)
        if not self._take(len(begun)):
            return
        server.sendall(begun[:up_bytes])
        left = None if up_bytes is None else max(0, up_bytes - len(begun))
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
                if not data:
                    reading.remove(sock)
                    with contextlib.suppress(OSError):
                        (server if sock is client else client).shutdown(socket.SHUT_WR)
                elif sock is server:
                    client.sendall(data)
                else:
                    server.sendall(data[:left])
                    left = None if left is None else max(0, left - len(data))

    def _take(self, count: int) -> bool:
        with self._lock:
            self._bytes_left -= count
            return self._bytes_left >= 0


def _read_head(sock: socket.socket, *, longest_s: float) -> tuple[bytes, bytes]:
    """The head of a message without its empty line, and what came behind it."""
    data = b""
    deadline = time.monotonic() + longest_s
    while b"\r\n\r\n" not in data:
        sock.settimeout(max(0.01, deadline - time.monotonic()))
        more = sock.recv(_HEAD_BYTES - len(data))
        data += more
        if not more:  # also when there is no room for more
            raise BadRequestError("no complete request")
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _open_tunnel(server: socket.socket, request: Request, authorization: bytes) -> bytes:
    """Ask the next proxy for a tunnel; what came out of it by then. Raises OSError where there is none.

    Until it stands, the next proxy would take every byte for another request, which nobody has judged.
    """
    server.sendall(request.head(absolute=True, authorization=authorization))
    try:
        head, early = _read_head(server, longest_s=_IDLE_S)
    except BadRequestError:
        head, early = b"", b""
    status = _STATUS.match(head)
    if status is None or not status[1].startswith(b"2"):
        raise OSError(f"the host's proxy opens no tunnel: status {status[1].decode() if status else 'unknown'}")
    return early


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
