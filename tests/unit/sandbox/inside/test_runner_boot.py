"""The runner comes compiled where the image's Python can use that, and as source where it cannot."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from lxcbuild.sandbox.inside import runner_code


def lay(directory: Path, **changed: bytes) -> Path:
    for suffix, content in {**runner_code.files(), **changed}.items():
        (directory / f"runner{suffix}").write_bytes(content)
    return directory / "runner"


@pytest.mark.parametrize("usable", [True, False])
def test_both_ways_lead_to_the_runner(tmp_path: Path, *, usable: bool) -> None:
    # Whatever is not PID 1 is refused in words, by the runner itself.
    code = runner_code.files()[".code"]
    assert code.startswith(importlib.util.MAGIC_NUMBER)
    other = b"\0\0\r\n" + b"not marshalled"
    script = lay(
        tmp_path, **{".code": code if usable else other, ".py": b"boom" if usable else runner_code.files()[".py"]}
    )
    done = subprocess.run([sys.executable, "-I", "-S", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("runner.py is PID 1 of a sandbox, or nothing")
