"""What a successful build tells people: modules left out, code for the builder's processor; from documents that may be forged."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from lxcbuild.debian.inside import observe
from lxcbuild.debian.source import compilation, conversion


def tree(place: Path) -> Path:
    (place / "odd-1.0/debian/.debhelper").mkdir(parents=True)
    return place / "odd-1.0"


def test_the_rules_and_their_reader_mean_the_same_file() -> None:
    assert conversion.LEFT_OUT == observe.LEFT_OUT


def test_modules_that_were_left_out_are_named(tmp_path: Path) -> None:
    project = tree(tmp_path)
    paths = "debian/python3-odd/usr/lib/python3/dist-packages/"
    (project / observe.LEFT_OUT).write_text(f"{paths}tests\n{paths}docs.py\n{paths}\x1b[2J\n")
    found = observe.observe(tmp_path)
    assert found["left_out"] == ["docs.py", "tests"]
    (warning,) = compilation.parse_observed(json.dumps(found).encode())
    assert "the top-level modules docs.py, tests" in warning


def test_startup_files_that_were_left_out_are_named(tmp_path: Path) -> None:
    project = tree(tmp_path)
    (project / observe.LEFT_OUT).write_text("debian/python3-odd/usr/lib/python3/dist-packages/odd-nspkg.pth\n")
    (warning,) = compilation.parse_observed(json.dumps(observe.observe(tmp_path)).encode())
    assert warning.endswith("run them as any user: odd-nspkg.pth")


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    project = tree(tmp_path)
    (tmp_path / "secret").write_text("secret\n")
    (project / observe.LEFT_OUT).symlink_to(tmp_path / "secret")
    assert observe.observe(tmp_path)["left_out"] == []


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler")
@pytest.mark.parametrize(("option", "flagged"), [("-march=native", True), ("-mtune=native", False), ("-O2", False)])
def test_objects_say_what_they_were_compiled_for(tmp_path: Path, option: str, flagged: bool) -> None:
    project = tree(tmp_path)
    (project / "a.c").write_text("int f(int x) { return x + 1; }\n")
    subprocess.run(["gcc", "-g", option, "-c", "a.c", "-o", "a.o"], cwd=project, check=True)
    found = observe.observe(tmp_path)
    assert bool(found["native"]) is flagged
    assert any("native-code" in text for text in compilation.parse_observed(json.dumps(found).encode())) is flagged


def test_the_log_tells_where_objects_do_not() -> None:
    line = b"x86_64-linux-gnu-gcc -Wall -g0 -march=native -c a.c -o a.o\n"
    assert "-march=native" in str(compilation.native_in_log([b"hello\n", line]))
    assert compilation.native_in_log([b"checking whether the compiler takes -march=native... no\n"]) is None
    assert compilation.native_in_log([line.replace(b"-march", b"-mtune")]) is None


@pytest.mark.parametrize("data", [b"", b"[]", b'{"left_out": 5}', b"\xff", b'{"left_out": [5], "native": null}'])
def test_forged_documents_tell_nothing(data: bytes) -> None:
    assert compilation.parse_observed(data) == ()
