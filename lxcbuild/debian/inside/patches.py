"""Apply the patches of an administrator's override to a source tree, and take them back."""

from __future__ import annotations

import contextlib
import subprocess  # noqa: TID251 (inside the sandbox there is no lxcbuild.process)
import sys
from collections.abc import Iterator
from pathlib import Path

from lxcbuild.debian.inside.report import refuse

PATCHES = Path("/lxcbuild/patches")
_SERIES = "series"
# No fuzz: dpkg-source allows none either, and it applies the same patches for the build.
_PATCH = ("patch", "-p1", "--fuzz=0", "--force", "--no-backup-if-mismatch", "--reject-file=-")


def apply_patches(tree: Path) -> None:
    """Apply those that the host has put beside the request, if any; refuses with convert-failed where one does not fit."""
    for path in _series():
        done = _run(tree, path)
        if done.returncode != 0:
            said = done.stdout.decode("utf-8", "replace").strip().splitlines()
            refuse("convert-failed", f"the override's patch {path.name} does not apply", "\n".join(said[-10:]))


@contextlib.contextmanager
def patched(tree: Path) -> Iterator[None]:
    """The tree with the patches for as long as the block lasts."""
    apply_patches(tree)
    yield
    for path in reversed(_series()):
        done = _run(tree, path, "--reverse")
        if done.returncode != 0:
            refuse("convert-failed", f"the override's patch {path.name} cannot be taken back after stdeb ran")


def _series() -> list[Path]:
    series = PATCHES / _SERIES
    return [PATCHES / name for name in series.read_text("utf-8").split()] if series.exists() else []


def _run(tree: Path, path: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    argv = [*_PATCH, *options, f"--directory={tree}", f"--input={path}"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    sys.stderr.write(done.stdout.decode("utf-8", "replace"))
    return done
