"""``lxcbuild repo``: signed APT repositories of what was built."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lxcbuild.cli.options import host_target, json_option, pass_ui, target_option
from lxcbuild.cli.render import Ui
from lxcbuild.config.ranges import bytes_text
from lxcbuild.errors import InputError, RepositoryError
from lxcbuild.model import Target

if TYPE_CHECKING:
    from lxcbuild.debian.repository.aptrepo import Published, Repository

_KEYRING = "/etc/apt/keyrings/lxcbuild-archive.asc"
_DIRECTORY = click.Path(path_type=Path, file_okay=False)


class Keep(click.ParamType[int]):
    """How many versions stay: a number from 1 on, or ``all`` (-1 inside)."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        if value == "all" or value == -1:
            return -1
        if not re.fullmatch(r"[1-9]\d{0,5}", str(value)):
            self.fail(f"{value!r} is neither a number from 1 on nor 'all'", param, ctx)
        return int(value)


@click.group()
def repo() -> None:
    """Publish packages in signed APT repositories."""


@repo.command()
@click.argument("directory", type=_DIRECTORY)
@click.option(
    "--origin", default="lxcbuild", show_default=True, help="Origin in the Release files; APT pins refer to it"
)
@click.option("--label", default="lxcbuild", show_default=True, help="Label in the Release files")
@click.option("--keep", type=Keep(), default=1, show_default=True, help="Number of versions to keep of each package")
@click.option(
    "--valid-days", type=click.IntRange(1, 3650), help="Days until the Release files expire; publish again before"
)
@click.option(
    "--key", "fingerprint", metavar="FINGERPRINT", help="Key of --key-home to sign with  [default: a new key]"
)
@click.option("--key-home", type=_DIRECTORY, help="GnuPG home of the key  [default: below the state directory]")
@json_option
@pass_ui
def init(
    ui: Ui, /, *, directory: Path, keep: int, fingerprint: str | None, key_home: Path | None, as_json: bool, **rest: Any
) -> None:
    """Make an empty signed repository."""
    from lxcbuild.debian.repository.aptrepo import Repository

    home = key_home or ui.dirs.lib / "repo-keys" / secrets.token_hex(8)
    made = Repository.init(directory, key_home=home, fingerprint=fingerprint, keep=None if keep == -1 else keep, **rest)
    if as_json:
        ui.emit_json({"directory": str(directory), "fingerprint": made.settings.fingerprint, "key_home": str(home)})
        return
    ui.verdict("ok", f"made {directory}, signed by {made.settings.fingerprint}")
    ui.say(f"the secret key lies in {home}: keep a copy of it in a safe place")
    ui.hint(f"lxcbuild repo add {directory} BUILD-ID")


@repo.command()
@click.argument("directory", type=_DIRECTORY)
@click.argument("things", nargs=-1, metavar="[FILE|BUILD-ID]...")
@target_option
@click.option("--replace", is_flag=True, help="Replace packages that have the same version and other bytes")
@json_option
@pass_ui
def add(
    ui: Ui, /, *, directory: Path, things: tuple[str, ...], target: Target | None, replace: bool, as_json: bool
) -> None:
    """Publish package files or recorded builds.

    Files are .deb and .dsc. They go to the suite of --target, builds to the suite that they were built for. Each suite changes
    in one step. Without files and builds, the suite is signed again.
    """
    repository = _open(directory)
    wanted: dict[Target, list[Path]] = {}
    for thing in things or ("",):
        if not thing or Path(thing).suffix in (".deb", ".dsc"):
            wanted.setdefault(target or host_target(), []).extend([Path(thing)] if thing else [])
        else:
            built_for, paths = _build(ui, thing)
            wanted.setdefault(built_for, []).extend(paths)
    results = [repository.publish(each, paths, replace=replace) for each, paths in wanted.items()]
    _tell(ui, repository, results, as_json=as_json)


def _build(ui: Ui, part: str) -> tuple[Target, list[Path]]:
    from lxcbuild.ledger.store import Ledger

    if not ui.dirs.has_ledger:
        raise InputError(
            f"{part[:80]!r} is neither a .deb or .dsc file nor a recorded build", resolution="see: lxcbuild history"
        )
    with Ledger.open(ui.dirs) as ledger:
        record = ledger.find(part)
    if not record.artifacts:
        raise InputError(f"build {record.build_id} made no packages", resolution="see: lxcbuild history --status built")
    return record.target, [artifact.path for artifact in record.artifacts]


