"""Move what dpkg-buildpackage made beside the source tree to /out, and leave /out/observed.json."""

from __future__ import annotations

import sys
from pathlib import Path

from lxcbuild.debian.inside.observe import observe
from lxcbuild.debian.inside.report import write_result

_KINDS = (".deb", ".ddeb", ".udeb", ".dsc", ".changes", ".buildinfo")


def main(arguments: list[str]) -> int:
    """Entry point; the one argument is the directory that holds the results."""
    (place,) = arguments
    found = [
        path
        for path in sorted(Path(place).iterdir())
        if (
            path.suffix in _KINDS
            or ".orig" in path.name
            or ".debian.tar." in path.name
            or path.name.endswith(".diff.gz")
        )
        and path.is_file()
        and not path.is_symlink()
    ]
    for path in found:
        _move(path, Path("/out") / path.name)
        sys.stdout.write(f"{path.name}\n")
    write_result("observed.json", observe(Path(place)))
    return 0 if any(path.suffix == ".changes" for path in found) else 1


def _move(path: Path, destination: Path) -> None:
    """Under one name only: what has others might be written to through them."""
    if path.stat().st_nlink == 1:
        path.rename(destination)
        return
    import shutil

    shutil.copyfile(path, destination)
