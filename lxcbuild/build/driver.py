"""Carries out one build: asks the machine for the next instruction, runs that phase, tells the machine how it went.

This is the only loop over phases. It measures each one, turns errors into failures, tells the monitor, and always gives the
sandbox back.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from lxcbuild.build import (
    collect,
    compile,  # noqa: A004
    debian_source,
    debian_verify,
    debianize,
    failedstate,
    fetch,
    inspect,
    provision,
    resolve,
    verify,
)
from lxcbuild.build.failures import PhaseFailedError, failure_of
from lxcbuild.build.machine import BuildMachine, Finish, Instruction, RunPhase
from lxcbuild.build.work import Work
from lxcbuild.errors import CancelledError, LxcbuildError
from lxcbuild.events import BuildEnded, BuildStarted, PhaseEnded, PhaseStarted
from lxcbuild.model import Failure, FailureClass, Outcome, Phase, PhaseRecord, SourceKind, Status, Usage

PhaseFunction = Callable[[Work], None]

PHASES: Mapping[Phase, PhaseFunction] = {
    Phase.RESOLVE: resolve.run,
    Phase.FETCH: fetch.run,
    Phase.INSPECT: inspect.run,
    Phase.PROVISION: provision.run,
    Phase.DEBIANIZE: debianize.run,
    Phase.COMPILE: compile.run,
    Phase.VERIFY: verify.run,
    Phase.COLLECT: collect.run,
}

#: A Debian source package brings its own debian/: other ways of reading it, the same compilation and collection.
DSC_PHASES: Mapping[Phase, PhaseFunction] = {
    **PHASES,
    Phase.FETCH: debian_source.fetch,
    Phase.INSPECT: debian_source.inspect,
    Phase.PROVISION: debian_source.provision,
    Phase.DEBIANIZE: debian_source.unpack,
    Phase.VERIFY: debian_verify.run,
}


def build(work: Work) -> Outcome:
    """Build one source for one target, from requirement to collected packages.

    Never raises for what goes wrong with the build: that is in the outcome. An interruption (Ctrl-C) ends the build as
    ``cancelled`` in the monitor's eyes and is raised again.
    """
    work.monitor.emit(BuildStarted(build_id=work.build_id, name=work.request.display_name, target=work.request.target))
    machine = BuildMachine(work.request.converter, kind=work.request.kind)
    instruction = machine.start()
    try:
        while isinstance(instruction, RunPhase):
            instruction = _carry_out(machine, instruction, work)
        outcome = _outcome(work, instruction)
        if outcome.status is not Status.FAILED:
            failedstate.discard(work.facilities.dirs, work.build_id)
    except (KeyboardInterrupt, CancelledError) as interruption:
        phase = work.phases[-1].phase if work.phases else Phase.RESOLVE
        failure = Failure(failure_class=FailureClass.CANCELLED, phase=phase, brief="cancelled by the user")
        work.close()
        outcome = _outcome(work, Finish(status=Status.FAILED, failure=failure))
        work.monitor.emit(BuildEnded(outcome=outcome))
        raise interruption
    finally:
        work.close()
    work.monitor.emit(BuildEnded(outcome=outcome))
    return outcome


@dataclass(slots=True)
class _Stopwatch:
    """What the host itself spends on a phase: wall clock, and CPU of this process and the programs it waited for."""

    started_at: str
    wall: float
    cpu: float

    @classmethod
    def start(cls) -> _Stopwatch:
        return cls(datetime.now(UTC).isoformat(timespec="milliseconds"), time.monotonic(), _cpu_s())

    def usage(self, inside: Usage) -> Usage:
        """The whole cost: the sandbox's counters plus the host's own CPU time."""
        return replace(inside, wall_s=time.monotonic() - self.wall, cpu_s=inside.cpu_s + _cpu_s() - self.cpu)


def _cpu_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _carry_out(machine: BuildMachine, instruction: RunPhase, work: Work) -> Instruction:
    phase = instruction.phase
    work.enter(phase, instruction.converter)
    work.monitor.emit(PhaseStarted(build_id=work.build_id, phase=phase))
    watch = _Stopwatch.start()
    failed, failure = True, None
    try:
        (DSC_PHASES if machine.kind is SourceKind.DSC else PHASES)[phase](work)
        failed = False
        result = _next(machine, phase, work)
    except PhaseFailedError as error:
        work.learned_packages |= set(error.provide)
        failure = error.failure
        result = machine.failed(error.failure, can_provide_more=error.mendable)
    except CancelledError:
        raise
    except LxcbuildError as error:
        work.error = error
        failure = failure_of(error, phase)
        result = machine.failed(failure)
    finally:
        record = PhaseRecord(phase=phase, started_at=watch.started_at, usage=watch.usage(work.take_usage()))
        work.phases.append(record)
        with contextlib.suppress(KeyboardInterrupt):
            work.monitor.emit(PhaseEnded(build_id=work.build_id, record=record, failed=failed))
    if failure is not None:
        _keep_state(failure, result, work)
    if failed:
        work.abandon_instance()
    return result


def _keep_state(failure: Failure, result: Instruction, work: Work) -> None:
    """Keep the sandbox's state where this failure is, or may become, the one that the user is told of."""
    final = isinstance(result, Finish) and result.failure is failure
    # A fallback that fails as well is not what users are told of: see BuildMachine.failed.
    if final or (failure.failure_class is FailureClass.CONVERT_FAILED and isinstance(result, RunPhase)):
        failedstate.keep(work, failure)


def _next(machine: BuildMachine, phase: Phase, work: Work) -> Instruction:
    if phase is Phase.RESOLVE and work.official is not None:
        return machine.official()
    if phase is Phase.INSPECT and machine.kind is not SourceKind.DSC:
        return machine.inspected(work.inspected_facts())
    return machine.succeeded()


def _outcome(work: Work, finish: Finish) -> Outcome:
    return Outcome(
        build_id=work.build_id,
        name=work.name,
        version=work.version,
        target=work.request.target,
        status=finish.status,
        failure=finish.failure,
        artifacts=tuple(work.artifacts),
        phases=tuple(work.phases),
        log_path=work.log_path,
        limits_in_force=work.limits_in_force,
        notes=tuple(work.notes),
    )
