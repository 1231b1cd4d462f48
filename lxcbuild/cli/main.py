"""The verb table, loaded lazily, and the frame around every command: errors, signals, exit codes.

Nothing heavy may be imported here: ``lxcbuild --version`` and ``--help`` have a tenth of a second.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import click
from click.core import ParameterSource
from msgspec import Struct

from lxcbuild import __version__, log
from lxcbuild.cli.render import Ui
from lxcbuild.errors import CancelledError, DiskFullError, LxcbuildError
from lxcbuild.state.paths import ENVIRONMENT_VARIABLE, LEDGER_VARIABLE, StateDirs

EXIT_USAGE = 2
EXIT_BUG = 70  # sysexits.h: EX_SOFTWARE
EXIT_CANCELLED = CancelledError.exit_code
EXIT_BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended


class BugError(LxcbuildError):
    """An exception that nobody expected."""

    reference: ClassVar[str] = "bug"
    exit_code: ClassVar[int] = EXIT_BUG


class Verb(Struct, frozen=True):
    """Where a verb lives and its line in ``--help``."""

    place: str  # module:attribute
    summary: str


VERBS = {
    "build": Verb("lxcbuild.cli.verbs.build:build", "Build Debian packages from Python projects"),
    "plan": Verb("lxcbuild.cli.verbs.plan:plan", "Plan many builds: versions, order, cost"),
    "rebuild": Verb("lxcbuild.cli.verbs.rebuild:rebuild", "Carry out a plan of many builds"),
    "watch": Verb("lxcbuild.cli.verbs.watch:watch", "Build new releases as they appear"),
    "run": Verb("lxcbuild.cli.verbs.run:run", "Run a command in a fresh sandbox"),
    "shell": Verb("lxcbuild.cli.verbs.shell:shell", "Open a shell in a sandbox or a failed build"),
    "history": Verb("lxcbuild.cli.verbs.records.history:history", "List recorded builds, newest first"),
    "log": Verb("lxcbuild.cli.verbs.records.log:log", "Show the log of a build"),
    "explain": Verb("lxcbuild.cli.verbs.records.explain:explain", "Explain why a build failed and what helps"),
    "capsule": Verb("lxcbuild.cli.verbs.records.capsule:capsule", "Save, show and open failed builds as files"),
    "report": Verb("lxcbuild.cli.verbs.records.report:report", "Write a static site of the recorded builds"),
    "repo": Verb("lxcbuild.cli.verbs.records.repo:repo", "Publish packages in signed APT repositories"),
    "farm": Verb("lxcbuild.cli.verbs.machine.farm:farm", "Build on many machines"),
    "simulate": Verb("lxcbuild.cli.verbs.machine.simulate:simulate", "Simulate the build of a whole index"),
    "rootfs": Verb("lxcbuild.cli.verbs.machine.rootfs:rootfs", "Make, refresh, show and remove base images"),
    "layers": Verb("lxcbuild.cli.verbs.machine.layers:layers", "List, explain, evict and share layers"),
    "policy": Verb("lxcbuild.cli.verbs.machine.policy:policy", "Show, explain and check isolation policies"),
    "archive": Verb("lxcbuild.cli.verbs.machine.archive:archive", "Show what the archive of a suite ships"),
    "doctor": Verb("lxcbuild.cli.verbs.machine.doctor:doctor", "Check this host, or look for leftovers"),
    "bench": Verb("lxcbuild.cli.verbs.bench.bench:bench", "Measure speed against budgets and peers"),
    "gc": Verb("lxcbuild.cli.verbs.machine.gc:gc", "Remove leftovers that no live build owns"),
}


class LazyGroup(click.Group):
    """A group whose verbs are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table: the order in which people need them."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb; unknown names are reported by :meth:`resolve_command`."""
        del ctx
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        module, _, attribute = verb.place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), verb.place
        _accept_global_options(command, self)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, and guess the meant one when there is none of that name."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            perhaps = f" Perhaps you meant {near[0]!r}." if near else ""
            raise click.UsageError(f"there is no command {args[0][:80]!r}.{perhaps}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: lxcbuild doctor, then: lxcbuild build idna --force",
)
@click.version_option(
    __version__, prog_name="lxcbuild", message="%(prog)s %(version)s", help="Show the version and exit"
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False),
    help=f"Directory for everything that lxcbuild keeps; also {ENVIRONMENT_VARIABLE}",
)
@click.option("--ledger", metavar="URL", help=f"PostgreSQL server that keeps the ledger; also {LEDGER_VARIABLE}")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of standard error",
)
@click.option("-v", "--verbose", count=True, help="Show more; twice also shows every program that is started")
@click.option("--no-color", is_flag=True, help="Disable colours and moving lines; also NO_COLOR")
@click.pass_obj
def cli(ui: Ui, /, **given: Any) -> None:
    """Turn Python projects into Debian packages.

    Every build runs as hostile code in a fresh container.
    """
    _settle(ui, **given)


