"""What a request to the proxy says (RFC 9112, read strictly), and who may be reached.

Whoever reads a request behind us may be more lenient: what it gets is therefore written anew from the parts that were judged, and
what two readers could take for different things is refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

_REQUEST = re.compile(rb"([A-Z]{1,16}) ([!-~]{1,8000}) HTTP/1\.[01]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}):[ \t]*([\t -~\x80-\xff]*)")
_TARGET = re.compile(r"(?i:http)://([^/?#\\@]{1,300})(/[^#\\]*)?(\?[^#\\]*)?")
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_.-]{1,254})(?::([1-9][0-9]{0,4}))?")
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*")
#: What resolvers take for an address: a last label that is a number, also in C's notations (inet_aton(3)).
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,14}")
_USUAL_PORTS = (80, 443)
_HOP_BY_HOP = (
    b"connection",
    b"keep-alive",
    b"te",
    b"trailer",
    b"upgrade",
    b"http2-settings",
    b"host",
    b"content-length",
)


class BadRequestError(ValueError):
    """A request that is no HTTP proxy request of a kind that we serve."""


@dataclass(frozen=True)
class Request:
    """One request: where to, and for plain HTTP what the server gets. ``length`` is that of the body, None without one."""

    tunnel: bool
    host: str
    port: int
    method: bytes = b"CONNECT"
    path: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    length: int | None = None

    @property
    def authority(self) -> bytes:
        """``host:port``, as in a request line; the usual port of plain HTTP is left out there."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == 80 and not self.tunnel else f"{host}:{self.port}").encode()

    def head(self, *, absolute: bool, authorization: bytes = b"") -> bytes:
        """The request as the server gets it, or with ``absolute`` the next proxy; what is ours comes first."""
        target = self.authority if self.tunnel else self.path
        if absolute and not self.tunnel:
            target = b"http://" + self.authority + self.path
        lines = [self.method + b" " + target + b" HTTP/1.1", b"Host: " + self.authority]
        lines += [] if self.tunnel else [b"Connection: close"]
        lines += [authorization] if authorization else []
        lines += [] if self.length is None else [b"Content-Length: %d" % self.length]
        lines += [name + b": " + value for name, value in self.headers]
        return b"\r\n".join(lines) + b"\r\n\r\n"


def parse_request(head: bytes) -> Request:
    """Read the head of a request, without its empty line; raises :class:`BadRequestError`."""
    first, *rest = head.split(b"\r\n")
    found = _REQUEST.fullmatch(first)
    if found is None:
        raise BadRequestError("no request line")
    method, target = found[1], found[2].decode("ascii")
    headers = [_header(line) for line in rest]
    if method == b"CONNECT":
        host, port = _authority(target)
        if port is None:
            raise BadRequestError("CONNECT without a port")
        _check_host(headers, host, port)
        return Request(tunnel=True, host=host, port=port)
    url = _TARGET.fullmatch(target)
    if url is None:
        raise BadRequestError("only CONNECT and http://host/path are served")
    host, named = _authority(url[1])
    port = named or 80
    _check_host(headers, host, port)
    length = _body_length(headers)
    dropped = {*_HOP_BY_HOP, *(token for value in _values(headers, b"connection") for token in _tokens(value))}
    return Request(
        tunnel=False,
        host=host,
        port=port,
        method=method,
        path=((url[2] or "/") + (url[3] or "")).encode(),
        headers=tuple(
            (name, value)
            for name, value in headers
            if name.lower() not in dropped and not name.lower().startswith(b"proxy-")
        ),
        length=length,
    )


def _header(line: bytes) -> tuple[bytes, bytes]:
    found = _HEADER.fullmatch(line)
    if found is None:
        raise BadRequestError("a header that is no 'name: value' on a line of its own")
    return found[1], found[2].rstrip(b" \t")


def _values(headers: Sequence[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name.lower() == wanted]


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip(b" \t").lower() for token in value.split(b",")]


def _authority(text: str) -> tuple[str, int | None]:
    """Host and port of ``host[:port]``: a name in lower case, or an address in its usual notation."""
    found = _AUTHORITY.fullmatch(text.lower())
    if found is None or int(found[2] or 0) > 65535:
        raise BadRequestError("no host and port")
    host, port = found[1].removesuffix("."), int(found[2]) if found[2] else None
    try:
        if host.startswith("["):
            address = ipaddress.IPv6Address(host[1:-1])
            return str(address.ipv4_mapped or address), port
        if _NUMERIC.fullmatch(host):
            return str(ipaddress.IPv4Address(host)), port
    except ValueError as error:
        raise BadRequestError("no address in its usual notation") from error
    if not _NAME.fullmatch(host) or len(host) > 253:
        raise BadRequestError("no host name")
    return host, port


def _check_host(headers: Sequence[tuple[bytes, bytes]], host: str, port: int) -> None:
    values = _values(headers, b"host")
    if len(values) > 1:
        raise BadRequestError("more than one Host")
    if values and _authority(values[0].decode("latin-1")) not in ((host, port), (host, None)):
        raise BadRequestError("Host is another one than in the request line")


def _body_length(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """Transfer codings are refused: no client that builds use needs them in requests, and lengths cannot be misread."""
    if _values(headers, b"transfer-encoding"):
        raise BadRequestError("a body needs a Content-Length here, not Transfer-Encoding")
    values = _values(headers, b"content-length")
    if len(values) > 1 or not all(_LENGTH.fullmatch(value) for value in values):
        raise BadRequestError("more than one Content-Length, or one that is no plain number")
    return int(values[0]) if values else None


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
