"""The generated debian/ is complete, repeats byte for byte, and takes no orders from what upstream wrote."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import msgspec.structs
import pytest
from debian.deb822 import Deb822

from lxcbuild.debian.inside import debianize
from lxcbuild.debian.inside.metadata_patch import metadata_patch
from lxcbuild.debian.names import Distribution, NameMap
from lxcbuild.debian.relations import TargetPython
from lxcbuild.debian.source.buildrelations import build_relations
from lxcbuild.debian.source.conversion import (
    ConversionPlan,
    ConversionResult,
    Converter,
    debian_files,
    debianize_job,
    dropped_modules,
    parse_conversion,
)
from lxcbuild.debian.source.copyright import UNKNOWN, licence_name, make_copyright
from lxcbuild.debian.source.inspection import Inspection, LicenceText, Metadata, parse_inspection
from lxcbuild.debian.steps import REQUEST, StepFailure
from lxcbuild.errors import BadNameError
from tests.support import sdists


def inspection(**changes: Any) -> Inspection:
    seen = parse_inspection(json.dumps({"schema": 1, "metadata": {"name": "demo", "version": "1.0rc1"}}).encode())
    assert isinstance(seen, Inspection)
    return msgspec.structs.replace(seen, **changes)


def plan(**changes: Any) -> ConversionPlan:
    made = ConversionPlan(
        distribution="Demo.Project",
        maintainer="lxcbuild <lxcbuild@localhost>",
        version="1.0rc1",
        source="python-demo-project",
        package="python3-demo-project",
        debian_version="1.0~rc1-0~lxcbuild1~deb12",
        suite="bookworm",
        compiled=False,
        timestamp_s=1_700_000_000,
        build_depends=("debhelper-compat (= 13)", "dh-python"),
        depends=("python3-six (>= 1.5)",),
    )
    return msgspec.structs.replace(made, **changes)


def stanzas(files: dict[str, str]) -> list[Deb822]:
    return list(Deb822.iter_paragraphs(files["control"].splitlines()))


def test_the_control_file_says_what_was_decided() -> None:
    source, binary = stanzas(debian_files(inspection(), plan()))
    assert source["Build-Depends"] == "debhelper-compat (= 13), dh-python"
    assert binary["Package"] == "python3-demo-project"
    assert binary["Architecture"] == "all"
    assert binary["Depends"] == "${python3:Depends}, ${misc:Depends}, python3-six (>= 1.5)"
    assert "${shlibs:Depends}" in stanzas(debian_files(inspection(), plan(compiled=True)))[1]["Depends"]


def test_equal_inputs_give_equal_files() -> None:
    assert debian_files(inspection(), plan()) == debian_files(inspection(), plan())
    assert "Tue, 14 Nov 2023 22:13:20 +0000" in debian_files(inspection(), plan())["changelog"]


@pytest.mark.parametrize(
    "hostile",
    [
        "Nice\nDepends: evil",
        "Nice\n\nPackage: evil",
        "\n.\n..\n\nPackage: evil\nEssential: yes",
        "x" * 5000,
        "\r\nEssential: yes",
        " ",
    ],
)
def test_upstream_texts_cannot_add_fields_or_stanzas(hostile: str) -> None:
    metadata = Metadata(
        summary=" ".join(hostile.split()) or None,
        description=f"{hostile}\n\nA paragraph that is long enough to be kept here.\nDepends: evil\n",
        author=" ".join(hostile.split()),
        license=hostile,
        home_page="https://example.org/\nEssential: yes",
    )
    licence = LicenceText(path="LICENSE", text=f"Copyright 2020 Jane Doe\n{hostile}\n\nFiles: *\n")
    files = debian_files(inspection(metadata=metadata, licence_texts=(licence,)), plan())
    source, binary = stanzas(files)
    assert set(source) == {
        "Source", "Section", "Priority", "Maintainer", "Build-Depends", "Standards-Version", "Rules-Requires-Root",
    }  # fmt: skip
    assert set(binary) == {"Package", "Architecture", "Depends", "Description"}
    assert "evil" not in binary["Depends"]
    assert len(list(Deb822.iter_paragraphs(files["copyright"].splitlines()))) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"package": "python3-x y"},
        {"package": "../evil"},
        {"source": "x;rm"},
        {"debian_version": "1:2-3"},
        {"debian_version": "1.0/../2-1"},
        {"suite": "book worm"},
        {"distribution": "x\ny"},
        {"maintainer": "nobody"},
        {"environment": {"A B": "c"}},
    ],
)
def test_a_plan_with_malformed_parts_cannot_be_made(changes: dict[str, Any]) -> None:
    with pytest.raises(BadNameError):
        plan(**changes)


@pytest.mark.parametrize("relation", ["evil (>= 1", "a, b", "x\nEssential: yes", "$(rm)", ""])
def test_malformed_relations_are_refused(relation: str) -> None:
    with pytest.raises(BadNameError):
        debian_files(inspection(), plan(depends=(relation,)))


def test_make_does_not_expand_values_of_the_environment() -> None:
    rules = debian_files(inspection(), plan(environment={"FLAG": "a$(shell id)#b"}))["rules"]
    assert "export FLAG = a$$(shell id)\\#b" in rules


def test_the_plugin_can_be_left_out_and_its_programs_called_directly() -> None:
    rules = debian_files(inspection(), plan(plain_install=True))["rules"]
    assert "export PYBUILD_SYSTEM = custom" in rules
    assert "{interpreter} -m installer" in rules
    assert "{home_dir}/*.whl" in rules
    assert "PYBUILD_SYSTEM = pyproject" in debian_files(inspection(), plan())["rules"]


def test_a_backend_that_packages_every_directory_does_not_see_debian() -> None:
    rules = debian_files(inspection(), plan(apart=True))["rules"]
    (build,) = (line for line in rules.splitlines() if line.startswith("export PYBUILD_BUILD_ARGS"))
    assert "--exclude=./debian" in build
    assert build.endswith("--outdir {home_dir} {home_dir}/apart")
    assert "export PYBUILD_SYSTEM = custom" in rules


def test_newer_tools_than_stdeb_knows_replace_the_rules_of_stdeb() -> None:
    kept = debian_files(inspection(), plan(converter=Converter.STDEB))["rules"]
    assert "PYBUILD_SYSTEM" not in kept
    assert not kept.startswith("#!")
    whole = debian_files(inspection(), plan(converter=Converter.STDEB, plain_install=True))["rules"]
    assert whole == debian_files(inspection(), plan(plain_install=True))["rules"]


@pytest.mark.skipif(shutil.which("dpkg-gencontrol") is None, reason="dpkg-dev is not installed")
def test_dpkg_expands_nothing_that_upstream_wrote(tmp_path: Path) -> None:
    hostile = "costs $5 ${Newline}${misc:Depends} ${}{Newline} $${x}"
    told = "An honest sentence on ${Newline}Evil: yes and ${dpkg:Version} here"
    address = "https://example.org/$x${Newline}Depends:/"
    found = inspection(metadata=Metadata(summary=hostile, description=told, home_page=address))
    files = debian_files(found, plan())
    for name in ("control", "changelog"):
        path = tmp_path / "debian" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(files[name])
    argv = ["dpkg-gencontrol", "-O", "-fdebian/files", "-Tdebian/substvars", "-p" + plan().package]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    made = Deb822(done.stdout)
    synopsis, _, extended = made["Description"].partition("\n")
    assert synopsis == hostile
    assert made["Homepage"] == address
    assert extended.split("\n")[0].strip() == told
    assert "Evil" not in made


def test_a_package_does_not_suggest_itself() -> None:
    text = debian_files(inspection(), plan(suggests=(plan().package, "python3-other (>= 1)")))["control"]
    assert "Suggests: python3-other (>= 1)\n" in text


def test_meson_builds_where_it_always_builds() -> None:
    meson = inspection(build_backend="mesonpy")
    option = "--config-setting=builddir={home_dir}/meson\n"
    assert f"export PYBUILD_BUILD_ARGS = {option}" in debian_files(meson, plan())["rules"]
    assert f"--outdir {{home_dir}} {option}" in debian_files(meson, plan(plain_install=True))["rules"]
    assert "builddir" not in debian_files(inspection(), plan())["rules"]


def test_overrides_are_written_in_both_forms_of_a_name() -> None:
    overrides = {"zope.interface": "python3-zope.interface (>= 5)", "tomli": ""}
    text = debian_files(inspection(), plan(overrides=overrides))["py3dist-overrides"]
    assert text.splitlines() == [
        "tomli", "zope-interface python3-zope.interface (>= 5)", "zope.interface python3-zope.interface (>= 5)",
    ]  # fmt: skip


def test_top_level_tests_are_left_out_but_not_the_project_itself() -> None:
    assert "tests" in dropped_modules(inspection(modules=("demo", "tests")), plan())
    assert dropped_modules(inspection(modules=("build",)), plan(distribution="build")) == ()
    assert "build" not in dropped_modules(inspection(modules=("build", "tests")), plan(distribution="build"))


@pytest.mark.parametrize(
    ("metadata", "texts", "wanted"),
    [
        ({"license_expression": "MIT OR (Apache-2.0 AND BSD-3-Clause)"}, (), "Expat or Apache-2.0 and BSD-3-Clause"),
        ({"classifiers": ("License :: OSI Approved :: MIT License",)}, (), "Expat"),
        ({"license": "BSD 3-Clause"}, (), "BSD-3-clause"),
        ({}, (LicenceText(path="COPYING", text="Mozilla Public License Version 2.0\n"),), "MPL-2.0"),
        ({"license": "see file"}, (), UNKNOWN),
        ({}, (), UNKNOWN),
    ],
)
def test_the_licence_is_found_where_upstream_put_it(
    metadata: dict[str, Any], texts: tuple[LicenceText, ...], wanted: str
) -> None:
    seen = inspection(metadata=Metadata(**metadata), licence_texts=texts)
    assert licence_name(seen) == wanted
    assert make_copyright(seen, "demo", maintainer="a <a@b>").known == (wanted != UNKNOWN)


# -- the script inside ----------------------------------------------------------------------------------------------


def debianized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: Path, **changes: Any
) -> tuple[Path, ConversionResult | StepFailure]:
    job = debianize_job(inspection(), plan(**changes), archive_name=archive.name)
    request = json.loads(job.files[REQUEST])
    request.update(archive=str(archive), tree=str(tmp_path / "tree"), orig=str(tmp_path / "demo_1.orig"))
    _status, out = sdists.run_inside(debianize.main, request, tmp_path, monkeypatch)
    return tmp_path / "tree", parse_conversion((out / "conversion.json").read_bytes())


def test_a_tree_is_debianized_around_the_sdists_own_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, str | bytes] = {
        "d-1/pyproject.toml": sdists.FLIT, "d-1/debian/rules": "evil", "d-1/demo/x.pyc": "code", "d-1/demo/__init__.py": "",
    }  # fmt: skip
    archive = sdists.tarball(tmp_path / "d-1.tar.gz", files)
    tree, result = debianized(tmp_path, monkeypatch, archive)
    assert isinstance(result, ConversionResult)
    assert result.orig_tarball == "demo_1.orig.tar.gz"
    assert (tmp_path / "demo_1.orig.tar.gz").read_bytes() == archive.read_bytes()
    assert (tree / "debian/rules").read_text().startswith("#!/usr/bin/make -f\n")
    assert (tree / "debian/rules").stat().st_mode & 0o111
    assert (tmp_path / "shipped-debian/rules").read_text() == "evil"
    assert not list(tree.rglob("*.pyc"))
    assert len(result.notes) == 2


def test_a_zip_is_repacked_the_same_way_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = sdists.zipped(tmp_path / "d-1.zip", {"d-1/setup.py": "", "d-1/b.py": "", "d-1/a.py": ""})
    packed = []
    for place in (tmp_path / "one", tmp_path / "two"):
        place.mkdir()
        _tree, result = debianized(place, monkeypatch, archive)
        assert isinstance(result, ConversionResult)
        packed.append((place / "demo_1.orig.tar.gz").read_bytes())
    assert packed[0] == packed[1]
    with tarfile.open(tmp_path / "one/demo_1.orig.tar.gz") as tar:
        assert {member.mtime for member in tar} == {plan().timestamp_s}


def test_stdeb_without_a_setup_py_is_a_failed_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = sdists.tarball(tmp_path / "d-1.tar.gz", {"d-1/pyproject.toml": sdists.FLIT})
    _tree, result = debianized(tmp_path, monkeypatch, archive, converter=Converter.STDEB)
    assert isinstance(result, StepFailure)
    assert result.failure_class == "convert-failed"


def test_older_backends_get_the_licence_as_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = sdists.tarball(tmp_path / "d-1.tar.gz", {"d-1/pyproject.toml": sdists.FLIT})
    tree, _result = debianized(tmp_path, monkeypatch, archive, lower_metadata=True)
    (patch,) = (tree / "debian/patches").glob("*.patch")
    text = patch.read_text()
    assert '-license = "MIT"\n' in text
    assert '+license = {text = "MIT"}\n' in text
    assert '-    "LICENSE",\n' in text
    assert (tree / "pyproject.toml").read_text() == sdists.FLIT
    assert (tree / "debian/patches/series").read_text() == f"{patch.name}\n"


@pytest.mark.parametrize(
    "text",
    [
        "[project]\nname = 'x'\nlicense = {text = 'MIT'}\n",
        "[tool.x]\nlicense = 'MIT'\n",
        '[project]\nreadme = """\nlicense = "MIT"\n"""\n',
        "not toml [",
    ],
)
def test_nothing_is_patched_that_need_not_or_cannot_be(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert metadata_patch(tmp_path) is None


# -- build dependencies -----------------------------------------------------------------------------------------------

ARCHIVE = {
    "flit-core": Distribution("flit-core", "3.8.0", "flit"),
    "setuptools": Distribution("setuptools", "66.1.1", "python3-setuptools"),
    "wheel": Distribution("wheel", "0.38.4", "python3-wheel"),
}
NAMES = NameMap(archive=ARCHIVE.get)
PYTHON = TargetPython("3.11.2")


def test_a_satisfied_backend_becomes_a_versioned_build_dependency() -> None:
    seen = inspection(build_requires=("flit_core>=3.2,<4",), build_backend="flit_core.buildapi")
    found = build_relations(seen, python=PYTHON, names=NAMES)
    assert "flit (>= 3.2-0~)" in found.relations
    assert "pybuild-plugin-pyproject" in found.relations
    assert not found.outdated
    assert not found.unmet


@pytest.mark.parametrize("bound", [">=3.11,<4", ">3.8.0", "==3.11", "~=3.11"])
def test_a_backend_that_is_too_old_is_reported_and_tried(bound: str) -> None:
    seen = inspection(build_requires=(f"flit_core{bound}",), build_backend="flit_core.buildapi")
    found = build_relations(seen, python=PYTHON, names=NAMES)
    assert "flit" in found.relations
    assert [(item.package, item.available) for item in found.outdated] == [("flit", "3.8.0")]


def test_an_unknown_backend_is_unmet() -> None:
    seen = inspection(build_requires=("uv_build>=0.1",), build_backend="uv_build")
    found = build_relations(seen, python=PYTHON, names=NAMES)
    assert [item.name for item in found.unmet] == ["uv-build"]


def test_extensions_need_headers_and_the_legacy_backend_its_wheel() -> None:
    seen = inspection(build_requires=("setuptools>=40.8.0",), has_setup_py=True, compiled=True)
    found = build_relations(seen, python=PYTHON, names=NAMES, converter=Converter.STDEB)
    assert {"python3-all-dev", "python3-setuptools (>= 40.8.0-0~)", "python3-wheel"} <= set(found.relations)
    assert "pybuild-plugin-pyproject" not in found.relations
