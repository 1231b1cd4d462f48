"""Attack 38: archives that are larger, longer or elsewhere than they look, and what a careless reader would make of them."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from lxcbuild.debian.inside import unpack as unpacking
from lxcbuild.debian.inside.report import Refusal
from lxcbuild.debian.inside.unpack import unpack
from tests.support import sdists
from tests.support.timing import within

MIB = 1 << 20


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(unpacking, "MAX_BYTES", 16 * MIB)
    with within(10):
        yield


def refused(archive: Path, folder: Path, why: str) -> None:
    with pytest.raises(Refusal, match=why):
        unpack(archive, folder / "src")


@pytest.mark.attack(number=38)
def test_a_sparse_member_counts_by_the_size_that_it_claims(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with (tmp_path / "a/holes").open("wb") as file:
        file.truncate(1 << 40)
    archive = tmp_path / "a.tar"
    subprocess.run(["tar", "--sparse", "-C", tmp_path, "-cf", archive, "a"], check=True)
    assert archive.stat().st_size < MIB
    refused(archive, tmp_path, "unpacks to more than")


@pytest.mark.attack(number=38)
def test_pax_headers_cannot_lengthen_names_without_end(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(sdists.member("a/" + "n" * (8 * MIB)))
    refused(archive, tmp_path, "too long a name")


@pytest.mark.attack(number=38)
def test_a_pax_size_is_not_believed_beyond_the_cap(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    info = sdists.member("a/x")
    info.pax_headers = {"size": str(1 << 50)}
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    refused(archive, tmp_path, "unpacks to more than|cannot be read")


@pytest.mark.attack(number=38)
@pytest.mark.filterwarnings("ignore:Overlapped entries")  # Python 3.13 says so itself
def test_members_of_a_zip_that_share_their_data_count_each(tmp_path: Path) -> None:
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("a/x", bytes(MIB))
    data = plain.getvalue()
    at, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    count = 200
    tail = bytearray(data[end:])
    tail[8:10] = tail[10:12] = count.to_bytes(2, "little")
    tail[12:16] = ((end - at) * count).to_bytes(4, "little")
    archive = tmp_path / "a.zip"
    archive.write_bytes(data[:at] + data[at:end] * count + tail)
    refused(archive, tmp_path, "unpacks to more than|cannot be read")


@pytest.mark.attack(number=38)
@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_of_a_zip_are_capped_too(tmp_path: Path, compression: int) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", compression) as zipped:
        zipped.writestr("a/x", bytes(24 * MIB))
    assert archive.stat().st_size < MIB
    refused(archive, tmp_path, "unpacks to more than")


@pytest.mark.attack(number=38)
def test_a_careless_reader_writes_where_the_archive_says_and_as_much(tmp_path: Path) -> None:
    """The counter-test: the same kinds of archives, by the standard library without a filter."""
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(sdists.member("../escaped"))
        holes = sdists.member("a/big")
        holes.size = 32 * MIB
        tar.addfile(holes, io.BytesIO(bytes(holes.size)))
    (tmp_path / "careless").mkdir()
    with tarfile.open(archive) as tar:
        if hasattr(tar, "extraction_filter"):
            tar.extraction_filter = staticmethod(lambda member, _path: member)
        tar.extractall(tmp_path / "careless")
    assert (tmp_path / "escaped").exists()
    assert (tmp_path / "careless/a/big").stat().st_size == 32 * MIB
    refused(archive, tmp_path, "leads out of it")
