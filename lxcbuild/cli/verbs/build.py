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
from lxcbuild.events import FanOut, Monitor, Note
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Outcome

if TYPE_CHECKING:
    from lxcbuild.builder.request import BuildRequest
    from lxcbuild.errors import LxcbuildError
    from lxcbuild.farm.engines.engine import Engine
    from lxcbuild.farm.jobs import KnownFailures
    from lxcbuild.farm.runs import Tally, Watcher
    from lxcbuild.images.store import ImageStore
    from lxcbuild.plan.document import PlannedJob
    from lxcbuild.pypi.index.client import IndexClient
    from lxcbuild.state.paths import StateDirs


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
        raise click.UsageError("nothing to build: give a project, a path, or -r FILE")
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
        built = _Run(ui.dirs, ledger, monitor, policy, overrides).build(left, jobs)
    outcomes = [
        found.get(request) or built.asked[request] for request in asked if request in found or request in built.asked
    ]
    if capsule is not None or capsule_slim:
        from lxcbuild.cli.verbs.records.capsule import save_capsules

        save_capsules(ui, [*outcomes, *built.others], capsule or "", slim=capsule_slim)
    return conclude(ui, outcomes, built.others, errors=built.errors, as_json=as_json)


_Asked = Mapping[str, tuple["BuildRequest", ...]]


class _Built(Struct, frozen=True):
    asked: Mapping[BuildRequest, Outcome] = field(default_factory=dict)
    others: Sequence[Outcome] = ()
    errors: Mapping[str, LxcbuildError] = field(default_factory=dict)


class _Run(Struct, frozen=True):
    """Carries out a plan of nothing but requests, by the head of all runs: in this process, or in several ones."""

    dirs: StateDirs
    ledger: Ledger
    monitor: Monitor
    policy: str
    overrides: Path | None

    def build(self, requests: Sequence[BuildRequest], limit: int) -> _Built:
        """Build as many at once as there are, up to a limit."""
        if not requests:
            return _Built()
        return self.side_by_side(requests, limit) if min(limit, len(requests)) > 1 else self.here(requests)

    def here(self, requests: Sequence[BuildRequest]) -> _Built:
        """Build in this process; what was asked for together is one set of projects that fit together."""
        from lxcbuild.sandbox.start.launcher_pool import LauncherPool

        with contextlib.closing(LauncherPool(self.dirs.run)) as launchers:
            launchers.warm()  # it needs as long as the imports that follow
            from lxcbuild.cli.build_context import Recorder, build_context
            from lxcbuild.config.overrides import load_overrides
            from lxcbuild.farm.engines.inline import InlineEngine
            from lxcbuild.farm.jobs import image_failures
            from lxcbuild.farm.progress import RunProgress

            _check_targets(requests)
            overrides, watching = load_overrides(self.overrides), FanOut(self.monitor, Recorder(self.ledger))
            with (
                _courtesy(self.policy),
                build_context(
                    self.dirs, watching, policy=self.policy, overrides=overrides, launchers=launchers
                ) as context,
            ):
                caps = image_failures(
                    self.ledger, context.images, policy=self.policy, anew=any(each.rebuild for each in requests)
                )
                engine = InlineEngine(context, self.ledger, lambda target: caps[str(target)])
                asked: dict[str, tuple[BuildRequest, ...]] = {}
                jobs = {}
                for target in dict.fromkeys(request.target for request in requests):
                    meant = [r for r in requests if r.target == target and _applies(r, context.images, self.monitor)]
                    if meant:
                        job = _planned(meant, [(each.project_name, "") for each in meant], self.policy)
                        asked[job.key], jobs[job.key] = tuple(meant), job
                tally = self._carry_out(jobs, asked, engine, caps, watcher=RunProgress(), store=self.dirs.bulk)
        return _Built(*_outcomes(asked, tally), engine.errors)

    def side_by_side(self, requests: Sequence[BuildRequest], limit: int) -> _Built:
        """Build as many at once, each in a process of its own; what several of them need is built once."""
        import tempfile

        from lxcbuild.cli.build_context import bulk_build_context
        from lxcbuild.farm.engines.local import LocalEngine
        from lxcbuild.farm.jobs import image_failures
        from lxcbuild.farm.progress import RunProgress
        from lxcbuild.images.store import ImageStore

        _check_targets(requests)
        watcher = RunProgress(lambda text: self.monitor.emit(Note(text=text)))
        self.dirs.bulk.mkdir(parents=True, exist_ok=True)
        with (
            contextlib.closing(ImageStore(self.dirs, self.monitor)) as images,
            tempfile.TemporaryDirectory(dir=self.dirs.bulk, prefix="build-") as scratch,
        ):
            asked, jobs = self._apart(requests, images)
            engine = LocalEngine(
                self.dirs,
                bulk_build_context,
                listener=lambda told: self.monitor.emit(told.event),
                jobs=limit,
                courteous=False,
            )
            caps = image_failures(self.ledger, images, policy=self.policy, anew=any(each.rebuild for each in requests))
            tally = self._carry_out(jobs, asked, engine, caps, watcher=watcher, store=Path(scratch), limit=limit)
        return _Built(*_outcomes(asked, tally))

    def _carry_out(
        self,
        jobs: Mapping[str, PlannedJob],
        asked: _Asked,
        engine: Engine,
        caps: KnownFailures,
        *,
        watcher: Watcher,
        store: Path,
        limit: int | None = None,
    ) -> Tally:
        """Without a ``limit``, this process builds one job after the other. Interruptions are raised."""
        from lxcbuild.config.overrides import load_overrides
        from lxcbuild.farm.artifacts import DirectoryStore
        from lxcbuild.farm.jobs import options_text
        from lxcbuild.farm.journal import NoJournal
        from lxcbuild.farm.run import Head
        from lxcbuild.farm.runs import Settings
        from lxcbuild.plan.document import Plan

        options = next((options_text(requests[0].options) for requests in asked.values()), {})
        settings = Settings(
            run=store.name, store=str(store), policy=self.policy, limit=limit or 1, attended=limit is None
        )
        head = Head(
            plan=Plan(options=options, jobs=dict(jobs)),
            settings=settings,
            dirs=self.dirs,
            ledger=self.ledger,
            engine=engine,
            store=DirectoryStore(store),
            journal=NoJournal(),
            overrides=load_overrides(self.overrides),
            watcher=watcher,
            requests=dict(asked),
            caps=caps,
        )
        try:
            tally = head.run()
        finally:
            engine.close()
        if tally.interrupted:
            raise KeyboardInterrupt
        return tally

    def _apart(self, requests: Sequence[BuildRequest], images: ImageStore) -> tuple[_Asked, dict[str, PlannedJob]]:
        """A job for each, named by the release that it means, so that others who need the same one wait for it."""
        from lxcbuild.pypi.index.client import IndexClient

        asked: dict[str, tuple[BuildRequest, ...]] = {}
        jobs: dict[str, PlannedJob] = {}
        with IndexClient(self.dirs, monitor=self.monitor) as index:
            for position, request in enumerate(requests):
                if not _applies(request, images, self.monitor):
                    continue
                name, version = _release(request, images, index)
                job = _planned([request], [(name, version)], self.policy)
                if not version or job.key in asked:  # the same release, asked for in two ways
                    job = _planned([request], [(f"{name} {position}", version)], self.policy)
                asked[job.key], jobs[job.key] = (request,), job
        return asked, jobs


