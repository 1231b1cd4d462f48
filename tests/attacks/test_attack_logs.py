"""Attack 32: output without end, in one line, made of terminal commands, or of no text at all."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest

from lxcbuild.model import FailureClass
from lxcbuild.policy import LogLimits
from lxcbuild.sandbox.base import Step
from lxcbuild.sandbox.logs import LogWriter
from tests.attacks.attacking import MIB, run_script

pytestmark = pytest.mark.root

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def logged(instance, way: str, most: int, path: Path):
    """Run the flood with its output going where a build's goes; the result and the log's text."""
    instance.put("/build/flood.py", (Path(__file__).parent / "scripts/attack_32_log_flood.py").read_bytes())
    with LogWriter(path) as log:
        result = instance.run(Step(argv=("python3", "/build/flood.py", way, str(most))), log.write)
    return result, path.read_bytes().decode("utf-8")  # strictly: the file is always valid


@pytest.mark.attack(number=32)
@pytest.mark.parametrize("way", ["line", "lines"])
def test_endless_output_is_cut_and_called_a_flood(sandbox, tmp_path: Path, way: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    instance = sandbox(log=LogLimits(max_bytes=MIB, max_line_bytes=4096))
    result, text = logged(instance, way, 1 << 30, tmp_path / "log")
    assert result.stopped_by is FailureClass.LOG_FLOOD
    assert result.output_truncated
    assert len(text) < MIB + 200_000
    assert "lxcbuild:" in text, "the log says what it lacks"
    assert result.usage.wall_s < 20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 64 * MIB, "nothing piles up"


@pytest.mark.attack(number=32)
def test_a_huge_line_within_the_budget_loses_its_middle(sandbox, tmp_path: Path) -> None:
    instance = sandbox(log=LogLimits(max_bytes=64 * MIB, max_line_bytes=4096))
    result, text = logged(instance, "line", 16 * MIB, tmp_path / "log")
    assert (result.stopped_by, result.output_truncated) == (None, True)
    assert result.output_bytes >= 16 * MIB
    assert len(text) < 8192
    assert "bytes of this line are left out" in text


@pytest.mark.attack(number=32)
def test_with_a_larger_limit_everything_is_kept(sandbox, tmp_path: Path) -> None:
    result, text = logged(sandbox(), "lines", 3 * MIB, tmp_path / "log")
    assert (result.stopped_by, result.output_truncated) == (None, False)
    assert len(text) == result.output_bytes >= 3 * MIB


@pytest.mark.attack(number=32)
@pytest.mark.parametrize("way", ["controls", "garbage"])
def test_what_terminals_obey_never_reaches_the_log(sandbox, tmp_path: Path, way: str) -> None:
    instance = sandbox()
    result, text = logged(instance, way, 0, tmp_path / "log")
    assert result.ok
    assert not CONTROL.search(text), text
    assert "\\x00" in text if way == "garbage" else "reversed" in text
    raw = run_script(instance, "attack_32_log_flood", way, "0").text
    assert CONTROL.search(raw), "unfiltered, the same output holds them"
