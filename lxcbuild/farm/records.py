"""What the head writes down: builds that workers report, and ends that no build had."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from msgspec.structs import replace

from lxcbuild.builder.request import new_build_id
from lxcbuild.farm.artifacts import ArtifactStore
from lxcbuild.farm.engines.engine import BuildReport
from lxcbuild.ledger.records import NewBuild
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Failure, FailureClass, Outcome, Phase, Status, Target
from lxcbuild.state.paths import StateDirs


def record_report(report: BuildReport, *, ledger: Ledger, dirs: StateDirs, store: ArtifactStore) -> None:
    """Take a build's files from the store, if they are not here, and record it; the same report twice is recorded once."""
    build_id = report.new.build_id
    place, log = dirs.artifacts / build_id, dirs.logs / f"{build_id}.log"
    if report.outcome.status is Status.BUILT and report.files and not place.is_dir():
        half_done = place.with_name(f".{build_id}.{os.getpid()}")
        try:
            for file in report.files:
                store.get(file, half_done)
            half_done.rename(place)
        finally:
            shutil.rmtree(half_done, ignore_errors=True)
    if report.log is not None and not log.exists():
        store.get(replace(report.log, name=log.name), dirs.logs)
    if not report.files and report.log is None:  # made in this very state directory
        ledger.record(report.new, report.outcome, dict(report.learned))
        return
    artifacts = tuple(replace(item, path=place / item.path.name) for item in report.outcome.artifacts)
    outcome = replace(report.outcome, artifacts=artifacts, log_path=log if report.outcome.log_path else None)
    new = replace(report.new, log_path=log if report.new.log_path else None)
    ledger.record(new, outcome, dict(report.learned))


def record_without_build(ledger: Ledger, policy: str, target: str, what: tuple[str, str], failure: Failure) -> Outcome:
    """A project of a run that ended before there was any build: refused by the plan, or pruned. ``what``: name and version."""
    name, version = what
    build_id, place = new_build_id(), Target.parse(target)
    outcome = Outcome(
        build_id=build_id, name=name, version=version, target=place, status=Status.FAILED, failure=failure
    )
    ledger.record(NewBuild(build_id=build_id, name=name, target=place, policy=policy, version=version), outcome, {})
    return outcome


def reason(outcomes: Sequence[Outcome]) -> Failure:
    """Why a job of several builds has failed: what is not the failure of another one of them."""
    failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    own = [failure for failure in failures if failure.failure_class is not FailureClass.DEP_MISSING]
    if not failures:
        return Failure(
            failure_class=FailureClass.SANDBOX_FAILED,
            phase=Phase.COLLECT,
            brief="the packages are not where the worker has left them, or are not what it has sealed",
        )
    return (own or failures)[0]
