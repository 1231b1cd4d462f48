"""Checks on request: what lintian says is sorted, test requirements are chosen, results from inside are held to their shape."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.builder.checks import checks
from lxcbuild.builder.checks.provenance import seccomp_digest
from lxcbuild.debian.checks import upstreamtests, variation
from lxcbuild.debian.checks.lintian import fatal_tags, lintian_job, parse_lintian
from lxcbuild.debian.inside.checks import find_tests
from lxcbuild.debian.steps import InsideJob, InsideStep, StepFailure
from lxcbuild.errors import BadNameError, GateError
from lxcbuild.sandbox.base import ExtractedFile

LINTIAN = b"""\
N: a remark
E: python-demo source: source-is-missing [static/x.js]
W: python3-demo: no-manual-page [usr/bin/demo]
E: python3-demo: no-copyright-file
E: python3-demo: \x1b[31mpainted
I: python3-demo: hardening-no-bindnow
"""


def test_lintian_errors_are_fatal_about_our_packaging_not_upstreams_files() -> None:
    found = parse_lintian(LINTIAN)
    assert [(item.level, item.package, item.tag) for item in found] == [
        ("E", "python-demo", "source-is-missing"),
        ("E", "python3-demo", "no-copyright-file"),
        ("W", "python3-demo", "no-manual-page"),
    ]
    assert [item.tag for item in found if item.fatal] == ["no-copyright-file"]
    assert "source-is-missing" not in fatal_tags()


def test_lintian_gets_packages_only() -> None:
    assert lintian_job(["python3-demo_1.0_all.deb"]).results == ("lintian.txt",)
    with pytest.raises(BadNameError):
        lintian_job(["--allow-root"])


def test_lintians_report_is_bounded() -> None:
    assert len(parse_lintian(b"E: a: some-tag\n" * 100_000)) == 200


@pytest.mark.parametrize(
    ("requires_dist", "found", "extras", "requirements"),
    [
        (["pytest; extra == 'tests'", "sphinx; extra == 'docs'"], [], ("tests",), ("pytest",)),
        ([], ["Demo[tests]", "hypothesis>=6", "tox"], ("tests",), ("hypothesis>=6", "pytest")),
        (["ruff; extra == 'dev'"], [], ("dev",), ("pytest",)),
        (["ruff; extra == 'dev'"], ["freezegun"], (), ("freezegun", "pytest")),
        ([], ["not a requirement !", "x @ https://example.org/x.zip", "pytest>=7"], (), ("pytest>=7", "pytest")),
    ],
)
def test_test_requirements_are_those_of_tests(
    requires_dist: list[str], found: list[str], extras: tuple[str, ...], requirements: tuple[str, ...]
) -> None:
    assert upstreamtests.wanted("demo", requires_dist, found) == (extras, requirements)


def result(**changes: Any) -> bytes:
    made = {
        "schema": 1, "status": 0, "tests": 5, "failures": 0, "errors": 0, "skipped": 1, "failing": [],
        "unloadable": [], "unloadable_count": 0,
        "origins": {"demo": "/usr/lib/python3/dist-packages/demo.py"},
    }  # fmt: skip
    return json.dumps({**made, **changes}).encode()


def run_of(data: bytes) -> upstreamtests.TestsRun:
    parsed = upstreamtests.parse_run(data)
    assert isinstance(parsed, upstreamtests.TestsRun)
    return parsed


def test_tests_count_only_where_the_installed_package_was_imported() -> None:
    assert run_of(result()).ok
    assert str(run_of(result())) == "4 passed, 0 failed, 0 errors, 1 skipped"
    assert not run_of(result(origins={"demo": "/build/tests-of-project/demo.py"})).ok
    assert not run_of(result(status=1, failures=2)).ok
    assert run_of(result(status=5)).none


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"status": 1, "failures": 1}, "failed"),
        ({"status": 1, "errors": 2, "unloadable": ["tests.a: x"], "unloadable_count": 1}, "failed"),
        ({"status": 1, "errors": 1, "unloadable": ["tests.a: x"], "unloadable_count": 1}, "not-loaded"),
        ({"status": 2, "errors": 1, "unloadable": ["tests.a: x"], "unloadable_count": 1}, "not-loaded"),
        ({"status": 3}, "crashed"),
        ({"status": 4, "tests": 0, "skipped": 0}, "usage-error"),
        ({"status": 5, "tests": 0, "skipped": 0}, "none"),
        ({"status": 139}, "crashed"),
        ({"status": 1}, "failed"),
    ],
)
def test_tests_that_could_not_run_are_told_from_tests_that_fail(changes: dict[str, Any], verdict: str) -> None:
    found = run_of(result(**changes))
    assert (found.verdict, found.ok) == (verdict, False)


def test_what_pytest_says_of_its_options_is_read_from_the_log() -> None:
    tail = b"ERROR: usage: __main__.py [options]\n__main__.py: error: unrecognized arguments: --cov\n  inifile: /x\n"
    assert upstreamtests.usage_error(tail) == "unrecognized arguments: --cov"
    assert upstreamtests.usage_error(b"ERROR: /build/tox.ini:3: no value\n") == "/build/tox.ini:3: no value"
    assert upstreamtests.usage_error(b"nothing of the kind") == ""


@pytest.mark.parametrize("data", [b"", b"[]", result(tests=-1), result(origins={"x": 1}), result(failing="x")])
def test_a_result_of_another_shape_is_a_failure(data: bytes) -> None:
    assert isinstance(upstreamtests.parse_run(data), StepFailure)


def test_what_tests_could_not_import_is_read_from_the_log() -> None:
    tail = (
        b"E   ModuleNotFoundError: No module named 'hypothesis'\nNo module named 'demo.more'\nNo module named '../x'\n"
    )
    assert upstreamtests.missing_modules(tail, own=["demo"]) == ("hypothesis",)


def test_requirements_of_tests_are_found_without_running_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[dependency-groups]\ntest = ["pytest", {include-group = "more"}]\nmore = ["attrs>=1"]\nloop = [{include-group = "loop"}]\n'
    )
    (tmp_path / "tox.ini").write_text(
        "[testenv]\ndeps =\n    -r reqs.txt\n    py39: old\n    freezegun  # clock\n    -c x\n"
    )
    (tmp_path / "reqs.txt").write_text("mock==1 --hash=sha256:abc\n-r ../../etc/passwd\n")
    monkeypatch.setattr(find_tests, "_TREE", tmp_path)
    groups = find_tests._pyproject()["dependency-groups"]
    assert find_tests._group(groups, "Test") == ["pytest", "attrs>=1"]
    assert find_tests._group(groups, "loop") == []
    assert find_tests._tox() == ["mock==1", "freezegun"]


def test_the_second_build_drops_privileges_before_package_code_runs() -> None:
    job = InsideJob(
        files={}, steps=(InsideStep(argv=("dpkg-buildpackage",), env={"TZ": "UTC", "SOURCE_DATE_EPOCH": "1"}),)
    )
    (step,) = variation.varied(job, clock=True, one_core=True).steps
    assert step.argv[0] == "setpriv"
    assert {"--bounding-set=-all", "--inh-caps=-all", "--clear-groups", "--no-new-privs"} <= set(step.argv)
    assert step.argv[-1] == "dpkg-buildpackage"
    assert step.env["SOURCE_DATE_EPOCH"] == "1"
    assert step.env["TZ"] != "UTC"
    assert step.cwd == variation.HOME


def test_files_that_describe_the_run_are_not_compared() -> None:
    names = ["a.deb", "a.deb", "a.dsc", "a.buildinfo", "a.changes", "conversion.json"]
    assert variation.comparable(names) == ("a.deb", "a.dsc")


def test_a_sealed_file_that_has_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(b"sealed")
    item = ExtractedFile(name=path.name, path=path, sha256=hashlib.sha256(b"sealed").hexdigest(), size_bytes=6)
    checks.ensure_untouched([item])
    path.write_bytes(b"other!")
    with pytest.raises(GateError):
        checks.ensure_untouched([item])


def test_the_digest_of_a_seccomp_profile_says_which_it_is() -> None:
    assert seccomp_digest("none") is None
    digest = seccomp_digest("build")
    assert digest is not None
    assert len(digest) == 64
    assert digest == seccomp_digest("build")


def test_what_differs_is_told_by_its_content() -> None:
    explained = (
        "--- /in/first/a.deb\n+++ /in/second/a.deb\n"
        "\u251c\u2500\u2500 file list\n\u2502 @@ -1,3 +1,3 @@\n\u2502 --rw-r--r--   0  0  0  51016 data.tar.xz\n"
        "\u2502 +-rw-r--r--   0  0  0  51000 data.tar.xz\n"
        "\u2502 \u2502 \u2502 -    Build ID: 53\n\u2502 \u2502 \u2502 +    Build ID: 36\n"
        "\u2502 \u2502 \u2502 -year = 2026\n\u2502 \u2502 \u2502 +year = 2027\n\u2502 \u2502  same = 1\n"
    )
    assert variation.telling_lines(explained) == ["-year = 2026", "+year = 2027"]
    assert variation.telling_lines("a.dsc came out of only one of the two builds") == [
        "a.dsc came out of only one of the two builds"
    ]
