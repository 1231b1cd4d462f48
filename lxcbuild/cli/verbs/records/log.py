"""``lxcbuild log``: what a build printed."""

from __future__ import annotations

import sys

import click

from lxcbuild.cli.options import json_option, pass_ui
from lxcbuild.cli.render import Ui
from lxcbuild.errors import UnknownBuildError
from lxcbuild.ledger.records import BuildRecord
from lxcbuild.text import for_log

_CHUNK_BYTES = 1024 * 1024


@click.command()
@click.argument("build_id", required=False, metavar="[ID]")
@click.option("--raw", is_flag=True, help="Print the raw bytes, even to a terminal, which they may control")
@json_option
@pass_ui
def log(ui: Ui, /, *, build_id: str | None, raw: bool, as_json: bool) -> None:
    """Show the log of a build.

    ID is a build's id or the start of it. Without ID, the newest build is shown.
    """
    record = _record(ui, build_id)
    path = record.log_path
    if path is None or not path.is_file():
        raise UnknownBuildError(
            f"the log of build {record.build_id} is gone" if path else f"build {record.build_id} wrote no log",
            details=None if path is None else f"it was {path}",
        )
    if as_json:
        text = path.read_bytes().decode("utf-8", "replace")
        ui.emit_json({"id": record.build_id, "path": str(path), "text": text})
        return
    filtered = sys.stdout.isatty() and not raw
    if filtered:
        with path.open("rb") as file:
            for line in iter(lambda: file.readline(_CHUNK_BYTES), b""):
                sys.stdout.write(for_log(line))
    else:
        sys.stdout.flush()
        with path.open("rb") as file:
            for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""):
                sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _record(ui: Ui, build_id: str | None) -> BuildRecord:
    if ui.dirs.has_ledger:
        from lxcbuild.ledger.store import Ledger

        with Ledger.open(ui.dirs) as ledger:
            if build_id is not None:
                return ledger.find(build_id)
            if newest := ledger.recent(limit=1):
                return newest[0]
    raise UnknownBuildError(
        "no builds are recorded" if build_id is None else f"the ledger knows no build {build_id[:40]!r}",
        resolution="build something first: lxcbuild build idna --force",
    )
