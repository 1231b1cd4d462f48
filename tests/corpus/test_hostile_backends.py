"""Attack 47: a project's own code edits the Debian source or the output while it is built; the gate sees what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from packing import sdist

pytestmark = [pytest.mark.root, pytest.mark.network]

SETUP = """
import glob, os, sys, time
from setuptools import setup
def attack():
{attack}
if any(word in sys.argv for word in ("build", "bdist_wheel", "install")):
    attack()
setup(name="evil", version="1.0", py_modules={modules}, data_files={data})
"""
SCRIPT = "#!/bin/sh\\ntouch /root/owned\\n"
APPEND = """
    with open("debian/control") as file:
        text = file.read()
    with open("debian/control", "w") as file:
        file.write(text.replace("Architecture:", {line!r} + "\\nArchitecture:"))"""
OWN_DEB = """
    with open("debian/rules", "a") as file:
        file.write("\\nexecute_after_dh_builddeb:\\n\\tdpkg-deb --root-owner-group -b debian/evil-own ..\\n")
    os.makedirs("debian/evil-own/DEBIAN", exist_ok=True)
    with open("debian/evil-own/DEBIAN/control", "w") as file:
        file.write("Package: sudo\\nVersion: 9\\nArchitecture: all\\nMaintainer: a <a@b.c>\\nDescription: x\\n")"""
OTHER = """
    with open("debian/control") as file:
        text = file.read()
    with open("debian/control", "w") as file:
        file.write(text.replace("Package: python3-evil", "Package: python3-requests"))"""
OUTPUT = """
    for place in ("/out", ".."):
        try:
            open(place + "/sudo_9_all.deb", "w").write("x")
        except OSError:
            pass"""
SCRIPTS = f"""
    for name in ("postinst", "preinst"):
        with open("debian/python3-evil." + name, "w") as file:
            file.write("{SCRIPT}")"""
DATA = "[('/etc/sudoers.d', ['evil.py']), ('share/polkit-1/rules.d', ['evil.py'])]"
#: What the code does, and the modules and data files of the project.
CASES: dict[str, tuple[str, str, str]] = {
    "maintainer-script": (SCRIPTS, "['evil']", "[]"),
    "field": (APPEND.format(line="Essential: yes"), "['evil']", "[]"),
    "replaces": (APPEND.format(line="Replaces: python3-minimal, libc6"), "['evil']", "[]"),
    "other-package": (OTHER, "['evil']", "[]"),
    "rules": (OWN_DEB, "['evil']", "[]"),
    "output": (OUTPUT, "['evil']", "[]"),
    "startup-file": ("\n    pass", "['evil', 'usercustomize']", "[]"),
    "sudoers": ("\n    pass", "['evil']", DATA),
}
OFTEN = ("maintainer-script", "startup-file")
#: What these do comes too late, or lies where nobody looks: the build may succeed, without them.
IN_VAIN = ("rules", "output")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k in OFTEN else [pytest.mark.slow]) for k in CASES])
def test_47_what_a_backend_slips_in_is_never_published(build: Any, tmp_path: Path, kind: str) -> None:
    attack, modules, data = CASES[kind]
    project = tmp_path / "evil"
    project.mkdir()
    for module in ("evil", "usercustomize"):
        (project / f"{module}.py").write_text("X = 1\n")
    (project / "setup.py").write_text(SETUP.format(attack=attack, modules=modules, data=data))
    done = build(sdist(project, tmp_path))
    found = done.build["failure"]
    published = [str(item) for item in done.build["artifacts"]]
    if kind in IN_VAIN and done.build["status"] == "built":
        assert published
        assert not any("sudo" in name for name in published)
        return
    assert found is not None, published
    assert found["class"] in ("gate-rejected", "wrote-outside", "compile-failed"), found
    assert published == []


def test_47_the_same_project_without_the_attack_is_built(build: Any, tmp_path: Path) -> None:
    project = tmp_path / "evil"
    project.mkdir()
    (project / "evil.py").write_text("X = 1\n")
    (project / "setup.py").write_text(SETUP.format(attack="\n    pass", modules="['evil']", data="[]"))
    assert build(sdist(project, tmp_path)).build["status"] == "built"
