"""Inspection reads a source archive without running it; the host believes only what fits its schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lxcbuild.debian.inside import inspect_source
from lxcbuild.debian.source.inspection import Inspection, inspect_job, parse_inspection
from lxcbuild.debian.steps import StepFailure
from lxcbuild.errors import BadNameError
from lxcbuild.model import FailureClass
from tests.support import sdists

SETUP = """\
from setuptools import setup, Extension
import os
raise SystemExit("setup.py was run")
REQUIRES = ["six>=1.5"] + ["idna"]
setup(name="legacy", version="2.0", install_requires=REQUIRES, setup_requires=["cffi>=1"],
      python_requires=">=3.6", py_modules=["legacy"], ext_modules=[Extension("legacy_c", ["legacy.c"])])
"""


def inspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str | bytes]) -> Inspection | StepFailure:
    archive = sdists.tarball(tmp_path / "demo-1.0.tar.gz", {f"demo-1.0/{name}": text for name, text in files.items()})
    request = {"archive": str(archive), "tree": str(tmp_path / "src")}
    status, out = sdists.run_inside(inspect_source.main, request, tmp_path, monkeypatch)
    seen = parse_inspection((out / "inspection.json").read_bytes())
    assert (status == 0) == isinstance(seen, Inspection)
    return seen


def test_a_pyproject_project_is_read_statically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, str | bytes] = {
        "pyproject.toml": sdists.FLIT, "PKG-INFO": sdists.PKG_INFO, "demo/__init__.py": "", "LICENSE": "MIT License\n",
    }  # fmt: skip
    seen = inspect(tmp_path, monkeypatch, files)
    assert isinstance(seen, Inspection)
    assert (seen.name, seen.version, seen.build_backend) == ("demo", "1.0rc1", "flit_core.buildapi")
    assert seen.build_requires == ("flit_core>=3.11,<4",)
    assert seen.requires_dist == (
        "six>=1.5", "tomli; python_version < '3.11'", "speedup>=2 ; (python_version > '3') and extra == \"fast\"",
    )  # fmt: skip
    assert seen.requires_dist_from == "pyproject.toml"
    assert seen.scripts == {"demo": "demo:main"}
    assert seen.modules == ("demo",)
    assert not seen.compiled
    assert not seen.dynamic_build_requires
    assert seen.licence_texts[0].path == "LICENSE"


def test_setup_py_is_read_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = inspect(tmp_path, monkeypatch, {"setup.py": SETUP, "legacy.c": "int x;", "legacy.py": ""})
    assert isinstance(seen, Inspection)
    assert (seen.name, seen.version, seen.build_backend) == ("legacy", "2.0", None)
    assert seen.build_requires == ("setuptools>=40.8.0", "cffi>=1")
    assert seen.requires_dist == ("six>=1.5", "idna")
    assert seen.compiled
    assert seen.requires_python == ">=3.6"


def test_metadata_2_2_is_believed_unless_dynamic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = "Metadata-Version: 2.4\nName: demo\nVersion: 1\nRequires-Dist: idna\n"
    seen = inspect(tmp_path, monkeypatch, {"PKG-INFO": info, "pyproject.toml": ""})
    assert isinstance(seen, Inspection)
    assert (seen.requires_dist, seen.requires_dist_from) == (("idna",), "PKG-INFO")


def test_requirements_of_an_egg_info_keep_markers_and_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requires = 'six\n\n[:python_version < "3"]\nfutures\n\n[fast:os_name == "posix"]\nspeedup\n\n[docs]\nsphinx\n'
    files: dict[str, str | bytes] = {
        "setup.py": "", "demo.egg-info/SOURCES.txt": "setup.py", "demo.egg-info/requires.txt": requires,
        "PKG-INFO": sdists.PKG_INFO, "demo.egg-info/top_level.txt": "demo\n",
    }  # fmt: skip
    seen = inspect(tmp_path, monkeypatch, files)
    assert isinstance(seen, Inspection)
    assert seen.requires_dist == (
        "six", 'futures ; python_version < "3"', 'speedup ; (os_name == "posix") and extra == "fast"',
        'sphinx ; extra == "docs"',
    )  # fmt: skip


def test_nobody_knows_the_requirements_of_an_opaque_setup_py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = inspect(tmp_path, monkeypatch, {"setup.py": "from setuptools import setup\nsetup(**read())\n"})
    assert isinstance(seen, Inspection)
    assert seen.requires_dist is None
    assert seen.dynamic_build_requires


@pytest.mark.parametrize(
    "change",
    ["names.append('more')", "names.extend(['more'])", "names[0] = 'more'", "del names[0]", "names += ['more']"],
)
def test_a_list_that_is_changed_after_it_was_written_down_is_not_known(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = f"from setuptools import setup\nnames = ['one']\n{change}\nsetup(name='x', {{}}=names)\n"
    seen = inspect(tmp_path, monkeypatch, {"setup.py": setup.format("install_requires")})
    assert isinstance(seen, Inspection)
    assert seen.requires_dist is None
    (tmp_path / "2").mkdir()
    seen = inspect(tmp_path / "2", monkeypatch, {"setup.py": setup.format("ext_modules"), "x.c": "int x;"})
    assert isinstance(seen, Inspection)
    assert seen.compiled


def test_python_2_code_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = inspect(tmp_path, monkeypatch, {"setup.py": "print 'hello'\n"})
    assert isinstance(seen, Inspection)


@pytest.mark.parametrize(
    "files",
    [
        {"README": "nothing to build"},
        {"pyproject.toml": "this is = not [ toml"},
        {"pyproject.toml": "x = " + "[" * 100_000},
        {"pyproject.toml": b"\xff\xfe\x00"},
    ],
)
def test_what_is_no_project_is_a_broken_sdist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str | bytes]
) -> None:
    seen = inspect(tmp_path, monkeypatch, files)
    assert isinstance(seen, StepFailure)
    assert seen.failure_class is FailureClass.BROKEN_SDIST


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no json",
        b"[" * 100_000,
        b"x" * (9 * 1024 * 1024),
        json.dumps({"schema": 2}).encode(),
        json.dumps({"schema": 1, "modules": {"a": 1}}).encode(),
        json.dumps({"schema": 1, "modules": ["x" * 3000]}).encode(),
        json.dumps({"schema": 1, "metadata": {"name": 7}}).encode(),
        json.dumps({"schema": 1, "failure": {"class": "official", "brief": "x"}}).encode(),
    ],
)
def test_a_forged_document_is_refused(data: bytes) -> None:
    seen = parse_inspection(data)
    assert isinstance(seen, StepFailure)
    assert seen.failure_class is FailureClass.BROKEN_SDIST


def test_control_characters_do_not_come_through() -> None:
    document = {"schema": 1, "metadata": {"name": "demo\u001b[31m", "summary": "a\nb\u202ec"}}
    seen = parse_inspection(json.dumps(document).encode())
    assert isinstance(seen, Inspection)
    assert seen.name == "demo[31m"
    assert seen.metadata.summary == "a bc"


@pytest.mark.parametrize("name", ["../x.tar.gz", "a b.tar.gz", "", "x\n.tar.gz", "-rf"])
def test_odd_archive_names_are_refused(name: str) -> None:
    with pytest.raises(BadNameError):
        inspect_job(name)
