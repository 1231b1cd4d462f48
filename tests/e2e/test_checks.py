"""``lxcbuild build`` with checks on request: the same again under other circumstances, lintian, the project's own tests."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.errors import NotReproducibleError
from tests.support.command import Ended, LxcBuild

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.usefixtures("nothing_left")]

TARGET = "debian/bookworm"
SETUP = "from setuptools import setup\nsetup(name='{name}', version='1.0', py_modules=['{name}'])\n"
#: Writes what it sees into the package, as builds should not.
CURIOUS = """
import os, socket, time
facts = {
    "uid": os.getuid(), "host": socket.gethostname(), "place": os.getcwd(), "home": os.environ["HOME"],
    "year": time.gmtime().tm_year, "zone": time.tzname[0], "language": os.environ["LC_ALL"],
    "order": [name for name in os.listdir("data")], "parallel": os.environ["DEB_BUILD_OPTIONS"],
    "user": os.environ.get("USER"),
}
with open("curious.py", "w") as file:
    for key, value in facts.items():
        file.write(f"{key} = {value!r}\\n")
"""
FACTS = ("uid", "host", "place", "home", "year", "zone", "language", "order", "parallel", "user")


def sdist(folder: Path, name: str, files: Mapping[str, str], *, without: Collection[str] = ()) -> Path:
    members = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: A small project\n",
        "setup.py": SETUP.format(name=name),
        f"{name}.py": "VALUE = 1\n",
        **files,
    }
    path = folder / f"{name}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member, text in ((m, t) for m, t in members.items() if m not in without):
            info = tarfile.TarInfo(f"{name}-1.0/{member}")
            info.size, info.mtime = len(text), 1_600_000_000
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def build(lxcbuild: LxcBuild, made_image: Callable[[str], None]) -> Callable[..., tuple[Ended, dict[str, Any]]]:
    made_image(TARGET)

    def run(path: Path | str, *options: str | Path) -> tuple[Ended, dict[str, Any]]:
        done = lxcbuild("build", path, "--target", TARGET, "--json", *options)
        (outcome,) = done.document["builds"]
        return done, outcome

    return run


def test_a_package_is_reproducible_and_records_what_it_was_made_of(build: Any, tmp_path: Path) -> None:
    archive = sdist(tmp_path, "plaindemo", {})
    done, outcome = build(archive, "--check-reproducible", "-o", tmp_path / "out")
    assert done.status == 0, done.stderr
    found = outcome["checks"]["reproducible"]
    assert (found["verdict"], found["differing"]) == ("identical", [])
    assert any(name.endswith("_all.deb") for name in found["compared"])
    assert {"build path", "user and group id", "number of cores", "time (400 days)"} <= set(found["varied"])
    (path,) = (tmp_path / "out").glob("*.provenance.json")
    statement = json.loads(path.read_text())
    for subject in statement["subject"]:
        content = (path.parent / subject["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == subject["digest"]["sha256"]
    assert {Path(item["path"]).name for item in outcome["artifacts"]} == {
        path.name,
        *(subject["name"] for subject in statement["subject"]),
    }
    made_of = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    kinds = {item["annotations"]["kind"] for item in made_of}
    assert {"source", "image", "deb"} <= kinds
    source = next(item for item in made_of if item["annotations"]["kind"] == "source")
    assert source["digest"]["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()


@pytest.mark.slow
def test_what_a_build_sees_of_its_circumstances_is_found_out(build: Any, tmp_path: Path) -> None:
    files = {"setup.py": CURIOUS + SETUP.format(name="curious"), "data/a": "", "data/b": "", "data/c": ""}
    done, outcome = build(sdist(tmp_path, "curious", files), "--check-reproducible")
    assert (done.status, outcome["status"]) == (NotReproducibleError.exit_code, "built")
    found = outcome["checks"]["reproducible"]
    assert found["verdict"] == "differs"
    lines = found["explanation"].splitlines()
    for fact in FACTS:
        first, second = (
            [line for line in lines if re.fullmatch(rf"[│ ]*{sign}{fact} = .*", line)] for sign in (r"\-", r"\+")
        )
        assert first, f"{fact} is the same in both builds"
        assert second, f"{fact} is the same in both builds"
    assert any(note.startswith("not reproducible:") for note in outcome["notes"])
    assert found["only_time"] is False


@pytest.mark.slow
def test_a_build_that_writes_down_the_year_is_told_so(build: Any, tmp_path: Path) -> None:
    year = "import time\nwith open('dated.py', 'w') as file:\n    file.write(f'YEAR = {time.gmtime().tm_year}\\n')\n"
    done, outcome = build(
        sdist(tmp_path, "dated", {"setup.py": year + SETUP.format(name="dated")}), "--check-reproducible"
    )
    assert (done.status, outcome["status"]) == (NotReproducibleError.exit_code, "built")
    assert (outcome["checks"]["reproducible"]["verdict"], outcome["checks"]["reproducible"]["only_time"]) == (
        "differs",
        True,
    )
    (note,) = [note for note in outcome["notes"] if note.startswith("not reproducible:")]
    assert "only where the time is another one" in note
    assert "-YEAR = 20" in note


@pytest.mark.slow
@pytest.mark.parametrize("project", ["markupsafe", "msgpack"])
def test_a_compiled_package_does_not_depend_on_cores_or_date(build: Any, project: str) -> None:
    done, outcome = build(project, "--force", "--rebuild", "--check-reproducible")
    assert done.status == 0, done.stderr
    assert outcome["checks"]["reproducible"]["verdict"] == "identical"
    assert "time (400 days)" in outcome["checks"]["reproducible"]["varied"]


@pytest.mark.slow
def test_rebuilding_by_another_command_with_other_cores_changes_nothing(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands, and nothing but the sources, layers and image in common."""
    config = tmp_path / "config"
    (config / "cgroups").mkdir(parents=True)
    first = min(os.sched_getaffinity(0))
    (config / "cgroups/one.yaml").write_text(f"description: One\ninherits: default\ncpu: {{cpuset: '{first}'}}\n")
    monkeypatch.setenv("LXCBUILD_CONFIG_DIR", str(config))
    found = []
    for policy in ("default", "one"):
        done, outcome = build("markupsafe", "--force", "--rebuild", "--policy", policy)
        assert done.status == 0, done.stderr
        (buildinfo,) = (item["path"] for item in outcome["artifacts"] if item["path"].endswith(".buildinfo"))
        jobs = 1 if policy == "one" else len(os.sched_getaffinity(0))
        assert f' parallel={jobs}"\n' in Path(buildinfo).read_text()
        files = {Path(item["path"]).name: item["sha256"] for item in outcome["artifacts"]}
        found.append({name: digest for name, digest in files.items() if name.endswith((".deb", ".dsc", ".xz", ".gz"))})
    assert len(found[0]) == 4
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_project_of_meson_is_the_same_again(build: Any, tmp_path: Path) -> None:
    """By itself meson-python builds in a directory with a random name, which this project tells of."""
    files = {
        "pyproject.toml": "[build-system]\nrequires = ['meson-python']\nbuild-backend = 'mesonpy'\n"
        "[project]\nname = 'mesondemo'\nversion = '1.0'\n",
        "meson.build": "project('mesondemo', 'c', version: '1.0')\npython = import('python').find_installation(pure: false)\n"
        "python.install_sources('mesondemo.py')\n"
        "python.extension_module('_mesondemo', 'm.c', install: true, c_args: '-DPLACE=\"' + meson.project_build_root() + '\"')\n",
        "m.c": '#include <Python.h>\nstatic struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_mesondemo", PLACE, -1, NULL};\n'
        "PyMODINIT_FUNC PyInit__mesondemo(void) { return PyModule_Create(&module); }\n",
    }
    archive = sdist(tmp_path, "mesondemo", files, without=("setup.py",))
    found = []
    for _ in range(2):
        done, outcome = build(archive, "--rebuild")
        assert done.status == 0, done.stderr
        found.append({item["sha256"] for item in outcome["artifacts"] if item["path"].endswith("_amd64.deb")})
    assert len(found[0]) == 1
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("project", ["idna", "markupsafe"])
def test_generated_packaging_has_no_errors_of_lintian(build: Any, project: str) -> None:
    done, outcome = build(project, "--force", "--rebuild", "--lintian", "--no-deps")
    assert done.status == 0, done.stderr
    assert outcome["checks"]["lintian"]["errors"] == []


