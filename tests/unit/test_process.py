"""Programs of the host: what they are given, what they print, and how much of it."""

from __future__ import annotations

import os

import pytest

from lxcbuild import process
from lxcbuild.errors import CommandError


def test_input_and_both_outputs_are_complete_however_long() -> None:
    data = os.urandom(1 << 20) * 3
    done = process.run(["sh", "-c", "tee /dev/stderr"], input_bytes=data)
    assert (done.status, done.stdout, done.stderr) == (0, data, data)
    assert process.run(["cat"], input_bytes=b"").stdout == b""
    assert process.run(["cat"]).stdout == b""
    assert process.run(["true"], input_bytes=data).stdout == b"", "input that nobody reads is no error"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("stream", ["1", "2"])
def test_more_output_than_asked_for_is_an_error_and_not_memory(stream: str) -> None:
    with pytest.raises(CommandError, match="printed more than 1000000 bytes"):
        process.run(["sh", "-c", f"exec cat /dev/zero >&{stream}"], max_output_bytes=1_000_000)
    done = process.run(["head", "-c", "1000000", "/dev/zero"], max_output_bytes=1_000_000)
    assert len(done.stdout) == 1_000_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize("script", ["sleep 600", "exec >&- 2>&-; sleep 600", "while :; do echo x; done"])
def test_a_program_has_its_time_and_no_more(script: str) -> None:
    with pytest.raises(CommandError, match="took longer than"):
        process.run(["sh", "-c", script], timeout_s=0.3)