def _planned(requests: Sequence[BuildRequest], releases: Sequence[tuple[str, str]], policy: str) -> PlannedJob:
    from lxcbuild.config.policies import load_policy
    from lxcbuild.farm.jobs import estimate_for
    from lxcbuild.plan.document import Member, PlannedJob

    limit = load_policy(policy).memory.max_bytes
    return PlannedJob(
        target=str(requests[0].target),
        members=tuple(
            Member(name=name, version=version, requirement=request.requirement)
            for request, (name, version) in zip(requests, releases, strict=True)
        ),
        policy=policy,
        estimate=estimate_for((), members=len(requests), limit_bytes=limit, cpus=1.0),
    )


def _release(request: BuildRequest, images: ImageStore, index: IndexClient) -> tuple[str, str]:
    """Project and version that a request means; no version where only the build itself can tell, or say what is wrong."""
    from lxcbuild.errors import LxcbuildError
    from lxcbuild.pypi.index.client import parse_requirement

    if request.path is None:
        python = images.get(request.target).python_version
        with contextlib.suppress(LxcbuildError):
            release = index.resolve(parse_requirement(request.requirement), python_version=python)
            return release.name, release.version
    return request.project_name, ""


def _outcomes(asked: _Asked, tally: Tally) -> tuple[Mapping[BuildRequest, Outcome], Sequence[Outcome]]:
    """Outcomes by request, and those of what was needed, each once, as they ended."""
    ended = {key: tuple(ready.outcome() for ready in tally.builds[key]) for key in tally.reused}
    ended |= tally.outcomes
    wanted: dict[BuildRequest, Outcome] = {}
    others: dict[str, Outcome] = {}
    for key, outcomes in ended.items():
        requests = asked.get(key, ())
        wanted |= dict(zip(requests, outcomes, strict=False))
        for outcome in outcomes[len(requests) :]:
            others.setdefault(outcome.build_id, outcome)
    names = {outcome.build_id for outcome in wanted.values()}
    return wanted, tuple(outcome for build_id, outcome in others.items() if build_id not in names)


def _check_targets(requests: Sequence[BuildRequest]) -> None:
    from lxcbuild.config.recipes import load_recipe

    for target in {request.target for request in requests}:
        load_recipe(target)


def _courtesy(policy: str) -> AbstractContextManager[None]:
    """Somebody waits for these builds: bulk ones of this machine make room for one of them at a time."""
    from lxcbuild.config.policies import load_policy
    from lxcbuild.plan.capacity import memory_need
    from lxcbuild.state import slots

    need = memory_need((), limit_bytes=load_policy(policy).memory.max_bytes)
    return slots.hold(slots.Kind.INTERACTIVE, memory_bytes=need)


def _applies(request: BuildRequest, images: ImageStore, monitor: Monitor) -> bool:
    """Whether the requirement's marker, if it has one, holds for the target's own Python."""
    from lxcbuild.debian.relations import TargetPython
    from lxcbuild.pypi.index.client import parse_requirement

    requirement = parse_requirement(request.requirement) if request.path is None else None
    if requirement is None or requirement.marker is None:
        return True
    python = TargetPython(images.get(request.target).python_version, request.target.architecture)
    applies = python.applies(requirement)
    if not applies:
        monitor.emit(Note(text=f"{requirement} is skipped: its marker excludes {request.target}"))
    return applies
