"""Debian source packages as inputs: from a .dsc, from a directory with debian/, and what is refused on the way."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.config.recipes import load_recipe
from lxcbuild.debian.archive import sources
from lxcbuild.debian.archive.aptroot import AptRoot
from lxcbuild.model import Target
from tests.support.command import LxcBuild

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.usefixtures("nothing_left")]

TARGET = "debian/bookworm"
CONTROL = """\
Source: lxcbuild-demo
Section: misc
Priority: optional
Maintainer: A B <a@example.org>
Build-Depends: debhelper-compat (= 13), lxcbuild-no-such-package <!nocheck>
Standards-Version: 4.6.2
Rules-Requires-Root: no

Package: python3-lxcbuild-demo
Architecture: all
Depends: ${misc:Depends}, python3:any, lxcbuild-demo-common (= ${binary:Version})
Description: a Python package

Package: lxcbuild-demo-common
Architecture: all
Depends: ${misc:Depends}
Description: what the others share

Package: lxcbuild-demo-small
Architecture: all
Depends: ${misc:Depends}, lxcbuild-demo-common
Conflicts: python3-lxcbuild-demo
Description: excludes another one
"""
FILES = {
    "debian/control": CONTROL,
    "debian/rules": "#!/usr/bin/make -f\n%:\n\tdh $@\n",
    "debian/changelog": "lxcbuild-demo (2:1.0) unstable; urgency=medium\n\n  * x\n\n"
    " -- A B <a@example.org>  Sat, 21 Nov 2026 01:00:00 +0000\n",
    "debian/source/format": "3.0 (native)\n",
    "debian/python3-lxcbuild-demo.install": "lxcbuild_demo.py usr/lib/python3/dist-packages\n",
    "debian/lxcbuild-demo-common.install": "lxcbuild-demo usr/bin\n",
    "lxcbuild_demo.py": "VALUE = 1\n",
    "lxcbuild-demo": "#!/bin/sh\n",
}


@pytest.fixture
def tree(tmp_path: Path, made_image: Callable[[str], None]) -> Path:
    made_image(TARGET)
    root = tmp_path / "lxcbuild-demo-1.0"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in ("debian/rules", "lxcbuild-demo"):
        (root / name).chmod(0o755)
    return root


def build(lxcbuild: LxcBuild, *arguments: str | Path) -> dict[str, Any]:
    done = lxcbuild("build", *arguments, "--target", TARGET, "--json")
    (outcome,) = done.document["builds"]
    assert isinstance(outcome, dict)
    return outcome


def names(outcome: dict[str, Any]) -> list[str]:
    return sorted(Path(item["path"]).name for item in outcome["artifacts"])


def dsc_of(tree: Path) -> Path:
    if shutil.which("dpkg-source") is None:
        pytest.skip("needs dpkg-dev on the host")
    subprocess.run(["dpkg-source", "-b", tree.name], cwd=tree.parent, check=True, capture_output=True)
    (dsc,) = tree.parent.glob("*.dsc")
    return dsc


def test_a_directory_with_debian_is_built_by_it_with_its_own_version(tree: Path, lxcbuild: LxcBuild) -> None:
    outcome = build(lxcbuild, tree)
    assert outcome["status"] == "built", outcome
    assert (outcome["name"], outcome["version"]) == ("lxcbuild-demo", "2:1.0")
    assert names(outcome) == [
        "lxcbuild-demo-common_1.0_all.deb",
        "lxcbuild-demo-small_1.0_all.deb",
        "lxcbuild-demo_1.0_amd64.buildinfo",
        "lxcbuild-demo_1.0_amd64.changes",
        "lxcbuild-demo_1.0_amd64.provenance.json",
        "python3-lxcbuild-demo_1.0_all.deb",
    ]
    assert any("installed in 2 sets" in note for note in outcome["notes"])


def test_a_python_package_of_a_source_package_must_import(tree: Path, lxcbuild: LxcBuild) -> None:
    (tree / "lxcbuild_demo.py").write_text("import lxcbuild_nowhere\n")
    outcome = build(lxcbuild, dsc_of(tree))
    assert outcome["failure"]["class"] == "dep-missing", outcome
    assert "lxcbuild_nowhere" in outcome["failure"]["brief"]


def test_what_dpkg_cannot_order_is_left_to_apt(tree: Path, lxcbuild: LxcBuild) -> None:
    control = CONTROL.replace(", lxcbuild-demo-common (= ${binary:Version})", "").replace(
        "Depends: ${misc:Depends}\n", "Depends: ${misc:Depends}\nPre-Depends: python3-lxcbuild-demo\n"
    ).replace("Conflicts: python3-lxcbuild-demo\n", "")  # fmt: skip
    (tree / "debian" / "control").write_text(control)
    outcome = build(lxcbuild, tree)
    assert outcome["status"] == "built", outcome
    assert "dpkg alone cannot install it" in Path(outcome["log"]).read_text()


def test_a_setuid_program_is_not_published(tree: Path, lxcbuild: LxcBuild) -> None:
    rules = FILES["debian/rules"] + "execute_after_dh_fixperms:\n\tchmod 4755 debian/lxcbuild-demo-common/usr/bin/*\n"
    (tree / "debian" / "rules").write_text(rules)
    outcome = build(lxcbuild, tree)
    assert outcome["failure"]["class"] == "gate-rejected", outcome
    assert outcome["artifacts"] == []


def test_a_name_and_files_of_another_source_are_not_published(tree: Path, lxcbuild: LxcBuild) -> None:
    (tree / "debian" / "control").write_text(CONTROL.replace("lxcbuild-demo-small", "sudo"))
    (tree / "debian" / "lxcbuild-demo-common.install").write_text(
        "lxcbuild-demo usr/bin\nlxcbuild-demo etc/cron.hourly\n"
    )
    outcome = build(lxcbuild, tree)
    assert outcome["failure"]["class"] == "gate-rejected", outcome
    assert "cron.hourly" in outcome["failure"]["details"]
    (tree / "debian" / "lxcbuild-demo-common.install").write_text("lxcbuild-demo usr/bin\n")
    outcome = build(lxcbuild, tree)
    assert "from the source sudo" in outcome["failure"]["brief"], outcome
    assert outcome["artifacts"] == []


def test_files_that_are_not_what_the_dsc_says_are_never_unpacked(tree: Path, lxcbuild: LxcBuild) -> None:
    dsc = dsc_of(tree)
    (tarball,) = tree.parent.glob("*.tar.*")
    tarball.write_bytes(tarball.read_bytes() + b"\0")
    outcome = build(lxcbuild, dsc)
    assert (outcome["failure"]["class"], outcome["failure"]["phase"]) == ("broken-sdist", "fetch")
    tarball.unlink()
    outcome = build(lxcbuild, dsc)
    assert (outcome["failure"]["class"], outcome["failure"]["phase"]) == ("unsatisfiable", "fetch")
    assert tarball.name in outcome["failure"]["brief"]


def test_build_dependencies_that_the_suite_lacks_are_named(tree: Path, lxcbuild: LxcBuild) -> None:
    (tree / "debian" / "control").write_text(CONTROL.replace(" <!nocheck>", ""))
    outcome = build(lxcbuild, tree)
    assert (outcome["failure"]["class"], outcome["failure"]["phase"]) == ("build-dep-missing", "provision")
    assert "lxcbuild-no-such-package" in outcome["failure"]["details"]


def test_a_source_package_of_the_archive_is_built(
    tmp_path: Path, lxcbuild: LxcBuild, made_image: Callable[[str], None]
) -> None:
    made_image(TARGET)
    recipe = load_recipe(Target.parse(TARGET))
    lines = sources.source_lines(recipe, sources.host_mirrors(), keyring=sources.keyring_path(recipe))
    if not lines:
        pytest.skip("the host's apt names no mirror of Debian 12")
    root = AptRoot(tmp_path / "apt", architecture="amd64", targets="sources")
    root.update(lines, sources.inherited_options())
    uris = root.run("apt-get", ["-qq", "source", "--print-uris", "hello"]).stdout.decode()
    for line in uris.splitlines():
        uri, name, *_ = line.replace("'", "").split()
        root.run("/usr/lib/apt/apt-helper", ["-q", "download-file", uri, str(tmp_path / name)])
    (dsc,) = tmp_path.glob("hello_*.dsc")
    outcome = build(lxcbuild, dsc)
    assert outcome["status"] == "built", outcome
    assert f"{dsc.stem}_amd64.deb" in names(outcome)
