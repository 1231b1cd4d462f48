"""Decisions about the network: who is listed, which addresses are public, what is remembered, how programs are called.

The proxy and its requests: test_proxy.py.
"""

from __future__ import annotations

import pytest

from lxcbuild.sandbox.network import network, sinkhole
from lxcbuild.sandbox.network.attempts import MAX_ATTEMPTS, Attempts, SeenAttempt
from lxcbuild.sandbox.network.attribution import Culprit
from lxcbuild.sandbox.network.proxyrequest import is_listed, is_public
from lxcbuild.sandbox.network.sinkhole import Names, is_special


@pytest.mark.parametrize(
    ("host", "port", "listed"),
    [
        ("index.builds.io", 443, True),
        ("index.builds.io", 80, True),
        ("index.builds.io", 22, False),
        ("evil-index.builds.io", 443, False),
        ("index.builds.io.evil.org", 443, False),
        ("a.example.org", 443, True),
        ("b.a.example.org", 443, True),
        ("example.org", 443, False),
        ("evilexample.org", 443, False),
        ("git.lab", 8443, True),
        ("git.lab", 443, False),
        ("10.0.0.5", 8080, True),
    ],
)
def test_who_is_listed(host: str, port: int, *, listed: bool) -> None:
    hosts = ("index.builds.io", "*.Example.org", "git.lab:8443", "10.0.0.5:8080")
    assert is_listed(host, port, hosts) is listed


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "198.18.1.0", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1",
    ],
)  # fmt: skip
def test_addresses_of_this_machine_and_its_networks_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["9.9.9.9", "2606:4700::1111", "64:ff9b::909:909", "::ffff:9.9.9.9"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("argv", "ancestors", "shown"),
    [
        (
            ["/usr/lib/git-core/git-remote-https", "origin", "https://x"],
            [["/usr/lib/git-core/git", "remote-https"], ["git", "clone", "https://x"], ["sh"]],
            "git clone",
        ),
        (["git", "clone", "https://x"], [["python3", "setup.py"]], "git clone"),
        (["/usr/bin/python3", "-B", "setup.py", "build"], [], "python3 setup.py"),
        (["/usr/bin/python3", "/usr/lib/pep517/_in_process.py", "build_wheel", "x"], [], "python3 build_wheel"),
        (["python3", "-c", "import this\n"], [], "python3"),
        (["curl", "-O", "https://example.org/x"], [], "curl"),
        ([], [], ""),
    ],
)  # fmt: skip
def test_programs_are_called_as_people_do(argv: list[str], ancestors: list[list[str]], shown: str) -> None:
    assert network.program(argv, ancestors) == shown


def found() -> Culprit:
    return Culprit(7, "curl", ("curl",), ())


def test_what_is_remembered_is_bounded_and_the_rest_is_counted() -> None:
    recorder = Attempts()
    for port in range(MAX_ATTEMPTS + 50):
        for _ in range(3):
            recorder.add(SeenAttempt("tcp", None, "9.9.9.9", port), found)
    attempts, lost = recorder.take()
    assert len(attempts) == MAX_ATTEMPTS
    assert {attempt.count for attempt in attempts} == {3}
    assert {attempt.pid for attempt in attempts} == {7}
    assert lost == 150
    assert recorder.take() == ([], 0)


def test_processes_that_are_gone_are_not_searched_without_end() -> None:
    recorder, searches = Attempts(), []

    def nobody() -> None:
        searches.append(1)

    for _ in range(1000):
        recorder.add(SeenAttempt("udp", None, "9.9.9.9", 1), nobody)
    (attempt,), _ = recorder.take()
    assert attempt.count == 1000
    assert len(searches) < 10


def test_a_name_that_was_used_is_said_once() -> None:
    recorder = Attempts()
    recorder.add(SeenAttempt("dns", "github.com", None, None), found)
    recorder.add(SeenAttempt("dns", "index.builds.io", None, None), found)
    recorder.add(SeenAttempt("tcp", "github.com", None, 443), found)
    attempts, _ = recorder.take()
    assert [(attempt.protocol, attempt.name) for attempt in attempts] == [
        ("dns", "index.builds.io"),
        ("tcp", "github.com"),
    ]


def test_each_name_has_an_address_until_there_are_too_many() -> None:
    names = Names()
    given_ = [names.address(f"host{number}.org") for number in range(sinkhole.MAX_NAMES + 10)]
    assert len(set(given_)) == sinkhole.MAX_NAMES + 1
    assert given_[-1] is None
    assert names.address("host3.org") == given_[3]
    assert given_[3] is not None
    assert names.name(given_[3]) == "host3.org"
    assert names.name(b"\x09\x09\x09\x09") is None


@pytest.mark.parametrize(
    ("name", "special"),
    [
        ("build", True), ("localhost", True), ("x.localhost", True), ("1.0.0.127.in-addr.arpa", True), ("a.test", True),
        ("github.com", False), ("test.org", False),
    ],
)  # fmt: skip
def test_names_of_this_machine_are_no_attempt(name: str, *, special: bool) -> None:
    assert is_special(name) is special
