"""Interfaces and namespaces with our name are found and removed, through the kernel's own interface."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from pyroute2 import IPRoute, netns

from lxcbuild.host.leftovers import NAMED, remove_network, tagged_networks
from tests.support.namespaces import look

pytestmark = pytest.mark.root


def test_what_carries_a_tag_is_found_and_removed() -> None:
    tag = secrets.token_hex(3)
    with IPRoute() as here:
        here.link("add", ifname=f"lxcb{tag}", kind="veth", peer=f"lxcb{tag}p")
    netns.create(f"lxcb-{tag}-x")
    try:
        assert set(tagged_networks(tag)) == {
            ("interface", f"lxcb{tag}"),
            ("interface", f"lxcb{tag}p"),
            ("namespace", f"lxcb-{tag}-x"),
        }
        assert look(NAMED / f"lxcb-{tag}-x").links.keys() == {"lo"}
    finally:
        for kind, name in tuple(tagged_networks(tag)):
            remove_network(kind, name)
            remove_network(kind, name)  # gone already
    assert list(tagged_networks(tag)) == []


def test_a_namespace_that_is_gone_is_an_error() -> None:
    with pytest.raises(OSError, match="No such file"):
        look(Path("/proc/0/ns/net"))
