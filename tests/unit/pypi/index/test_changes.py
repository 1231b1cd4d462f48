"""What is new in an index: releases by their files, projects by their serials; asked of a real index on a loopback port."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Iterator

import pytest

from lxcbuild.errors import NetworkError
from lxcbuild.pypi.index.changes import IndexWatcher, PauseError, known_releases, new_releases, newest
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.pypi.index.config import PipConfig
from lxcbuild.pypi.index.model import IndexFile
from lxcbuild.state.paths import StateDirs
from tests.support.index_server import File, Index, send, serve, status


def listed(*names: str, yanked: str = "", digest: str = "") -> list[IndexFile]:
    hashes = {"sha256": digest} if digest else {}
    return [
        IndexFile(filename=n, url=f"https://x/{n}", hashes=hashes, yanked="bad" if n == yanked else None) for n in names
    ]


def fresh(files: list[IndexFile], known: dict[str, str], **options: bool) -> list[str]:
    return [each.version for each in new_releases("pkg", files, known, **options)]


def test_releases_with_source_archives_that_were_not_there() -> None:
    files = listed("pkg-1.0.tar.gz", "pkg-1.10.tar.gz", "pkg-1.9.zip", "pkg-2.0-py3-none-any.whl", "other-3.tar.gz")
    assert fresh(files, {"1.0": ""}) == ["1.9", "1.10"]
    assert sorted(known_releases("pkg", files)) == ["1.0", "1.10", "1.9"]


def test_a_release_is_new_once_its_source_archive_is_there() -> None:
    wheel, sdist = listed("pkg-2.0-py3-none-any.whl"), listed("pkg-2.0.tar.gz")
    known = known_releases("pkg", wheel)
    assert fresh(wheel, {}) == []
    assert fresh(wheel + sdist, known) == ["2.0"]


def test_yanked_and_early_releases_are_left_out() -> None:
    files = listed("pkg-1.0.tar.gz", "pkg-1.1.tar.gz", "pkg-2.0rc1.tar.gz", yanked="pkg-1.1.tar.gz")
    assert fresh(files, {"1.0": ""}) == []
    assert fresh(files, {"1.0": ""}, allow_pre=True) == ["2.0rc1"]
    assert fresh(listed("pkg-0.1a1.tar.gz"), {}) == ["0.1a1"]
    # A yanked one is known all the same: when it comes back, that is no release.
    assert "1.1" in known_releases("pkg", files)


def test_another_archive_of_the_same_version_is_new() -> None:
    old, other = listed("pkg-1.0.tar.gz", digest="a" * 64), listed("pkg-1.0.tar.gz", digest="b" * 64)
    known = known_releases("pkg", old)
    assert fresh(old, known) == []
    assert fresh(other, known) == ["1.0"]
    assert fresh(listed("pkg-1.0.tar.gz"), known) == []  # an index that says no hash says no difference


def test_newest_is_by_version_not_by_text() -> None:
    found = newest(new_releases("pkg", listed("pkg-1.9.tar.gz", "pkg-1.10.tar.gz"), {}))
    assert found is not None
    assert found.requirement == "pkg==1.10"


@pytest.fixture
def index() -> Iterator[Index]:
    with serve() as server:
        yield server


@pytest.fixture
def watcher(index: Index, fresh_state: StateDirs) -> Iterator[IndexWatcher]:
    with IndexWatcher(fresh_state, config=PipConfig(indexes=(f"{index.url}/simple/",), timeout_s=5)) as made:
        yield made


def test_a_page_is_asked_again_each_time_and_sent_only_when_it_changed(index: Index, watcher: IndexWatcher) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", b"1"))
    first, second = watcher.look("pkg"), watcher.look("pkg")
    assert first == second
    assert [headers.get("If-None-Match") is not None for _, headers in index.requests] == [False, True]
    index.add("pkg", File("pkg-1.1.tar.gz", b"2"))
    third = watcher.look("pkg")
    assert third is not None
    assert [file.filename for file in third.files] == ["pkg-1.0.tar.gz", "pkg-1.1.tar.gz"]
    assert watcher.look("nobody") is None


def test_a_build_that_follows_sees_what_was_seen(index: Index, watcher: IndexWatcher, fresh_state: StateDirs) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", b"1"))
    with IndexClient(fresh_state, config=watcher.config) as client:
        assert client.resolve("pkg", python_version="3.11").version == "1.0"  # believed for ten minutes from now on
        index.add("pkg", File("pkg-1.1.tar.gz", b"2"))
        assert client.resolve("pkg", python_version="3.11").version == "1.0"
        watcher.look("pkg")
        assert client.resolve("pkg", python_version="3.11").version == "1.1"


def test_serials_tell_which_projects_changed(index: Index, watcher: IndexWatcher) -> None:
    index.says_serials = True
    for name in ("one", "two", "three"):
        index.add(name, File(f"{name}-1.tar.gz", b"1"))
    url = f"{index.url}/simple/"
    assert watcher.serials({"one", "two", "absent"}) == {url: {"one": 1, "two": 2}}
    index.add("two", File("two-2.tar.gz", b"2"))
    assert watcher.serials({"one", "two"}) == {url: {"one": 1, "two": 4}}
    page = watcher.look("two")
    assert page is not None
    assert page.serials == {url: 4}
    before = len(index.requests)
    assert watcher.serials({"one", "two"}) == {url: {"one": 1, "two": 4}}
    assert "If-None-Match" in index.requests[before][1]


def test_an_index_without_serials_says_so(index: Index, watcher: IndexWatcher) -> None:
    index.add("one", File("one-1.tar.gz", b"1"))
    assert watcher.serials({"one"}) is None
    index.fail("/simple/", send(b"<html><a href='one/'>one</a></html>", "text/html"))
    assert watcher.serials({"one"}) is None
    index.fail("/simple/", status(404))
    assert watcher.serials({"one"}) is None


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"projects": 3}', b'{"name": "x"}', b"[" * 100_000])
def test_a_broken_list_is_an_error(index: Index, watcher: IndexWatcher, body: bytes) -> None:
    index.fail("/simple/", send(body, "application/vnd.pypi.simple.v1+json"))
    with pytest.raises(NetworkError, match="cannot be understood"):
        watcher.serials({"x"})


def test_odd_entries_of_a_list_are_passed_over(index: Index, watcher: IndexWatcher) -> None:
    projects = [
        {"name": "Zope.Interface", "_last-serial": 7},
        {"name": "flag", "_last-serial": True},
        {"name": 3, "_last-serial": 3},
        {"_last-serial": 4},
        "text",
        {"name": "plain", "projects": [{"name": "inner", "_last-serial": 1}]},
    ]
    index.fail("/simple/", send(json.dumps({"projects": projects}).encode(), "application/json"))
    assert watcher.serials({"zope-interface", "flag", "plain"}) == {f"{index.url}/simple/": {"zope-interface": 7}}


def test_who_asks_for_a_pause_gets_an_error_that_says_how_long(index: Index, watcher: IndexWatcher) -> None:
    index.add("pkg", File("pkg-1.0.tar.gz", b"1"))
    index.fail("/simple/pkg/", status(429, Retry_After="77"))
    with pytest.raises(PauseError) as caught:
        watcher.look("pkg")
    assert caught.value.retry_after_s == 77
    when = email.utils.formatdate(time.time() + 120, usegmt=True)
    index.fail("/simple/pkg/", status(503, Retry_After=when))
    with pytest.raises(PauseError) as caught:
        watcher.look("pkg")
    assert caught.value.retry_after_s is not None
    assert 100 < caught.value.retry_after_s <= 120
    index.fail("/simple/pkg/", status(500))
    with pytest.raises(PauseError) as caught:
        watcher.look("pkg")
    assert caught.value.retry_after_s is None
    index.fail("/simple/pkg/", status(403))
    with pytest.raises(NetworkError):
        watcher.look("pkg")
    assert len(index.requests) == 4  # nothing was tried again behind the caller's back
