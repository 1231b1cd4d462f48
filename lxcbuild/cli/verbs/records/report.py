"""``lxcbuild report``: a static site of what was built."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from lxcbuild.cli.options import json_option, pass_ui
from lxcbuild.cli.render import Ui
from lxcbuild.errors import InputError


@click.command()
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path, file_okay=False), help="Directory for the site"
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Maximum number of builds, the newest first",
)
@click.option(
    "--logs",
    type=click.Choice(["failed", "all", "none"]),
    default="failed",
    show_default=True,
    help="Builds whose logs are included",
)
@json_option
@pass_ui
def report(ui: Ui, /, *, output: Path, limit: int, logs: str, as_json: bool) -> None:
    """Write a static site of the recorded builds.

    The site can be searched, needs no server, and loads nothing from elsewhere.
    """
    from lxcbuild.ledger.store import Ledger
    from lxcbuild.report import gather, site

    if not ui.dirs.has_ledger:
        raise InputError("no builds are recorded", resolution="build something first: lxcbuild build idna --force")
    begun_at = time.monotonic()
    with Ledger.open(ui.dirs) as ledger:
        builds = list(gather.read(ledger, limit=limit))
    made_at = datetime.now(UTC).isoformat(timespec="minutes")
    done = site.write(output.absolute(), builds, made_at=made_at, logs=logs)
    took_s = time.monotonic() - begun_at
    if as_json:
        ui.emit_json({"directory": str(output), "builds": done.builds, "projects": done.projects, "pages": done.pages,
                      "logs": done.logs, "seconds": round(took_s, 3)})  # fmt: skip
        return
    ui.verdict("ok", f"{done.builds} builds of {done.projects} projects on {done.pages} pages, in {took_s:.1f} s")
    ui.hint(f"open {output / 'index.html'} in a browser")
