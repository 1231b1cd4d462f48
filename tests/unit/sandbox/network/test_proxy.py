"""The proxy of mode ``proxy``: requests are read strictly, and nothing but the judged one reaches whoever reads them behind it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcbuild.sandbox.network import proxy
from lxcbuild.sandbox.network.attempts import Attempts
from lxcbuild.sandbox.network.proxyrequest import BadRequestError, parse_request


def test_requests_are_read_and_rewritten() -> None:
    tunnel = parse_request(b"CONNECT Index.Builds.io:443 HTTP/1.1\r\nHost: index.builds.io")
    assert (tunnel.tunnel, tunnel.host, tunnel.port) == (True, "index.builds.io", 443)
    plain = parse_request(
        b"POST http://Example.org:8080/a?b=c HTTP/1.1\r\nHost: example.org:8080\r\nAccept: */* \r\nContent-Length: 3\r\n"
        b"Proxy-Authorization: x\r\nX-Mine: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\nConnection: keep-alive, X-mine"
    )
    assert plain.head(absolute=False).split(b"\r\n") == [
        b"POST /a?b=c HTTP/1.1", b"Host: example.org:8080", b"Connection: close", b"Content-Length: 3", b"Accept: */*", b"", b"",
    ]  # fmt: skip
    assert plain.head(absolute=True).startswith(b"POST http://example.org:8080/a?b=c HTTP/1.1\r\n")


def test_a_length_cannot_be_declared_away() -> None:
    read = parse_request(b"POST http://a.org/ HTTP/1.1\r\nConnection: content-length\r\nContent-Length: 3")
    assert b"\r\nContent-Length: 3\r\n" in read.head(absolute=False)


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://a.org./", "a.org"), (b"http://9.9.9.9/", "9.9.9.9"), (b"http://[::FFFF:10.0.0.5]/", "10.0.0.5"),
        (b"http://[2606:4700:0::1111]/", "2606:4700::1111"), (b"HTTP://A.org?x", "a.org"), (b"http://1a.b_c.org/", "1a.b_c.org"),
    ],
)  # fmt: skip
def test_one_host_has_one_name(target: bytes, host: str) -> None:
    assert parse_request(b"GET " + target + b" HTTP/1.1").host == host


@pytest.mark.parametrize(
    "head",
    [
        b"", b"GET / HTTP/1.1", b"GET https://a.org/ HTTP/1.1", b"CONNECT a.org:99999 HTTP/1.1", b"CONNECT a b HTTP/1.1",
        b"GET http://user@a.org/ HTTP/1.1", b"GET http:/// HTTP/1.1", b"CONNECT a\x00b:1 HTTP/1.1", b"get http://a/ HTTP/1.1",
        b"GET http://a.org/ HTTP/2", b"\x16\x03\x01", b"CONNECT [::1:443 HTTP/1.1", b"CONNECT a.org HTTP/1.1",
        b"\r\nGET http://a.org/ HTTP/1.1", b"GET  http://a.org/ HTTP/1.1", b"GET http://a.org/#x HTTP/1.1",
    ],
)  # fmt: skip
def test_other_requests_are_refused(head: bytes) -> None:
    with pytest.raises(BadRequestError):
        parse_request(head)


@pytest.mark.parametrize(
    "authority",
    [
        "a.org:", "a.org:0", "a.org:080", "a.org:+80", "a.org:8_0", "a.org: 80", "a.org:80:80", "a.org:65536", "a..org", ".a.org",
        "u:p@a.org", "a.org\\@b.org", "a.org%2eb", "a.org%00", "2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1",
        "10.0.0.08", "a.0x", "[::1%25eth0]", "[a.org]", "[1.2.3.4]", "-a.org", "[::1]x", "",
    ],
)  # fmt: skip
def test_hosts_that_two_readers_may_take_for_different_ones_are_refused(authority: str) -> None:
    with pytest.raises(BadRequestError):
        parse_request(f"GET http://{authority}/ HTTP/1.1".encode())
    with pytest.raises(BadRequestError):
        parse_request(f"CONNECT {authority} HTTP/1.1".encode())


@pytest.mark.parametrize(
    "headers",
    [
        b"X: y\n\nGET http://10.0.0.1/ HTTP/1.1", b"X: y\rZ: z", b"X: y\n", b"X: a\x00b", b"X: y\r\n folded", b"X: y\r\n\tfolded",
        b" X: y", b"X : y", b"X", b": y", b"X\xff: y", b"X: a\x0bb", b"X: a\x7f",
        b"Content-Length: 1\r\nContent-Length: 1", b"Content-Length: 1\r\ncontent-length: 2", b"Content-Length: 1, 1",
        b"Content-Length: +1", b"Content-Length: 01", b"Content-Length: 0x1", b"Content-Length: -1", b"Content-Length:",
        b"Content-Length: 1_0", b"Content-Length: 9999999999999999",
        b"Transfer-Encoding: chunked", b"Content-Length: 1\r\nTransfer-Encoding: chunked", b"transfer-encoding: identity",
        b"Host: b.org", b"Host: a.org:81", b"Host: a.org\r\nHost: a.org", b"Host:", b"Host: a.org, b.org", b"Host: u@a.org",
    ],
)  # fmt: skip
def test_headers_that_two_readers_may_take_for_different_ones_are_refused(headers: bytes) -> None:
    with pytest.raises(BadRequestError):
        parse_request(b"GET http://a.org/ HTTP/1.1\r\n" + headers)


@given(st.binary(max_size=300))
def test_any_head_is_read_or_refused(head: bytes) -> None:
    try:
        parse_request(head)
    except BadRequestError:
        return


@given(
    st.lists(
        st.sampled_from([b"X: y", b"\r\n", b"\n", b"\r", b" ", b"Host: a.org", b"\x00", b":", b"Content-Length: 5"])
    )
)
def test_what_goes_on_is_one_head_whatever_the_reader_takes_for_a_line_end(parts: list[bytes]) -> None:
    try:
        request = parse_request(b"GET http://a.org/ HTTP/1.1\r\n" + b"".join(parts))
    except BadRequestError:
        return
    told = request.head(absolute=True)
    lines = told.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    assert lines.index(b"") == len(lines) - 2
    assert told.count(b"HTTP/1.1") == 1


# -- over sockets ---------------------------------------------------------------------------------------------------


class Guard:
    """As much of the guard as the proxy needs."""

    def __init__(self) -> None:
        self.recorder = Attempts()

    def local_peer(self, *_: Any) -> None:
        return None


class Lenient:
    """A server that takes any line end and any number of requests on a connection, and refuses tunnels to ``closed.org``."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.tunnelled = b""
        self.bodies: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as reader:
            while line := reader.readline():
                if not line.strip():
                    continue
                self.asked.append(line.strip())
                length = 0
                while header := reader.readline().strip():
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.partition(b":")[2])
                self.bodies.append(reader.read(length))
                if not line.startswith(b"CONNECT"):
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                elif b"closed.org" in line:
                    client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                else:
                    client.sendall(b"HTTP/1.1 200 Fine\r\nX: y\r\n\r\n")
                    self.tunnelled += reader.read()
                    client.sendall(b"through")
                    return


