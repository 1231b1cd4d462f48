"""The options of ``lxcbuild build`` that say what is wanted of each build; they become one :class:`BuildRequest`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from lxcbuild.builder.machine import ConverterChoice
from lxcbuild.builder.request import DEFAULT_MAINTAINER, BuildRequest
from lxcbuild.cli.options import host_target, target_option

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    target_option,
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, file_okay=False),
        help="Also copy the packages to this directory.",
    ),
    click.option("--force", is_flag=True, help="Build although the distribution ships the project."),
    click.option(
        "--with-deps/--no-deps",
        default=True,
        show_default=True,
        help="Also build what the projects need at run time and the distribution lacks, or fail and list that.",
    ),
    click.option(
        "--newer-than-official/--no-newer-than-official",
        default=True,
        show_default=True,
        envvar="LXCBUILD_NEWER_THAN_OFFICIAL",
        help="For such needs, packages may take the place of the distribution's own ones that are too old.",
    ),
    click.option(
        "--rebuild", is_flag=True, help="Build although the same was built before, and try what failed before."
    ),
    click.option("--lintian", is_flag=True, help="Also let lintian judge the packages."),
    click.option("--tests", is_flag=True, help="Also run the project's own tests on the installed packages."),
    click.option(
        "--check-reproducible", is_flag=True, help="Also build under other circumstances and compare the packages."
    ),
    click.option(
        "--converter",
        type=click.Choice([choice.value for choice in ConverterChoice]),
        default=ConverterChoice.AUTO.value,
        show_default=True,
        help="What writes debian/ for a Python project.",
    ),
    click.option(
        "--fork-server/--no-fork-server",
        default=True,
        show_default=True,
        help="Run packaging tools as forks of servers that have them loaded",
    ),
    click.option("--maintainer", default=DEFAULT_MAINTAINER, show_default=True, help="Maintainer of the packages."),
    click.option(
        "--strict-debian", is_flag=True, help="Build with packages of the distribution only, never with newer backends."
    ),
)


def request_options(command: Command) -> Command:
    """Add them all; the verb hands what it gets of them to :func:`request_like`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def request_like(given: Mapping[str, Any]) -> BuildRequest:
    """What every build of this command line has in common; nothing is named yet. Raises UnknownTargetError."""
    values = {
        **given,
        "target": given["target"] or host_target(),
        "converter": ConverterChoice(given["converter"]),
    }
    return BuildRequest(requirement="", **values)
