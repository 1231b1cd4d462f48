"""Unpack the archive of a source tree where the request says; /out/source.json says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lxcbuild.debian.inside.report import answer, read_request
from lxcbuild.debian.inside.unpack import unpack


def main(arguments: list[str]) -> int:
    """Entry point."""
    assert not arguments
    return answer("source.json", _unpack, fallback_class="broken-sdist")


def _unpack() -> dict[str, Any]:
    request = read_request()
    unpacked = unpack(Path(request["archive"]), Path(request["tree"]))
    return {"members": unpacked.members, "bytes": unpacked.size_bytes}
