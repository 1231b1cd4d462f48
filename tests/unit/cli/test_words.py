"""The words of the command line: every help text says what a thing is, and no listing cuts one off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import click
import pytest

from lxcbuild.cli.main import VERBS, cli
from lxcbuild.cli.render import Ui

LONGEST_HELP = 72
LONGEST_SUMMARY = 45

#: Words that start neither a noun phrase nor an imperative. "Where" needs a verb: "Where builds run".
NO_STARTS = {
    "Also",
    "As",
    "At",
    "Besides",
    "From",
    "How",
    "In",
    "Instead",
    "Of",
    "On",
    "The",
    "To",
    "What",
    "Whose",
    "With",
}

#: Options that mean different things in different verbs, so that one text cannot do.
DIFFERENT = {
    "--cpus",
    "--failed",
    "--host",
    "--ledger",
    "--memory",
    "--name",
    "--output",
    "--store",
    "--target",
    "--version",
}


def _walk(command: click.Command, path: str, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _walk(inner, f"{path} {name}", context)


COMMANDS = dict(_walk(cli, "lxcbuild", click.Context(cli, info_name="lxcbuild", obj=Ui())))
OPTIONS = {
    f"{path} {max(option.opts, key=len)}": option.help
    for path, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.hidden
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_help_of_an_option_is_a_short_phrase(name: str) -> None:
    text = OPTIONS[name] or ""
    assert 0 < len(text) <= LONGEST_HELP, text
    assert text[0].isupper(), text
    assert text.split()[0] not in NO_STARTS, text
    assert len(text.split()) > 1, text
    assert not text.endswith("."), text


def test_one_option_has_one_text() -> None:
    texts: defaultdict[str, set[str | None]] = defaultdict(set)
    for name, text in OPTIONS.items():
        texts[name.rpartition(" ")[2]].add(text)
    assert {name: found for name, found in texts.items() if len(found) > 1 and name not in DIFFERENT} == {}


@pytest.mark.parametrize("path", [path for path in COMMANDS if path != "lxcbuild"])
def test_a_listing_shows_the_whole_purpose_of_a_command(path: str) -> None:
    summary = COMMANDS[path].get_short_help_str(LONGEST_SUMMARY)
    assert summary
    assert not summary.endswith("...")
    assert len(summary) <= LONGEST_SUMMARY


@pytest.mark.parametrize("path", COMMANDS)
def test_the_help_of_a_command_starts_with_a_short_sentence(path: str) -> None:
    first = (COMMANDS[path].help or "").strip().partition("\n\n")[0]
    assert first.endswith(".")
    assert first.count(". ") == 0
    assert len(first) <= LONGEST_HELP
    assert first.split()[0] not in NO_STARTS


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_has_one_summary(name: str) -> None:
    first = (COMMANDS[f"lxcbuild {name}"].help or "").partition("\n\n")[0].strip()
    assert f"{VERBS[name].summary}." == first
