"""HTTP as the index client needs it: pip's proxies and certificates, own redirects, retries with backoff, bounded reading.

urllib3 (95 ms) is imported on the first request only, so that an answer from the cache costs nothing of it.
"""

from __future__ import annotations

import contextlib
import netrc
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin, urlsplit

from msgspec import Struct

from lxcbuild.errors import ConfigError, NetworkError
from lxcbuild.pypi.index.config import PipConfig, origin, split_credentials

if TYPE_CHECKING:
    import ssl

    from urllib3 import BaseHTTPResponse, PoolManager

T = TypeVar("T")
_CHUNK = 256 * 1024
_MAX_REDIRECTS = 8
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_RETRY_AFTER_S = 30.0


class TransientError(Exception):
    """This try failed in a way that the next may not. Stays inside ``pypi``; becomes :class:`NetworkError` in the end."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Answer(Struct, frozen=True):
    """A response whose body is yet to be read; ``url`` is where the redirects ended."""

    url: str
    status: int
    headers: Mapping[str, str]  # keys in lower case
    response: BaseHTTPResponse

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces; raises :class:`TransientError` when it ends early."""
        from urllib3.exceptions import HTTPError

        try:
            while data := self.response.read(_CHUNK):
                yield data
        except (HTTPError, OSError) as error:
            raise TransientError(f"the answer broke off ({type(error).__name__})") from error

    def read(self, *, max_bytes: int) -> bytes:
        """The whole body; raises :class:`NetworkError` when it is longer than ``max_bytes``."""
        body = bytearray()
        for data in self.chunks():
            body += data
            if len(body) > max_bytes:
                raise NetworkError(
                    f"{host_of(self.url)} sends more than {max_bytes} bytes where an index page was expected",
                    details=self.url,
                )
        return bytes(body)


