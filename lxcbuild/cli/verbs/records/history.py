"""``lxcbuild history``: the recorded builds, newest first."""

from __future__ import annotations

from typing import Any

import click

from lxcbuild.cli.documents import record_document
from lxcbuild.cli.options import TargetType, json_option, pass_ui
from lxcbuild.cli.render import Ui
from lxcbuild.config.ranges import seconds_text, time_text
from lxcbuild.ledger.records import STATUSES, BuildRecord
from lxcbuild.model import FailureClass, Target

_COLUMNS = ("id", "started", "name", "version", "target", "status", "took", "reason")


@click.command()
@click.option("--target", "-t", type=TargetType(), help="Only builds for this target, such as debian/bookworm")
@click.option("--status", type=click.Choice(STATUSES), help="Only builds with this status")
@click.option(
    "--class",
    "failure_class",
    type=click.Choice([c.value for c in FailureClass]),
    help="Only builds with this failure class",
)
@click.option("--name", help="Only builds of this project")
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Maximum number of builds, the newest first",
)
@json_option
@pass_ui
def history(ui: Ui, /, *, as_json: bool, limit: int, target: Target | None, **filters: Any) -> None:
    """List recorded builds, newest first."""
    records: list[BuildRecord] = []
    if ui.dirs.has_ledger:
        from lxcbuild.ledger.store import Ledger

        with Ledger.open(ui.dirs) as ledger:
            records = ledger.recent(
                limit=limit, target=None if target is None else str(target), details=as_json, **_normalised(filters)
            )
    if as_json:
        ui.emit_json({"builds": [record_document(record) for record in records]})
        return
    if not records:
        ui.say("no builds are recorded" + (" that match" if target or any(filters.values()) else ""))
        ui.hint("lxcbuild build idna --force")
        return
    ui.table(_COLUMNS, [_row(record) for record in records], right=("took",))
    newest_failure = next((record for record in records if record.failure is not None), None)
    if newest_failure is not None:
        ui.hint(f"lxcbuild log {newest_failure.build_id}")


def _normalised(filters: dict[str, Any]) -> dict[str, Any]:
    """The project's name as the ledger writes it (PEP 503)."""
    if filters.get("name"):
        from packaging.utils import canonicalize_name

        return {**filters, "name": canonicalize_name(filters["name"])}
    return filters


def _row(record: BuildRecord) -> tuple[str, ...]:
    failure = record.failure
    return (
        record.build_id,
        time_text(record.started_at),
        record.name,
        record.version,
        str(record.target),
        record.status,
        "" if record.wall_s is None else seconds_text(record.wall_s),
        "" if failure is None else f"{failure.failure_class.value}: {failure.brief}"[:120],
    )
