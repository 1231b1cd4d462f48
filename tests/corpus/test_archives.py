"""Attack 38: archives that unpack to more than they should, or to somewhere else; through real builds, from file to class."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.state.paths import StateDirs
from tests.corpus import packing

pytestmark = [pytest.mark.root, pytest.mark.network]

GIB = 1 << 30
MARKER = "escaped-marker"


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def through_a_link(folder: Path) -> Path:
    return packing.tar_with(
        folder / "evil-1.0.tar.gz",
        (member("evil-1.0/way", tarfile.SYMTYPE, "/tmp"), b""),
        (member(f"evil-1.0/way/{MARKER}"), b"x"),
    )


# What the host may unpack of these is nothing at all; what the sandbox unpacks is capped by its own reader, or by its disk.
ARCHIVES: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "gzip-bomb-declared": (lambda f: packing.gzip_bomb(f / "evil-1.0.tar.gz", size_bytes=9 * GIB), ("broken-sdist",)),
    "gzip-bomb-fills": (lambda f: packing.gzip_bomb(f / "evil-1.0.tar.gz", size_bytes=GIB), ("disk-full",)),
    "xz-bomb-fills": (lambda f: packing.xz_bomb(f / "evil-1.0.tar.xz", size_bytes=GIB), ("disk-full",)),
    "zip-bomb-fills": (lambda f: packing.zip_bomb(f / "evil-1.0.zip", size_bytes=GIB), ("disk-full",)),
    "tar-dotdot": (
        lambda f: packing.tar_with(f / "evil-1.0.tar.gz", (member(f"evil-1.0/../../../../tmp/{MARKER}"), b"x")),
        ("broken-sdist",),
    ),
    "tar-absolute": (
        lambda f: packing.tar_with(f / "evil-1.0.tar.gz", (member(f"/tmp/{MARKER}"), b"x")),
        ("broken-sdist",),
    ),
    "tar-through-link": (through_a_link, ("broken-sdist",)),
    "tar-hard-link-out": (
        lambda f: packing.tar_with(f / "evil-1.0.tar.gz", (member("evil-1.0/p", tarfile.LNKTYPE, "/etc/passwd"), b"")),
        ("broken-sdist",),
    ),
    "tar-device": (
        lambda f: packing.tar_with(f / "evil-1.0.tar.gz", (member("evil-1.0/mem", tarfile.CHRTYPE), b"")),
        ("broken-sdist",),
    ),
    "zip-dotdot": (
        lambda f: packing.zip_with(f / "evil-1.0.zip", (f"evil-1.0/../../../tmp/{MARKER}", b"x")),
        ("broken-sdist",),
    ),
}


#: The same reader refuses these for the same reason; `tests/unit/debian/inside/test_unpack.py` has them without a build around.
LESS_OFTEN = ("xz-bomb-fills", "tar-absolute", "tar-hard-link-out", "tar-device", "zip-dotdot")


@pytest.mark.attack(number=38)
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in LESS_OFTEN else []) for kind in ARCHIVES]
)
def test_hostile_archives_are_refused_in_the_sandbox(build: Any, tmp_path: Path, state: StateDirs, kind: str) -> None:
    make, classes = ARCHIVES[kind]
    archive = make(tmp_path)
    assert archive.stat().st_size < 16 << 20
    begun = time.monotonic()
    done = build(archive)
    found = done.build["failure"]
    assert found["class"] in classes, found
    assert found["phase"] == "inspect"
    assert time.monotonic() - begun < 60
    assert done.build["phases"][-1]["peak_disk_bytes"] < 140 << 20
    assert not Path("/tmp", MARKER).exists()
    assert b"Traceback" not in done.stderr


@pytest.mark.attack(number=38)
@pytest.mark.parametrize(
    ("project", "classes"),
    [
        ("wheel_bomb", ("disk-full",)),
        ("wheel_leads_out", ("compile-failed", "gate-rejected", "wrote-outside")),
    ],
)
def test_hostile_wheels_are_unpacked_in_the_sandbox_only(
    build: Any, tmp_path: Path, project: str, classes: tuple[str, ...]
) -> None:
    done = build(packing.sdist(packing.MISBEHAVING / project, tmp_path))
    found = done.build["failure"]
    assert found is not None
    assert found["class"] in classes, found
    assert done.build["artifacts"] == []
    assert not Path("/etc/cron.d/escaped-marker").exists()
