"""Carries out one build: asks the machine for the next instruction, runs that phase, tells the machine how it went.

This is the only loop over phases. It measures each one, turns errors into failures, tells the monitor, and always gives the
sandbox back. :mod:`lxcbuild.builder.family` pauses a build between phases while what it needs is built.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from lxcbuild.builder import room
from lxcbuild.builder.checks import checks
from lxcbuild.builder.failed import failedstate
from lxcbuild.builder.failures import PhaseFailedError, failure_of
from lxcbuild.builder.machine import BuildMachine, Finish, Instruction, RunPhase
from lxcbuild.builder.phases import collect, compile, debianize, fetch, inspect, provision, resolve, verify  # noqa: A004
from lxcbuild.builder.work import Work
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
    Phase.VERIFY: checks.after(verify.run),
    Phase.COLLECT: collect.run,
}


def _dsc_phases() -> Mapping[Phase, PhaseFunction]:
    """A Debian source package brings its own debian/: other ways of reading it, the same compilation and collection."""
    from lxcbuild.builder.phases import debian_source, debian_verify

    return {
        **PHASES,
        Phase.FETCH: debian_source.fetch,
        Phase.INSPECT: debian_source.inspect,
        Phase.PROVISION: debian_source.provision,
        Phase.DEBIANIZE: debian_source.unpack,
        Phase.VERIFY: checks.after(debian_verify.run),
    }


def build(work: Work) -> Outcome:
    """Build one source for one target, from requirement to collected packages.

    Never raises for what goes wrong with the build: that is in the outcome. An interruption (Ctrl-C) ends the build as
    ``cancelled`` in the monitor's eyes and is raised again.
    """
    return Build(work).finish()


class Build:
    """One build that can be paused between phases, so that others are built before it goes on.

    A paused build holds files and no sandbox. Whoever makes a course ends it: with ``finish``, ``fail`` or ``cancel``.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.outcome: Outcome | None = None
        self._machine = BuildMachine(work.request.converter, kind=work.request.kind)
        self._instruction: Instruction | None = None

    def until(self, phase: Phase) -> bool:
        """Carry out what comes before ``phase``; whether that is what comes next, and not the end of a build that has failed."""
        if self.outcome is not None:
            return False
        with self._interruptible():
            if self._instruction is None:
                request = self.work.request
                started = BuildStarted(build_id=self.work.build_id, name=request.display_name, target=request.target)
                self.work.monitor.emit(started)
                self._instruction = self._machine.start()
            while isinstance(self._instruction, RunPhase) and self._instruction.phase is not phase:
                self._instruction = _carry_out(self._machine, self._instruction, self.work)
        if isinstance(self._instruction, RunPhase):
            return True
        self._end(self._instruction)
        return False

    def aside(self, phase: Phase, doing: Callable[[], None]) -> bool:
        """Do more of a phase that is over, measured and judged as a phase is; whether it went well, or ended the build."""
        assert isinstance(self._instruction, RunPhase), "only a paused build does something aside"
        paused, failure = self._instruction, None
        with self._interruptible():
            self.work.enter(phase, paused.converter)
            _, failure, _ = _measured(self.work, phase, doing)
            self.work.abandon_instance()
        if failure is not None:
            self._end(Finish(status=Status.FAILED, failure=failure))
        return failure is None

    def finish(self) -> Outcome:
        """Carry out all that is left."""
        while self.outcome is None:
            if self.until(Phase.COLLECT):
                assert isinstance(self._instruction, RunPhase)
                with self._interruptible():
                    self._instruction = _carry_out(self._machine, self._instruction, self.work)
                self.until(Phase.COLLECT)
        return self.outcome

    def fail(self, failure: Failure) -> None:
        """End a paused build that cannot go on."""
        if self.outcome is None:
            self._end(Finish(status=Status.FAILED, failure=failure))

    def cancel(self) -> None:
        """End a build that nobody waits for any more."""
        phase = self.work.phases[-1].phase if self.work.phases else Phase.RESOLVE
        self.fail(Failure(failure_class=FailureClass.CANCELLED, phase=phase, brief="cancelled by the user"))

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        try:
            yield
        except (KeyboardInterrupt, CancelledError):
            self.cancel()
            raise
        except BaseException:
            self.work.close()
            raise

    def _end(self, finish: Finish) -> None:
        self.outcome = self.work.outcome = _outcome(self.work, finish)
        if finish.status is not Status.FAILED:
            failedstate.discard(self.work.context.dirs, self.work.build_id)
        self.work.close()
        self.work.monitor.emit(BuildEnded(outcome=self.outcome))


class _Stopwatch(Struct):
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
    function = (_dsc_phases() if machine.kind is SourceKind.DSC else PHASES)[phase]
    result, failure, mendable = _measured(work, phase, lambda: _next(machine, phase, work, function))
    if failure is None:
        assert result is not None
        return result
    bigger = room.offer(work, failure) if work.roomier is None else None
    result = machine.failed(failure, can_provide_more=mendable, can_have_more_room=bigger is not None)
    if bigger is not None and isinstance(result, RunPhase):
        room.grow(work, failure, bigger)
    _keep_state(failure, result, work)
    work.abandon_instance()
    return result


Result = TypeVar("Result")


def _measured(work: Work, phase: Phase, doing: Callable[[], Result]) -> tuple[Result | None, Failure | None, bool]:
    """Do it and record what it cost. Its result, or its failure and whether provisioning may mend that."""
    work.monitor.emit(PhaseStarted(build_id=work.build_id, phase=phase))
    watch = _Stopwatch.start()
    failed = True
    try:
        result = doing()
        failed = False
    except PhaseFailedError as error:
        work.learned_packages |= set(error.provide)
        return None, error.failure, error.mendable
    except CancelledError:
        raise
    except LxcbuildError as error:
        work.error = error
        return None, failure_of(error, phase), False
    finally:
        record = PhaseRecord(phase=phase, started_at=watch.started_at, usage=watch.usage(work.take_usage()))
        work.phases.append(record)
        with contextlib.suppress(KeyboardInterrupt):
            work.monitor.emit(PhaseEnded(build_id=work.build_id, record=record, failed=failed))
    return result, None, False


def _keep_state(failure: Failure, result: Instruction, work: Work) -> None:
    """Keep the sandbox's state where this failure is, or may become, the one that the user is told of."""
    final = isinstance(result, Finish) and result.failure is failure
    # A fallback that fails as well is not what users are told of: see BuildMachine.failed.
    if final or (failure.failure_class is FailureClass.CONVERT_FAILED and isinstance(result, RunPhase)):
        failedstate.keep(work, failure)


def _next(machine: BuildMachine, phase: Phase, work: Work, function: PhaseFunction) -> Instruction:
    function(work)
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
        checks=dict(work.checks),
        layers=work.layer_use(),
    )
