"""What a build needs beyond what the suite has: floors of fields, asked backends, wheels laid out, logs that tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lxcbuild.builder.needs.learning import native_build_depends
from lxcbuild.debian.inside import ask_backend, inspect_source, lay_wheels
from lxcbuild.debian.source.backend import BUILD_PYTHON, LAID_WHEELS, ask_job, lay_wheels_job, parse_answer
from lxcbuild.debian.source.buildrelations import build_relations, without_upper_bounds
from lxcbuild.debian.source.compilation import compile_job, missing_things
from lxcbuild.debian.source.inspection import Inspection, parse_inspection
from lxcbuild.debian.steps import REQUEST, MissingInLog
from lxcbuild.debian.tables import requirement_table
from lxcbuild.images.wheels import _PTH_TEXT
from tests.support import sdists
from tests.unit.debian.source.test_conversion import NAMES, PYTHON, inspection

# -- what the suite's packages are good for --------------------------------------------------------------------------


def test_fields_of_pyproject_ask_for_a_newer_backend() -> None:
    seen = inspection(
        build_requires=("setuptools",), build_backend="setuptools.build_meta", newer_fields=("license-expression",)
    )
    found = build_relations(seen, python=PYTHON, names=NAMES, keep_outdated=False)
    assert [item.requirement for item in found.outdated] == ["setuptools>=77.0.3"]
    plain = build_relations(inspection(build_requires=("setuptools",)), python=PYTHON, names=NAMES)
    assert plain.outdated == ()


@pytest.mark.parametrize(
    ("requires", "binding"), [("setuptools", False), ("setuptools>=40", False), ("setuptools>=9999", True)]
)
def test_only_the_projects_own_words_rule_the_suites_backend_out(requires: str, binding: bool) -> None:
    seen = inspection(
        build_requires=(requires,), build_backend="setuptools.build_meta", newer_fields=("license-expression",)
    )
    (found,) = build_relations(seen, python=PYTHON, names=NAMES, keep_outdated=False).outdated
    assert found.binding is binding


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("a<2", "a"),
        ("a>=1,<=2,!=1.5", "a!=1.5,>=1"),
        ("a~=1.4.2", "a>=1.4.2"),
        ("a[x]==1.*; python_version>'3'", 'a[x]>=1; python_version > "3"'),
        ("a @ https://x/y.whl", "a @ https://x/y.whl"),
        ("b a d", "b a d"),
    ],
)
def test_upper_bounds_can_be_left_away(text: str, without: str) -> None:
    assert without_upper_bounds(text) == without


def test_fields_are_seen_in_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = sdists.tarball(tmp_path / "demo-1.0.tar.gz", {"demo-1.0/pyproject.toml": sdists.FLIT})
    request = {"archive": str(archive), "tree": str(tmp_path / "src")}
    _, out = sdists.run_inside(inspect_source.main, request, tmp_path, monkeypatch)
    seen = parse_inspection((out / "inspection.json").read_bytes())
    assert isinstance(seen, Inspection)
    assert seen.newer_fields == ("license-expression", "license-files")


def test_what_comes_from_the_index_is_no_build_dependency() -> None:
    seen = inspection(build_requires=("flit_core>=3.11,<4",), build_backend="flit_core.buildapi")
    found = build_relations(seen, python=PYTHON, names=NAMES, keep_outdated=False)
    assert [item.name for item in found.outdated] == ["flit_core"]
    assert not any("flit" in relation for relation in found.relations)


def test_a_backend_that_proved_unfit_is_wanted_newer_whatever_its_version() -> None:
    seen = inspection(build_requires=("setuptools>=40",), build_backend="setuptools.build_meta")
    assert build_relations(seen, python=PYTHON, names=NAMES).outdated == ()
    found = build_relations(seen, python=PYTHON, names=NAMES, distrusted=True)
    assert [item.requirement for item in found.outdated] == ["setuptools>=40"]


def test_what_a_backend_asked_for_counts_like_what_is_written_down() -> None:
    seen = inspection(build_requires=("setuptools",))
    found = build_relations(seen, python=PYTHON, names=NAMES, asked=("wheel", "some-plugin>=2", "flit_core>=3.2"))
    assert [item.name for item in found.unmet] == ["some-plugin"]
    assert "flit (>= 3.2-0~)" in found.relations


# -- asking ------------------------------------------------------------------------------------------------------------


def ask(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...] | str | None:
    archive = sdists.tarball(tmp_path / "demo-1.0.tar.gz", {"demo-1.0/tools/own_backend.py": backend})
    request = {
        "archive": str(archive), "tree": str(tmp_path / "src"), "backend": "own_backend", "backend_path": ["tools"],
        "make_wheel": False,
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_backend", raising=False)
    _, out = sdists.run_inside(ask_backend.main, request, tmp_path, monkeypatch)
    answer = parse_answer((out / "backend.json").read_bytes())
    return answer.requires if answer.error is None else answer.error


def test_a_backend_in_the_tree_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = "def get_requires_for_build_wheel(settings=None):\n    return ['cython>=3', 'b a d', 'x @ https://x/x.whl', 7]\n"
    assert ask(tmp_path, backend, monkeypatch) == ("cython>=3",)


def test_a_backend_without_the_hook_wants_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(tmp_path, "x = 1\n", monkeypatch) == ()


def test_a_backend_that_breaks_is_no_failed_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(tmp_path, "raise SystemExit('no')\n", monkeypatch) == "SystemExit: no"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"schema": 1, "requires": {}}', b'{"schema": 1, "requires": ["x"], "error": 3}']
)
def test_an_answer_of_another_shape_is_an_error(data: bytes) -> None:
    answer = parse_answer(data)
    assert answer.error
    assert answer.requires == ()


def test_the_hook_runs_with_the_layers_packages_and_the_version() -> None:
    job = ask_job(inspection(build_backend="mesonpy"), archive_name="demo-1.0.tar.gz", environment={"PBR_VERSION": "1"})
    assert "-S" not in job.steps[0].argv
    assert not job.steps[0].as_root
    assert job.steps[0].env["PBR_VERSION"] == "1"
    assert json.loads(job.files[REQUEST])["backend"] == "mesonpy"


# -- wheels laid out -----------------------------------------------------------------------------------------------------


def lay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], mode: int = 0o100644
) -> tuple[int, Path]:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "demo-1-py3-none-any.whl", "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    request = {
        "wheels": str(wheels), "destination": str(tmp_path / "laid"), "sets": {"3.11": ["demo-1-py3-none-any.whl"]},
    }  # fmt: skip
    status, _ = sdists.run_inside(lay_wheels.main, request, tmp_path, monkeypatch)
    return status, tmp_path / "laid" / "3.11"


def test_a_wheel_is_laid_out_as_an_installer_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "demo/__init__.py": "value = 1\n",
        "demo-1.data/purelib/other.py": "",
        "demo-1.data/scripts/tool": "#!python\nprint('tool')\n",
        "demo-1.data/data/share/demo/x.txt": "x",
        "demo-1.data/headers/demo.h": "",
        "demo-1.dist-info/entry_points.txt": "[console_scripts]\ndemo = demo:main.run\nbad name = x:y\nworse = x\n",
    }
    status, root = lay(tmp_path, monkeypatch, files)
    assert status == 0
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert found == {
        "demo/__init__.py", "other.py", "bin/tool", "bin/demo", "share/demo/x.txt", "include/demo/demo.h",
        "demo-1.dist-info/entry_points.txt",
    }  # fmt: skip
    assert (root / "bin/tool").read_text().startswith("#!/usr/bin/python3.11\n")
    assert "from demo import main\nsys.exit(main.run())" in (root / "bin/demo").read_text()
    assert os.access(root / "bin/demo", os.X_OK)
    assert os.access(root / "bin/tool", os.X_OK)
    assert not os.access(root / "demo/__init__.py", os.X_OK) or (root / "demo/__init__.py").stat().st_mode & 0o111 == 0


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "demo-1.data/scripts/../../../evil", "a/../../evil"])
def test_a_wheel_cannot_leave_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    status, _ = lay(tmp_path, monkeypatch, {name: "x"})
    assert status != 0
    assert not list(tmp_path.rglob("*evil*"))


def test_a_wheel_with_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _ = lay(tmp_path, monkeypatch, {"demo/link": "/etc/passwd"}, mode=0o120777)
    assert status != 0


def test_the_layers_directory_goes_before_all_others(tmp_path: Path) -> None:
    site, wheels = tmp_path / "site", tmp_path / "wheels"
    own = wheels / f"{sys.version_info[0]}.{sys.version_info[1]}"
    own.mkdir(parents=True)
    site.mkdir()
    (site / "000.pth").write_text(_PTH_TEXT.format(root=wheels))
    (site / "twice.py").write_text("value = 'suite'\n")
    (own / "twice.py").write_text("value = 'index'\n")
    (own / "more.pth").write_text("import sys; sys.from_pth = True\n")
    code = f"import site, sys; site.addsitedir({str(site)!r}); import twice; print(twice.value, sys.from_pth)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["index", "True"]


def test_the_step_and_the_environment_agree_on_places() -> None:
    job = lay_wheels_job({"3.11": ("a.whl",)})
    assert json.loads(job.files[REQUEST])["destination"] == LAID_WHEELS
    compiled = compile_job("/build/x", timestamp_s=1, parallel=1, program_paths=(f"{BUILD_PYTHON}/3.11/bin",))
    assert compiled.steps[0].env["PATH"].startswith(f"{BUILD_PYTHON}/3.11/bin:/usr/local/sbin:")
    assert "PATH" not in compile_job("/build/x", timestamp_s=1, parallel=1).steps[0].env


# -- logs and other people's packages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "wanted"),
    [
        ("x.c:3:10: fatal error: libpq-fe.h: No such file or directory\n", MissingInLog("header", "libpq-fe.h")),
        ("/usr/bin/ld: cannot find -lcurl: No such file or directory\n", MissingInLog("library", "curl")),
        ("Package libffi was not found in the pkg-config search path.\n", MissingInLog("pkgconfig", "libffi")),
        ("ModuleNotFoundError: No module named 'Cython'\n", MissingInLog("module", "Cython")),
        ("../meson.build:4:0: ERROR: Program 'swig' not found or not executable\n", MissingInLog("program", "swig")),
        (
            'meson.build:3:2: ERROR: Dependency "openblas" not found, tried pkgconfig\n',
            MissingInLog("pkgconfig", "openblas"),
        ),
        ("sh: 1: pg_config: not found\n", MissingInLog("program", "pg_config")),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'cmake'\n", MissingInLog("program", "cmake")),
        ("error: no matching package named `pyo3` found\n", MissingInLog("crate", "pyo3")),
        ("error: failed to get `serde` as a dependency of package `x v1`\n", MissingInLog("crate", "serde")),
        ("  configuration error: `project.license` must be valid exactly by one definition\n", None),
        ("Error: pg_config executable not found.\n", MissingInLog("phrase", "(?i)pg_config executable not found")),
    ],
)
def test_a_log_says_what_is_missing(log: str, wanted: MissingInLog | None) -> None:
    found = missing_things(log)
    if wanted is None:
        assert [item.kind for item in found] == ["backend"]
    else:
        assert wanted in found


def test_a_quiet_log_says_nothing() -> None:
    assert missing_things("gcc -c x.c\nx.c:3: error: expected ';'\n") == ()


def test_of_debians_build_dependencies_only_libraries_and_programs_count() -> None:
    source = {
        "Build-Depends": "debhelper-compat (= 13), python3-all-dev, libxml2-dev (>= 2.9), libjpeg-dev | libjpeg62-dev,\n"
        " libfoo-dev [!amd64], libtest-dev <!nocheck>, cython3, swig, pypy-dev, librust-pyo3-dev, python3-sphinx",
        "Build-Depends-Arch": "zlib1g-dev:native",
    }
    assert native_build_depends(source) == ("libxml2-dev", "libjpeg-dev", "swig", "zlib1g-dev")


def test_the_curated_table_is_sound() -> None:
    table = requirement_table()
    assert table.programs["cmake"] == "cmake"
    for group in (table.headers, table.pkgconfig, table.libraries, table.commands, table.programs):
        assert all(package == package.lower() for package in group.values())