@pytest.mark.slow
def test_own_tests_run_on_the_installed_package_and_decide(build: Any, tmp_path: Path) -> None:
    well = "import tested\ndef test_value():\n    assert tested.VALUE == 1 and 'dist-packages' in tested.__file__\n"
    ill = "import tested\ndef test_other():\n    assert tested.VALUE == 2\n"
    done, outcome = build(sdist(tmp_path, "tested", {"tests/test_it.py": well}), "--tests")
    assert done.status == 0, done.stderr
    assert {key: outcome["checks"]["tests"][key] for key in ("passed", "failed", "errors")} == {
        "passed": 1,
        "failed": 0,
        "errors": 0,
    }
    done, outcome = build(sdist(tmp_path, "tested", {"tests/test_it.py": well + ill}), "--tests")
    assert done.status != 0
    assert (outcome["failure"]["class"], outcome["artifacts"]) == ("tests-failed", [])
    assert (outcome["checks"]["tests"]["passed"], outcome["checks"]["tests"]["failed"]) == (1, 1)
    done, outcome = build(sdist(tmp_path, "tested", {}), "--tests")
    assert (done.status, outcome["checks"]["tests"]) == (0, {"found": False})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "verdict", "says"),
    [
        ({"pytest.ini": "[pytest]\naddopts = -m 'a b'\n"}, "usage-error", "Wrong expression passed to '-m'"),
        ({"tests/test_more.py": "import no_such_module_anywhere\n"}, "not-loaded", "no_such_module_anywhere"),
        ({"tests/test_more.py": "import os\nos._exit(139)\n"}, "crashed", "139"),
    ],
)
def test_tests_that_cannot_run_are_no_tests_that_fail(
    build: Any, tmp_path: Path, files: dict[str, str], verdict: str, says: str
) -> None:
    well = "import tested\ndef test_value():\n    assert tested.VALUE == 1\n"
    done, outcome = build(sdist(tmp_path, "tested", {"tests/test_it.py": well, **files}), "--tests")
    assert done.status != 0
    assert outcome["checks"]["tests"]["verdict"] == verdict
    assert says in outcome["failure"]["brief"]
    assert outcome["artifacts"] == []