Ask = Callable[[bytes], bytes]


@pytest.fixture
def upstream() -> Iterator[Lenient]:
    server = Lenient()
    yield server
    server.listener.close()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ask]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def run(*hosts: str, behind: Lenient | None = None) -> Ask:
        if behind is not None:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{behind.port}")
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{behind.port}")
        listener = socket.create_server(("127.0.0.1", 0))
        proxy.serve_in_background(listener, list(hosts), Guard())  # type: ignore[arg-type]  # as much of it as is needed

        def ask(data: bytes) -> bytes:
            with socket.create_connection(listener.getsockname(), 10) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: sock.recv(65536), b""))

        return ask

    return run


GET = b"GET http://allowed.org/ HTTP/1.1\r\n"
OTHER = b"GET http://169.254.169.254/other HTTP/1.1\nHost: x\n\n"


@pytest.mark.parametrize(
    "data",
    [
        GET + b"X: y\n\n" + OTHER + b"X: z\r\n\r\n",
        GET + b"X: y\r\r" + OTHER.replace(b"\n", b"\r") + b"X: z\r\n\r\n",
        GET + b"X: y\r\n \n\n" + OTHER + b"\r\n\r\n",
        GET + b"Host: allowed.org\r\n\r\n" + OTHER + b"\r\n\r\n",
        GET + b"Content-Length: 3\r\n\r\nabc" + OTHER,
        GET + b"Content-Length: 0\r\n\r\n" + OTHER,
        GET + b"Connection: content-length\r\nContent-Length: 60\r\n\r\n" + OTHER,
        GET + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + OTHER,
        GET + b"Content-Length: 0\r\nContent-Length: 60\r\n\r\n" + OTHER,
        GET + b"Content-Length: 60\x00\r\n\r\n" + OTHER,
        b"CONNECT closed.org:443 HTTP/1.1\r\n\r\n" + OTHER,
        b"CONNECT closed.org:443 HTTP/1.1\nX: y\n\n" + OTHER + b"\r\n\r\n",
    ],
)
def test_no_second_request_reaches_the_next_proxy(start: Callable[..., Ask], upstream: Lenient, data: bytes) -> None:
    answer = start("allowed.org", "closed.org", behind=upstream)(data)
    assert answer.startswith(b"HTTP/1.1 ")
    assert upstream.asked in ([], [GET.strip()], [b"CONNECT closed.org:443 HTTP/1.1"])


