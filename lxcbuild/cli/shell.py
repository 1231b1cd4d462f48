"""``lxcbuild shell``: an interactive shell in a fresh sandbox."""

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
    help="Show a file or directory as /in/<name>, read-only.",
)
@json_option
@pass_ui
def shell(ui: Ui, /, *, target: Target | None, policy: str, inputs: Sequence[Path], as_json: bool) -> int:
    """Open an interactive shell in a fresh sandbox; everything in it is gone when it ends.

    The exit status is the shell's. With --json, a document with it follows.
    """
    from lxcbuild.cli.sandboxes import fresh_sandbox

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError("a shell needs a terminal", resolution="without one, use: lxcbuild run -- COMMAND")
    with fresh_sandbox(ui, target=target, policy=policy, inputs=inputs, purpose="shell") as (instance, image):
        ui.say(f"{image.target}, policy {policy}; leave with exit or Ctrl-D")
        status = instance.interact(Step(argv=("/bin/sh", "-c", _SHELL), env={"TERM": "xterm", "PS1": r"\u@\h:\w\$ "}))
    if as_json:
        ui.emit_json({"target": str(image.target), "exit_status": status})
    return status
