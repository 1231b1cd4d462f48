"""Where packages come from: the mirrors and the network configuration of the host's apt, and source lines for a suite.

The host's own apt says what it uses (``apt-get indextargets``, ``apt-config dump``), so that one-line and deb822 sources,
``apt.conf.d`` fragments and proxies are read by the program that defines them.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lxcbuild import process
from lxcbuild.config.recipes import Recipe

#: Options of the host's apt that say how the network is reached, and nothing about what is installed or run afterwards.
_INHERITED = re.compile(
    r"(?i)Acquire::(?:(?:http|https|ftp|tor|tor\+http|mirror)(?:::|$)|Retries$|ForceIPv[46]$|Check-Valid-Until$|Check-Date$"
    r"|Max-ValidTime(?:::|$)|Min-ValidTime(?:::|$)|Source-Symlinks$|Send-URI-Encoded$)|Dir::Etc::netrc(?:parts)?$"
)
_DUMP_LINE = re.compile(r'([A-Za-z0-9_:+./-]+?)(::)? "(.*)";')
_ORIGINS = {"debian": "Debian", "ubuntu": "Ubuntu"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMirrors:
    """The mirrors that the host's apt uses for its own distribution; all suites of a distribution sit on the same mirror."""

    distribution: str
    suite: str
    main: tuple[str, ...] = ()
    security: tuple[str, ...] = ()


def host_mirrors() -> HostMirrors:
    """Ask the host's apt which mirrors serve the host's own suite; empty tuples when its sources name none."""
    release = platform.freedesktop_os_release()
    distribution, suite = release.get("ID", ""), release.get("VERSION_CODENAME", "")
    listed = process.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(ORIGIN)|$(REPO_URI)|$(COMPONENT)|$(RELEASE)|$(CODENAME)",
            "Created-By: Packages",
        ]
    ).stdout.decode(errors="replace")
    return parse_index_targets(listed, distribution=distribution, suite=suite)


def parse_index_targets(listed: str, *, distribution: str, suite: str) -> HostMirrors:
    """Pick the distribution's own mirrors out of apt's list; third-party sources have another origin or component.

    Before the first ``apt-get update`` apt leaves unknown variables as they are; then the suite's name has to do.
    """
    main: list[str] = []
    security: list[str] = []
    for line in listed.splitlines():
        fields = line.split("|")
        if len(fields) != 5:
            continue
        origin, uri, component, release, codename = fields
        known_origin = not origin.startswith("$(") and origin != ""
        if component != "main" or (known_origin and origin != _ORIGINS.get(distribution, distribution)):
            continue
        if release in (f"{suite}-security", f"{suite}/updates"):
            security.append(uri)
        elif release == suite or (known_origin and codename == suite):
            main.append(uri)
    return HostMirrors(
        distribution=distribution,
        suite=suite,
        main=tuple(dict.fromkeys(main)),
        security=tuple(dict.fromkeys(security)),
    )


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


def options_text(lines: Sequence[str]) -> str:
    """Configuration lines as one file."""
    return "".join(f"{line}\n" for line in lines)
