"""What the host believes of a runner's messages, and when a step is over its limits."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcbuild.model import FailureClass, Usage
from lxcbuild.policy import DiskLimits, MemoryLimits, Policy, TimeLimits
from lxcbuild.sandbox.base import Step
from lxcbuild.sandbox.inside import protocol
from lxcbuild.sandbox.inside.protocol import LineReader, ProtocolError, parse
from lxcbuild.sandbox.watch import Reading, StepWatch

READY = {"op": "ready", "python": [3, 11, 2], "cap_eff": "00ff", "cap_bnd": "0", "seccomp": 2, "no_new_privs": 1}
EXIT = {"op": "exit", "id": 1, "status": 0, "signal": None}


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_good_messages() -> None:
    assert parse(line(**READY)) == protocol.RunnerReady(
        python=(3, 11, 2), cap_eff=255, cap_bnd=0, seccomp=2, no_new_privs=1
    )
    assert parse(line(op="out", data="AP8=")) == protocol.StepOutput(b"\0\xff")
    assert parse(line(**EXIT)) == protocol.Exited(id=1, status=0, signal=None)
    assert parse(line(**{**EXIT, "status": None, "signal": 9})) == protocol.Exited(id=1, status=None, signal=9)
    assert parse(line(op="done", id=3)) == protocol.Done(3)
    assert parse(line(op="took")) == protocol.Took()
    assert parse(line(op="error", id=1, errno=11, text="x")) == protocol.StepRefused(id=1, errno=11, text="x")


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"null", b"[]", b"{}", b'{"op":1}', b'{"op":"nothing"}', b"\xff", b"[" * 100_000, b"9" * 100_000,
        b'{"op":"exit","id":' + b"9" * 50 + b',"status":0,"signal":null}',
        line(**{**EXIT, "status": 256}), line(**{**EXIT, "status": -1}), line(**{**EXIT, "status": True}),
        line(**{**EXIT, "status": 1.0}), line(**{**EXIT, "signal": 9}), line(**{**EXIT, "status": None}),
        line(**{**EXIT, "status": None, "signal": 65}), line(**{**EXIT, "id": "1"}), line(op="exit"),
        line(op="out", data="A"), line(op="out", data="AAAA\n"), line(op="out", data=["AAAA"]), line(op="out", data="ä"),
        line(op="error", id=1, errno=1, text="x" * 501), line(op="error", id=1, errno=5000, text="x"),
        line(**{**READY, "python": [3, 11]}), line(**{**READY, "python": [3, 11, True]}), line(**{**READY, "cap_eff": "xyz"}),
        line(**{**READY, "seccomp": 3}), line(op="fatal", text=None), line(op="done"),
    ],
)  # fmt: skip
def test_bad_messages(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(raw: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        parse(raw)


@given(st.lists(st.binary(max_size=20)))
def test_lines_are_cut_however_they_arrive(pieces: list[bytes]) -> None:
    reader = LineReader()
    lines = [found for piece in pieces for found in reader.feed(piece)]
    assert lines == b"".join(pieces).split(b"\n")[:-1]


@pytest.mark.parametrize("piece", [b"x" * 1000, b"x" * 1_000_000, b"x" * 200_000 + b"\n"])
def test_a_line_is_bounded(piece: bytes) -> None:
    reader = LineReader()

    def flood() -> None:
        for _ in range(1000):
            list(reader.feed(piece))

    with pytest.raises(ProtocolError):
        flood()


def watch(*, first: Reading | None = None, **limits: float) -> StepWatch:
    policy = Policy(
        name="t",
        memory=MemoryLimits(max_bytes=1),
        disk=DiskLimits(max_bytes=1, max_inodes=1),
        time=TimeLimits(wall_s=100, silence_s=10, cpu_s=50),
    )
    return StepWatch(Step(argv=("x",), **limits), policy=policy, now=1000.0, first=first or Reading(usage=Usage()))


def test_clocks() -> None:
    seen = watch()
    assert seen.overdue(1009.9) is None
    assert seen.overdue(1010) is FailureClass.SILENT
    seen.heard(1009)
    assert seen.overdue(1018.9) is None
    seen.heard(1099)
    assert seen.overdue(1100) is FailureClass.TIMEOUT
    assert 0 < seen.wait_s(1000) < 1
    assert seen.wait_s(2000) == 0


def test_a_steps_own_limits_win() -> None:
    assert watch(wall_s=5, silence_s=50).overdue(1005) is FailureClass.TIMEOUT
    assert watch(wall_s=500, silence_s=500).overdue(1200) is None


def test_cpu_counts_from_the_steps_start() -> None:
    seen = watch(first=Reading(usage=Usage(cpu_s=40)))
    seen.measured(1001, Reading(usage=Usage(cpu_s=89)))
    assert seen.overdue(1001) is None
    seen.measured(1002, Reading(usage=Usage(cpu_s=90)))
    assert seen.overdue(1002) is FailureClass.TIMEOUT
    assert seen.usage(1002).cpu_s == 50


def test_only_what_rose_during_the_step_counts() -> None:
    before = Reading(usage=Usage(oom_kills=3, pids_denied=2, read_bytes=10))
    seen = watch(first=before)
    assert seen.verdict() is None
    seen.measured(1001, Reading(usage=Usage(oom_kills=3, pids_denied=3, read_bytes=30)))
    assert seen.verdict() is FailureClass.PIDS_EXHAUSTED
    assert (seen.usage(1001).pids_denied, seen.usage(1001).read_bytes) == (1, 20)
    seen.measured(1002, Reading(usage=Usage(oom_kills=4, pids_denied=3)))
    assert seen.verdict() is FailureClass.OOM


def test_a_disk_that_was_full_for_a_moment_is_remembered() -> None:
    seen = watch()
    seen.measured(1001, Reading(usage=Usage(), disk_total_bytes=10**9, disk_free_bytes=4096))
    seen.measured(1002, Reading(usage=Usage(), disk_total_bytes=10**9, disk_free_bytes=5 * 10**8))
    assert seen.verdict() is FailureClass.DISK_FULL
    assert seen.usage(1002).peak_disk_bytes == 10**9 - 4096


def test_forks_refused_again_and_again_are_hopeless_and_a_few_are_not() -> None:
    seen = watch()
    for count in range(1, 6):
        seen.measured(1000 + count, Reading(usage=Usage(pids_denied=count)))
    assert seen.hopeless() is None
    seen.measured(1006, Reading(usage=Usage(pids_denied=5)))  # a pause: it copes
    for count in range(6, 12):
        assert seen.hopeless() is None
        seen.measured(1001 + count, Reading(usage=Usage(pids_denied=count)))
    assert seen.hopeless() is FailureClass.PIDS_EXHAUSTED


def test_the_first_process_that_the_kernel_killed_for_memory_ends_the_step() -> None:
    seen = watch(first=Reading(usage=Usage(oom_kills=2)))
    assert seen.hopeless() is None
    seen.measured(1001, Reading(usage=Usage(oom_kills=3)))
    assert seen.hopeless() is FailureClass.OOM
