"""What a build that succeeded did on its way, read from its tree before that goes: modules left out, code for one processor only.

Nothing of this decides anything: the tree is the project's own to forge, and the host takes it for notes to people.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

from lxcbuild.debian.inside.report import clip_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Where debian/rules writes the paths that it removes (debhelper's own scratch directory, gone with the next clean).
LEFT_OUT = "debian/.debhelper/lxcbuild-left-out"
_MAX_BYTES = 256 * 1024
_MAX_OBJECT_BYTES = 256 << 20
_MAX_OBJECTS = 5000
# DW_AT_producer holds the compiler's options (-grecord-gcc-switches is gcc's default). Of -march=native it holds what that stood
# for on this machine: the processor, and the sizes of its caches, which nobody gives by hand.
_PRODUCER = re.compile(rb"GNU [A-Z][ -~]{0,4000}")
_CACHES = re.compile(rb"--param[ =]l1-cache-size=")
_MACHINE = re.compile(rb" -m(?:arch|cpu)=(?!x86-64\b|generic\b)([A-Za-z0-9_.+-]{1,60})")


def observe(place: Path) -> dict[str, Any]:
    """Facts on the trees below ``place``, as the document that the host reads."""
    trees = [path for path in sorted(place.iterdir()) if (path / "debian").is_dir() and not path.is_symlink()]
    left_out = sorted({name for tree in trees for name in _left_out(tree / LEFT_OUT)})
    native = sorted({item for tree in trees for item in _native(tree)})
    return {"schema": 1, "left_out": clip_all(left_out, count=100), "native": clip_all(native, count=20)}


def _left_out(path: Path) -> Iterator[str]:
    if path.is_symlink() or not path.is_file():
        return
    with path.open("rb") as file:
        for line in file.read(_MAX_BYTES).decode("utf-8", "replace").splitlines():
            name = line.rpartition("/")[2]
            if re.fullmatch(r"\w{1,60}(?:\.py)?|[\w.+-]{1,100}\.pth", name):
                yield name


def _native(tree: Path) -> Iterator[str]:
    """Processors that objects of the tree were compiled for because the builder has one."""
    seen = 0
    for place, _directories, names in os.walk(tree):
        for name in names:
            if name.endswith((".o", ".so", ".a")) and seen < _MAX_OBJECTS:
                seen += 1
                yield from _machines(Path(place) / name)


def _machines(path: Path) -> Iterator[str]:
    if path.is_symlink() or not path.is_file() or not 0 < path.stat().st_size <= _MAX_OBJECT_BYTES:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for producer in _PRODUCER.finditer(content):
            found = _MACHINE.search(producer[0])
            if found is not None and _CACHES.search(producer[0]):
                yield found[1].decode("ascii")
