"""What ``build`` and ``rebuild`` say in the end: packages and how to install them, or what went wrong and what helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lxcbuild.cli.documents import outcome_document
from lxcbuild.cli.render import Ui
from lxcbuild.config.ranges import seconds_text
from lxcbuild.errors import BuildsFailedError, CancelledError, NotReproducibleError
from lxcbuild.model import Artifact, Outcome, Phase, Status

if TYPE_CHECKING:
    from lxcbuild.errors import LxcbuildError
    from lxcbuild.farm.progress import Picture
    from lxcbuild.farm.runs import Tally

#: Phases in which nothing runs that could print a log.
_HOST_PHASES = frozenset({Phase.RESOLVE, Phase.FETCH})

#: Of each failure class, so many are named; the ledger has all.
_NAMED = 10


def conclude(
    ui: Ui,
    asked: Sequence[Outcome],
    others: Sequence[Outcome],
    *,
    errors: Mapping[str, LxcbuildError],
    as_json: bool,
) -> int:
    """Print the outcomes of what was asked for (of all builds, as JSON); the exit status.

    ``others`` are builds of what was needed; ``errors`` has the errors that ended builds, by their ids.
    """
    if as_json:
        ui.emit_json({"builds": [outcome_document(outcome) for outcome in (*asked, *others)]})
    else:
        for outcome in asked:
            _print_result(ui, outcome)
        _print_install_hint(ui, asked)
    failed = [outcome for outcome in asked if outcome.status is Status.FAILED]
    if not failed:
        return NotReproducibleError.exit_code if any(map(_differs, asked)) else 0
    # A single request that could not even be tried has its own exit code; a build that failed has that of failed builds.
    if len(asked) == 1 and failed[0].build_id in errors:
        return errors[failed[0].build_id].exit_code
    return BuildsFailedError.exit_code


def _differs(outcome: Outcome) -> bool:
    """Whether a second build of the same inputs was asked for and did not give the same packages."""
    found = outcome.checks.get("reproducible")
    return isinstance(found, Mapping) and found.get("verdict") != "identical"


def _print_result(ui: Ui, outcome: Outcome) -> None:
    if outcome.status is Status.BUILT:
        if outcome.reused:
            ui.say(
                f"{outcome.name} {outcome.version} is built already for {outcome.target} (--rebuild builds it again)"
            )
        for artifact in outcome.artifacts:
            ui.line(str(artifact.path))
    elif outcome.status is Status.OFFICIAL:
        ui.line(f"{outcome.name}: official in {outcome.target}, version {outcome.version}")
        ui.hint(f"lxcbuild build {outcome.name} --force builds it all the same")
    else:
        _print_failure(ui, outcome)


def _print_failure(ui: Ui, outcome: Outcome) -> None:
    from lxcbuild.builder.failed.failedstate import is_kept

    failure = outcome.failure
    assert failure is not None
    ui.failure(failure)
    if failure.phase not in _HOST_PHASES:
        ui.hint(f"lxcbuild explain {outcome.build_id}")
    if is_kept(ui.dirs, outcome.build_id):
        ui.hint(f"lxcbuild shell --failed {outcome.build_id}")


def _print_install_hint(ui: Ui, asked: Sequence[Outcome]) -> None:
    """One command that works as it is: with all packages that are needed and that no archive has."""
    debs: dict[str, None] = {}
    for outcome in asked:
        if outcome.status is Status.BUILT:
            # Of a source package's binaries the first one is an example: they may exclude each other.
            debs.update(dict.fromkeys(_debs(outcome.artifacts)[:1]))
            for needed in outcome.dependencies:
                debs.update(dict.fromkeys(_debs(needed.artifacts)))
    if debs:
        ui.hint(f"sudo apt install {' '.join(debs)}")


def _debs(artifacts: Sequence[Artifact]) -> list[str]:
    return [str(artifact.path) for artifact in artifacts if artifact.path.suffix == ".deb"]


def conclude_run(ui: Ui, tally: Tally, picture: Picture, *, again: str, as_json: bool) -> int:
    """Print how the run has ended; the exit status."""
    if as_json:
        ui.emit_json(run_document(tally, picture))
    else:
        _print_run(ui, tally, picture, again)
    if tally.interrupted:
        return CancelledError.exit_code
    return BuildsFailedError.exit_code if tally.failures else 0


def run_document(tally: Tally, picture: Picture) -> dict[str, Any]:
    """The run as data."""
    from lxcbuild.cli.bulk_view import numbers

    return {
        "interrupted": tally.interrupted,
        "totals": {name: value for name, value in numbers(picture).items() if name not in ("running", "left_s")},
        "worker_cpu_s": round(tally.worker_cpu_s, 3),
        "worker_jobs": tally.worker_jobs,
        "jobs": {
            key: {
                "state": state.value,
                "reused": key in tally.reused,
                "builds": [ready.record.build_id for ready in tally.builds.get(key, ())],
                "failure": tally.failures[key].failure_class.value if key in tally.failures else None,
                "brief": tally.failures[key].brief if key in tally.failures else None,
            }
            for key, state in sorted(tally.states.items())
        },
    }


def _print_run(ui: Ui, tally: Tally, picture: Picture, again: str) -> None:
    from lxcbuild.cli.bulk_view import summary

    by_class: dict[str, list[str]] = {}
    for key, failure in sorted(tally.failures.items()):
        by_class.setdefault(failure.failure_class.value, []).append(key)
    for name, keys in sorted(by_class.items(), key=lambda item: -len(item[1])):
        more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        ui.line(f"{name} {len(keys)}: {', '.join(keys[:_NAMED])}{more}")
    states = Counter(state.value for state in tally.states.values())
    ui.line(", ".join(f"{name} {count}" for name, count in sorted(states.items())) or "nothing to build")
    ui.say(f"{summary(picture)}; took {seconds_text(picture.elapsed_s)}")
    if tally.interrupted:
        ui.hint(again)
    elif tally.failures:
        ui.hint("lxcbuild history --status failed")
