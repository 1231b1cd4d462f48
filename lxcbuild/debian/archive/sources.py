"""Where packages come from: the mirrors and the network configuration of the host's apt, and source lines for a suite.

Configuration is read through ``apt-config dump``, by the program that defines it; sources are read from their files.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from lxcbuild import process
from lxcbuild.config.recipes import Recipe

#: Options of the host's apt that say how the network is reached, and nothing about what is installed or run afterwards.
_INHERITED = re.compile(
    r"(?i)Acquire::(?:(?:http|https|ftp|tor|tor\+http|mirror)(?:::|$)|Retries$|ForceIPv[46]$|Check-Valid-Until$|Check-Date$"
    r"|Max-ValidTime(?:::|$)|Min-ValidTime(?:::|$)|Source-Symlinks$|Send-URI-Encoded$)|Dir::Etc::netrc(?:parts)?$"
)
_DUMP_LINE = re.compile(r'([A-Za-z0-9_:+./-]+?)(::)? "(.*)";')


class HostMirrors(Struct, frozen=True, kw_only=True):
    """The mirrors that the host's apt uses for its own distribution; all suites of a distribution sit on the same mirror."""

    distribution: str
    suite: str
    main: tuple[str, ...] = ()
    security: tuple[str, ...] = ()


def host_mirrors(etc_apt: Path = Path("/etc/apt")) -> HostMirrors:
    """Which mirrors the host's apt sources name for the host's own suite; empty tuples when there are none.

    The files are read here because apt itself lists only what it has already downloaded, and a fresh machine has nothing.
    """
    release = platform.freedesktop_os_release()
    entries: list[SourceEntry] = []
    for path in [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*"))]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            parse = parse_deb822 if path.suffix == ".sources" else parse_one_line
            entries += parse(path.read_text(errors="replace"))
    return choose_mirrors(entries, distribution=release.get("ID", ""), suite=release.get("VERSION_CODENAME", ""))


class SourceEntry(Struct, frozen=True):
    """One combination of mirror, suite and components (sources.list(5))."""

    uri: str
    suite: str
    components: tuple[str, ...]


def parse_one_line(text: str) -> list[SourceEntry]:
    """Read one-line style sources: ``deb [options] uri suite component ...``."""
    entries = []
    for line in text.splitlines():
        match = re.fullmatch(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.+)", line.partition("#")[0].strip())
        if match is not None:
            entries.append(SourceEntry(match[1], match[2], tuple(match[3].split())))
    return entries


def parse_deb822(text: str) -> list[SourceEntry]:
    """Read deb822 style sources; disabled stanzas and source-only ones are left out."""
    entries = []
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in re.split(r"\n\s*\n", uncommented):
        folded = re.sub(r"\n[ \t]+", " ", block)
        fields = {key.lower(): value for key, value in re.findall(r"(?m)^([A-Za-z-]+):[ \t]*(.*)$", folded)}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").strip().lower() == "no":
            continue
        entries += [
            SourceEntry(uri, suite, tuple(fields.get("components", "").split()))
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        ]
    return entries


def choose_mirrors(entries: Sequence[SourceEntry], *, distribution: str, suite: str) -> HostMirrors:
    """Pick the distribution's own mirrors: those with component main that also have the updates suite, if any has.

    A third-party archive that uses the same names could be picked too; its signature would not match the recipe's keyring.
    """
    own = [entry for entry in entries if "main" in entry.components]
    main = _uris(own, suite)
    complete = [uri for uri in main if uri in _uris(own, f"{suite}-updates")]
    named = [uri for uri in main if uri.rstrip("/").endswith(f"/{distribution}")]
    return HostMirrors(
        distribution=distribution,
        suite=suite,
        main=tuple(complete or named or main)[:1],
        security=tuple(_uris(own, f"{suite}-security") or _uris(own, f"{suite}/updates"))[:1],
    )


def _uris(entries: Sequence[SourceEntry], suite: str) -> list[str]:
    return list(dict.fromkeys(entry.uri for entry in entries if entry.suite == suite))


def source_lines(recipe: Recipe, host: HostMirrors, *, keyring: Path | None) -> tuple[str, ...]:
    """The apt sources of a recipe: its own mirrors, else the host's; empty when the maker's built-in defaults must serve.

    Without a known security mirror the security suite is taken from the main one only where that is how the distribution
    works (Ubuntu).
    """
    same = host.distribution == recipe.distribution
    main = tuple(recipe.mirrors) or (host.main if same else ())
    security = tuple(recipe.security_mirrors) or (host.security if same else ())
    if not main:
        return ()
    if recipe.distribution == "ubuntu":
        security = security or main
    option = f"[signed-by={keyring}] " if keyring is not None else ""
    components = " ".join(recipe.components)
    lines = [f"deb {option}{uri} {suite} {components}" for suite in (recipe.suite, *recipe.updates) for uri in main]
    lines += [f"deb {option}{uri} {suite} {components}" for suite in recipe.security for uri in security]
    return tuple(lines)


def inherited_options() -> tuple[str, ...]:
    """Lines of apt configuration that carry the host's proxies, certificates and timeouts, and none of its hooks."""
    return filter_options(process.run(["apt-config", "dump"]).stdout.decode(errors="replace"))


def filter_options(dump: str) -> tuple[str, ...]:
    """The network options in the output of ``apt-config dump``; relative netrc paths are made absolute."""
    lines = []
    for line in dump.splitlines():
        match = _DUMP_LINE.fullmatch(line.strip())
        if match is None or not match[3] or not _INHERITED.match(match[1]):
            continue
        name, value = match[1] + (match[2] or ""), match[3]
        if name.lower().startswith("dir::etc::netrc") and not value.startswith("/"):
            value = f"/etc/apt/{value}"
        lines.append(f'{name} "{value}";')
    return tuple(lines)


def keyring_path(recipe: Recipe) -> Path | None:
    """The recipe's keyring when this host has it; None lets apt's own trusted keys decide."""
    path = Path(recipe.keyring) if recipe.keyring else None
    return path if path is not None and path.is_file() else None
