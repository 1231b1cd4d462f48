"""Makes docs/reference/cli/ from the verbs themselves: ``python -m lxcbuild.cli.reference docs/reference/cli``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from lxcbuild.cli.main import VERBS, cli
from lxcbuild.cli.render import Ui

_HEAD = """# The command line

These pages are made from the code (`python -m lxcbuild.cli.reference docs/reference/cli`), and a test compares the two.

Data goes to standard output, everything else to standard error. With `--json` a verb prints exactly one JSON document, also
for an error (see [exit codes](../exit-codes.md)). Where a target can be given, it is this host's own suite unless said.
"""


def pages() -> dict[str, str]:
    """The text of each page by its file's name: one for each verb, and ``index.md``."""
    context = click.Context(cli, info_name="lxcbuild", obj=Ui())
    index = [
        _HEAD,
        "## Options of all verbs\n\nThey stand before or after the verb; `watch` has a `--ledger` of its own.\n",
        *_options(cli, context),
        "",
        "## Verbs\n",
        "| verb | purpose |",
        "|---|---|",
    ]
    found = {}
    for name in VERBS:
        command = cli.get_command(context, name)
        assert command is not None, name
        index.append(f"| [`{name}`]({name}.md) | {VERBS[name].summary} |")
        found[f"{name}.md"] = _page(_verb(command, click.Context(command, info_name=name, parent=context), level=1))
    return {"index.md": _page(index), **found}


def _page(lines: Iterator[str] | list[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


def _verb(command: click.Command, context: click.Context, *, level: int) -> Iterator[str]:
    usage = " ".join(piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]")
    yield f"{'#' * level} `{context.command_path}`\n"
    yield f"`{f'{context.command_path} [OPTIONS] {usage}'.strip()}`\n"
    yield _text(command.help or "") + "\n"
    if rows := list(_options(command, context)):
        yield from (*rows, "")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None, name
            yield from _verb(inner, click.Context(inner, info_name=name, parent=context), level=level + 1)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = [p.get_help_record(context) for p in command.get_params(context) if isinstance(p, click.Option)]
    rows = [record for record in records if record is not None and "--help" not in record[0]]
    if rows:
        yield "| option | meaning |"
        yield "|---|---|"
        for names, meaning in rows:
            cells = (cell.replace("|", "\\|") for cell in (f"`{names}`", _text(meaning)))
            yield f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    return "\n".join(line.strip() for line in text.replace("\b", "").strip().splitlines())


if __name__ == "__main__":
    for file_name, text in pages().items():
        Path(sys.argv[1], file_name).write_text(text)
