"""Source archives are unpacked within bounds, and hostile ones are refused as broken."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from lxcbuild.debian.inside import unpack as unpacking
from lxcbuild.debian.inside.report import Refusal
from lxcbuild.debian.inside.unpack import unpack
from tests.support import sdists


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar.gz", "w:gz"), ("a.tar.bz2", "w:bz2"), ("a.tar.xz", "w:xz"), ("a.tar", "w")]
)
def test_a_tar_archive_is_unpacked_without_its_top_level_name(tmp_path: Path, name: str, mode: str) -> None:
    archive = sdists.tarball(tmp_path / name, {"a-1/setup.py": "x = 1\n", "a-1/pkg/m.py": "y = 2\n"}, mode=mode)
    done = unpack(archive, tmp_path / "src")
    assert (done.top_level, done.archive_format) == ("a-1", name.partition(".")[2])
    assert (tmp_path / "src/pkg/m.py").read_text() == "y = 2\n"
    assert (tmp_path / "src/setup.py").stat().st_mtime == 1_600_000_000


def test_a_zip_archive_is_unpacked(tmp_path: Path) -> None:
    archive = sdists.zipped(tmp_path / "a.zip", {"a-1/setup.py": "x = 1\n"})
    assert unpack(archive, tmp_path / "src").archive_format == "zip"
    assert (tmp_path / "src/setup.py").read_text() == "x = 1\n"


def test_links_within_the_archive_are_kept(tmp_path: Path) -> None:
    archive = sdists.tar_of(
        tmp_path / "a.tar.gz",
        sdists.member("a/real.txt"),
        sdists.member("a/sub/soft", tarfile.SYMTYPE, "../real.txt"),
        sdists.member("a/hard", tarfile.LNKTYPE, "a/real.txt"),
    )
    unpack(archive, tmp_path / "src")
    assert (tmp_path / "src/sub/soft").is_symlink()
    assert (tmp_path / "src/hard").is_file()
    assert (tmp_path / "src/hard").stat().st_nlink == 1


@pytest.mark.parametrize(
    "members",
    [
        [sdists.member("/etc/evil")],
        [sdists.member("a/../../evil")],
        [sdists.member("a/link", tarfile.SYMTYPE, "/etc/passwd")],
        [sdists.member("a/link", tarfile.SYMTYPE, "../outside")],
        [sdists.member("a/b/link", tarfile.SYMTYPE, "../../outside")],
        [sdists.member("a/link", tarfile.SYMTYPE, "sub"), sdists.member("a/link/x")],
        [sdists.member("a/hard", tarfile.LNKTYPE, "../../etc/passwd")],
        [sdists.member("a/hard", tarfile.LNKTYPE, "a/absent")],
        [sdists.member("a/s", tarfile.SYMTYPE, "x"), sdists.member("a/hard", tarfile.LNKTYPE, "a/s")],
        [sdists.member("a/device", tarfile.CHRTYPE)],
        [sdists.member("a/fifo", tarfile.FIFOTYPE)],
        [sdists.member("a/x"), sdists.member("b/x")],
        [sdists.member("/".join(["a"] * 80))],
        [sdists.member("lonely-file")],
        [],
    ],
)
def test_a_hostile_tar_archive_is_refused(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    archive = sdists.tar_of(tmp_path / "a.tar.gz", *members)
    with pytest.raises(Refusal) as refused:
        unpack(archive, tmp_path / "src")
    assert refused.value.failure_class == "broken-sdist"
    assert not (tmp_path / "evil").exists()


def test_zip_traversal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal):
        unpack(sdists.zipped(tmp_path / "a.zip", {"a/x": "", "../evil": ""}), tmp_path / "src")


def test_a_bomb_is_stopped_at_the_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_BYTES", 1024 * 1024)
    archive = sdists.tarball(tmp_path / "a.tar.gz", {"a/zeros": bytes(4 * 1024 * 1024)})
    assert archive.stat().st_size < 16_384
    with pytest.raises(Refusal, match="unpacks to more"):
        unpack(archive, tmp_path / "src")


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 10)
    archive = sdists.tarball(tmp_path / "a.tar.gz", {f"a/{number}": "" for number in range(11)})
    with pytest.raises(Refusal, match="more than 10 members"):
        unpack(archive, tmp_path / "src")


@pytest.mark.parametrize("data", [b"", b"no archive at all", b"\x1f\x8b\x08\x00garbage" * 9])
def test_garbage_is_refused(tmp_path: Path, data: bytes) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(data)
    with pytest.raises(Refusal):
        unpack(archive, tmp_path / "src")


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    archive = sdists.tarball(tmp_path / "a.tar.gz", {"a/x": bytes(range(256)) * 4000})
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(Refusal):
        unpack(archive, tmp_path / "src")