def _settle(
    ui: Ui, *, state_dir: str | None, ledger: str | None, log_format: str, verbose: int, no_color: bool
) -> None:
    ui.dirs = StateDirs.choose(state_dir, ledger=ledger)
    ui.log_format = log_format
    ui.verbosity = verbose
    ui.plain = ui.plain or no_color
    configure_logging(log_format=log_format, verbosity=verbose, plain=ui.plain)


def _accept_global_options(command: click.Command, group: click.Group) -> None:
    """Let the options of ``group`` stand after a verb as well, where the verb has none of the same name."""
    taken = {name for parameter in command.params for name in parameter.opts}
    for option in group.params:
        if isinstance(option, click.Option) and option.expose_value and taken.isdisjoint(option.opts):
            twin = copy.copy(option)
            twin.hidden, twin.expose_value, twin.callback = True, False, _settle_again
            command.params.append(twin)
    command.epilog = "Options of all commands: lxcbuild --help"
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _accept_global_options(inner, group)


def _settle_again(context: click.Context, option: click.Parameter, value: Any) -> None:
    if option.name is not None and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
        root = context.find_root()
        root.params[option.name] = value
        _settle(root.obj, **root.params)


def run_command_line(argv: Sequence[str]) -> int:
    """Run one command line; every way in which it can end becomes an exit status here and nowhere else."""
    ui = Ui(json="--json" in _own_arguments(argv))
    with _signals_unwind():
        try:
            return _run(ui, argv)
        except BrokenPipeError:
            # The reader went away (a pager, head). Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_BROKEN_PIPE


def _run(ui: Ui, argv: Sequence[str]) -> int:
    try:
        # Not cli.main(): that turns a broken pipe and an interruption into exits of its own.
        with cli.make_context("lxcbuild", list(argv), obj=ui) as context:
            result = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:  # --help, --version
        sys.stdout.flush()
        return done.exit_code
    except click.ClickException as error:
        ui.usage_error(error)
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt, CancelledError) as error:
        ui.error(error if isinstance(error, CancelledError) else CancelledError("cancelled"))
        return EXIT_CANCELLED
    except LxcbuildError as error:
        ui.error(error)
        return error.exit_code
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the last line of defence: a bug must not show a traceback to users
        return _unexpected(ui, error)
    return result if isinstance(result, int) else 0


def _unexpected(ui: Ui, error: Exception) -> int:
    import errno

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = DiskFullError(
            f"no space left on device: {error.filename or f'{ui.dirs.lib}, or where the output goes'}",
            resolution="free some space (lxcbuild gc helps), or choose another place with --state-dir",
        )
        ui.error(full)
        return full.exit_code
    ui.error(report_bug(error, ui.dirs, show=ui.verbosity > 0))
    return EXIT_BUG


def _own_arguments(argv: Sequence[str]) -> Sequence[str]:
    """The arguments that are ours: what follows ``--`` belongs to the command inside a sandbox."""
    return argv[: argv.index("--")] if "--" in argv else argv


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or SIGHUP raise KeyboardInterrupt, and ignore later ones while everything unwinds."""
    chosen = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for other in chosen:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    before: dict[int, Any] = {s: signal.signal(s, interrupt) for s in chosen}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report_bug(error: Exception, dirs: StateDirs, *, show: bool) -> BugError:
    """Save the traceback below ``lib/crashes`` (or the temporary directory, for callers who may not write there)."""
    import traceback

    text = "".join(traceback.format_exception(error))
    path = _save(text, dirs.lib / "crashes")
    said = str(error).partition("\n")[0][:200]
    return BugError(
        f"this is a bug in lxcbuild: {type(error).__name__}: {said}",
        details=text if show else None,
        resolution=f"please report it with the file {path}"
        if path
        else "run it again with -v and report what it prints",
    )


def _save(text: str, directory: Path) -> Path | None:
    import tempfile
    import time

    name = time.strftime("%Y%m%d-%H%M%S-", time.gmtime())
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        directory = Path(tempfile.gettempdir())
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=directory, prefix=f"lxcbuild-crash-{name}", suffix=".txt", delete=False
        ) as file:
            file.write(text)
    except OSError:
        return None
    return Path(file.name)


def configure_logging(*, log_format: str, verbosity: int, plain: bool) -> None:
    """Send log records to standard error: warnings always, more with each ``-v``."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    configure = functools.partial(_configure_structlog, log_format=log_format, level=level, plain=plain)
    log.configure(level=level, configure_structlog=configure)


def _configure_structlog(*, log_format: str, level: int, plain: bool) -> None:
    import structlog

    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=not plain, exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks if log_format == "json" else structlog.dev.set_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
