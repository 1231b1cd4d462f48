"""The index client against a real index on a loopback port."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from index_server import File, Index, send, serve, status, truncate
from timing import quick

from lxcbuild.config.paths import StateDirs
from lxcbuild.errors import (
    BadNameError,
    DiskFullError,
    InputError,
    NetworkError,
    NoSdistError,
    UnknownProjectError,
    UnknownVersionError,
    WrongHashError,
    YankedReleaseError,
)
from lxcbuild.events import Event, Note, Progress
from lxcbuild.pypi import client as client_module
from lxcbuild.pypi.client import IndexClient
from lxcbuild.pypi.config import PipConfig, split_credentials

DATA = os.urandom(300_000)


class Recorder:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]


@pytest.fixture(params=["json", "html"])
def index(request: pytest.FixtureRequest) -> Iterator[Index]:
    with serve() as server:
        server.speaks_json = request.param == "json"
        yield server


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


@pytest.fixture
def client(index: Index, fresh_state: StateDirs, seen: Recorder) -> Iterator[IndexClient]:
    with make_client(index, fresh_state, seen) as made:
        yield made


def make_client(index: Index, dirs: StateDirs, seen: Recorder | None = None, **settings: object) -> IndexClient:
    config = PipConfig(indexes=(f"{index.url}/simple/",), timeout_s=5, **settings)  # type: ignore[arg-type]
    return IndexClient(dirs, config=config, monitor=seen, backoff_s=0.01)


def resolve(client: IndexClient, requirement: str, **options: object) -> str:
    return client.resolve(requirement, python_version="3.11", **options).version  # type: ignore[arg-type]


# -- which release ----------------------------------------------------------------------------------------------


def test_newest_release_with_everything_that_the_index_says(index: Index, client: IndexClient) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", b"old"), File("pkg-1.10.tar.gz", DATA, requires_python=">=3.8,<4"))
    index.add("pkg", File("pkg-1.9.tar.gz", b"x"), File("pkg-1.10-py3-none-any.whl", b"w"))
    index.projects["pkg"][1].uploaded_at = "2026-01-02T03:04:05Z"
    release = client.resolve("Pkg", python_version="3.11")
    assert (release.name, release.version, release.has_wheels) == ("pkg", "1.10", True)
    assert release.requires_python == ">=3.8,<4"
    assert release.uploaded_at == "2026-01-02T03:04:05Z"
    assert release.sdist.hashes == {"sha256": hashlib.sha256(DATA).hexdigest()}
    assert release.sdist.url == f"{index.url}/files/pkg-1.10.tar.gz"
    source = client.fetch_source(release)
    assert source.path.read_bytes() == DATA
    assert source.path.name == "pkg-1.10.tar.gz"
    assert (source.sha256, source.size_bytes) == (hashlib.sha256(DATA).hexdigest(), len(DATA))


@pytest.mark.parametrize(
    "filename",
    [
        "my_pkg-2.0.tar.gz",
        "my-pkg-2.0.zip",
        "My.Pkg-2.0.tar.bz2",
        "my_pkg-2.0.tar.xz",
        "MY-PKG-2.0.tar.gz",
        "my-pkg-2.0.tgz",
    ],
)
def test_old_and_new_styles_of_sdist_names(index: Index, client: IndexClient, filename: str) -> None:
    index.add(
        "my-pkg",
        File(filename, b"x"),
        File("my-pkg-extra-9.0.tar.gz", b"y"),
        File("my_pkg-9.0.linux-x86_64.tar.gz", b"z"),
    )
    release = client.resolve("my_pkg", python_version="3.11")
    assert (release.version, release.sdist.filename) == ("2.0", filename)


def test_requires_python_of_the_target_decides(index: Index, client: IndexClient) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", b"1"), File("pkg-2.0.tar.gz", b"2", requires_python=">=3.12"))
    assert resolve(client, "pkg") == "1.0"
    assert client.resolve("pkg", python_version="3.13.5").version == "2.0"
    with pytest.raises(UnknownVersionError, match=r"Python 3\.11"):
        resolve(client, "pkg>=2")


def test_pre_releases_only_when_asked_or_when_there_is_nothing_else(index: Index, client: IndexClient) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", b"1"), File("pkg-2.0rc1.tar.gz", b"2"))
    index.add("only-pre", File("only_pre-0.1b1.tar.gz", b"3"))
    assert resolve(client, "pkg") == "1.0"
    assert resolve(client, "pkg>=2.0rc1") == "2.0rc1"
    assert resolve(client, "pkg", allow_pre=True) == "2.0rc1"
    assert resolve(client, "only-pre") == "0.1b1"
    with pytest.raises(UnknownVersionError):
        resolve(client, "only-pre", allow_pre=False)


def test_yanked_releases_are_used_only_when_pinned(index: Index, client: IndexClient) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", b"1"), File("pkg-2.0.tar.gz", b"2", yanked="broken & <bad>"))
    assert resolve(client, "pkg") == "1.0"
    release = client.resolve("pkg==2.0", python_version="3.11")
    assert release.yanked == "broken & <bad>"
    assert "broken & <bad>" in release.notes[0]
    assert resolve(client, "pkg===2.0") == "2.0"
    for requirement in ("pkg>=2", "pkg==2.*"):
        with pytest.raises(YankedReleaseError) as caught:
            resolve(client, requirement)
        assert "pkg==2.0" in (caught.value.resolution or "")


def test_newest_release_without_an_sdist_is_an_error_not_an_older_release(index: Index, client: IndexClient) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", b"1"), File("pkg-2.0-cp311-cp311-linux_x86_64.whl", b"w"))
    with pytest.raises(NoSdistError) as caught:
        resolve(client, "pkg")
    assert "pkg-2.0-cp311-cp311-linux_x86_64.whl" in (caught.value.details or "")
    assert "pkg==1.0" in (caught.value.resolution or "")
    assert caught.value.exit_code == 14


def test_projects_without_anything_usable(index: Index, client: IndexClient) -> None:
    index.projects["empty"] = []
    index.add("old", File("old-1.0-py2.7.egg", b"x"), File("old-1.0.win32.exe", b"x"))
    with pytest.raises(UnknownVersionError, match="no release"):
        resolve(client, "empty")
    with pytest.raises(NoSdistError) as caught:
        resolve(client, "old")
    assert "old-1.0-py2.7.egg" in (caught.value.details or "")


def test_unknown_project_and_version(index: Index, client: IndexClient) -> None:
    index.add("pkg", *(File(f"pkg-1.{n}.tar.gz", b"") for n in range(12)))
    with pytest.raises(UnknownProjectError):
        resolve(client, "nope")
    with pytest.raises(UnknownVersionError) as caught:
        resolve(client, "pkg==1.99")
    assert "1.9" in (caught.value.details or "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a;b",
        "../../etc/passwd",
        "a b",
        "x' OR 1=1 --",
        "$(id)",
        "`id`",
        "a/b",
        "-x",
        "a\0",
        "<b>",
        "é",
        "a" * 5000,
        "idna==",
    ],
)
def test_what_is_no_requirement_is_refused_before_anything_is_asked(
    index: Index, client: IndexClient, text: str
) -> None:
    with pytest.raises(BadNameError):
        resolve(client, text)
    assert index.requests == []


def test_direct_urls_are_refused(client: IndexClient) -> None:
    with pytest.raises(InputError, match="by URL"):
        resolve(client, "pkg @ https://example.invalid/pkg-1.0.tar.gz")


# -- pages ------------------------------------------------------------------------------------------------------


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
    with pytest.raises(NetworkError, match="circles"):
        resolve(client, "loop")
    index.fail("/simple/evil/", status(302, Location="file:///etc/passwd"))
    with pytest.raises(NetworkError, match="unsafe"):
        resolve(client, "evil")


def test_huge_page_is_cut_off(index: Index, client: IndexClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_PAGE_BYTES", 100_000)
    index.fail("/simple/pkg/", send(b"<a>" * 100_000, "text/html"))
    with pytest.raises(NetworkError, match="more than"):
        resolve(client, "pkg")


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


# -- files ------------------------------------------------------------------------------------------------------


def test_second_fetch_asks_nobody(index: Index, client: IndexClient) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", DATA))
    release = client.resolve("pkg", python_version="3.11")
    path = client.fetch(release.sdist)
    asked = len(index.requests)
    assert client.fetch(release.sdist) == path
    assert len(index.requests) == asked


def test_damaged_copy_is_fetched_again(index: Index, client: IndexClient, seen: Recorder) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", DATA))
    release = client.resolve("pkg", python_version="3.11")
    path = client.fetch(release.sdist)
    path.write_bytes(b"tampered")
    assert client.fetch(release.sdist).read_bytes() == DATA
    assert any("damaged" in note for note in seen.notes)


def test_broken_off_download_goes_on_where_it_stopped(index: Index, client: IndexClient, seen: Recorder) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", DATA))
    index.fail("/files/pkg-1.0.tar.gz", truncate(100_000), truncate(50_000))
    release = client.resolve("pkg", python_version="3.11")
    assert client.fetch(release.sdist).read_bytes() == DATA
    ranges = [headers.get("Range") for path, headers in index.requests if path.startswith("/files")]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]
    done = [event.done for event in seen.events if isinstance(event, Progress)]
    assert done[-1] == len(DATA)


def test_download_resumes_in_another_process_later(index: Index, fresh_state: StateDirs) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", DATA))
    index.fail("/files/pkg-1.0.tar.gz", truncate(200_000), *[status(503)] * 3)
    with make_client(index, fresh_state) as client:
        release = client.resolve("pkg", python_version="3.11")
        with pytest.raises(NetworkError):
            client.fetch(release.sdist)
    with make_client(index, fresh_state) as client:
        assert client.fetch(release.sdist).read_bytes() == DATA
    assert index.requests[-1][1]["Range"] == "bytes=200000-"
    assert [p.name for p in (fresh_state.downloads / "partial").iterdir()] == []


def test_server_that_cannot_resume_starts_again(index: Index, client: IndexClient) -> None:
    index.supports_range = False
    index.add("pkg", File("pkg-1.0.tar.gz", DATA))
    index.fail("/files/pkg-1.0.tar.gz", truncate(100_000))
    release = client.resolve("pkg", python_version="3.11")
    assert client.fetch(release.sdist).read_bytes() == DATA


def test_half_of_another_edition_does_not_spoil_the_file(
    index: Index, client: IndexClient, fresh_state: StateDirs
) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", DATA))
    index.fail("/files/pkg-1.0.tar.gz", truncate(100_000), *[status(503)] * 3)
    release = client.resolve("pkg", python_version="3.11")
    with pytest.raises(NetworkError):
        client.fetch(release.sdist)
    (half,) = (fresh_state.downloads / "partial").glob("*.part")
    half.write_bytes(b"\0" * 100_000)
    assert client.fetch(release.sdist).read_bytes() == DATA


def test_wrong_hash(index: Index, client: IndexClient, fresh_state: StateDirs) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", DATA, sha256="0" * 64))
    release = client.resolve("pkg", python_version="3.11")
    with pytest.raises(WrongHashError) as caught:
        client.fetch(release.sdist)
    assert caught.value.exit_code == 15
    assert not (fresh_state.downloads / "sha256").exists()


def test_file_without_hash_is_trusted_once_and_then_held_to_it(
    index: Index, client: IndexClient, seen: Recorder, fresh_state: StateDirs
) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", DATA, hashed=False))
    release = client.resolve("pkg", python_version="3.11")
    path = client.fetch(release.sdist)
    assert hashlib.sha256(DATA).hexdigest() in seen.notes[0]
    path.unlink()
    index.projects["pkg"][0].data = DATA[:-1] + b"?"
    with pytest.raises(WrongHashError):
        client.fetch(release.sdist)


def test_listed_file_that_is_gone(index: Index, client: IndexClient) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", DATA))
    release = client.resolve("pkg", python_version="3.11")
    index.projects.clear()
    with pytest.raises(NetworkError, match="does not have it"):
        client.fetch(release.sdist)


def test_size_cap(index: Index, client: IndexClient) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", DATA))
    release = client.resolve("pkg", python_version="3.11")
    with pytest.raises(InputError, match="larger than"):
        client.fetch(release.sdist, max_bytes=1000)


def test_many_fetches_at_once_download_once(index: Index, fresh_state: StateDirs) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", DATA))
    paths: list[Path] = []

    def work() -> None:
        with make_client(index, fresh_state) as mine:
            paths.append(mine.fetch_source(mine.resolve("pkg", python_version="3.11")).path)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 8
    assert len(set(paths)) == 1
    assert index.paths().count("/files/pkg-1.0.tar.gz") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk_is_told_as_such(index: Index, client: IndexClient, fresh_state: StateDirs) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", DATA))
    release = client.resolve("pkg", python_version="3.11")
    index.fail("/files/pkg-1.0.tar.gz", truncate(10), *[status(503)] * 3)
    with pytest.raises(NetworkError):
        client.fetch(release.sdist)
    (part,) = (fresh_state.downloads / "partial").glob("*.part")
    part.unlink()
    part.symlink_to("/dev/full")  # the kernel's own way of saying ENOSPC
    with pytest.raises(DiskFullError):
        client.fetch(release.sdist)


def test_warm_resolve_and_fetch_is_quick(index: Index, fresh_state: StateDirs) -> None:
    import time

    index.add("pkg", *(File(f"pkg-1.{n}.tar.gz", DATA) for n in range(100)))
    with make_client(index, fresh_state) as client:
        client.fetch(client.resolve("pkg", python_version="3.11").sdist)
    took = []
    for _ in range(5):
        started = time.perf_counter()
        with make_client(index, fresh_state) as client:
            client.fetch(client.resolve("pkg", python_version="3.11").sdist)
        took.append(time.perf_counter() - started)
    assert quick(min(took), 0.03), took
