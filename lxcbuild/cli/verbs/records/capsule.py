"""``lxcbuild capsule``: failed builds as files that open on another machine."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lxcbuild.cli.documents import record_document
from lxcbuild.cli.options import json_option, pass_ui, policy_option, require_root
from lxcbuild.cli.render import Ui
from lxcbuild.config.ranges import bytes_text
from lxcbuild.errors import UnknownBuildError

if TYPE_CHECKING:
    from lxcbuild.model import Outcome

_file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")


@click.group()
def capsule() -> None:
    """Save, show and open failed builds as files."""


@capsule.command()
@click.argument("build_id", required=False, metavar="[ID]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File to write, or a directory for it  [default: here]"
)
@click.option("--slim", is_flag=True, help="Save a capsule without images and layers")
@json_option
@pass_ui
def save(ui: Ui, /, *, build_id: str | None, output: Path | None, slim: bool, as_json: bool) -> None:
    """Save the state of a failed build as one file.

    Without ID, the newest failed build is saved.
    """
    from lxcbuild.cli.failed import newest_or

    require_root("read what builds left")
    path = save_state(ui, newest_or(ui, build_id or ""), output, slim=slim)
    if as_json:
        ui.emit_json({"capsule": str(path), "bytes": path.stat().st_size, "slim": slim})
    else:
        ui.line(str(path))
        ui.hint(f"on any machine with lxcbuild: lxcbuild capsule open {shlex.quote(str(path))}")


def save_state(ui: Ui, build_id: str, output: Path | None, *, slim: bool) -> Path:
    """Write the capsule of one build, with its record and log; the file's path."""
    from lxcbuild.builder.failed import capsule as capsules

    record: Mapping[str, object] = {"id": build_id}
    log = ui.dirs.logs / f"{build_id}.log"
    if ui.dirs.has_ledger:
        from lxcbuild.ledger.store import Ledger

        with Ledger.open(ui.dirs) as ledger:
            try:
                record = record_document(ledger.find(build_id))
            except UnknownBuildError:
                ui.warn(f"the ledger has no record of {build_id}: the capsule has none either")
    return capsules.save(ui.dirs, build_id, output, record=record, log=log, slim=slim)


def save_capsules(ui: Ui, outcomes: Sequence[Outcome], given: str, *, slim: bool) -> None:
    """For ``lxcbuild build --capsule``: one file per failed build; ``given`` is a file, a directory, or "" for here."""
    from lxcbuild.builder.failed.failedstate import is_kept
    from lxcbuild.model import Status

    failed = [outcome for outcome in outcomes if outcome.status is Status.FAILED]
    output = Path(given) if given else None
    for outcome in failed:
        name = f"{outcome.name} {outcome.version}".strip()
        if not is_kept(ui.dirs, outcome.build_id):
            ui.warn(f"{name}: there is no capsule, because it did not fail in a sandbox, or its state was not kept")
            continue
        several = output is not None and len(failed) > 1 and not output.is_dir()
        path = save_state(ui, outcome.build_id, output.parent if several and output else output, slim=slim)
        ui.say(f"{name}: the failed state is saved in {path}")
        ui.hint(f"on any machine with lxcbuild: lxcbuild capsule open {shlex.quote(str(path))}")


@capsule.command()
@_file_argument
@json_option
@pass_ui
def show(ui: Ui, /, *, file: Path, as_json: bool) -> None:
    """Show what a capsule holds.

    Nothing is unpacked.
    """
    from lxcbuild.builder.failed import capsule as capsules
    from lxcbuild.cli.failed import state_document
    from lxcbuild.cli.verbs.records.explain import decisive

    require_root("read a capsule into a place that is root's alone")
    with capsules.read(ui.dirs, file, documents_only=True) as found:
        state = found.state
        log = found.place / "log"
        lines = decisive(log, state.failure)
        if as_json:
            document = {**state_document(state), "slim": found.slim, "made_with": found.made_with}
            ui.emit_json({**document, "members": dict(found.members), "record": dict(found.record)})
            return
    ui.line(f"{state.name} {state.version} for {state.target}, build {state.build_id}, kept at {state.kept_at}")
    failure = state.failure
    ui.line(f"{failure.failure_class.value} in {failure.phase.value}: {failure.brief}")
    for line in lines:
        ui.line(f"    {line}")
    ui.line(f"command: {shlex.join(state.command.argv)[:300]}")
    for number, (name, size) in enumerate(found.members.items()):
        ui.line(f"{'holds:' if number == 0 else '':8} {name} ({bytes_text(size)})")
    ui.hint(f"lxcbuild capsule open {shlex.quote(str(file))}")


@capsule.command("open")
@policy_option
@click.option("--again", is_flag=True, help="Repeat the failed command instead of opening a shell")
@json_option
@_file_argument
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@pass_ui
def open_file(ui: Ui, /, *, file: Path, policy: str, again: bool, as_json: bool, command: Sequence[str]) -> int:
    """Open a shell, or run COMMAND, in a capsule.

    A capsule is not trusted. Its limits hold where they are tighter than those of the policy; it never gets more network.
    """
    from lxcbuild.builder.failed import capsule as capsules
    from lxcbuild.cli import failed
    from lxcbuild.config.policies import load_policy

    failed.need_terminal(command, again=again)
    cap = load_policy(policy)
    ui.say(f"unpacking {file.name}")
    with (
        failed.tools(ui) as tools,
        capsules.read(ui.dirs, file) as found,
        capsules.opened(ui.dirs, found, backend=tools.backend, hot=tools.hot, cap=cap) as opened,
    ):
        tools.stop_showing()
        return failed.use(ui, opened, command, again=again, as_json=as_json)
