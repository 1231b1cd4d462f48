"""``lxcbuild policy``: what people and programs get to read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lxcbuild.cli.main import run_command_line
from lxcbuild.errors import ConfigError, LimitRefusedError, UnknownPolicyError
from lxcbuild.linux.cgroups.cgroup import CgroupHost


@pytest.fixture(autouse=True)
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An administrator's directory of the test's own."""
    monkeypatch.setenv("LXCBUILD_CONFIG_DIR", str(tmp_path))
    (tmp_path / "cgroups").mkdir()
    return tmp_path / "cgroups"


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = run_command_line(["policy", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def document(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    status, out, _ = call(capsys, *words, "--json")
    assert status == 0
    return dict(json.loads(out))


needs_cgroups = pytest.mark.skipif(not Path("/sys/fs/cgroup").is_dir(), reason="this host shows no cgroups")


def test_list(capsys: pytest.CaptureFixture[str], configuration: Path) -> None:
    (configuration / "mine.yaml").write_text("inherits: lab\ndescription: ours\n")
    status, out, _ = call(capsys, "list")
    assert status == 0
    assert out.splitlines()[0].split("\t") == ["policy", "inherits", "file", "description"]
    assert any(line.startswith("mine\tlab\t") and line.endswith("\tours") for line in out.splitlines())
    names = [each["name"] for each in document(capsys, "list")["policies"]]  # type: ignore[attr-defined]
    assert names == ["default", "lab", "laptop", "mine", "paranoid", "untrusted"]


def test_show_uses_the_units_of_the_files(capsys: pytest.CaptureFixture[str], configuration: Path) -> None:
    (configuration / "mine.yaml").write_text("inherits: default\nmemory: {max: 64MiB}\ntime: {wall: 90min}\n")
    status, out, _ = call(capsys, "show", "mine")
    assert status == 0
    assert "memory.max\t64MiB\n" in out
    assert "time.wall\t1h30min\n" in out
    limits = document(capsys, "show", "mine")["limits"]
    assert limits["memory.max"] == 64 * 2**20  # type: ignore[index]


def test_show_for_a_package(capsys: pytest.CaptureFixture[str]) -> None:
    plain = document(capsys, "show", "default")["limits"]
    torch = document(capsys, "show", "default", "--package", "torch")["limits"]
    assert torch["time.wall"] > plain["time.wall"]  # type: ignore[index]


def test_diff(capsys: pytest.CaptureFixture[str], configuration: Path) -> None:
    (configuration / "mine.yaml").write_text("inherits: default\npids: {max: 99}\n")
    assert document(capsys, "diff", "default", "mine")["differences"] == {"pids.max": [1024, 99]}


@needs_cgroups
def test_explain_names_the_file_of_each_limit(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "explain", "default")
    limits = {each["name"]: each for each in found["limits"]}  # type: ignore[attr-defined]
    version = CgroupHost.detect().version("memory")
    expected = "memory.limit_in_bytes" if version == "v1" else "memory.max"
    assert limits["memory.max"]["writes"][0]["file"] == expected
    assert limits["time.wall"]["mechanism"] == "clock"
    status, out, _ = call(capsys, "explain", "default")
    assert status == 0
    assert f"{expected}=" in out


@needs_cgroups
def test_explain_says_what_cannot_be_enforced_and_check_fails_for_it(
    capsys: pytest.CaptureFixture[str], configuration: Path
) -> None:
    (configuration / "mine.yaml").write_text("inherits: default\ncpu: {cpuset: '60000'}\n")
    status, out, err = call(capsys, "explain", "mine")
    assert status == 0
    assert "REFUSED" in out
    assert "we may not use CPU 60000" in err
    status, out, err = call(capsys, "check", "mine")
    assert status == LimitRefusedError.exit_code
    (configuration / "mine.yaml").write_text("inherits: default\ncpu: {cpuset: '60000'}\nbest_effort: [cpu.cpuset]\n")
    assert call(capsys, "check", "mine")[0] == 0
    assert "best effort: not enforced" in call(capsys, "explain", "mine")[1]


@needs_cgroups
def test_check_of_everything_finds_the_broken_file(capsys: pytest.CaptureFixture[str], configuration: Path) -> None:
    (configuration / "lab.yaml").write_text("memory:\n  maxx: 1GiB\n")
    status, out, err = call(capsys, "check")
    assert status == ConfigError.exit_code
    assert "cgroups/lab.yaml:2: memory.maxx: there is no such key. Perhaps you meant 'max'." in out
    assert err.count("error:") == 1
    assert "Traceback" not in err


@needs_cgroups
def test_check_takes_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("inherits: default\n")
    assert call(capsys, "check", str(own))[0] == 0
    assert call(capsys, "check", str(tmp_path / "absent.yaml"))[0] == ConfigError.exit_code


@pytest.mark.parametrize("verb", ["show", "explain", "check"])
def test_an_unknown_policy(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    status, _, err = call(capsys, verb, "labb")
    assert status == UnknownPolicyError.exit_code
    assert "Perhaps you meant 'lab'" in err
    assert "hint: run: lxcbuild policy list" in err
