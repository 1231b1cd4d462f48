"""Build requirements that the suite does not have: provided from the index, recorded, never part of the package; or refused."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import LxcBuild

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.usefixtures("nothing_left")]

#: Needs a newer flit than Debian 12 has, whatever its metadata: the bound is written down.
PROJECT = {
    "pyproject.toml": """\
[build-system]
requires = ["flit_core>=3.11,<4"]
build-backend = "flit_core.buildapi"

[project]
name = "lxcbuild-demo-newer"
version = "1.0"
description = "Needs a newer backend."
license = "MIT"
license-files = ["LICENSE"]
requires-python = ">=3.9"
""",
    "LICENSE": "MIT License\n",
    "lxcbuild_demo_newer.py": '"""Needs a newer backend."""\n',
}
BACKEND = {
    "pyproject.toml": PROJECT["pyproject.toml"]
    .replace("lxcbuild-demo-newer", "lxcbuild-demo-backend")
    .replace("requires-python", 'dependencies = ["flit_core>=3.11,<4"]\nrequires-python'),
    "LICENSE": "MIT License\n",
    "lxcbuild_demo_backend.py": '"""A backend that exists as a source archive only."""\n\nfrom flit_core.buildapi import *\n',
}
NATIVE = {
    "setup.py": """\
from setuptools import Extension, setup
setup(name="lxcbuild-demo-native", version="1.0", description="Needs a C library that nothing names.", license="MIT",
      ext_modules=[Extension("lxcbuild_demo_native", ["native.c"], libraries=["yaml"])])
""",
    "native.c": """\
#include <Python.h>
#include <yaml.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "lxcbuild_demo_native", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_lxcbuild_demo_native(void) {
    PyObject *made = PyModule_Create(&module);
    if (made) PyModule_AddStringConstant(made, "yaml", yaml_get_version_string());
    return made;
}
""",
}
ADVISED = {
    "setup.py": """\
from setuptools import setup
try:
    import packaging.licenses
except ImportError:
    raise ImportError("please install `packaging>=24.2`") from None
