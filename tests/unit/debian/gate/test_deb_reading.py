"""What our reader of packages says is what dpkg-deb does, for real packages and spoiled ones; and it says so at little cost."""

from __future__ import annotations

import functools
import gzip
import itertools
import lzma
import os
import random
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcbuild.debian.gate import debfile
from lxcbuild.debian.gate.artifacts import ArtifactError, Budget, Deb, read_deb
from lxcbuild.state.paths import StateDirs
from tests.support import debs
from tests.support.debs import Entry
from tests.support.timing import within

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
DEEP = "usr/share/doc/demo/" + "n" * 90
HEADER_FIELDS = (0, 100, 108, 116, 124, 136, 148, 156, 157, 257, 265, 297, 329, 345, 357, 386, 482, 483, 512)


def real_packages(state: StateDirs) -> Iterator[Path]:
    """Of the machine and of the tests' images: the archive's, written by whatever dpkg-deb its builders had."""
    yield from Path("/var/cache/apt/archives").glob("*.deb")
    yield from state.cache.glob("archives/debs/*/*.deb")
    yield from state.artifacts.glob("*/*.deb")


def test_real_packages_are_read(state: StateDirs) -> None:
    small = (path for path in real_packages(state) if path.stat().st_size < 1 << 20)
    packages = list(itertools.islice(small, 100))
    if not packages:
        pytest.skip("no package of the archive is on this machine")
    for path in packages:
        assert read_deb(path).control["Package"], path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that dpkg-deb wrote: long names and links, hard links, empty files, files of a block and of a byte more."""
    tree = tmp_path_factory.mktemp("written") / "tree"
    for name, data in {
        "usr/bin/demo": "x",
        "usr/lib/empty": "",
        "usr/lib/block": "b" * 512,
        f"{DEEP}/x": "c" * 513,
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(data)
    (tree / "usr/lib/x.pth").write_text("demo\n")
    (tree / DEEP / "long").symlink_to("l" * 150)
    (tree / "usr/bin/other").symlink_to("demo")
    (tree / "usr/bin/hard").hardlink_to(tree / "usr/bin/demo")
    (tree / DEEP / "hard").hardlink_to(tree / DEEP / "x")
    (tree / "usr/share/exactly").mkdir()
    (tree / ("usr/share/exactly/" + "e" * 80)).write_text("")  # 100 bytes with ./ before them
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(debs.CONTROL)
    (tree / "DEBIAN/prerm").write_text("#!/bin/sh\n")
    (tree / "DEBIAN/prerm").chmod(0o755)
    path = tree.with_name("demo.deb")
    subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", tree, path], check=True, stdout=-3)
    return path


def assert_unpacked_alike(deb: Deb, directory: Path) -> None:
    """dpkg-deb unpacks exactly what the reader reported."""
    for option, to in (("-x", "data"), ("-e", "control")):
        subprocess.run(["dpkg-deb", option, deb.path, directory / to], check=True, capture_output=True)
    found = {str(path.relative_to(directory / "data")): path for path in (directory / "data").rglob("*")}
    assert set(found) == {member.name for member in deb.members}
    for member in deb.members:
        path = found[member.name]
        status = path.lstat()
        if member.kind == "symlink":
            assert os.readlink(path) == member.link  # noqa: PTH115 - as it is written, with its ./
        elif member.kind == "hardlink":
            assert path.samefile(directory / "data" / member.link)
        elif member.kind == "dir":
            assert stat.S_ISDIR(status.st_mode)
        else:
            assert (stat.S_ISREG(status.st_mode), status.st_size) == (True, member.size_bytes)
            assert member.data in (None, path.read_bytes())
        if member.kind in ("file", "dir") and os.geteuid() == 0:
            assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (member.mode, member.uid, member.gid)
    control = {path.name: path.read_bytes() for path in (directory / "control").iterdir()}
    assert set(control) == {"control", *deb.control_files}
    assert all(control[name] == data for name, data in deb.control_files.items())


@needs_dpkg
def test_what_dpkg_deb_wrote_is_read_as_it_unpacks_it(written: Path, tmp_path: Path) -> None:
    deb = read_deb(written)
    assert {member.kind for member in deb.members} == {"file", "dir", "symlink", "hardlink"}
    assert any(len(member.name) == 98 for member in deb.members)
    assert_unpacked_alike(deb, tmp_path)


def headers(archive: bytes) -> list[int]:
    """Where the header blocks are in a package without compression."""
    return [at - 257 for at in range(len(archive)) if archive.startswith(b"ustar  \0", at)]


def spoiled(archive: bytes, at: int, dice: random.Random) -> bytes:
    """Some bytes of one header are others, in one field or anywhere, and the checksum fits."""
    header = bytearray(archive[at : at + 512])
    field = dice.randrange(len(HEADER_FIELDS) - 1)
    start, end = HEADER_FIELDS[field : field + 2]
    if start == 0 or start == 157:
        end = min(end, start + header[start:end].find(b"\0") + 3)
    for _ in range(dice.choice((1, 1, 2, 4))):
        header[dice.randrange(start, end)] = dice.choice(b"\0 /.01234567-x\xff\x80")
    fixed = bytes(header) if start == 148 else debs.summed(bytes(header))
    return archive[:at] + fixed + archive[at + 512 :]


@pytest.mark.attack(number=47)
@needs_dpkg
def test_what_is_accepted_of_spoiled_headers_is_unpacked_as_it_was_read(written: Path, tmp_path: Path) -> None:
    dice = random.Random(1)
    archive, path = written.read_bytes(), tmp_path / "spoiled.deb"
    places = headers(archive)
    accepted = 0
    for _ in range(1_000):
        path.write_bytes(spoiled(archive, dice.choice(places), dice))
        try:
            deb = read_deb(path)
        except ArtifactError:
            continue
        accepted += 1
        with tempfile.TemporaryDirectory(dir=tmp_path) as directory:
            assert_unpacked_alike(deb, Path(directory))
    assert 20 < accepted < 500


# -- attack 48: what reading may cost


def zeros(path: Path, size_bytes: int) -> None:
    """A package with one file of so many zeros, of which 8 MiB are there."""
    header = debs.block(name=b"./z", mode=0o644, uid=0, size=size_bytes, kind=b"0", link=b"", owner=b"root")
    packer = lzma.LZMACompressor(preset=0)
    data = [packer.compress(debs.packed(debs.whole([])[0]) + header)]
    data += [packer.compress(bytes(1 << 20)) for _ in range(8)]
    control = gzip.compress(debs.tar(debs.whole([Entry("./control", debs.CONTROL.encode())])))
    parts = [
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", control),
        ("data.tar.xz", b"".join([*data, packer.flush()])),
    ]
    path.write_bytes(debs.ar(parts))


@pytest.mark.attack(number=48)
def test_zeros_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    zeros(tmp_path / "a.deb", 1 << 30)
    with within(0.5), pytest.raises(ArtifactError, match="unpacks to more bytes than allowed"):
        read_deb(tmp_path / "a.deb")


@pytest.mark.attack(number=48)
def test_a_set_of_packages_has_no_more_to_spend_than_one(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(debs.deb(tree=[Entry("./usr/z", bytes(40 << 20))]))
    read_deb(path)
    read_deb(path)
    budget = Budget()
    read_deb(path, budget=budget)
    with pytest.raises(ArtifactError, match="unpacks to more bytes than allowed"):
        read_deb(path, budget=budget)


@pytest.mark.attack(number=48)
def test_a_large_package_that_packs_as_code_does_is_read(tmp_path: Path) -> None:
    text = random.Random(2).randbytes(3 << 20)
    data = b"".join(text[at : at + 4096] * 34 for at in range(0, len(text), 4096))
    path = tmp_path / "a.deb"
    path.write_bytes(debs.deb(tree=[Entry("./usr/z", data[: 100 << 20])]))
    assert path.stat().st_size < 4 << 20
    assert read_deb(path).members[-1].size_bytes == 100 << 20


@pytest.mark.attack(number=48)
def test_reading_may_take_so_long_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(debs.deb())
    clock = functools.partial(next, itertools.count(0, 40))
    monkeypatch.setattr(debfile.time, "thread_time", clock)
    with pytest.raises(ArtifactError, match="takes too long"):
        read_deb(path)


@pytest.mark.attack(number=48)
def test_members_cost_the_same_however_many_there_are(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    above = "./usr/share/" + "d/" * 30
    path.write_bytes(debs.deb(tree=[Entry(f"{above}{number}") for number in range(10_000)], compression="gz"))
    with within(1.5):
        assert len(read_deb(path).members) > 10_000
