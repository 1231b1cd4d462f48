"""What is in a network namespace, as the kernel tells it through rtnetlink (pyroute2)."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct
from pyroute2 import NetNS


class Network(Struct, frozen=True, kw_only=True):
    """A namespace as the kernel tells it: interfaces with their state (``up``, ``down``), addresses with their prefix length, and
    destinations of the main routing table (``default`` for the one of everything)."""

    links: dict[str, str]
    addresses: frozenset[str]
    routes: frozenset[str]


def look(namespace: Path) -> Network:
    """What is in the namespace that the file names (``/proc/PID/ns/net``). Raises OSError when it is gone."""
    namespace.stat()  # pyroute2 would leave its event loop open
    with NetNS(os.fspath(namespace), flags=0) as inside:
        links = {link.get("ifname"): str(link.get("state")) for link in inside.get_links()}
        addresses = frozenset(f"{each.get('address')}/{each['prefixlen']}" for each in inside.get_addr())
        routes = frozenset(
            f"{route.get('dst') or 'default'}{'/' + str(route['dst_len']) if route.get('dst') else ''}"
            for route in inside.get_routes(table=254)
        )
    return Network(links=links, addresses=addresses, routes=routes)
