"""Other programs that build Debian packages in clean rooms, each in its best configuration: all that can be is made ahead."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lxcbuild import process
from lxcbuild.config.recipes import Recipe
from lxcbuild.debian import sources

_LIMIT_S = 1800.0
Command = Callable[[Path, Path], Sequence[str]]
_MEMORY = Path("/dev/shm")  # noqa: S108 - where everything of theirs is kept, as our own images are


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanRoom:
    """One such program. ``prepare`` gets an empty directory, and returns what builds a .dsc in a second one."""

    name: str
    programs: tuple[str, ...]
    prepare: Callable[[Recipe, Sequence[str], Path], Command]
    environment: Callable[[Path], Mapping[str, str]]

    @property
    def present(self) -> bool:
        """Whether it is installed here."""
        return all(shutil.which(program) for program in self.programs)


class Ready:
    """A clean room whose base is made: it holds all build dependencies, so that none is downloaded."""

    def __init__(self, room: CleanRoom, recipe: Recipe, packages: Sequence[str], place: Path) -> None:
        began = time.perf_counter()
        self.name = room.name
        self._place = place
        self._command = room.prepare(recipe, packages, place)
        self._environment = room.environment(place)
        self.made_in_s = time.perf_counter() - began

    def build(self, dsc: Path, *, parallel: int) -> float:
        """Build it, without its tests; the seconds that the whole command took. Raises CommandError."""
        env = {**self._environment, "DEB_BUILD_OPTIONS": f"parallel={parallel} noautodbgsym nocheck"}
        with tempfile.TemporaryDirectory(dir=_MEMORY, prefix="lxcbuild-bench-") as results:
            argv = self._command(dsc, Path(results))
            began = time.perf_counter()
            done = process.run(argv, env=env, cwd=Path(results), timeout_s=_LIMIT_S, check=False)
            took = time.perf_counter() - began
            if done.status != 0 or not list(Path(results).glob("*.deb")):
                raise process.failed(done)
        return took


def _mirror(recipe: Recipe) -> Sequence[str]:
    return sources.source_lines(recipe, sources.host_mirrors(), keyring=sources.keyring_path(recipe))


def _sbuild(recipe: Recipe, packages: Sequence[str], place: Path) -> Command:
    tarball = place / "base.tar"
    process.run(
        (
            "mmdebstrap",
            "--variant=buildd",
            "--skip=cleanup/apt/lists",
            f"--include={','.join(packages)}",
            recipe.suite,
            tarball,
            *_mirror(recipe),
        ),
        timeout_s=_LIMIT_S,
    )
    tarball.chmod(0o644)
    (place / "config").write_text(f"$unshare_tmpdir_template = '{place}/sbuild.XXXXXXXXXX';\n1;\n")

    def command(dsc: Path, results: Path) -> Sequence[str]:
        skipped = ("apt-update", "apt-upgrade", "apt-distupgrade", "run-lintian", "run-piuparts", "run-autopkgtest")
        return (
            "sbuild",
            "--chroot-mode=unshare",
            f"--chroot={tarball}",
            f"--dist={recipe.suite}",
            f"--build-dir={results}",
            "--purge-deps=never",
            "--nolog",
            *(f"--no-{name}" for name in skipped),
            os.fspath(dsc),
        )

    return command


#: By name.
ROOMS: Mapping[str, CleanRoom] = {
    "sbuild": CleanRoom(
        name="sbuild",
        programs=("sbuild", "mmdebstrap"),
        prepare=_sbuild,
        environment=lambda place: {"SBUILD_CONFIG": os.fspath(place / "config")},
    ),
}
