"""One more try with more room: how much more a build that has filled its disk may have, by its policy and this machine."""

from __future__ import annotations

import os

from msgspec.structs import replace

from lxcbuild import files
from lxcbuild.builder.work import Work
from lxcbuild.config.units import bytes_text
from lxcbuild.model import Failure, FailureClass
from lxcbuild.policy import Policy

#: Left to everything else on the machine.
_SPARE_BYTES = 256 << 20


def offer(work: Work, failure: Failure) -> Policy | None:
    """The policy of a second attempt, or None: another failure, ``disk.retry_factor: 1``, or a machine without the memory for it.

    The files of a build are its memory, so ``memory.max`` grows by what ``disk.max`` grows by.
    """
    if failure.failure_class is not FailureClass.DISK_FULL or work.policy.disk.retry_factor <= 1:
        return None
    bigger = enlarged(work.policy)
    more, free = bigger.disk.max_bytes - work.policy.disk.max_bytes, files.memory()["MemAvailable"]
    if more + _SPARE_BYTES > free:
        work.note(
            f"disk-full: not retried with more room, because this machine has too little memory: {bytes_text(more)} more, "
            f"and {bytes_text(free)} are free"
        )
        return None
    return bigger


def grow(work: Work, failure: Failure, bigger: Policy) -> None:
    """From now on the build runs under ``bigger``; its record says what became of the first attempt."""
    work.note(
        f"disk-full: {failure.brief} (phase {failure.phase}); tried once more with {bytes_text(bigger.disk.max_bytes)} and "
        f"{bigger.disk.max_inodes} files, in {bytes_text(bigger.memory.max_bytes)} of memory",
        warning=True,
    )
    work.roomier = bigger


def enlarged(policy: Policy) -> Policy:
    """The policy with ``disk.retry_factor`` times the room, and memory for it; never a third time."""
    page = os.sysconf("SC_PAGE_SIZE")
    disk, memory = policy.disk, policy.memory
    size = int(disk.max_bytes * disk.retry_factor) // page * page
    more = size - disk.max_bytes
    return replace(
        policy,
        disk=replace(disk, max_bytes=size, max_inodes=int(disk.max_inodes * disk.retry_factor), retry_factor=1.0),
        memory=replace(
            memory,
            max_bytes=memory.max_bytes + more,
            high_bytes=None if memory.high_bytes is None else memory.high_bytes + more,
        ),
    )
