"""Options and conversions that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from lxcbuild.cli.render import Ui
from lxcbuild.errors import NotRootError
from lxcbuild.model import Target
from lxcbuild.state.paths import StateDirs

Command = TypeVar("Command", bound=Callable[..., Any])

#: Hands the :class:`~lxcbuild.cli.render.Ui` to a verb as its first argument.
pass_ui = click.make_pass_decorator(Ui)


def _remember_json(context: click.Context, _parameter: click.Parameter, value: bool) -> bool:  # noqa: FBT001
    if value:
        context.find_object(Ui).json = True  # type: ignore[union-attr]
    return value


def json_option(command: Command) -> Command:
    """Add ``--json`` (parameter ``as_json``); errors are printed as JSON too from here on."""
    option = click.option(
        "--json", "as_json", is_flag=True, callback=_remember_json, help="Print one JSON document on standard output."
    )
    return option(command)


class TargetType(click.ParamType[Target]):
    """``distribution/suite`` on the command line, as a :class:`Target`."""

    name = "distribution/suite"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Target:
        """Parse it; raises BadNameError for anything else."""
        del parameter, context
        return value if isinstance(value, Target) else Target.parse(value)


def target_option(command: Command) -> Command:
    """Add ``--target`` (parameter ``target``: a :class:`Target` or None for the host's own suite)."""
    option = click.option(
        "--target",
        "-t",
        type=TargetType(),
        help="What to build for, such as debian/bookworm; default: this host's own.",
    )
    return option(command)


def policy_option(command: Command) -> Command:
    """Add ``--policy`` (parameter ``policy``: a name, ``default`` unless given)."""
    return click.option("--policy", "-p", default="default", show_default=True, help="Isolation policy.")(command)


def require_root(doing: str) -> None:
    """Raise NotRootError unless the caller is root; ``doing`` completes "root is needed to ..."."""
    import os

    if os.geteuid() != 0:
        raise NotRootError(f"root is needed to {doing}", resolution="run the same command with sudo")


def host_target() -> Target:
    """The host's own distribution and suite, from os-release; raises UnknownTargetError when it has no codename."""
    import platform

    from lxcbuild.errors import UnknownTargetError

    try:
        release = platform.freedesktop_os_release()
    except OSError as error:
        raise UnknownTargetError(
            "this host has no os-release file that names its suite", resolution="say --target distribution/suite"
        ) from error
    name, suite = release.get("ID", ""), release.get("VERSION_CODENAME", "")
    if not name or not suite:
        raise UnknownTargetError(
            f"the os-release file of this host names no suite ({name or 'unknown'})",
            resolution="say --target, for example: --target debian/bookworm",
        )
    return Target.parse(f"{name}/{suite}")


__all__ = [
    "StateDirs",
    "TargetType",
    "host_target",
    "json_option",
    "pass_ui",
    "policy_option",
    "require_root",
    "target_option",
]
