"""The index client's pages: cached, retried, redirected, broken and hostile ones."""

from __future__ import annotations

import gzip
import tracemalloc
from typing import Any

import pytest

from lxcbuild.errors import NetworkError
from lxcbuild.pypi.index import client as client_module
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.pypi.index.config import PipConfig, split_credentials
from lxcbuild.state.paths import StateDirs
from tests.support.index_clients import DATA, Recorder, make_client, resolve
from tests.support.index_server import File, Index, send, serve, status


def test_fresh_page_is_not_asked_for_again_and_stale_one_is_revalidated(
    index: Index, client: IndexClient, fresh_state: StateDirs
) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", b"1"))
    first = client.resolve("pkg", python_version="3.11")
    with make_client(index, fresh_state) as another:
        assert another.resolve("pkg", python_version="3.11") == first
    assert index.paths() == ["/simple/pkg/"]
    index.max_age_s = 0
    index.add("stale", File("stale-1.0.tar.gz", b"1"))
    assert resolve(client, "stale") == resolve(client, "stale") == "1.0"
    assert "If-None-Match" in index.requests[-1][1]
    index.add("stale", File("stale-1.1.tar.gz", b"2"))
    assert resolve(client, "stale") == "1.1"


def test_damaged_cache_mends_itself(index: Index, client: IndexClient, fresh_state: StateDirs) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", b"1"))
    resolve(client, "pkg")
    for page in (fresh_state.downloads / "index").iterdir():
        page.write_bytes(page.read_bytes()[:40])
    assert resolve(client, "pkg") == "1.0"


def test_server_errors_are_retried_and_then_reported(index: Index, client: IndexClient) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", b"1"))
    index.fail("/simple/pkg/", status(503), status(500), status(502))
    assert resolve(client, "pkg") == "1.0"
    index.fail("/simple/other/", *[status(503)] * 4)
    with pytest.raises(NetworkError) as caught:
        resolve(client, "other")
    assert "503" in str(caught.value)
    assert caught.value.resolution


def test_redirects_are_followed_but_not_in_circles(index: Index, client: IndexClient) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", DATA))
    index.fail("/simple/pkg/", status(301, Location="/elsewhere"))
    index.fail("/elsewhere", status(302, Location="/simple/pkg/"))
    release = client.resolve("pkg", python_version="3.11")
    index.fail("/files/pkg-1.0.tar.gz", status(302, Location=f"{index.url}/mirror/pkg-1.0.tar.gz"))
    assert client.fetch(release.sdist).read_bytes() == DATA
    index.fail("/simple/loop/", *[status(302, Location="/simple/loop/")] * 20)
    with pytest.raises(NetworkError, match="redirects in a loop"):
        resolve(client, "loop")
    index.fail("/simple/evil/", status(302, Location="file:///etc/passwd"))
    with pytest.raises(NetworkError, match="unsafe"):
        resolve(client, "evil")


def test_huge_page_is_cut_off(index: Index, client: IndexClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_PAGE_BYTES", 100_000)
    index.fail("/simple/pkg/", send(b"<a>" * 100_000, "text/html"))
    with pytest.raises(NetworkError, match="more than"):
        resolve(client, "pkg")


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_page_that_grows_when_it_is_unpacked_is_cut_off_as_early(
    index: Index, client: IndexClient, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(client_module, "MAX_PAGE_BYTES", 100_000)
    body = bytes(64 << 20)
    for _ in range(times):
        body = gzip.compress(body)

    def bomb(handler: Any) -> None:
        handler.reply(200, body, Content_Type="text/html", Content_Encoding=", ".join(["gzip"] * times))

    index.fail("/simple/pkg/", bomb)
    tracemalloc.start()
    try:
        with pytest.raises(NetworkError, match="more than"):
            resolve(client, "pkg")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/vnd.pypi.simple.v1+json"),
        (b"[" * 200_000, "application/vnd.pypi.simple.v1+json"),
        (b'{"files": 3}', "application/vnd.pypi.simple.v1+json"),
        (b'{"meta": {"api-version": "2.0"}, "files": []}', "application/vnd.pypi.simple.v1+json"),
        (b"\x89PNG", "image/png"),
    ],
)
def test_page_that_is_no_page(index: Index, client: IndexClient, body: bytes, kind: str) -> None:
    index.fail("/simple/pkg/", send(body, kind))
    with pytest.raises(NetworkError):
        resolve(client, "pkg")


def test_hostile_links_are_left_out(index: Index, client: IndexClient) -> None:
    links = [
        "file:///etc/pkg-9.0.tar.gz",
        "ftp://host/pkg-9.1.tar.gz",
        "http://[bad/pkg-9.2.tar.gz",
        "x/pkg-9.3%2f..%2f.tar.gz",
        "x/pkg-9.4%0a.tar.gz",
        "https://user:secret@host/pkg-1.0.tar.gz#sha256=" + "A" * 64,
    ]
    body = "".join(f"<a href='{link}'>x</a>" for link in links) + "<a>no</a><a href>no</a><base href='https://late/'>"
    index.fail("/simple/pkg/", send(body.encode(), "text/html"))
    (file,) = [f for f in client.files("pkg") if "pkg" in f.filename]
    assert (file.filename, file.url) == ("pkg-1.0.tar.gz", "https://host/pkg-1.0.tar.gz")
    assert file.hashes == {"sha256": "a" * 64}


def test_no_network_is_one_clear_error(fresh_state: StateDirs) -> None:
    with serve() as index:
        pass  # its port is closed now
    with make_client(index, fresh_state) as client, pytest.raises(NetworkError) as caught:
        resolve(client, "idna")
    assert caught.value.exit_code == 33
    assert "pip config list" in (caught.value.resolution or "")


def test_plain_http_needs_a_trusted_host(fresh_state: StateDirs) -> None:
    config = PipConfig(indexes=("http://index.invalid/simple/",))
    with IndexClient(fresh_state, config=config) as client, pytest.raises(NetworkError, match="plain http"):
        resolve(client, "idna")
    assert not config.trusts("http://index.invalid/x")
    assert PipConfig(trusted_hosts=("index.invalid",)).trusts("http://index.invalid/x")


def test_credentials_are_sent_to_their_host_only_and_never_shown(
    index: Index, fresh_state: StateDirs, seen: Recorder
) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", DATA))
    index.password = "Basic dXNlcjpwQHNz"  # user:p@ss
    url, login = split_credentials(index.url.replace("//", "//user:p%40ss@"))
    assert login == ("user", "p@ss")
    config = PipConfig(indexes=(f"{url}/simple/",), credentials={url: login})
    assert "p@ss" not in repr(config)
    with IndexClient(fresh_state, config=config, monitor=seen) as client:
        source = client.fetch_source(client.resolve("pkg", python_version="3.11"))
    assert source.url == f"{index.url}/files/pkg-1.0.tar.gz"
    with (
        make_client(
            index, StateDirs.choose(fresh_state.lib / "other"), credentials={"http://other": login}
        ) as stranger,
        pytest.raises(NetworkError, match="401"),
    ):
        resolve(stranger, "pkg")
