"""How the package index is reached: what pip is configured with, read from the same files and variables as pip reads.

Order of files and sections follows pip's ``Configuration`` (global, user, site, ``PIP_CONFIG_FILE``; later wins; then the
``[install]`` section over ``[global]``; then ``PIP_*`` variables). Credentials are split off the URLs at once and never shown.
"""

from __future__ import annotations

import configparser
import ipaddress
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from msgspec import Struct, field

from lxcbuild.errors import ConfigError

_SYSTEM_FILE = Path("/etc/pip.conf")
_SECTIONS = ("global", "install")
_TRUE = {"1", "true", "yes", "on", "y", "t"}
_FALSE = {"0", "false", "no", "off", "n", "f", ""}


class PipConfig(Struct, frozen=True, kw_only=True):
    """Where files come from. URLs hold no credentials; ``credentials`` maps ``scheme://host[:port]`` to user and password."""

    indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    proxy: str | None = None
    cert: str | None = None
    client_cert: str | None = None
    timeout_s: float = 15.0
    retries: int = 3  # pip's own default is 5; a network that is away should show within two seconds
    credentials: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Without the proxy and the credentials: both may hold passwords."""
        shown = (name for name in self.__struct_fields__ if name not in ("proxy", "credentials"))
        return f"PipConfig({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def trusts(self, url: str) -> bool:
        """Whether pip would talk to this URL: https, a file, the machine itself, or a host that was declared trusted."""
        parts = urlsplit(url)
        if parts.scheme in ("https", "file"):
            return True
        return parts.scheme == "http" and (_is_loopback(parts.hostname or "") or self.is_declared_trusted(url))

    def is_declared_trusted(self, url: str) -> bool:
        """Whether ``trusted-host`` names the URL's host (with or without port): certificates are then not checked."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        return any(entry.lower() in (host, f"{host}:{parts.port}") for entry in self.trusted_hosts)


def load_pip_config(environ: Mapping[str, str] | None = None) -> PipConfig:
    """Read pip's configuration as it stands now; raises :class:`ConfigError` when a file or value cannot be understood."""
    env = os.environ if environ is None else environ
    values = _merged_values(env)
    credentials: dict[str, tuple[str, str]] = {}

    def location(text: str) -> str:
        url, login = split_credentials(_as_url(text))
        if login is not None:
            credentials.setdefault(origin(url), login)
        return url

    indexes: list[str] = []
    if not _boolean(values, "no-index"):
        indexes = [
            values.get("index-url") or values.get("pypi-url") or default_index(),
            *_words(values, "extra-index-url"),
        ]
    return PipConfig(
        indexes=tuple(dict.fromkeys(location(text) for text in indexes)),
        find_links=tuple(dict.fromkeys(location(text) for text in _words(values, "find-links"))),
        trusted_hosts=tuple(_words(values, "trusted-host")),
        proxy=values.get("proxy"),
        cert=values.get("cert") or env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE") or None,
        client_cert=values.get("client-cert"),
        timeout_s=_number(values, ("default-timeout", "timeout"), 15.0),
        retries=int(_number(values, ("retries",), 3)),
        credentials=credentials,
    )


def default_index() -> str:
    """The index that pip itself uses when it is told nothing, asked of the installed pip."""
    try:
        from pip._internal.models.index import PyPI  # 5 ms, and pip may not be there
    except ImportError:
        raise ConfigError(
            "no package index is configured, and pip, which knows the default one, is not installed here",
            resolution="set PIP_INDEX_URL, or run: pip config set global.index-url URL",
        ) from None
    return str(PyPI.simple_url)


def origin(url: str) -> str:
    """``scheme://host[:port]`` of a URL: what credentials belong to."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else (parts.hostname or "")
    return f"{parts.scheme}://{host}:{parts.port}" if parts.port else f"{parts.scheme}://{host}"


def split_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    """A URL without its ``user:password@``, and that pair."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, None
    login, _, host = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(user), unquote(password))


def _merged_values(env: Mapping[str, str]) -> dict[str, str]:
    sections: dict[str, dict[str, str]] = {name: {} for name in _SECTIONS}
    for path in _config_files(env):
        parser = configparser.RawConfigParser()
        try:
            with path.open(encoding="utf-8") as stream:
                parser.read_file(stream)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (configparser.Error, UnicodeDecodeError, OSError) as error:
            first = str(error).splitlines()[0]
            raise ConfigError(
                f"pip's configuration file {path} cannot be read: {first}", resolution=f"mend {path}"
            ) from None
        for name in _SECTIONS:
            if parser.has_section(name):
                sections[name].update((_key(key), value) for key, value in parser.items(name) if value)
    variables = {_key(name[4:]): value for name, value in env.items() if name.startswith("PIP_") and value}
    return {**sections["global"], **sections["install"], **variables}


def _config_files(env: Mapping[str, str]) -> list[Path]:
    chosen = env.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return []
    roots = [Path(root) for root in (env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep) if root]
    files = [*(root / "pip" / "pip.conf" for root in roots), _SYSTEM_FILE]
    if not (chosen and Path(chosen).exists()):
        home = Path(env.get("HOME") or Path.home())
        files += [home / ".pip" / "pip.conf", Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"]
    files.append(Path(sys.prefix) / "pip.conf")
    if chosen:
        files.append(Path(chosen))
    return files


def _key(name: str) -> str:
    key = name.lower().replace("_", "-")
    return key.removeprefix("--")


def _words(values: Mapping[str, str], key: str) -> list[str]:
    return values.get(key, "").split()


def _boolean(values: Mapping[str, str], key: str) -> bool:
    text = values.get(key, "").strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ConfigError(f"pip's setting {key} is {text[:40]!r}, not yes or no", resolution="see: pip config debug")


def _number(values: Mapping[str, str], keys: tuple[str, ...], default: float) -> float:
    for key in keys:
        if key in values:
            try:
                return float(values[key])
            except ValueError:
                raise ConfigError(
                    f"pip's setting {key} is {values[key][:40]!r}, not a number", resolution="see: pip config debug"
                ) from None
    return default


def _as_url(text: str) -> str:
    """pip takes paths where it takes URLs: an existing path becomes a ``file://`` URL."""
    if urlsplit(text).scheme in ("http", "https", "file"):
        return text
    path = Path(text).expanduser().absolute()
    if not path.exists() and "://" in text:
        raise ConfigError(f"pip is configured with {split_credentials(text)[0]!r}, which has no scheme known here")
    return "file://" + quote(str(path))


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
