"""From an exception to a failure class: the one table that says which error of ours means which kind of failed build."""

from __future__ import annotations

from lxcbuild import errors
from lxcbuild.builder.machine import Lessons
from lxcbuild.model import Failure, FailureClass, Phase

#: The most specific class of an error decides; the order of the table does not matter.
_CLASS_OF_ERROR: dict[type[errors.LxcbuildError], FailureClass] = {
    errors.NoSdistError: FailureClass.NO_SDIST,
    errors.BrokenSdistError: FailureClass.BROKEN_SDIST,
    errors.WrongHashError: FailureClass.BROKEN_SDIST,
    errors.InputError: FailureClass.UNSATISFIABLE,
    errors.DependencyError: FailureClass.UNSATISFIABLE,
    errors.GateError: FailureClass.GATE_REJECTED,
    errors.ExtractionError: FailureClass.GATE_REJECTED,
    errors.SandboxError: FailureClass.SANDBOX_FAILED,
    errors.CancelledError: FailureClass.CANCELLED,
    errors.HostError: FailureClass.HOST_REFUSED,
    errors.NetworkError: FailureClass.HOST_REFUSED,
    errors.ImageError: FailureClass.HOST_REFUSED,
    errors.ConfigError: FailureClass.HOST_REFUSED,
    errors.LimitRefusedError: FailureClass.HOST_REFUSED,
    errors.CommandError: FailureClass.HOST_REFUSED,
    errors.LxcbuildError: FailureClass.HOST_REFUSED,
}

#: Where a relation that cannot be satisfied shows decides what it is called.
_UNSATISFIABLE_IN = {
    Phase.PROVISION: FailureClass.BUILD_DEP_MISSING,
    Phase.VERIFY: FailureClass.DEP_MISSING,
}


class PhaseFailedError(Exception):
    """A phase found out by itself that the build has failed; carries the failure as data. Never leaves the build room."""

    def __init__(self, failure: Failure, *, lessons: Lessons | None = None) -> None:
        super().__init__(failure.brief)
        self.failure = failure
        self.lessons = lessons  # all that is known now, where the failure has taught something that may mend it
        self.tail = b""  # the end of what the failed step printed, where nobody has judged it yet


def fail(
    failure_class: FailureClass,
    phase: Phase,
    brief: str,
    *,
    details: str | None = None,
    resolution: str | None = None,
    lessons: Lessons | None = None,
) -> PhaseFailedError:
    """The exception for a failure of a known class."""
    failure = Failure(failure_class=failure_class, phase=phase, brief=brief, details=details, resolution=resolution)
    return PhaseFailedError(failure, lessons=lessons)


def failure_of(error: errors.LxcbuildError, phase: Phase) -> Failure:
    """The failure that an error of ours means when it ends the given phase."""
    failure_class = next(_CLASS_OF_ERROR[cls] for cls in type(error).__mro__ if cls in _CLASS_OF_ERROR)
    if isinstance(error, errors.DependencyError):
        failure_class = _UNSATISFIABLE_IN.get(phase, failure_class)
    if isinstance(error, errors.BadNameError) and phase not in (Phase.RESOLVE, Phase.FETCH):
        failure_class = FailureClass.BROKEN_SDIST  # nobody but the archive can have said that name
    return Failure(
        failure_class=failure_class,
        phase=phase,
        brief=error.brief,
        details=error.details,
        resolution=error.resolution,
    )
