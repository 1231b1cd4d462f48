"""What it means for a build that it wanted the network: a failure of its own class, or a note."""

from __future__ import annotations

from collections.abc import Sequence

from lxcbuild.builder.failures import fail
from lxcbuild.builder.work import Work
from lxcbuild.model import FailureClass, NetworkAttempt
from lxcbuild.sandbox.base import StepResult

_NAMED = 5
_LISTED = 100


def judge(work: Work, result: StepResult) -> None:
    """Note what a step that succeeded tried and had, raise for one that failed after it was denied something.

    Steps that a limit ended have a class already: call it for the others only. Raises PhaseFailedError.
    """
    denied = [attempt for attempt in result.network if not attempt.allowed]
    allowed = [attempt for attempt in result.network if attempt.allowed]
    if allowed:
        work.note(f"network: {work.phase} was let through to {_list(allowed)}")
    if not denied:
        return
    if result.ok:
        work.note(f"network-denied: {work.phase} asked for {_list(denied)}, and went on without", warning=True)
        return
    lines = [f"{attempt.at} {attempt}, pid {attempt.pid or '?'}: {' '.join(attempt.argv)}" for attempt in denied]
    more = len(lines) - _LISTED + result.network_lost if len(lines) > _LISTED else result.network_lost
    details = "\n".join(lines[:_LISTED] + ([f"and {more} more"] if more else []))
    work.log.remark(f"network denied: {_list(denied)}")
    first = denied[0]
    hosts = ", ".join(dict.fromkeys(attempt.target for attempt in denied[:_NAMED] if attempt.name)) or first.target
    raise fail(
        FailureClass.NETWORK_DENIED,
        work.phase,
        f"{_shown(first)}{f' and {len(denied) - 1} more' if len(denied) > 1 else ''}, phase {work.phase}",
        details=details,
        resolution=f"give it what it downloads as a file; or, if you trust it with {hosts}: a policy with network: proxy "
        "and these hosts in proxy_hosts",
    )


def _list(attempts: Sequence[NetworkAttempt]) -> str:
    named = list(dict.fromkeys(map(_shown, attempts)))
    return ", ".join(named[:_NAMED]) + (" ..." if len(named) > _NAMED else "")


def _shown(attempt: NetworkAttempt) -> str:
    return f"{attempt.target} ({attempt.program})" if attempt.program else attempt.target
