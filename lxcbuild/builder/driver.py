"""Carries out one build: asks the machine for the next instruction, runs that phase, tells the machine how it went.

This is the only loop over phases. It hands each one what it needs of those before it, measures it, turns errors into failures,
tells the monitor, and always gives the sandbox back. :mod:`lxcbuild.builder.family` pauses a build between phases while what it
needs is built.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from lxcbuild.builder import room
from lxcbuild.builder.checks.checks import check
from lxcbuild.builder.facts import (
    Collected,
    Compiled,
    Inspected,
    InspectedPackage,
    Laid,
    LaidPackage,
    OfficialVersion,
    PhaseResults,
    Provisioned,
    Resolved,
    Verified,
)
from lxcbuild.builder.failed import failedstate
from lxcbuild.builder.failures import PhaseFailedError, failure_of
from lxcbuild.builder.machine import (
    BuildMachine,
    ConverterChoice,
    ConverterFacts,
    Finish,
    Instruction,
    Lessons,
    RunPhase,
)
from lxcbuild.builder.phases import (
    collect,
    compile,  # noqa: A004
    debian_source,
    debian_verify,
    debianize,
    fetch,
    inspect,
    provision,
    resolve,
    verify,
)
from lxcbuild.builder.work import Work
from lxcbuild.errors import CancelledError, LxcbuildError
from lxcbuild.events import BuildEnded, BuildPutAside, BuildStarted, PhaseEnded, PhaseStarted
from lxcbuild.model import Failure, FailureClass, Outcome, Phase, PhaseRecord, Source, SourceKind, Status, Usage

PhaseFunction = Callable[[Work, PhaseResults], Struct]

#: Each phase, and what it needs of those before it.
_PROJECT: Mapping[Phase, PhaseFunction] = {
    Phase.RESOLVE: lambda work, _: resolve.run(work),
    Phase.FETCH: lambda work, facts: fetch.run(work, facts[Resolved]),
    Phase.INSPECT: lambda work, facts: inspect.run(work, facts[Resolved], facts[Source]),
    Phase.PROVISION: lambda work, facts: provision.run(work, facts[Inspected], facts[Lessons]),
    Phase.DEBIANIZE: lambda work, facts: debianize.run(work, facts[Inspected], facts[Provisioned]),
    Phase.COMPILE: lambda work, facts: compile.run(work, facts[Laid]),
    Phase.VERIFY: lambda work, facts: check(work, facts[Laid], verify.run(work, facts[Laid], facts[Compiled])),
    Phase.COLLECT: lambda work, facts: collect.run(work, facts[Laid], facts[Verified]),
}

#: A Debian source package brings its own debian/: other ways of reading it, the same compilation and collection.
_PACKAGE: Mapping[Phase, PhaseFunction] = {
    Phase.RESOLVE: _PROJECT[Phase.RESOLVE],
    Phase.FETCH: lambda work, facts: debian_source.fetch(work, facts[Resolved]),
    Phase.INSPECT: lambda work, facts: debian_source.inspect(work, facts[Resolved], facts[Source]),
    Phase.PROVISION: lambda work, facts: debian_source.provision(work, facts[InspectedPackage]),
    Phase.DEBIANIZE: lambda work, facts: debian_source.unpack(work, facts[InspectedPackage], facts[Provisioned]),
    Phase.COMPILE: lambda work, facts: compile.run(work, facts[LaidPackage]),
    Phase.VERIFY: lambda work, facts: check(
        work, facts[LaidPackage], debian_verify.run(work, facts[LaidPackage], facts[Compiled])
    ),
    Phase.COLLECT: lambda work, facts: collect.run(work, facts[LaidPackage], facts[Verified]),
}


class Build:
    """One build that can be paused between phases, so that others are built before it goes on.

    What goes wrong with it is in the outcome and never raised; an interruption (Ctrl-C) cancels it and is raised again.
    A paused build holds files and no sandbox. Whoever makes a build ends it: with ``finish``, ``fail`` or ``cancel``.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.facts = PhaseResults()
        self.outcome: Outcome | None = None
        self.error: LxcbuildError | None = None  # that ended it, where no phase found out by itself
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
                self._instruction = self._carry_out(self._instruction)
        if isinstance(self._instruction, RunPhase):
            return True
        self._end(self._instruction)
        return False

    def aside(self, phase: Phase, doing: Callable[[], object]) -> bool:
        """Do more of a phase that is over, measured and judged as a phase is; whether it went well, or ended the build.

        What comes of it is kept with the facts."""
        assert isinstance(self._instruction, RunPhase), "only a paused build does something aside"
        paused, failure = self._instruction, None
        with self._interruptible():
            self.work.enter(phase, paused.converter)
            failure, _ = self._measured(phase, doing)
            self.work.finish_sandbox()
        if failure is not None:
            self._end(Finish(status=Status.FAILED, failure=failure))
        return failure is None

    def finish(self) -> Outcome:
        """Carry out all that is left."""
        while self.outcome is None:
            if self.until(Phase.COLLECT):
                assert isinstance(self._instruction, RunPhase)
                with self._interruptible():
                    self._instruction = self._carry_out(self._instruction)
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

    def put_aside(self) -> None:
        """Give back what the build has; it begins anew, under another id, when what it needs is there."""
        if self.outcome is None:
            self.work.close()
            self.work.monitor.emit(BuildPutAside(build_id=self.work.build_id))

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
        self.outcome = self._outcome(finish)
        if finish.status is not Status.FAILED:
            failedstate.discard(self.work.context.dirs, self.work.build_id)
        self.work.close()
        self.work.monitor.emit(BuildEnded(outcome=self.outcome))

    def _carry_out(self, instruction: RunPhase) -> Instruction:
        work, machine, phase = self.work, self._machine, instruction.phase
        work.enter(phase, instruction.converter)
        function = (_PACKAGE if machine.kind is SourceKind.DSC else _PROJECT)[phase]
        failure, learned = self._measured(phase, lambda: function(work, self.facts))
        if failure is None:
            return self._succeeded(phase)
        bigger = room.offer(work, failure) if work.roomier is None else None
        if learned is not None or bigger is not None:
            learned = replace(learned or machine.lessons, roomier=bigger or work.roomier)
        result = machine.failed(failure, learned)
        if bigger is not None and isinstance(result, RunPhase):
            room.grow(work, failure, bigger)
        _keep_state(failure, result, work)
        work.finish_sandbox()
        self.facts.keep(machine.lessons)
        if machine.lessons.compiled:
            self.facts.keep(self.facts[Inspected].compiled_after_all())
        return result

    def _succeeded(self, phase: Phase) -> Instruction:
        """Tell the machine what its next instruction depends on."""
        if phase is Phase.RESOLVE and self.facts.find(OfficialVersion) is not None:
            return self._machine.official()
        if phase is Phase.INSPECT and (project := self.facts.find(Inspected)) is not None:
            choice = self.work.override.converter or ConverterChoice.AUTO
            return self._machine.inspected(
                ConverterFacts(
                    has_setup_py=project.inspection.has_setup_py,
                    suite_has_pyproject_plugin="pybuild-plugin-pyproject" in project.resolved.recipe.toolchain,
                    override=ConverterChoice(choice),
                )
            )
        if phase is Phase.PROVISION:
            return self._machine.provided(self.facts[Provisioned].lessons)
        return self._machine.succeeded()

    def _measured(self, phase: Phase, doing: Callable[[], object]) -> tuple[Failure | None, Lessons | None]:
        """Do it, record what it cost, and keep its result; or its failure, and what that has taught."""
        work, watch, failed = self.work, _Stopwatch.start(), True
        work.monitor.emit(PhaseStarted(build_id=work.build_id, phase=phase))
        try:
            self.facts.keep(doing())
            failed = False
        except PhaseFailedError as error:
            return error.failure, error.lessons
        except CancelledError:
            raise
        except LxcbuildError as error:
            self.error = error
            return failure_of(error, phase), None
        finally:
            record = PhaseRecord(phase=phase, started_at=watch.started_at, usage=watch.usage(work.take_usage()))
            work.phases.append(record)
            with contextlib.suppress(KeyboardInterrupt):
                work.monitor.emit(PhaseEnded(build_id=work.build_id, record=record, failed=failed))
        return None, None

    def _outcome(self, finish: Finish) -> Outcome:
        work, collected = self.work, self.facts.find(Collected)
        return Outcome(
            build_id=work.build_id,
            name=work.name,
            version=work.version,
            target=work.request.target,
            status=finish.status,
            failure=finish.failure,
            artifacts=collected.artifacts if collected is not None else (),
            phases=tuple(work.phases),
            log_path=work.log_path,
            limits_in_force=work.limits_in_force,
            notes=tuple(work.notes),
            checks=dict(work.checks),
            layers=work.layer_use(),
        )


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


def _keep_state(failure: Failure, result: Instruction, work: Work) -> None:
    """Keep the sandbox's state where this failure is, or may become, the one that the user is told of."""
    final = isinstance(result, Finish) and result.failure is failure
    # A fallback that fails as well is not what users are told of: see BuildMachine.failed.
    if final or (failure.failure_class is FailureClass.CONVERT_FAILED and isinstance(result, RunPhase)):
        failedstate.keep(work, failure)
