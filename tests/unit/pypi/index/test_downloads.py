"""The index client's downloads: kept, resumed, checked, capped."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest

from lxcbuild.errors import DiskFullError, InputError, NetworkError, WrongHashError
from lxcbuild.events import Progress
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.state.paths import StateDirs
from tests.support.index_clients import DATA, Recorder, make_client
from tests.support.index_server import File, Index, status, truncate
from tests.support.timing import quick


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


@pytest.mark.bench
def test_warm_resolve_and_fetch_is_quick(index: Index, fresh_state: StateDirs) -> None:
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
