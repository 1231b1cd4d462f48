"""A network for test farms: a bridge of this machine, and one network namespace for each member with an address of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from pyroute2 import IPRoute, NetNS, netns


@dataclass
class Network:
    """``10.213.N.0/24`` on a bridge; members are ``.10``, ``.11`` ..., and this machine is ``.1``. A context manager."""

    number: int = field(default_factory=lambda: os.getpid() % 200 + 20)
    members: dict[str, str] = field(default_factory=dict)  # address by name

    @property
    def bridge(self) -> str:
        return f"lxbfarm{self.number}"

    @property
    def here(self) -> str:
        return f"10.213.{self.number}.1"

    def __enter__(self) -> Network:
        with IPRoute() as ip:
            ip.link("add", ifname=self.bridge, kind="bridge")
            index = ip.link_lookup(ifname=self.bridge)[0]
            ip.addr("add", index=index, address=self.here, prefixlen=24)
            ip.link("set", index=index, state="up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.members:
            netns.remove(self.namespace(name))  # takes the pair of interfaces with it
        with IPRoute() as ip:
            ip.link("del", ifname=self.bridge)

    def namespace(self, name: str) -> str:
        return f"{self.bridge}-{name}"

    def outside(self, name: str) -> str:
        """The member's interface on the bridge."""
        return f"lbf{self.number}p{list(self.members).index(name)}"

    def add(self, name: str) -> str:
        """A member's namespace; its address."""
        self.members[name] = address = f"10.213.{self.number}.{10 + len(self.members)}"
        netns.create(self.namespace(name))
        with IPRoute() as ip:
            ip.link(
                "add",
                ifname=self.outside(name),
                kind="veth",
                peer={"ifname": "eth0", "net_ns_fd": self.namespace(name)},
            )
            ip.link(
                "set",
                index=ip.link_lookup(ifname=self.outside(name))[0],
                master=ip.link_lookup(ifname=self.bridge)[0],
                state="up",
            )
        with NetNS(self.namespace(name)) as inside:
            for device in ("lo", "eth0"):
                index = inside.link_lookup(ifname=device)[0]
                if device == "eth0":
                    inside.addr("add", index=index, address=address, prefixlen=24)
                inside.link("set", index=index, state="up")
        return address

    def prefix(self, name: str) -> tuple[str, ...]:
        """What enters a member's namespace: put it before a command."""
        return ("nsenter", f"--net=/run/netns/{self.namespace(name)}")

    def cut(self, name: str) -> None:
        """Take a member's cable out."""
        self._set(name, "down")

    def mend(self, name: str) -> None:
        """Put it back."""
        self._set(name, "up")

    def carried_bytes(self, name: str) -> int:
        """What has gone through a member's cable, both ways."""
        with IPRoute() as ip:
            link = ip.get_links(ip.link_lookup(ifname=self.outside(name))[0])[0]
            stats = link.get_attr("IFLA_STATS64")
            return int(stats["rx_bytes"] + stats["tx_bytes"])

    def _set(self, name: str, state: str) -> None:
        with IPRoute() as ip:
            ip.link("set", index=ip.link_lookup(ifname=self.outside(name))[0], state=state)