class Http:
    """A connection pool that obeys a :class:`PipConfig`. Close it, or use it as a context manager."""

    def __init__(self, config: PipConfig, *, backoff_s: float = 0.25) -> None:
        self._config = config
        self._backoff_s = backoff_s
        self._pools: dict[tuple[bool, bool, str | None], PoolManager] = {}
        self._netrc: netrc.netrc | bool | None = False  # False: not looked for yet

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.clear()
        self._pools.clear()

    def retrying(self, url: str, attempt: Callable[[], T]) -> T:
        """Call ``attempt`` until it raises no :class:`TransientError`; :class:`NetworkError` when the tries are used up."""
        tries = self._config.retries + 1
        for number in range(1, tries + 1):
            try:
                return attempt()
            except TransientError as error:
                if number == tries:
                    raise NetworkError(
                        f"{host_of(url)} cannot be reached: {error}",
                        details=f"{url}, tried {tries} times",
                        resolution="check the network, and pip's index-url, proxy and cert: pip config list",
                    ) from error
                wait_s = self._backoff_s * 2 ** (number - 1) * random.uniform(0.75, 1.25)  # noqa: S311
                time.sleep(max(min(wait_s, 10.0), min(error.retry_after_s or 0.0, _MAX_RETRY_AFTER_S)))
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def get(self, url: str, headers: Mapping[str, str], *, raw: bool = False) -> Iterator[Answer]:
        """One GET, redirects followed; ``raw`` leaves a Content-Encoding alone.

        Raises :class:`TransientError`, or :class:`NetworkError` for what a retry cannot mend.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._send(url, headers, raw=raw)
            try:
                status = response.status
                if status in (301, 302, 303, 307, 308) and response.headers.get("location"):
                    url = self._redirected(url, response.headers["location"])
                    continue
                if status in _RETRIED:
                    raise TransientError(
                        f"it answers {status}", retry_after_s=_seconds(response.headers.get("retry-after"))
                    )
                self._refuse(url, status)
                yield Answer(url, status, {k.lower(): v for k, v in response.headers.items()}, response)
                return
            finally:
                # Not drained: a connection with an unread rest is closed, not reused.
                response.close()
        raise NetworkError(f"{host_of(url)} redirects in a loop", details=url)

    def _send(self, url: str, headers: Mapping[str, str], *, raw: bool) -> BaseHTTPResponse:
        from urllib3.exceptions import HTTPError, SSLError
        from urllib3.util import make_headers

        self._require_trust(url)
        sent = {"User-Agent": "lxcbuild", "Accept-Encoding": "identity" if raw else "gzip", **headers}
        login = self._login(url)
        if login is not None:
            sent.update(make_headers(basic_auth=":".join(login)))
        try:
            return self._pool(url).request(
                "GET",
                url,
                headers=sent,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=not raw,
                timeout=self._config.timeout_s,
            )
        except SSLError as error:
            raise NetworkError(
                f"the certificate of {host_of(url)} is not accepted",
                details=str(error)[:500],
                resolution="give pip the right authority: pip config set global.cert FILE (or PIP_CERT)",
            ) from error
        except (HTTPError, OSError) as error:
            raise TransientError(_reason(error)) from error

    def _redirected(self, url: str, location: str) -> str:
        target, _ = split_credentials(urljoin(url, location))
        scheme = urlsplit(target).scheme
        if scheme not in ("http", "https") or (urlsplit(url).scheme == "https" and not self._config.trusts(target)):
            raise NetworkError(f"{host_of(url)} redirects to {host_of(target)} in an unsafe way", details=target[:500])
        return target

    def _require_trust(self, url: str) -> None:
        if not self._config.trusts(url):
            raise NetworkError(
                f"{host_of(url)} is reached over plain http, which anybody on the way can change",
                details=url,
                resolution=f"use https, or: pip config set global.trusted-host {host_of(url)}",
            )

    def _refuse(self, url: str, status: int) -> None:
        if status in (401, 403, 407):
            raise NetworkError(
                f"{host_of(url)} refuses the request ({status})",
                details=url,
                resolution="check the user and password in pip's index-url or in ~/.netrc",
            )
        if status >= 400 and status not in (404, 410, 416):
            raise NetworkError(f"{host_of(url)} answers {status}", details=url)

    def _login(self, url: str) -> tuple[str, str] | None:
        known = self._config.credentials.get(origin(url))
        if known is not None:
            return known
        if self._netrc is False:
            self._netrc = _read_netrc()
        if not isinstance(self._netrc, bool) and self._netrc is not None:
            found = self._netrc.authenticators(urlsplit(url).hostname or "")
            if found is not None:
                return found[0] or found[1] or "", found[2] or ""
        return None

    def _pool(self, url: str) -> PoolManager:
        checked = not self._config.is_declared_trusted(url)
        proxy = self._proxy(url)
        secure = url.startswith("https:") or (proxy or "").startswith("https:")
        key = (secure, checked, proxy)
        if key not in self._pools:
            self._pools[key] = self._make_pool(secure=secure, checked=checked, proxy=proxy)
        return self._pools[key]

    def _make_pool(self, *, secure: bool, checked: bool, proxy: str | None) -> PoolManager:
        import urllib3
        from urllib3.exceptions import HTTPError

        context = self._ssl_context(checked=checked) if secure else None
        if proxy is None:
            return urllib3.PoolManager(ssl_context=context, maxsize=4)
        bare, login = split_credentials(proxy if "://" in proxy else f"http://{proxy}")
        headers = urllib3.make_headers(proxy_basic_auth=":".join(login)) if login else None
        try:
            return urllib3.ProxyManager(
                bare, proxy_headers=headers, ssl_context=context, proxy_ssl_context=context, maxsize=4
            )
        except HTTPError:
            raise ConfigError(
                f"the proxy {host_of(bare)} is of a kind that is not supported",
                resolution="use an http:// or https:// proxy",
            ) from None

    def _ssl_context(self, *, checked: bool) -> ssl.SSLContext:
        import ssl  # 6 ms; what is in the cache needs no connection

        config = self._config
        try:
            if config.cert is None:
                context = ssl.create_default_context()
            elif Path(config.cert).is_dir():
                context = ssl.create_default_context(capath=config.cert)
            else:
                context = ssl.create_default_context(cafile=config.cert)
            if config.client_cert is not None:
                context.load_cert_chain(config.client_cert)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the certificates that pip is configured with cannot be read: {error}",
                details=f"cert: {config.cert}, client-cert: {config.client_cert}",
                resolution="check: pip config list",
            ) from error
        if not checked:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _proxy(self, url: str) -> str | None:
        if self._config.proxy is not None:
            return self._config.proxy
        from urllib.request import getproxies, proxy_bypass  # 13 ms; likewise

        parts = urlsplit(url)
        proxies = getproxies()
        if proxy_bypass(parts.netloc):
            return None
        return proxies.get(parts.scheme) or proxies.get("all")


def host_of(url: str) -> str:
    """The host of a URL, for messages."""
    return urlsplit(url).hostname or "the local index"


def _reason(error: Exception) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return (
        f"{type(error).__name__} ({str(cause)[:200]})"
        if cause is not error
        else f"{type(error).__name__}: {str(error)[:200]}"
    )


def _seconds(text: str | None) -> float | None:
    """A ``Retry-After`` header (RFC 9110, 10.2.3): a number of seconds, or a date; None for anything else."""
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text) if len(text) < 10 else None
    from email.utils import parsedate_to_datetime  # 6 ms, for servers that say when to come back by date

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _read_netrc() -> netrc.netrc | None:
    path = os.environ.get("NETRC") or str(Path.home() / ".netrc")
    try:
        return netrc.netrc(path)
    except (OSError, netrc.NetrcParseError):
        # pip goes on without it too; a wrong password then shows as a refusal that names the file.
        return None
