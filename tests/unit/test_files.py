"""Files that appear whole, digests, and the kernel's figures of memory."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lxcbuild import files
from lxcbuild.errors import DiskFullError


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_whole_and_nothing_stays_beside_it(tmp_path: Path, durable: bool) -> None:
    place = tmp_path / "facts.json"
    for data in (b"bytes", "t\u00e9xt", io.BytesIO(b"s" * (3 << 20))):
        files.write_whole(place, data, durable=durable)
    assert place.read_bytes() == b"s" * (3 << 20)
    files.write_whole(place, "t\u00e9xt", durable=durable)
    assert place.read_text("utf-8") == "t\u00e9xt"
    assert list(tmp_path.iterdir()) == [place]


def test_the_mode_is_what_was_asked_for_or_what_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_whole(tmp_path / "given", b"", durable=False, mode=0o644)
        files.write_whole(tmp_path / "left", b"", durable=False)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("given", "left")] == [0o644, 0o640]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    place = tmp_path / "facts.json"
    place.write_text("old")
    with Path("/proc/self/mem").open("rb") as unreadable, pytest.raises(OSError, match="Input/output error"):
        files.write_whole(place, unreadable, durable=False)
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_only_durable_writes_are_synced_file_first_then_directory(tmp_path: Path) -> None:
    strace = subprocess.run(["sh", "-c", "command -v strace"], capture_output=True, check=False)
    if strace.returncode:
        pytest.skip("no strace on this host")
    code = "import sys, pathlib, lxcbuild.files as f; f.write_whole(pathlib.Path(sys.argv[1]), b'x', durable={})"

    def calls(durable: bool) -> list[str]:
        said = tmp_path / "said"
        argv = ["strace", "-f", "-o", said, "-e", "trace=fsync,rename", sys.executable, "-c", code.format(durable)]
        subprocess.run([*argv, tmp_path / "made"], check=True)
        return [line.split("(")[0].split()[-1] for line in said.read_text().splitlines() if "(" in line]

    assert calls(True) == ["fsync", "rename", "fsync"]
    assert calls(False) == ["rename"]


def test_a_full_disk_is_an_error_of_its_own(tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        told = files.disk_full_or(OSError(number, os.strerror(number)), tmp_path / "x")
        assert isinstance(told, DiskFullError)
        assert os.fspath(tmp_path) in told.brief
    other = OSError(errno.EACCES, "no")
    assert files.disk_full_or(other, tmp_path) is other


def test_digests_are_those_of_hashlib(tmp_path: Path) -> None:
    place = tmp_path / "data"
    place.write_bytes(b"\0data" * 100_000)
    assert files.sha256_of(place) == hashlib.sha256(place.read_bytes()).hexdigest()
    assert files.digest_of(place, "blake2b") == hashlib.blake2b(place.read_bytes()).hexdigest()


def test_memory_is_told_in_bytes() -> None:
    found = files.memory()
    assert found["MemTotal"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < found["MemAvailable"] <= found["MemTotal"]
    assert "SwapTotal" in found
