"""Options and conversions that several verbs share; each option is said here once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lxcbuild.cli.render import Ui
from lxcbuild.errors import NotRootError
from lxcbuild.model import Target

if TYPE_CHECKING:
    from lxcbuild.builder.request import BuildRequest

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
        "--json", "as_json", is_flag=True, callback=_remember_json, help="Print one JSON document on standard output"
    )
    return option(command)


class AliasedOption(click.Option):
    """An option that has further names, which help does not list."""

    def __init__(self, *args: Any, aliases: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._aliases = aliases

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Add the listed names, then the others."""
        super().add_to_parser(parser, ctx)
        parser.add_option(
            self, self._aliases, dest=self.name, action="append" if self.multiple else "store", nargs=self.nargs
        )


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
        help="Target, such as debian/bookworm  [default: this host's suite]",
    )
    return option(command)


def policy_option(command: Command) -> Command:
    """Add ``--policy`` (parameter ``policy``: a name, ``default`` unless given)."""
    return click.option("--policy", "-p", default="default", show_default=True, help="Isolation policy")(command)


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
            "this host has no os-release file that names its suite", resolution="use --target distribution/suite"
        ) from error
    name, suite = release.get("ID", ""), release.get("VERSION_CODENAME", "")
    if not name or not suite:
        raise UnknownTargetError(
            f"the os-release file of this host names no suite ({name or 'unknown'})",
            resolution="use --target, for example: --target debian/bookworm",
        )
    return Target.parse(f"{name}/{suite}")


DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)

#: The options of builds that ``plan`` and ``rebuild`` have.
PLAN_OPTIONS = ("force", "newer_than_official", "strict_debian", "lintian", "tests")

_RUN_OPTIONS = (
    click.option(
        "--engine",
        "engine_name",
        type=click.Choice(["local", "dask"]),
        default="local",
        show_default=True,
        help="Where builds run: this machine or a Dask cluster",
    ),
    click.option("--scheduler", metavar="ADDRESS", help="Address of the farm's scheduler, such as tls://head:8786"),
    click.option("--certificates", type=DIRECTORY, help="Directory with the farm's TLS certificates"),
    click.option("--insecure", is_flag=True, help="Allow connections without TLS"),
    click.option("--store", metavar="URL", help="Path or URL for packages and logs that all workers of a farm reach"),
    click.option(
        "-j", "--jobs", type=click.IntRange(1), show_default="as many as fit", help="Maximum number of parallel builds"
    ),
    click.option("--repo", type=DIRECTORY, help="APT repository to publish in"),
)
#: Parameter ``files``: paths of requirements files.
requirements_option = click.option(
    "-r",
    "--requirements",
    "files",
    cls=AliasedOption,
    aliases=("--requirement", "--from"),
    multiple=True,
    type=FILE,
    metavar="FILE",
    help="File with one requirement per line; can be repeated",
)
_SEVERAL = (
    requirements_option,
    click.option(
        "--target",
        "-t",
        "targets",
        multiple=True,
        type=TargetType(),
        help="Target, such as debian/bookworm; can be repeated",
    ),
    policy_option,
)


def _build_options() -> dict[str, Callable[[Command], Command]]:
    """By the field of :class:`BuildRequest`. Imported for verbs that build only: the others start sooner."""
    from lxcbuild.builder.machine import ConverterChoice
    from lxcbuild.builder.request import DEFAULT_MAINTAINER

    return {
        "output": click.option("-o", "--output", type=DIRECTORY, help="Directory to copy the packages to"),
        "force": click.option("--force", is_flag=True, help="Build although the distribution ships the project"),
        "with_deps": click.option(
            "--with-deps/--no-deps",
            default=True,
            show_default=True,
            help="Build run-time requirements that the distribution lacks",
        ),
        "newer_than_official": click.option(
            "--newer-than-official/--no-newer-than-official",
            default=True,
            show_default=True,
            envvar="LXCBUILD_NEWER_THAN_OFFICIAL",
            help="Allow newer packages in place of official ones that are too old",
        ),
        "rebuild": click.option("--rebuild", is_flag=True, help="Build again what was built, and retry what failed"),
        "lintian": click.option("--lintian", is_flag=True, help="Check the packages with lintian"),
        "tests": click.option("--tests", is_flag=True, help="Run the project's own tests on the installed packages"),
        "check_reproducible": click.option(
            "--check-reproducible", is_flag=True, help="Build again in another environment, and compare"
        ),
        "converter": click.option(
            "--converter",
            type=click.Choice([choice.value for choice in ConverterChoice]),
            default=ConverterChoice.AUTO.value,
            show_default=True,
            help="Tool that writes debian/ for a Python project",
        ),
        "fork_server": click.option(
            "--fork-server/--no-fork-server",
            default=True,
            show_default=True,
            help="Run packaging tools as forks of preloaded servers",
        ),
        "maintainer": click.option(
            "--maintainer", default=DEFAULT_MAINTAINER, show_default=True, help="Maintainer of the packages"
        ),
        "strict_debian": click.option("--strict-debian", is_flag=True, help="Build with official packages only"),
    }


def _add(command: Command, options: Iterable[Callable[[Command], Command]]) -> Command:
    for option in reversed(list(options)):
        command = option(command)
    return command


def request_options(command: Command) -> Command:
    """Add target and all options of builds; the verb hands what it gets of them to :func:`request_like`."""
    return _add(command, (target_option, *_build_options().values()))


def plan_options(command: Command) -> Command:
    """Add what ``plan`` and ``rebuild`` have in common: files, targets, policy, and the options that a plan keeps."""
    known = _build_options()
    return _add(command, (*_SEVERAL, *(known[name] for name in PLAN_OPTIONS)))


def watch_options(command: Command) -> Command:
    """Add files, targets, policy and ``--force``."""
    return _add(command, (*_SEVERAL, _build_options()["force"]))


def run_options(command: Command) -> Command:
    """Add what says where a plan is carried out: engine, store, repository, and how many builds at once."""
    return _add(command, _RUN_OPTIONS)


def request_like(given: Mapping[str, Any]) -> BuildRequest:
    """What every build of this command line has in common; nothing is named yet. Raises UnknownTargetError."""
    from lxcbuild.builder.machine import ConverterChoice
    from lxcbuild.builder.request import BuildRequest

    values = {**given, "target": given["target"] or host_target()}
    if "converter" in values:
        values["converter"] = ConverterChoice(values["converter"])
    return BuildRequest(requirement="", **values)
