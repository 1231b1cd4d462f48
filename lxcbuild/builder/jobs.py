"""Runs a job of the Debian room in a sandbox: puts its files inside, runs its steps, reads its results."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from msgspec import Struct
from msgspec.structs import replace

from lxcbuild.builder.failures import PhaseFailedError, fail
from lxcbuild.builder.machine import Lessons
from lxcbuild.builder.work import Work
from lxcbuild.config.policy_text import raised
from lxcbuild.debian.documents import MAX_DOCUMENT_BYTES
from lxcbuild.debian.steps import OUT, InsideJob, InsideStep, StepFailure
from lxcbuild.model import FailureClass, NetworkAttempt
from lxcbuild.sandbox.base import ExtractedFile, Instance, Step, StepResult, User
from lxcbuild.state.data import configuration_directory

_TAIL_BYTES = 64 * 1024
_NAMED = 5
_LISTED = 100


class JobEnd(Struct, kw_only=True):
    """How a job ended: its last step's result, and the end of what that step printed."""

    step: InsideStep
    result: StepResult
    tail: bytes

    @property
    def ok(self) -> bool:
        """Whether every step succeeded."""
        return self.result.ok


def run_job(work: Work, instance: Instance, job: InsideJob) -> JobEnd:
    """Run the steps until one fails. A step that a limit ended is a failure of that class, raised here."""
    for inside, content in job.files.items():
        instance.put(inside, content)
    assert job.steps, "a job has steps"
    for step in job.steps:
        end = _run_step(work, instance, step)
        if not end.ok:
            break
    return end


def _run_step(work: Work, instance: Instance, step: InsideStep) -> JobEnd:
    tail: deque[bytes] = deque()
    size = 0

    def hear(data: bytes) -> None:
        nonlocal size
        work.hear(data)
        tail.append(data)
        size += len(data)
        while size - len(tail[0]) > _TAIL_BYTES:
            size -= len(tail.popleft())

    command = Step(argv=step.argv, env=step.env, cwd=step.cwd, user=User.ROOT if step.as_root else User.BUILD)
    work.last_step = command
    result = instance.run(replace(command, argv=step.command), hear)
    work.charge(result.usage)
    if _ran_out_of_room(work, result, b"".join(tail)):
        result = replace(result, stopped_by=FailureClass.DISK_FULL)
    if result.stopped_by is not None:
        raise stopped(work, result.stopped_by)
    try:
        _judge_network(work, result)
    except PhaseFailedError as error:
        error.tail = b"".join(tail)  # it may say what to provide, so that the next attempt needs no network
        raise
    return JobEnd(step=step, result=result, tail=b"".join(tail))


def _judge_network(work: Work, result: StepResult) -> None:
    """Note what a step that succeeded tried and had, raise for one that failed after it was denied something.

    Steps that a limit ended have a class already: call it for the others only. Raises PhaseFailedError.
    """
    denied = [attempt for attempt in result.network if not attempt.allowed]
    allowed = [attempt for attempt in result.network if attempt.allowed]
    if allowed:
        work.note(f"network: {work.phase} was let through to {_list_attempts(allowed)}")
    if not denied:
        return
    if result.ok:
        work.note(f"network-denied: {work.phase} asked for {_list_attempts(denied)}, and went on without", warning=True)
        return
    lines = [f"{attempt.at} {attempt}, pid {attempt.pid or '?'}: {' '.join(attempt.argv)}" for attempt in denied]
    more = len(lines) - _LISTED + result.network_lost if len(lines) > _LISTED else result.network_lost
    details = "\n".join(lines[:_LISTED] + ([f"and {more} more"] if more else []))
    work.log.remark(f"network denied: {_list_attempts(denied)}")
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


def _list_attempts(attempts: Sequence[NetworkAttempt]) -> str:
    named = list(dict.fromkeys(map(_shown, attempts)))
    return ", ".join(named[:_NAMED]) + (" ..." if len(named) > _NAMED else "")


def _shown(attempt: NetworkAttempt) -> str:
    return f"{attempt.target} ({attempt.program})" if attempt.program else attempt.target


def _ran_out_of_room(work: Work, result: StepResult, tail: bytes) -> bool:
    """Whether a step that failed had met ENOSPC and cleaned up at once, faster than anybody looks.

    No kernel counts the refused writes of a tmpfs, and its room is looked at four times a second. But its pages are the sandbox's
    memory, of which the kernel keeps the high-water mark: where that reached the size of the tmpfs, what the C library says for
    ENOSPC is believed.
    """
    was_full = result.usage.peak_memory_bytes >= work.policy.disk.max_bytes * 9 // 10
    return not result.ok and result.stopped_by is None and was_full and b"No space left on device" in tail


def stopped(work: Work, stop: FailureClass) -> PhaseFailedError:
    """The failure of a step that a limit ended."""
    policy = work.policy
    brief = {
        FailureClass.OOM: f"the build needs more than {policy.memory.max_bytes / 2**20:.0f} MiB of memory",
        FailureClass.DISK_FULL: f"the build fills {policy.disk.max_bytes / 2**20:.0f} MiB "
        f"or {policy.disk.max_inodes} files",
        FailureClass.PIDS_EXHAUSTED: f"the build wants more than {policy.pids_max} processes",
        FailureClass.TIMEOUT: f"{work.phase} took longer than {policy.time.wall_s:.0f} s",
        FailureClass.SILENT: f"{work.phase} printed nothing for {policy.time.silence_s or 0:.0f} s",
        FailureClass.LOG_FLOOD: f"{work.phase} printed more than {policy.log.max_bytes / 2**20:.0f} MiB",
        FailureClass.CANCELLED: "cancelled",
    }.get(stop, f"the sandbox ended while {work.phase} ran")
    return fail(stop, work.phase, brief, resolution=_raise_limit(work, stop))


def _raise_limit(work: Work, stop: FailureClass) -> str | None:
    """Which file to change, and how: twice as much for this project alone."""
    twice = raised(work.policy, stop.value)
    path = configuration_directory() / "cgroups" / f"{work.policy.name}.yaml"
    if not twice:
        return None
    return f"if it may have more, write to {path}: packages: [{{match: [{work.name}], {twice}}}]; or choose another --policy"


def take_output(work: Work, instance: Instance, destination: Path) -> Mapping[str, ExtractedFile]:
    """Stop the sandbox and take ``/out`` out of it, by name; what an earlier try of the phase left there goes."""
    instance.stop()
    if destination.exists():
        shutil.rmtree(destination)
    return {file.name: file for file in instance.extract(OUT, destination, work.policy.output)}


def result_bytes(files: Mapping[str, ExtractedFile], name: str) -> bytes:
    """The content of one result file, as much as a document may have and a byte more; empty when the step did not leave it.

    Its parser then says so.
    """
    if name not in files:
        return b""
    with files[name].path.open("rb") as file:
        return file.read(MAX_DOCUMENT_BYTES + 1)


def raise_failure(
    work: Work, failure: StepFailure, *, resolution: str | None = None, lessons: Lessons | None = None
) -> NoReturn:
    """Raise what a script inside reported."""
    details = failure.details
    raise fail(
        failure.failure_class, work.phase, failure.brief, details=details, resolution=resolution, lessons=lessons
    )
