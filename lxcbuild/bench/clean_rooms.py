"""Other programs that build Debian packages in clean rooms, each in its best configuration: all that can be is made ahead."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from lxcbuild import process
from lxcbuild.config.recipes import Recipe
from lxcbuild.debian.archive import sources

_LIMIT_S = 1800.0
Command = Callable[[Path, Path], Sequence[str]]
_MEMORY = Path("/dev/shm")  # noqa: S108 - where everything of theirs is kept, as our own images are


class CleanRoomSpec(Struct, frozen=True, kw_only=True):
    """What a clean room's base has to be good for. ``cold``: package files of ``packages`` lie in apt's cache inside, and are
    installed in each build; otherwise they are installed ahead, so that nothing is left to install."""

    recipe: Recipe
    packages: Sequence[str]
    cold: bool = False


class CleanRoom(Struct, frozen=True, kw_only=True):
    """One such program. ``prepare`` gets an empty directory, and returns what builds a .dsc in a second one."""

    name: str
    programs: tuple[str, ...]
    prepare: Callable[[CleanRoomSpec, Path], Command]
    environment: Callable[[Path], Mapping[str, str]]

    @property
    def present(self) -> bool:
        """Whether it is installed here."""
        return all(shutil.which(program) for program in self.programs)


class ReadyRoom:
    """A clean room whose base is made."""

    def __init__(self, room: CleanRoom, wanted: CleanRoomSpec, place: Path) -> None:
        began = time.perf_counter()
        self.name = room.name
        self._command = room.prepare(wanted, place)
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


def _base(wanted: CleanRoomSpec, where: Path, *extra: str) -> None:
    """The same base for all: Debian's variant for builders with apt's lists, as a tarball or a directory by the name's end."""
    recipe = wanted.recipe
    mirror = sources.source_lines(recipe, sources.host_mirrors(), keyring=sources.keyring_path(recipe))
    include = [*extra, *(() if wanted.cold else wanted.packages)]
    argv = ["mmdebstrap", "--variant=buildd", "--skip=cleanup/apt/lists"]
    if include:
        argv.append(f"--include={','.join(include)}")
    if wanted.cold:
        download = f'chroot "$1" apt-get install --download-only --yes --quiet {" ".join(wanted.packages)}'
        argv += [
            "--skip=cleanup/apt/cache",
            '--customize-hook=chroot "$1" apt-get clean',
            f"--customize-hook={download}",
        ]
    process.run((*argv, recipe.suite, os.fspath(where), *mirror), timeout_s=_LIMIT_S)


def _sbuild(wanted: CleanRoomSpec, place: Path) -> Command:
    tarball = place / "base.tar"
    _base(wanted, tarball)
    tarball.chmod(0o644)
    (place / "config").write_text(f"$unshare_tmpdir_template = '{place}/sbuild.XXXXXXXXXX';\n1;\n")

    def command(dsc: Path, results: Path) -> Sequence[str]:
        skipped = ("apt-update", "apt-upgrade", "apt-distupgrade", "run-lintian", "run-piuparts", "run-autopkgtest")
        return (
            "sbuild",
            "--chroot-mode=unshare",
            f"--chroot={tarball}",
            f"--dist={wanted.recipe.suite}",
            f"--build-dir={results}",
            "--purge-deps=never",
            "--nolog",
            *(f"--no-{name}" for name in skipped),
            os.fspath(dsc),
        )

    return command


#: Everything in memory, no network inside, apt to satisfy dependencies (the fastest of pbuilder's ways), nothing of the user's own.
_PBUILDERRC = """\
MIRRORSITE=file:/nowhere
OTHERMIRROR=
DISTRIBUTION={suite}
BUILDPLACE={place}/build
APTCACHE=
AUTO_DEBSIGN=no
USECGROUP=no
USENETWORK=no
PBUILDERSATISFYDEPENDSCMD=/usr/lib/pbuilder/pbuilder-satisfydepends-apt
"""


def _pbuilder(wanted: CleanRoomSpec, place: Path) -> Command:
    # gzip is what pbuilder reads a base of that name as; the least of it, because every build unpacks it.
    tarball, plain = place / "base.tgz", place / "base.tar"
    _base(wanted, plain)
    process.run(("sh", "-c", 'gzip -1 < "$1" > "$2"', "-", plain, tarball), timeout_s=_LIMIT_S)
    plain.unlink()
    return _pbuilder_like(wanted, place, "pbuilder", "--basetgz", tarball)


def _cowbuilder(wanted: CleanRoomSpec, place: Path) -> Command:
    _base(wanted, place / "base.cow", "cowdancer")
    return _pbuilder_like(wanted, place, "cowbuilder", "--basepath", place / "base.cow")


def _pbuilder_like(wanted: CleanRoomSpec, place: Path, program: str, kind: str, base: Path) -> Command:
    (place / "build").mkdir()
    config = place / "pbuilderrc"
    config.write_text(_PBUILDERRC.format(suite=wanted.recipe.suite, place=place))
    (place / ".pbuilderrc").touch()  # it warns where there is none

    def command(dsc: Path, results: Path) -> Sequence[str]:
        flags = {kind: base, "--buildplace": place / "build", "--buildresult": results, "--configfile": config}
        words = [word for flag, value in flags.items() for word in (flag, os.fspath(value))]
        return (program, "--build", *words, os.fspath(dsc))

    return command


#: By name.
ROOMS: Mapping[str, CleanRoom] = {
    "sbuild": CleanRoom(
        name="sbuild",
        programs=("sbuild", "mmdebstrap"),
        prepare=_sbuild,
        environment=lambda place: {"SBUILD_CONFIG": os.fspath(place / "config")},
    ),
    "pbuilder": CleanRoom(
        name="pbuilder",
        programs=("pbuilder", "mmdebstrap"),
        prepare=_pbuilder,
        environment=lambda place: {"HOME": os.fspath(place)},  # where no ~/.pbuilderrc is
    ),
    "cowbuilder": CleanRoom(
        name="cowbuilder",
        programs=("cowbuilder", "mmdebstrap"),
        prepare=_cowbuilder,
        environment=lambda place: {"HOME": os.fspath(place)},
    ),
}
