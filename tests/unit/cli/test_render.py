"""Numbers as people read them, and monitors: hostile output never reaches a terminal raw."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from lxcbuild.cli import monitors
from lxcbuild.cli.live import Live
from lxcbuild.config.ranges import age_text, bytes_text, seconds_text, time_text
from lxcbuild.events import BuildEnded, BuildStarted, Event, Note, Output, PhaseEnded, PhaseStarted, Progress
from lxcbuild.model import Artifact, Failure, FailureClass, Outcome, Phase, PhaseRecord, Status, Target, Usage

BOOKWORM = Target("debian", "bookworm")
HOSTILE = b"\x1b]0;owned\x07\x1b[2Jgo\xff \xe2\x80\xae[bold]text\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (15 * 1024**2, "15 MiB"), (3 * 1024**3 // 2, "1.5 GiB")],
)
def test_bytes(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.004, "4 ms"),
        (3.21, "3.2 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3720, "1 h 02 min"),
        (273600, "3 d 04 h"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_moments() -> None:
    assert time_text("not a time") == "not a time"
    assert age_text("2026-01-01T00:00:00+00:00", now=datetime(2026, 1, 1, 0, 2, 5, tzinfo=UTC)) == "2 min 05 s ago"


def a_build(status: Status = Status.BUILT, failure: Failure | None = None) -> list[Event]:
    record = PhaseRecord(
        phase=Phase.COMPILE, started_at="2026-01-01", usage=Usage(wall_s=1.5, peak_memory_bytes=1 << 20)
    )
    outcome = Outcome(
        build_id="b1",
        name="idna",
        version="3.10",
        target=BOOKWORM,
        status=status,
        failure=failure,
        artifacts=(Artifact(path=Path("/x.deb"), sha256="0" * 64, size_bytes=1),),
        phases=(record,),
    )
    return [
        BuildStarted(build_id="b1", name="idna", target=BOOKWORM),
        PhaseStarted(build_id="b1", phase=Phase.COMPILE),
        Output(build_id="b1", phase=Phase.COMPILE, data=HOSTILE[:7]),
        Output(build_id="b1", phase=Phase.COMPILE, data=HOSTILE[7:]),
        Note(text="a bound \x1b[31mwas dropped", build_id="b1", warning=True),
        Progress(task="image", done=512, total=1024),
        Progress(task="image", done=1024, total=1024),
        PhaseEnded(build_id="b1", record=record, failed=failure is not None),
        BuildEnded(outcome=outcome),
    ]


def test_plain_lines_tell_the_story() -> None:
    stream = io.StringIO()
    monitor = monitors.PlainLines(stream, verbose=False)
    for event in a_build():
        monitor.emit(event)
    assert stream.getvalue().splitlines() == [
        "idna: build b1 for debian/bookworm",
        "idna: warning: a bound \\x1b[31mwas dropped",
        "image: 512 B of 1.0 KiB (50%)",
        "image: 1.0 KiB of 1.0 KiB (100%)",
        "idna: compile  1.5 s, 1.0 MiB",
        "idna 3.10 built for debian/bookworm in 1.5 s",
    ]


def test_a_failure_is_named() -> None:
    stream = io.StringIO()
    failure = Failure(failure_class=FailureClass.OOM, phase=Phase.COMPILE, brief="out of memory")
    for event in a_build(Status.FAILED, failure):
        monitors.PlainLines(stream, verbose=False).emit(event)
    assert "idna 3.10 failed for debian/bookworm: oom in compile: out of memory" in stream.getvalue()
    assert "compile failed after 1.5 s" in stream.getvalue()


def test_verbose_lines_filter_what_a_build_prints() -> None:
    stream = io.StringIO()
    monitor = monitors.PlainLines(stream, verbose=True)
    for event in a_build():
        monitor.emit(event)
    (line,) = [line for line in stream.getvalue().splitlines() if line.startswith("idna | ")]
    assert "go" in line
    assert "\x1b" not in line
    assert "\x07" not in line
    assert "\u202e" not in line


def test_the_live_display_filters_and_takes_no_markup() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None, legacy_windows=False)
    with Live(verbose=True, console=console) as live:
        for event in a_build():
            live.emit(event)
    shown = stream.getvalue()
    assert "\x1b]0" not in shown
    assert "\x1b[2Jgo" not in shown
    assert "\u202e" not in shown
    assert "[bold]text" in shown, "what a build prints is no markup"
    assert "✓ compile  1.5 s" in shown
    assert "idna 3.10 built" in shown


def test_json_lines_are_one_object_per_event() -> None:
    stream = io.StringIO()
    monitor = monitors.JsonLines(stream)
    for event in a_build():
        monitor.emit(event)
    names = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert names == ["BuildStarted", "PhaseStarted", "Note", "Progress", "Progress", "PhaseEnded", "BuildEnded"]


def test_an_endless_line_costs_bounded_memory() -> None:
    tail = monitors.LineTail()
    for _ in range(100):
        assert tail.feed(b"x" * 100_000) == []
    (line,) = tail.feed(b"\n")
    assert len(line) <= 4096
