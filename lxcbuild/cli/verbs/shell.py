"""``lxcbuild shell``: an interactive shell in a fresh sandbox, or in the state of a build that failed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from lxcbuild.cli.options import json_option, pass_ui, policy_option, target_option
from lxcbuild.cli.render import Ui
from lxcbuild.errors import InputError
from lxcbuild.model import Target
from lxcbuild.sandbox.base import Step

_SHELL = "exec $(command -v bash || command -v sh) -i"


@click.command()
@target_option
@policy_option
@click.option(
    "--in",
    "inputs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="File or directory to show read-only as /in/NAME",
)
@click.option(
    "--failed",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[ID]",
    help="Open the state that a failed build left (the newest without ID)",
)
@click.option("--again", is_flag=True, help="Repeat the failed command instead of opening a shell")
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@pass_ui
def shell(
    ui: Ui,
    /,
    *,
    target: Target | None,
    policy: str,
    inputs: Sequence[Path],
    failed: str | None,
    again: bool,
    as_json: bool,
    command: Sequence[str],
) -> int:
    """Open a shell in a sandbox or a failed build.

    The sandbox and its files are gone when the shell ends. With --failed, it has the state of a failed build: its
    image, layers, limits, network and files, and the environment and directory of the failed command. A COMMAND runs instead
    of a shell. The exit status is that of the shell; with --json, a document with it follows.
    """
    if failed is not None:
        if target is not None or inputs:
            raise click.UsageError("--failed sets everything: omit --target and --in")
        return _failed(ui, failed, command, again=again, as_json=as_json)
    if command or again:
        raise click.UsageError("a command goes with --failed; in a fresh sandbox: lxcbuild run -- COMMAND")
    return _fresh(ui, target, policy, inputs, as_json=as_json)


def _failed(ui: Ui, given: str, command: Sequence[str], *, again: bool, as_json: bool) -> int:
    from lxcbuild.builder.failed.reopen import reopened
    from lxcbuild.cli import failed

    failed.need_terminal(command, again=again)
    build_id = failed.newest_or(ui, given)
    with failed.tools(ui) as tools, reopened(ui.dirs, tools.backend, tools.hot, build_id) as opened:
        tools.stop_showing()
        return failed.use(ui, opened, command, again=again, as_json=as_json)


def _fresh(ui: Ui, target: Target | None, policy: str, inputs: Sequence[Path], *, as_json: bool) -> int:
    from lxcbuild.cli.sandboxes import fresh_sandbox

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError("a shell needs a terminal", resolution="without one, use: lxcbuild run -- COMMAND")
    with fresh_sandbox(ui, target=target, policy=policy, inputs=inputs, purpose="shell") as (instance, image):
        ui.say(f"{image.target}, policy {policy}; leave with exit or Ctrl-D")
        status = instance.interact(Step(argv=("/bin/sh", "-c", _SHELL), env={"TERM": "xterm", "PS1": r"\u@\h:\w\$ "}))
    if as_json:
        ui.emit_json({"target": str(image.target), "exit_status": status})
    return status
