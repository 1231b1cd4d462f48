"""``lxcbuild build -j N``: several requests side by side, as jobs of the local engine; what several of them need is built once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from lxcbuild.builder.phases.collect import hand_over
from lxcbuild.builder.ready import Ready, dependencies_of
from lxcbuild.builder.request import BuildRequest
from lxcbuild.cli.build_context import bulk_build_context
from lxcbuild.config.overrides import load_overrides
from lxcbuild.config.policies import load_policy
from lxcbuild.config.recipes import load_recipe
from lxcbuild.debian.relations import TargetPython
from lxcbuild.errors import LxcbuildError
from lxcbuild.events import BuildEnded, BuildPutAside, Monitor, Note
from lxcbuild.farm.artifacts import DirectoryStore
from lxcbuild.farm.engines.engine import JobEvent
from lxcbuild.farm.engines.local import LocalEngine
from lxcbuild.farm.jobs import estimate_for, known_failures, options_text
from lxcbuild.farm.journal import Journal
from lxcbuild.farm.progress import Progress
from lxcbuild.farm.run import Head
from lxcbuild.farm.runs import Settings, Tally
from lxcbuild.images.store import ImageStore
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import BuiltPackages, Failure, FailureClass, Outcome, Phase, Status
from lxcbuild.plan.document import Member, Plan, PlannedJob
from lxcbuild.pypi.index.client import IndexClient, parse_requirement
from lxcbuild.state.paths import StateDirs

_Result = tuple[Mapping[BuildRequest, Outcome], Sequence[Outcome], Mapping[str, LxcbuildError]]


def build_parallel(
    requests: Sequence[BuildRequest],
    ui: _HasDirs,
    monitor: Monitor,
    *,
    policy: str,
    overrides: Path | None,
    jobs: int,
) -> _Result:
    """Outcomes by request, those of what they needed, and no errors: those are in the outcomes. Interruptions are raised."""
    for target in {request.target for request in requests}:
        load_recipe(target)
    keys = _keys(requests, ui.dirs, monitor)
    plan = Plan(options=options_text(requests[0].options), jobs=_planned(keys, policy))
    ui.dirs.bulk.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=ui.dirs.bulk, prefix="build-") as scratch,
        Journal(Path(scratch), resume=False) as journal,
        Ledger.open(ui.dirs) as ledger,
    ):
        engine = LocalEngine(
            ui.dirs, bulk_build_context, listener=_Listener(monitor).hear, jobs=jobs, courteous=False, alive=None
        )
        head = Head(
            plan=plan,
            settings=Settings(run=Path(scratch).name, store=scratch, policy=policy, limit=jobs),
            dirs=ui.dirs,
            ledger=ledger,
            engine=engine,
            store=DirectoryStore(Path(scratch)),
            journal=journal,
            overrides=load_overrides(overrides),
            watcher=_Watcher(monitor),
            requests={key: (request,) for key, (request, _) in keys.items()},
            caps={} if requests[0].rebuild else known_failures(ledger, plan, policy=policy),
        )
        try:
            tally = head.run()
        finally:
            engine.close()
        if tally.interrupted:
            raise KeyboardInterrupt
        return _result(keys, tally, ledger, ui.dirs)


def _planned(keys: Mapping[str, tuple[BuildRequest, Member]], policy: str) -> dict[str, PlannedJob]:
    limit = load_policy(policy).memory.max_bytes
    estimate = estimate_for((), members=1, limit_bytes=limit, cpus=1.0)
    return {
        key: PlannedJob(target=str(request.target), members=(member,), policy=policy, estimate=estimate)
        for key, (request, member) in keys.items()
    }


class _HasDirs(Protocol):
    """Anything with state directories."""

    dirs: StateDirs


class _Listener(Struct):
    """Events of workers for those who watch; builds that wait for what they need have not failed."""

    monitor: Monitor

    def hear(self, told: JobEvent) -> None:
        event = told.event
        if isinstance(event, BuildEnded):
            failure = event.outcome.failure
            if failure is not None and failure.failure_class is FailureClass.CANCELLED:
                self.monitor.emit(BuildPutAside(build_id=event.outcome.build_id))
                return
        self.monitor.emit(event)


class _Watcher(Progress):
    """Counts for nobody; passes notes on."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()
        self._monitor = monitor

    def note(self, text: str) -> None:
        """Say it."""
        self._monitor.emit(Note(text=text))


def _keys(
    requests: Sequence[BuildRequest], dirs: StateDirs, monitor: Monitor
) -> dict[str, tuple[BuildRequest, Member]]:
    """Each request with the release that it means, so that others who need the same one wait for it."""
    found: dict[str, tuple[BuildRequest, Member]] = {}
    images = ImageStore(dirs, monitor)
    try:
        with IndexClient(dirs, monitor=monitor) as index:
            for position, request in enumerate(requests):
                name, version = f"{request.project_name} {position}", ""
                if request.path is None:
                    requirement = parse_requirement(request.requirement)
                    python = images.get(request.target).python_version
                    if not TargetPython(python, request.target.architecture).applies(requirement):
                        monitor.emit(Note(text=f"{requirement} is not meant for {request.target}: left out"))
                        continue
                    try:
                        release = index.resolve(requirement, python_version=python)
                        name, version = release.name, release.version
                    except LxcbuildError:
                        version = ""  # the build itself says what is wrong
                member = Member(name=name[:200], version=version, requirement=request.requirement[:4000])
                job = PlannedJob(target=str(request.target), members=(member,))
                key = job.key
                if key in found:  # the same release, asked for in two ways
                    member = replace(member, name=f"{name} {position}"[:200])
                    key = PlannedJob(target=str(request.target), members=(member,)).key
                found[key] = (request, member)
    finally:
        images.close()
    return found


def _result(keys: Mapping[str, tuple[BuildRequest, Member]], tally: Tally, ledger: Ledger, dirs: StateDirs) -> _Result:
    asked: dict[BuildRequest, Outcome] = {}
    others: list[Outcome] = []
    for key, builds in tally.builds.items():
        if key not in keys:
            others += [ready.outcome() if key in tally.reused else ready.record.outcome() for ready in builds]
    for key, (request, member) in keys.items():
        outcomes = tally.outcomes.get(key)
        if not outcomes:
            failure = tally.failures.get(key) or Failure(
                failure_class=FailureClass.CANCELLED, phase=Phase.RESOLVE, brief="it was given up"
            )
            name, version = request.project_name, member.version
            asked[request] = Outcome(
                build_id=f"none-{member.name}",
                name=name,
                version=version,
                target=request.target,
                status=Status.FAILED,
                failure=failure,
            )
            continue
        asked[request] = _with_needs(outcomes[0], tally.builds.get(key, ()), request, ledger, dirs)
    return asked, others, {}


def _with_needs(
    outcome: Outcome, builds: Sequence[Ready], request: BuildRequest, ledger: Ledger, dirs: StateDirs
) -> Outcome:
    """The outcome with what has to be installed with it, handed over to where the user wants the packages."""
    needed = [item.outcome() for ready in builds for item in dependencies_of(ready, ledger, dirs) or ()]
    if request.output is not None:
        for item in needed:
            hand_over(dirs.artifacts / item.build_id, request.output)
    made = (BuiltPackages(build_id=o.build_id, name=o.name, version=o.version, artifacts=o.artifacts) for o in needed)
    return replace(outcome, dependencies=tuple(made))
