"""Hostile output: filters and caps."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcbuild.policy import LogLimits
from lxcbuild.sandbox.logs import TAIL_BYTES, LogCap, LogWriter, PrintableStream
from lxcbuild.text import for_log


@given(
    st.lists(
        st.sampled_from(
            [b"\x1b[31m", b"\x1b", b"[", b"3", b"1m", b"\xc3", b"\xa4", b"\r", b"\n", b"text", b"\x07", b"]0;"]
        )
    )
)
def test_a_stream_in_pieces_is_filtered_like_the_whole(pieces: list[bytes]) -> None:
    stream = PrintableStream()
    assert "".join(stream.feed(piece) for piece in pieces) + stream.finish() == for_log(b"".join(pieces))


def test_a_stream_holds_no_endless_line() -> None:
    stream = PrintableStream(longest_line_bytes=100)
    assert stream.feed(b"x" * 60) == ""
    assert stream.feed(b"x" * 60) == "x" * 120


def cap_all(limits: LogLimits, pieces: list[bytes]) -> tuple[bytes, LogCap]:
    cap = LogCap(limits)
    return b"".join([cap.feed(piece) for piece in pieces]) + cap.finish(), cap


@given(st.lists(st.binary(max_size=50)))
def test_what_fits_is_kept_as_it_is(pieces: list[bytes]) -> None:
    kept, cap = cap_all(LogLimits(max_bytes=10_000, max_line_bytes=10_000), pieces)
    assert kept == b"".join(pieces)
    assert not cap.truncated
    assert not cap.flooded


def test_long_lines_lose_their_middle() -> None:
    kept, cap = cap_all(LogLimits(max_bytes=10**9, max_line_bytes=10), [b"short\n", b"a" * 5000, b"b" * 3, b"\nnext\n"])
    assert (
        kept
        == b"short\n" + b"a" * 10 + b"[lxcbuild: 3969 bytes of this line are left out]" + b"a" * 1021 + b"bbb\nnext\n"
    )
    assert cap.truncated
    assert not cap.flooded


def test_carriage_returns_do_not_end_a_line() -> None:
    kept, cap = cap_all(LogLimits(max_bytes=10**9, max_line_bytes=10), [b"1%\r2%\r3%\r4%\r" * 1000])
    assert cap.truncated
    assert len(kept) < 1200


@given(st.lists(st.binary(max_size=40)), st.integers(1, 30))
def test_lines_are_cut_the_same_however_they_arrive(pieces: list[bytes], longest: int) -> None:
    limits = LogLimits(max_bytes=10**9, max_line_bytes=longest)
    assert cap_all(limits, pieces)[0] == cap_all(limits, [b"".join(pieces)])[0]


def test_head_and_tail_of_a_flood() -> None:
    line = b"0123456789abcde\n"
    kept, cap = cap_all(LogLimits(max_bytes=1600, max_line_bytes=100), [line * 1000] * 100 + [b"the end\n"])
    assert cap.flooded
    assert cap.truncated
    assert cap.total_bytes == 1_600_008
    assert kept.startswith(line * 100 + b"\n[lxcbuild: the log is longer than 1600 bytes: ")
    assert kept.endswith(line + b"the end\n")
    assert len(kept) < 1600 + TAIL_BYTES + 200


def test_log_file(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "id.log"
    with LogWriter(path) as log:
        log.heading("compile\n=== fake ===")
        log.write(b"one\ntw")
        log.write(b"o\x1b[31")
        log.write(b"m\xff")
        log.remark("stopped: timeout")
        log.write(b"last")
    log.close()
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines[0].startswith("=== compile === fake === === 20")
    assert lines[0].endswith("Z")
    assert lines[1:] == ["one", "two\\xff", "[lxcbuild: stopped: timeout]", "last", ""]


def test_output_that_looks_like_our_own_lines_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with LogWriter(path) as log:
        log.heading("compile")
        log.write(b"=== collect === 2026-01-01T00:00:00Z\n[lxcb")
        log.write(b"uild: all is well]\nno === heading ===\n=")
        log.write(b"== x\r=== y\n\x1b[1m=== z\n====\n[lxcbuild]\n" + b"x" * 300_000)
        log.write(b"=== within a line\n=== ")
        log.remark("ours")
    lines = path.read_text().split("\n")
    assert lines[1:9] == [
        "| === collect === 2026-01-01T00:00:00Z", "| [lxcbuild: all is well]", "no === heading ===", "| === x", "| === y",
        "| === z", "====", "[lxcbuild]",
    ]  # fmt: skip
    assert lines[9].endswith("x=== within a line")
    assert lines[10:] == ["| === ", "[lxcbuild: ours]", ""]


def test_log_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        LogWriter(tmp_path / "link")