@repo.command()
@click.argument("directory", type=_DIRECTORY)
@click.argument("names", nargs=-1, required=True)
@target_option
@click.option("--version", help="Only this version")
@json_option
@pass_ui
def remove(
    ui: Ui,
    /,
    *,
    directory: Path,
    names: tuple[str, ...],
    target: Target | None,
    version: str | None,
    as_json: bool,
) -> None:
    """Remove packages from a suite.

    NAMES are binary packages, or source packages; with a source package goes everything that was made from it.
    """
    repository = _open(directory)
    result = repository.remove(target or host_target(), names, version=version)
    _tell(ui, repository, [result], as_json=as_json)


@repo.command("list")
@click.argument("directory", type=_DIRECTORY)
@click.option("--url", help="URL at which users find DIRECTORY  [default: its file: URL]")
@json_option
@pass_ui
def list_(ui: Ui, /, *, directory: Path, url: str | None, as_json: bool) -> None:
    """List what is published and how to use it."""
    from lxcbuild.debian.repository import aptindex

    repository = _open(directory)
    place = url or f"file:{directory.absolute()}"
    if not re.fullmatch(r"[a-z][a-z+]*:[!-~]{1,2000}", place):
        raise InputError(
            f"{place[:200]!r} is not a URL for apt", resolution="for example: --url https://example.org/debian"
        )
    suites = {code: repository.entries(code) for code in repository.suites()}
    lines = {code: aptindex.sources_line(place, code=code, keyring=_KEYRING) for code in suites}
    if as_json:
        ui.emit_json(
            {
                "fingerprint": repository.settings.fingerprint,
                "pin": aptindex.pin(repository.settings.identity),
                "suites": {code: {"sources": lines[code], "packages": _documents(suites[code])} for code in suites},
            }
        )
        return
    rows = [
        (code, e.package, e.version, e.architecture, bytes_text(sum(file.size_bytes for file in e.files)))
        for code, entries in suites.items()
        for e in entries
    ]
    ui.table(("suite", "package", "version", "architecture", "size"), rows, right=("size",))
    for line in lines.values():
        ui.say(line)
    ui.hint(
        f"users put {directory}/lxcbuild-archive.asc to {_KEYRING}, that line into /etc/apt/sources.list.d/lxcbuild.list"
    )
    ui.hint(f"and, if they like, {directory}/lxcbuild.pref into /etc/apt/preferences.d")


def _documents(entries: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        {
            "package": entry.package,
            "version": entry.version,
            "architecture": entry.architecture,
            "source": entry.source,
            "files": [{"path": f.path, "sha256": f.sha256, "bytes": f.size_bytes} for f in entry.files],
        }
        for entry in entries
    ]


@repo.command()
@click.argument("directory", type=_DIRECTORY)
@json_option
@pass_ui
def verify(ui: Ui, /, *, directory: Path, as_json: bool) -> None:
    """Check every signature, hash and package."""
    from lxcbuild.debian.repository import aptverify

    verdict = aptverify.verify(_open(directory))
    if as_json:
        problems = [{"path": problem.path, "what": problem.what} for problem in verdict.problems]
        ui.emit_json({"suites": list(verdict.suites), "files": verdict.files, "problems": problems})
    else:
        for problem in verdict.problems:
            ui.verdict("fail", f"{problem.path}: {problem.what}")
        if not verdict.problems:
            ui.verdict("ok", f"{len(verdict.suites)} suites and {verdict.files} files are as they were signed")
    if verdict.problems:
        raise RepositoryError(
            f"{len(verdict.problems)} problems were found in {directory}",
            resolution="publish what is damaged again with --replace, or bring back a backup",
        )


def _open(directory: Path) -> Repository:
    from lxcbuild.debian.repository.aptrepo import Repository

    return Repository.open(directory)


def _tell(ui: Ui, repository: Repository, results: list[Published], *, as_json: bool) -> None:
    if as_json:
        ui.emit_json(
            {
                "suites": [
                    {"suite": r.code, "changed": r.changed, "added": list(r.added), "dropped": list(r.dropped)}
                    for r in results
                ]
            }
        )
        return
    for result in results:
        for name in result.added:
            ui.verdict("ok", f"{result.code}: added {name}")
        for name in result.dropped:
            ui.verdict("info", f"{result.code}: dropped {name}")
        if not result.changed:
            ui.verdict("ok", f"{result.code}: nothing to change")
    ui.hint(f"lxcbuild repo list {repository.path}")
