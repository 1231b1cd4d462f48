"""``lxcbuild build``: Debian packages from requirements, each built in fresh sandboxes, checked, recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from lxcbuild.build.driver import build as build_one
from lxcbuild.build.failedstate import is_kept
from lxcbuild.build.machine import ConverterChoice
from lxcbuild.build.request import DEFAULT_MAINTAINER, BuildRequest, Facilities
from lxcbuild.build.work import Work
from lxcbuild.cli.capsule import save_capsules
from lxcbuild.cli.options import host_target, json_option, pass_ui, policy_option, require_root, target_option
from lxcbuild.cli.render import Ui, outcome_document
from lxcbuild.cli.wishes import wishes
from lxcbuild.cli.workshop import workshop
from lxcbuild.config.recipes import load_recipe
from lxcbuild.debian.relations import TargetPython
from lxcbuild.errors import BuildsFailedError
from lxcbuild.events import BuildEnded, Event, FanOut, Note, PhaseEnded
from lxcbuild.ledger.records import NewBuild
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Outcome, Phase, Status, Target
from lxcbuild.pypi.client import parse_requirement


class _Build(click.Command):
    """``--capsule`` may stand alone or have a value, but never takes the next word: that is a requirement."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse after ``--capsule`` has become ``--capsule=``."""
        own = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [*("--capsule=" if a == "--capsule" else a for a in args[:own]), *args[own:]])


@click.command(cls=_Build)
@click.argument("requirements", nargs=-1, metavar="[REQUIREMENT]...")
@click.option(
    "-r",
    "--requirement",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also build every project of this requirements file.",
)
@target_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Also copy the packages to this directory."
)
@policy_option
@click.option("--force", is_flag=True, help="Build although the distribution ships the project.")
@click.option(
    "--converter",
    type=click.Choice([choice.value for choice in ConverterChoice]),
    default=ConverterChoice.AUTO.value,
    show_default=True,
    help="What writes debian/ for a Python project.",
)
@click.option("--maintainer", default=DEFAULT_MAINTAINER, show_default=True, help="Maintainer of the packages.")
@click.option(
    "--strict-debian", is_flag=True, help="Build with packages of the distribution only, never with newer backends."
)
@click.option(
    "--capsule",
    metavar="[=FILE]",
    help="Save the state of a build that fails as one file (here, or =FILE, or in the directory =FILE).",
)
@click.option("--capsule-slim", is_flag=True, help="The same without images and layers, for machines that have them.")
@json_option
@pass_ui
def build(
    ui: Ui,
    /,
    *,
    requirements: Sequence[str],
    files: Sequence[Path],
    target: Target | None,
    output: Path | None,
    policy: str,
    force: bool,
    converter: str,
    maintainer: str,
    strict_debian: bool,
    capsule: str | None,
    capsule_slim: bool,
    as_json: bool,
) -> int:
    """Build Debian packages from Python projects, or from Debian source packages.

    A REQUIREMENT is a project of the package index, perhaps with versions (idna, 'idna==3.10'), or a path: an sdist, a
    project directory, a Debian source package (x_1.0-1.dsc), or a directory with debian/ (./dist/x-1.0.tar.gz, .).
    """
    if not requirements and not files:
        raise click.UsageError("nothing to build was named: give a project, a path, or -r FILE")
    chosen = target or host_target()
    load_recipe(chosen)
    like = BuildRequest(
        requirement="",
        target=chosen,
        converter=ConverterChoice(converter),
        force=force,
        output=output,
        maintainer=maintainer,
        strict_debian=strict_debian,
    )
    asked = wishes(requirements, files, like=like)
    require_root("start sandboxes")
    with (
        ui.monitor() as monitor,
        Ledger.open(ui.dirs) as ledger,
        workshop(ui.dirs, FanOut(monitor, Recorder(ledger)), policy=policy) as facilities,
    ):
        works = [_build(wish, facilities, ledger, policy) for wish in asked if _applies(wish, facilities)]
    if capsule is not None or capsule_slim:
        save_capsules(ui, works, capsule or "", slim=capsule_slim)
    return _conclude(ui, works, as_json=as_json)


#: Phases in which nothing runs that could print a log.
_HOST_PHASES = frozenset({Phase.RESOLVE, Phase.FETCH})


class Recorder:
    """Writes what happens to builds into the ledger, as it happens."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def emit(self, event: Event) -> None:
        """Record finished phases and builds."""
        if isinstance(event, PhaseEnded):
            self._ledger.phase(event.build_id, event.record)
        elif isinstance(event, BuildEnded):
            self._ledger.finish(event.outcome)


def _applies(wish: BuildRequest, facilities: Facilities) -> bool:
    """Whether the requirement's marker, if it has one, holds for the target's own Python."""
    requirement = parse_requirement(wish.requirement) if wish.path is None else None
    if requirement is None or requirement.marker is None:
        return True
    python = TargetPython(facilities.images.get(wish.target).python_version, wish.target.architecture)
    applies = python.applies(requirement)
    if not applies:
        facilities.monitor.emit(Note(text=f"{requirement} is not meant for {wish.target}: left out"))
    return applies


def _build(wish: BuildRequest, facilities: Facilities, ledger: Ledger, policy: str) -> Work:
    work = Work(request=wish, facilities=facilities)
    ledger.begin(
        NewBuild(
            build_id=work.build_id,
            name=wish.project_name,
            target=wish.target,
            policy=policy,
            backend=facilities.backend.name,
            log_path=work.log_path,
            request={
                "requirement": wish.requirement,
                "force": wish.force,
                "converter": wish.converter.value,
                "strict_debian": wish.strict_debian,
                "kind": wish.kind.value,
            },
        )
    )
    work.outcome = build_one(work)
    return work


def _conclude(ui: Ui, works: Sequence[Work], *, as_json: bool) -> int:
    outcomes = [work.outcome for work in works if work.outcome is not None]
    if as_json:
        ui.emit_json({"builds": [outcome_document(outcome) for outcome in outcomes]})
    else:
        for outcome in outcomes:
            _print_result(ui, outcome)
    failed = [work for work in works if work.outcome is not None and work.outcome.status is Status.FAILED]
    if not failed:
        return 0
    # A single request that could not even be tried has its own exit code; a build that failed has that of failed builds.
    if len(works) == 1 and works[0].error is not None:
        return works[0].error.exit_code
    return BuildsFailedError.exit_code


def _print_result(ui: Ui, outcome: Outcome) -> None:
    if outcome.status is Status.BUILT:
        for artifact in outcome.artifacts:
            ui.line(str(artifact.path))
        deb = next((str(a.path) for a in outcome.artifacts if a.path.suffix == ".deb"), None)
        if deb is not None:
            ui.hint(f"sudo apt install {deb}")
    elif outcome.status is Status.OFFICIAL:
        ui.line(f"{outcome.name}: official in {outcome.target}, version {outcome.version}")
        ui.hint(f"lxcbuild build {outcome.name} --force builds it all the same")
    else:
        assert outcome.failure is not None
        failure = outcome.failure
        ui.failure(failure)
        if failure.phase not in _HOST_PHASES:
            ui.hint(f"lxcbuild explain {outcome.build_id}")
        if is_kept(ui.dirs, outcome.build_id):
            ui.hint(f"lxcbuild shell --failed {outcome.build_id}")