def test_a_body_goes_on_as_long_as_it_was_declared(start: Callable[..., Ask], upstream: Lenient) -> None:
    body = b"x" * 100_000
    head = b"POST http://allowed.org/ HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert start("allowed.org", behind=upstream)(head + body + OTHER).endswith(b"ok")
    assert upstream.bodies == [body]


def test_a_tunnel_of_the_next_proxy_is_used_when_it_stands(start: Callable[..., Ask], upstream: Lenient) -> None:
    ask = start("allowed.org", "closed.org", behind=upstream)
    assert ask(b"CONNECT allowed.org:443 HTTP/1.1\r\n\r\nhello") == (
        b"HTTP/1.1 200 Connection established\r\n\r\nthrough"
    )
    assert upstream.tunnelled == b"hello"
    assert b"502" in ask(b"CONNECT closed.org:443 HTTP/1.1\r\n\r\nhello").split(b"\r\n")[0]


def test_a_server_gets_one_request_too(start: Callable[..., Ask], upstream: Lenient) -> None:
    place = b"127.0.0.1:%d" % upstream.port
    ask = start(place.decode())
    assert ask(b"GET http://" + place + b"/a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\nHost: inner\r\n\r\n").endswith(b"ok")
    assert upstream.asked == [b"GET /a HTTP/1.1"]


def test_the_address_that_was_judged_is_the_one_that_is_reached(
    start: Callable[..., Ask], upstream: Lenient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads elsewhere with every question: the first answer is judged, and nobody asks a second time."""
    real, asked = socket.getaddrinfo, []

    def rebinding(host: str, *args: Any, **kwargs: Any) -> Any:
        if host != "allowed.org":
            return real(host, *args, **kwargs)
        asked.append(host)
        return real("9.9.9.9" if len(asked) == 1 else "127.0.0.1", *args, **kwargs)

    reached: list[Any] = []

    def connect(address: Any, *_: Any) -> socket.socket:
        reached.append(address)
        raise OSError("not from a test")

    ask = start(f"allowed.org:{upstream.port}")
    monkeypatch.setattr(proxy.socket, "getaddrinfo", rebinding)
    listener_side = socket.create_connection

    def choose(address: Any, *args: Any) -> socket.socket:
        return (
            listener_side(address, *args)
            if address[0] == "127.0.0.1" and address[1] != upstream.port
            else connect(address)
        )

    monkeypatch.setattr(proxy.socket, "create_connection", choose)
    assert b"502" in ask(f"CONNECT allowed.org:{upstream.port} HTTP/1.1\r\n\r\n".encode())
    assert (reached, asked) == ([("9.9.9.9", upstream.port)], ["allowed.org"])
    assert b"403" in ask(f"CONNECT allowed.org:{upstream.port} HTTP/1.1\r\n\r\n".encode())
    assert len(reached) == 1
