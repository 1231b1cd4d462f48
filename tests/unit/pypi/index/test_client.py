"""The index client against a real index on a loopback port: which release it takes."""

from __future__ import annotations

import hashlib

import pytest

from lxcbuild.errors import (
    BadNameError,
    InputError,
    NoSdistError,
    UnknownProjectError,
    UnknownVersionError,
    YankedReleaseError,
)
from lxcbuild.pypi.index.client import IndexClient
from tests.support.index_clients import DATA, resolve
from tests.support.index_server import File, Index


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
