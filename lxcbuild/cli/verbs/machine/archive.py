"""``lxcbuild archive``: what a suite's archive ships."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from lxcbuild.cli.options import host_target, json_option, pass_ui, target_option
from lxcbuild.cli.render import Ui
from lxcbuild.errors import BadNameError, NotRootError
from lxcbuild.model import Target

if TYPE_CHECKING:
    from lxcbuild.debian.archive.apt import AptArchive
    from lxcbuild.debian.archive.contents import ContentsIndex
    from lxcbuild.events import Monitor

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*", re.ASCII)


@click.group()
def archive() -> None:
    """Show what the archive of a suite ships."""


@archive.command()
@click.argument("name")
@target_option
@json_option
@pass_ui
def show(ui: Ui, /, *, name: str, target: Target | None, as_json: bool) -> None:
    """Show which packages ship NAME.

    NAME is a Python project, else a module, header, .pc file, library or program.
    """
    if len(name) > 200 or not _NAME.fullmatch(name):
        raise BadNameError(
            f"{name[:80]!r} is not a name that an archive can have", resolution="for example: idna, or ffi.h"
        )
    chosen = target or host_target()
    try:
        with ui.monitor() as monitor:
            document = _look_up(ui, name, chosen, monitor)
    except PermissionError as error:
        raise NotRootError(
            f"{error.filename or ui.dirs.archives} cannot be written",
            resolution="run the same command with sudo, or choose another place with --state-dir",
        ) from error
    if as_json:
        ui.emit_json(document)
    else:
        _print(ui, document)


def _look_up(ui: Ui, name: str, target: Target, monitor: Monitor) -> dict[str, Any]:
    from lxcbuild.debian.archive.contents import ContentsIndex

    apt = _apt_archive(ui, target, monitor)
    with ContentsIndex.of_archive(ui.dirs, target, apt, monitor=monitor) as index:
        shipped = _project(index, name)
        document: dict[str, Any] = {"name": name, "target": str(target), "project": None}
        if shipped is not None:
            # Contents files tell who ships it; only the package lists tell which version apt would install now.
            apt.refresh()
            document["project"] = {
                "name": shipped.name,
                "upstream_version": shipped.version,
                "package": shipped.package,
                "package_version": apt.candidate(shipped.package),
            }
        document["others"] = {
            "module": index.modules(name),
            "header": index.headers(name),
            "pkgconfig": index.pkgconfig(name),
            "library": index.libraries(name),
            "program": index.executables(name),
        }
        return document


def _project(index: ContentsIndex, name: str) -> Any:
    try:
        return index.find_distribution(name)
    except BadNameError:
        return None  # a path such as openssl/ssl.h


def _apt_archive(ui: Ui, target: Target, monitor: Monitor) -> AptArchive:
    from lxcbuild.config.recipes import load_recipe
    from lxcbuild.debian.archive import sources
    from lxcbuild.debian.archive.apt import AptArchive
    from lxcbuild.images.store import ImageStore

    recipe = load_recipe(target)

    def lines() -> tuple[str, ...]:
        now = sources.source_lines(recipe, sources.host_mirrors(), keyring=sources.keyring_path(recipe))
        # Of a distribution that is not the host's, only the making of its image knows the mirror.
        return now or tuple(ImageStore(ui.dirs).record(target).sources)

    return AptArchive(ui.dirs, target.image_name, source_lines=lines, architecture=target.architecture, monitor=monitor)


def _print(ui: Ui, document: dict[str, Any]) -> None:
    project = document["project"]
    if project is not None:
        version = project["package_version"] or "no candidate in the package lists"
        ui.line(
            f"{project['name']} {project['upstream_version']}: {project['package']} ({version}) in {document['target']}"
        )
        return
    rows = [(kind, package) for kind, packages in document["others"].items() for package in packages]
    if rows:
        ui.table(("as", "package"), rows)
    else:
        ui.line(f"{document['name']}: not shipped by {document['target']}")
