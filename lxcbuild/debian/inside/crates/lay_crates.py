"""Lay crates out as cargo's directory sources want them: one directory each, with the checksum of the file that it came from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lxcbuild.debian.inside.report import answer, read_request, refuse
from lxcbuild.debian.inside.unpack import unpack


def main(arguments: list[str]) -> int:
    """Entry point; the request says which file has which checksum."""
    assert not arguments
    return answer("laid.json", _lay, fallback_class="build-dep-missing")


def _lay() -> dict[str, Any]:
    request = read_request()
    source, destination = Path(request["crates"]), Path(request["destination"])
    scratch = destination.with_name("crate.tar.gz")
    destination.mkdir(parents=True)
    for name, checksum in sorted(request["checksums"].items()):
        shutil.copyfile(source / f"{name}.crate", scratch)
        place = destination / name
        unpack(scratch, place)
        if not (place / "Cargo.toml").is_file():
            refuse("build-dep-missing", f"the crate {name} has no Cargo.toml")
        # Without hashes of single files cargo trusts the directory; the host has checked the whole.
        document = {"files": {}, "package": checksum}
        (place / ".cargo-checksum.json").write_text(json.dumps(document), "ascii")
    scratch.unlink(missing_ok=True)
    return {"crates": len(request["checksums"])}
