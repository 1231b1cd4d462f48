"""Network interfaces and named network namespaces, seen and removed from outside, through rtnetlink (pyroute2).

For what looks at a machine or into a sandbox; what makes a sandbox's network is in ``netns`` and has no time to load a library.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

#: Where iproute2 and pyroute2 keep named namespaces (ip-netns(8)).
NAMED = Path("/run/netns")


class Network(Struct, frozen=True, kw_only=True):
    """A namespace as the kernel tells it: interfaces with their state (``up``, ``down``), addresses with their prefix length, and
    destinations of the main routing table (``default`` for the one of everything)."""

    links: dict[str, str]
    addresses: frozenset[str]
    routes: frozenset[str]


def look(namespace: Path) -> Network:
    """What is in the namespace that the file names (``/proc/PID/ns/net``). Raises OSError when it is gone."""
    from pyroute2 import NetNS  # 112 ms, here and below: gc loads it only where there is something to remove

    namespace.stat()  # pyroute2 would leave its event loop open
    with NetNS(os.fspath(namespace), flags=0) as inside:
        links = {link.get("ifname"): str(link.get("state")) for link in inside.get_links()}
        addresses = frozenset(f"{each.get('address')}/{each['prefixlen']}" for each in inside.get_addr())
        routes = frozenset(
            f"{route.get('dst') or 'default'}{'/' + str(route['dst_len']) if route.get('dst') else ''}"
            for route in inside.get_routes(table=254)
        )
    return Network(links=links, addresses=addresses, routes=routes)


def named(part: str) -> Iterator[tuple[str, str]]:
    """Kind (``interface`` or ``namespace``) and name of everything here whose name begins with ``lxcb`` and holds ``part``."""
    for place, kind in ((Path("/sys/class/net"), "interface"), (NAMED, "namespace")):
        with contextlib.suppress(FileNotFoundError):
            yield from ((kind, path.name) for path in sorted(place.glob(f"lxcb*{part}*")))


def remove(kind: str, name: str) -> None:
    """Remove an interface or a named namespace; one that is gone already is no error."""
    if kind == "namespace":
        from pyroute2 import netns

        with contextlib.suppress(FileNotFoundError):
            netns.remove(name)
        return
    from pyroute2 import IPRoute

    with IPRoute() as here:
        for index in here.link_lookup(ifname=name):
            here.link("del", index=index)
