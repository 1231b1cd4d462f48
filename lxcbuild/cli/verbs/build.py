"""``lxcbuild build``: Debian packages from requirements, each built in fresh sandboxes, checked, recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct, field

from lxcbuild.cli.already_built import already_built
from lxcbuild.cli.options import (
    DIRECTORY,
    json_option,
    pass_ui,
    policy_option,
    request_like,
    request_options,
    require_root,
    requirements_option,
)
from lxcbuild.cli.render import Ui
from lxcbuild.cli.requests import read_requests
from lxcbuild.cli.results import conclude
from lxcbuild.cli.verbs.records.capsule import save_capsules
from lxcbuild.events import FanOut, Monitor, Note
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Outcome

if TYPE_CHECKING:
    from lxcbuild.builder.context import BuildContext
    from lxcbuild.builder.request import BuildRequest
    from lxcbuild.errors import LxcbuildError


class _Build(click.Command):
    """``--capsule`` may stand alone or have a value, but never takes the next word: that is a requirement."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse after ``--capsule`` has become ``--capsule=``."""
        own = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [*("--capsule=" if a == "--capsule" else a for a in args[:own]), *args[own:]])


@click.command(cls=_Build)
@click.argument("requirements", nargs=-1, metavar="[REQUIREMENT]...")
@requirements_option
@request_options
@policy_option
@click.option(
    "--capsule",
    metavar="[=FILE]",
    help="Save the state of a failed build as one file; FILE can be a directory",
)
@click.option("--capsule-slim", is_flag=True, help="Save a capsule without images and layers")
@click.option(
    "--overrides",
    type=DIRECTORY,
    help="Directory of further overrides, besides the configured ones",
)
@click.option(
    "-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Maximum number of parallel builds"
)
@json_option
@pass_ui
def build(
    ui: Ui,
    /,
    *,
    requirements: Sequence[str],
    files: Sequence[Path],
    policy: str,
    capsule: str | None,
    capsule_slim: bool,
    overrides: Path | None,
    jobs: int,
    as_json: bool,
    **wanted: Any,
) -> int:
    """Build Debian packages from Python projects.

    A REQUIREMENT is a project of the package index, with or without a version (idna, 'idna==3.10'), or a path. A path is an
    sdist (./dist/x-1.0.tar.gz), a project directory (.), a Debian source package (x_1.0-1.dsc), or a directory with debian/.
    """
    if not requirements and not files:
        raise click.UsageError("nothing to build was named: give a project, a path, or -r FILE")
    asked = list(dict.fromkeys(read_requests(requirements, files, like=request_like(wanted))))
    require_root("start sandboxes")
    if policy != "default":
        from lxcbuild.config.policies import load_policy

        load_policy(policy)  # a mistake in it is told, even where nothing is left to build
    with ui.monitor() as monitor, Ledger.open(ui.dirs) as ledger:
        found = {
            request: outcome
            for request in asked
            if (outcome := already_built(request, dirs=ui.dirs, ledger=ledger, monitor=monitor, overrides=overrides))
            is not None
        }
        left = [request for request in asked if request not in found]
        if jobs > 1 and len(left) > 1:
            from lxcbuild.cli.build_parallel import build_parallel

            built = _Built(*build_parallel(left, ui, monitor, policy=policy, overrides=overrides, jobs=jobs))
        else:
            built = _build(left, ui, ledger, monitor, policy, overrides)
    outcomes = [
        found.get(request) or built.asked[request] for request in asked if request in found or request in built.asked
    ]
    if capsule is not None or capsule_slim:
        save_capsules(ui, [*outcomes, *built.others], capsule or "", slim=capsule_slim)
    return conclude(ui, outcomes, built.others, errors=built.errors, as_json=as_json)


class _Built(Struct, frozen=True):
    asked: Mapping[BuildRequest, Outcome] = field(default_factory=dict)
    others: Sequence[Outcome] = ()
    errors: Mapping[str, LxcbuildError] = field(default_factory=dict)


def _build(
    requests: Sequence[BuildRequest], ui: Ui, ledger: Ledger, monitor: Monitor, policy: str, overrides: Path | None
) -> _Built:
    if not requests:
        return _Built()
    from lxcbuild.sandbox.start.launcher_pool import LauncherPool

    with contextlib.closing(LauncherPool(ui.dirs.run)) as launchers:
        launchers.warm()  # it needs as long as the imports that follow
        from lxcbuild.builder.family import build_family
        from lxcbuild.cli.build_context import Recorder, build_context
        from lxcbuild.config.overrides import load_overrides
        from lxcbuild.config.recipes import load_recipe

        for target in {request.target for request in requests}:
            load_recipe(target)
        with (
            _courtesy(policy),
            build_context(
                ui.dirs,
                FanOut(monitor, Recorder(ledger)),
                policy=policy,
                overrides=load_overrides(overrides),
                launchers=launchers,
            ) as context,
        ):
            meant = [request for request in requests if _applies(request, context)]
            made = build_family(meant, context=context, ledger=ledger, policy=policy)
    return _Built(dict(zip(meant, made.asked, strict=True)), made.others, made.errors)


def _courtesy(policy: str) -> AbstractContextManager[None]:
    """Somebody waits for these builds: bulk ones of this machine make room for one of them at a time."""
    from lxcbuild.config.policies import load_policy
    from lxcbuild.plan.capacity import memory_need
    from lxcbuild.state import slots

    need = memory_need((), limit_bytes=load_policy(policy).memory.max_bytes)
    return slots.hold(slots.Kind.INTERACTIVE, memory_bytes=need)


def _applies(request: BuildRequest, context: BuildContext) -> bool:
    """Whether the requirement's marker, if it has one, holds for the target's own Python."""
    from lxcbuild.debian.relations import TargetPython
    from lxcbuild.pypi.index.client import parse_requirement

    requirement = parse_requirement(request.requirement) if request.path is None else None
    if requirement is None or requirement.marker is None:
        return True
    python = TargetPython(context.images.get(request.target).python_version, request.target.architecture)
    applies = python.applies(requirement)
    if not applies:
        context.monitor.emit(Note(text=f"{requirement} is not meant for {request.target}: left out"))
    return applies
