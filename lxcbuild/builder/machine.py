"""The life of one build as states and transitions, without any input or output.

Facts come in (a phase succeeded, a phase failed and taught something), instructions come out (run this phase, finish in this
way). Whatever is tried a second time is decided here: another converter, another round with what a failure has taught, once more
with more room. The story of all transitions is kept for post-mortems.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from msgspec import Struct, field

from lxcbuild.model import Converter, Failure, FailureClass, Phase, SourceKind, Status

if TYPE_CHECKING:
    from lxcbuild.debian.source.crates import CrateSupply
    from lxcbuild.policy import Policy

#: How often a failure may teach something that provisioning then knows.
MAX_DEPENDENCY_ROUNDS = 3

#: Where a project's own build takes room. Sources that fill a disk while they are only read are more likely a bomb.
_ROOM_FOR = (Phase.DEBIANIZE, Phase.COMPILE)

_SUCCESSOR = {
    Phase.RESOLVE: Phase.FETCH,
    Phase.FETCH: Phase.INSPECT,
    Phase.INSPECT: Phase.PROVISION,
    Phase.PROVISION: Phase.DEBIANIZE,
    Phase.DEBIANIZE: Phase.COMPILE,
    Phase.COMPILE: Phase.VERIFY,
    Phase.VERIFY: Phase.COLLECT,
}


class ConverterChoice(enum.StrEnum):
    """What the user asked for."""

    AUTO = "auto"
    PYPROJECT = "pyproject"
    STDEB = "stdeb"


class RunPhase(Struct, frozen=True, kw_only=True):
    """Run this phase next."""

    phase: Phase
    converter: Converter


class Finish(Struct, frozen=True, kw_only=True):
    """The build is over."""

    status: Status
    failure: Failure | None = None


Instruction = RunPhase | Finish


class ConverterFacts(Struct, frozen=True, kw_only=True):
    """What inspection says that the choice of a converter depends on."""

    has_setup_py: bool
    suite_has_pyproject_plugin: bool
    override: ConverterChoice = ConverterChoice.AUTO  # what an administrator says of this project


class Lessons(Struct, frozen=True, kw_only=True):
    """What trying to build a project has taught about it: all that makes a second try another one."""

    packages: frozenset[str] = frozenset()  # of the suite, that logs asked for
    requirements: tuple[str, ...] = ()  # what the backend's hook and logs asked for, in order
    suite_backend_unfit: bool = False  # the suite's backend refused the project: what is newer is provided in its place
    plugin_unfit: bool = False  # the suite's pybuild cannot place what the project's wheel holds
    compiled: bool = False  # it has compiled parts, though nothing in its sources says so
    promoted: frozenset[str] = frozenset()  # packages that only extras name, and without which it does not import
    natives: frozenset[str] = frozenset()  # libraries and programs without which it does not import
    superseded: frozenset[str] = frozenset()  # packages of the suite that own files of what is built here
    crates: CrateSupply | None = None  # how the build gets its Rust crates; None: not decided, or no Rust is asked for
    suggested: tuple[str, ...] | None = None  # what Debian's own package builds with; None: not looked up yet
    roomier: Policy | None = None  # of a second attempt, after the first one had filled its disk

    def beyond(self, known: Lessons) -> str:
        """What it has that the other has not, in one line."""
        return "; ".join(
            f"{name}: {' '.join(sorted(set(new) - set(old or ())))}" if isinstance(new, (frozenset, tuple)) else name
            for name in self.__struct_fields__
            if (new := getattr(self, name)) != (old := getattr(known, name))
        )


class BuildMachine(Struct):
    """One build. Call ``start`` once, then ``succeeded`` or ``failed`` for each instruction that was carried out."""

    choice: ConverterChoice
    kind: SourceKind = SourceKind.SDIST
    story: list[str] = field(default_factory=list)
    lessons: Lessons = field(default_factory=Lessons)
    _phase: Phase = Phase.RESOLVE
    _converters: list[Converter] = field(default_factory=list)
    _dependency_rounds: int = 0
    _first_failure: Failure | None = None

    def start(self) -> Instruction:
        """The first instruction."""
        assert not self._converters, "a build starts once"
        self._converters = [Converter.STDEB if self.choice is ConverterChoice.STDEB else Converter.PYPROJECT]
        return self._run(Phase.RESOLVE)

    def official(self) -> Instruction:
        """Debian ships the project already and the user does not insist."""
        self.story.append(f"{self._phase}: official")
        return Finish(status=Status.OFFICIAL)

    def inspected(self, facts: ConverterFacts) -> Instruction:
        """Inspection is done: settle which converters will be tried, and in which order."""
        assert self.kind is not SourceKind.DSC, "nothing of a Debian source package is converted"
        if self.choice is ConverterChoice.AUTO and facts.override is not ConverterChoice.AUTO:
            self.choice = facts.override
            self._converters = [Converter(self.choice.value)]
        if self.choice is ConverterChoice.AUTO:
            first = [Converter.PYPROJECT] if facts.suite_has_pyproject_plugin else []
            self._converters = first + ([Converter.STDEB] if facts.has_setup_py else [])
            if not self._converters:
                return self.failed(
                    Failure(
                        failure_class=FailureClass.CONVERT_FAILED,
                        phase=Phase.INSPECT,
                        brief="this suite has no pybuild-plugin-pyproject and the project has no setup.py",
                        resolution="build for a newer suite, or write debian/ by hand and build the source package",
                    )
                )
        elif self.choice is ConverterChoice.STDEB and not facts.has_setup_py:
            return self.failed(
                Failure(
                    failure_class=FailureClass.CONVERT_FAILED,
                    phase=Phase.INSPECT,
                    brief="stdeb needs a setup.py and this project has none",
                    resolution="omit --converter, or use --converter pyproject",
                )
            )
        return self.succeeded()

    def provided(self, lessons: Lessons) -> Instruction:
        """Provisioning is done, and knows more than before where the backend or the suite had something to say."""
        self._learn(lessons)
        return self.succeeded()

    def succeeded(self) -> Instruction:
        """The phase of the last instruction did its work."""
        assert self._converters, "nothing was running"
        self.story.append(f"{self._phase}: done")
        if self._phase is Phase.COLLECT:
            return Finish(status=Status.BUILT)
        return self._run(_SUCCESSOR[self._phase])

    def failed(self, failure: Failure, lessons: Lessons | None = None) -> Instruction:
        """The phase failed. ``lessons`` are all that is known now, where the failure taught something that may mend it.

        Room is such a lesson: the disk was full, and policy and machine allow a bigger one."""
        self.story.append(f"{failure.phase}: {failure.failure_class}: {failure.brief}")
        self._first_failure = self._first_failure or failure
        if lessons is not None:
            had_room = self.lessons.roomier
            self._learn(lessons)
            if lessons.roomier is not had_room:
                if failure.phase in _ROOM_FOR and had_room is None:
                    return self._run(Phase.DEBIANIZE)  # its sandbox is the one that compiles, and that is gone
            elif self._dependency_rounds < MAX_DEPENDENCY_ROUNDS:
                self._dependency_rounds += 1
                return self._run(Phase.PROVISION)
        if failure.failure_class is FailureClass.CONVERT_FAILED and len(self._converters) > 1:
            self.story.append(f"{self._converters[0]} gave up; {self._converters[1]} is tried")
            del self._converters[0]
            return self._run(Phase.PROVISION)
        # The first failure is the one that the user can act on: a fallback that fails as well only adds noise.
        same_class = self._first_failure.failure_class is FailureClass.CONVERT_FAILED
        return Finish(status=Status.FAILED, failure=self._first_failure if same_class else failure)

    def _learn(self, lessons: Lessons) -> None:
        if news := lessons.beyond(self.lessons):
            self.story.append(f"{self._phase}: learned {news}")
        self.lessons = lessons

    def _run(self, phase: Phase) -> RunPhase:
        self._phase = phase
        return RunPhase(phase=phase, converter=self._converters[0])
