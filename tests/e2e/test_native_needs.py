"""Needs that nothing in a project's metadata names: shared libraries that an import opens, and compiled parts nobody announced."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import LxcBuild

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.usefixtures("nothing_left")]

TARGET = "debian/bookworm"
SETUP = 'from setuptools import setup\nsetup(name="{name}", version="99.0", license="MIT", py_modules=["{module}"])\n'
#: Debian has no package of it: what the error says has to do.
OPENS = {
    "setup.py": SETUP.format(name="lxcbuild-demo-opens", module="lxcbuild_demo_opens"),
    "lxcbuild_demo_opens.py": 'import ctypes\nyaml = ctypes.CDLL("libyaml-0.so.2")\n',
}
FINDS = {
    "setup.py": SETUP.format(name="lxcbuild-demo-finds", module="lxcbuild_demo_finds"),
    "lxcbuild_demo_finds.py": """\
from ctypes.util import find_library
if find_library("lmdb") is None:
    raise OSError("LMDB library not found")
""",
}
#: Debian has one of this name, which says what its library is; the error does not.
OFFICIAL = {
    "setup.py": SETUP.format(name="python-magic", module="magic"),
    "magic.py": """\
from ctypes.util import find_library
if find_library("magic") is None:
    raise ImportError("Check your installation.")
""",
}
BROKEN = {
    "setup.py": SETUP.format(name="lxcbuild-demo-broken", module="lxcbuild_demo_broken"),
    "lxcbuild_demo_broken.py": 'raise OSError("no library called lxcbuild-has-no-such-library")\n',
}
#: No C file, no Extension and no list of them is in what can be read.
HIDDEN = {
    "setup.py": """\
from pathlib import Path
import setuptools
MADE = '''#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "lxcbuild_demo_hidden", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_lxcbuild_demo_hidden(void) { return PyModule_Create(&module); }
'''
def arguments():
    Path("made.c").write_text(MADE)
    return {"ext_modules": [getattr(setuptools, "Exten" + "sion")("lxcbuild_demo_hidden", ["made.c"])]}
setuptools.setup(name="lxcbuild-demo-hidden", version="99.0", license="MIT", **arguments())
"""
}


@pytest.fixture
def build(lxcbuild: LxcBuild, tmp_path: Path, made_image: Any) -> Any:
    made_image(TARGET)

    def run(files: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
        """The outcome, and some fields of its package if there is one."""
        root, out = tmp_path / "project", tmp_path / "out"
        root.mkdir()
        for name, text in files.items():
            (root / name).write_text(text)
        done = lxcbuild("build", root, "--force", "--target", TARGET, "--json", "-o", out)
        (outcome,) = json.loads(done.stdout)["builds"]
        fields = {}
        for deb in out.glob("*.deb"):
            for field in ("Architecture", "Depends"):
                said = subprocess.run(["dpkg-deb", "-f", deb, field], capture_output=True, text=True, check=True)
                fields[field] = said.stdout.strip()
        return outcome, fields

    return run


@pytest.mark.parametrize(
    ("files", "library"),
    [(OPENS, "libyaml-0-2"), (FINDS, "liblmdb0"), (OFFICIAL, "libmagic1")],
    ids=["opens-by-name", "finds", "official"],
)
def test_a_library_that_an_import_needs_becomes_a_dependency(
    build: Any, files: Mapping[str, str], library: str
) -> None:
    outcome, fields = build(files)
    assert outcome["status"] == "built", outcome
    assert fields == {"Architecture": "all", "Depends": f"python3:any, {library}"}
    assert [phase["name"] for phase in outcome["phases"]].count("verify") == 2
    assert any(note.startswith(f"it will depend on {library}: import of") for note in outcome["notes"])


def test_a_library_that_nobody_has_ends_the_build(build: Any) -> None:
    outcome, _ = build(BROKEN)
    assert (outcome["status"], outcome["failure"]["class"]) == ("failed", "import-failed")
    assert "no library called" in outcome["failure"]["brief"]
    assert [phase["name"] for phase in outcome["phases"]].count("verify") == 1


def test_unannounced_compiled_parts_make_the_package_architecture_specific(build: Any) -> None:
    outcome, fields = build(HIDDEN)
    assert outcome["status"] == "built", outcome
    assert fields["Architecture"] == "amd64"
    assert "python3 (<< 3.12)" in fields["Depends"]
    assert any("compiled parts" in note for note in outcome["notes"])