setup(name="lxcbuild-demo-advised", version="1.0", description="Needs a newer tool.", py_modules=["lxcbuild_demo_advised"])
""",
    "lxcbuild_demo_advised.py": '"""Needs a newer tool."""\n',
}
TARGET = "debian/bookworm"


@pytest.fixture
def project(tmp_path: Path, made_image: Callable[[str], None]) -> Path:
    made_image(TARGET)
    root = tmp_path / "project"
    root.mkdir()
    for name, text in PROJECT.items():
        (root / name).write_text(text)
    return root


def build(lxcbuild: LxcBuild, *arguments: str | Path) -> dict[str, Any]:
    done = lxcbuild("build", *arguments, "--target", TARGET, "--json")
    (outcome,) = json.loads(done.stdout)["builds"]
    assert isinstance(outcome, dict)
    return outcome


def test_a_newer_backend_comes_from_the_index_and_stays_out_of_the_package(
    project: Path, lxcbuild: LxcBuild, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    outcome = build(lxcbuild, project, "-o", out)
    assert outcome["status"] == "built", outcome
    (note,) = [text for text in outcome["notes"] if text.startswith("build requirement from the index: flit-core 3.")]
    assert "sha256:" in note
    (deb,) = out.glob("*.deb")
    listed = subprocess.run(["dpkg-deb", "-c", deb], capture_output=True, text=True, check=True).stdout
    assert "lxcbuild_demo_newer.py" in listed
    assert "build-python" not in listed
    assert "flit" not in listed
    (dsc,) = out.glob("*.dsc")
    build_depends = next(line for line in dsc.read_text().splitlines() if line.startswith("Build-Depends:"))
    assert "flit" not in build_depends
    fields = subprocess.run(["dpkg-deb", "-f", deb, "Depends"], capture_output=True, text=True, check=True).stdout
    assert fields.strip() == "python3:any"


def test_strict_debian_builds_with_the_suite_alone(project: Path, lxcbuild: LxcBuild) -> None:
    outcome = build(lxcbuild, project, "--strict-debian")
    assert not [text for text in outcome["notes"] if "from the index" in text]
    assert any("flit" in text and "tried all the same" in text for text in outcome["notes"])
    assert outcome["status"] == "built", outcome


def test_strict_debian_names_what_the_suite_has_not(project: Path, lxcbuild: LxcBuild) -> None:
    text = (project / "pyproject.toml").read_text()
    text = text.replace('"flit_core>=3.11,<4"', '"uv_build>=0.8,<1"').replace("flit_core.buildapi", "uv_build")
    (project / "pyproject.toml").write_text(text)
    outcome = build(lxcbuild, project, "--strict-debian")
    assert outcome["status"] == "failed"
    assert outcome["failure"]["class"] == "build-dep-missing"
    assert "uv_build" in outcome["failure"]["brief"]


def test_a_backend_without_wheels_is_built_first(project: Path, lxcbuild: LxcBuild, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    with tarfile.open(links / "lxcbuild_demo_backend-1.0.tar.gz", "w:gz") as archive:
        for name, content in BACKEND.items():
            info = tarfile.TarInfo(f"lxcbuild_demo_backend-1.0/{name}")
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))
    text = (project / "pyproject.toml").read_text()
    text = text.replace('"flit_core>=3.11,<4"', '"lxcbuild-demo-backend"').replace(
        "flit_core.buildapi", "lxcbuild_demo_backend"
    )
    (project / "pyproject.toml").write_text(text)
    links_too = f"{os.environ.get('PIP_FIND_LINKS', '')} {links}".strip()
    done = lxcbuild("build", project, "--target", TARGET, "--json", env={"PIP_FIND_LINKS": links_too})
    (outcome,) = json.loads(done.stdout)["builds"]
    assert outcome["status"] == "built", outcome
    assert any("lxcbuild-demo-backend 1.0" in note for note in outcome["notes"])
    assert any("one is built in a sandbox" in note for note in outcome["notes"])


def test_a_header_that_the_log_asks_for_is_found_and_provided(
    lxcbuild: LxcBuild, tmp_path: Path, made_image: Callable[[str], None]
) -> None:
    made_image(TARGET)
    root, out = tmp_path / "native", tmp_path / "out"
    root.mkdir()
    for name, text in NATIVE.items():
        (root / name).write_text(text)
    outcome = build(lxcbuild, root, "-o", out)
    assert outcome["status"] == "built", outcome
    assert [phase["name"] for phase in outcome["phases"]].count("compile") == 2
    assert any("libyaml-dev" in note for note in outcome["notes"])
    (dsc,) = out.glob("*.dsc")
    assert "libyaml-dev" in next(line for line in dsc.read_text().splitlines() if line.startswith("Build-Depends:"))
    (deb,) = out.glob("*.deb")
    depends = subprocess.run(["dpkg-deb", "-f", deb, "Depends"], capture_output=True, text=True, check=True).stdout
    assert "libyaml-0-2" in depends


def test_a_newer_tool_that_a_message_asks_for_is_found_and_provided(
    lxcbuild: LxcBuild, tmp_path: Path, made_image: Callable[[str], None]
) -> None:
    """The suite knows the project in an older version; a name that only a message knows would not be taken."""
    made_image(TARGET)
    root = tmp_path / "advised"
    root.mkdir()
    for name, text in ADVISED.items():
        (root / name).write_text(text)
    outcome = build(lxcbuild, root)
    assert outcome["status"] == "built", outcome
    assert [phase["name"] for phase in outcome["phases"]].count("compile") == 2
    (root / "setup.py").write_text(ADVISED["setup.py"].replace("packaging", "lxcbuild_demo_unknown"))
    failed = build(lxcbuild, root)["failure"]
    assert (failed["class"], failed["brief"]) == (
        "build-dep-missing",
        "the build asks for lxcbuild_demo_unknown>=24.2",
    )
