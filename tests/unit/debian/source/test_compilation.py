"""Failed compiles are named from the log's end, in the closed vocabulary."""

from __future__ import annotations

import pytest

from lxcbuild.debian.source.compilation import classify_compile_failure, compile_job, plugin_is_unfit


@pytest.mark.parametrize(
    ("log", "wanted", "named"),
    [
        (
            "ValueError: Unknown classifier in field `project.classifiers`: Programming Language :: Python :: 3.13\n",
            "build-dep-missing",
            "the backend is too old: Unknown classifier",
        ),
        (
            "dpkg-checkbuilddeps: error: Unmet build dependencies: flit dh-python\n",
            "build-dep-missing",
            "flit dh-python",
        ),
        ("ModuleNotFoundError: No module named 'hatch_vcs'\n", "build-dep-missing", "hatch_vcs"),
        ("src/x.c:3:10: fatal error: libpq-fe.h: No such file or directory\n", "build-dep-missing", "libpq-fe.h"),
        ("/usr/bin/ld: cannot find -lxml2: No such file\n", "build-dep-missing", "xml2"),
        ("flit_core.config.ConfigError: license field should be dict\n", "build-dep-missing", "license field"),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: 'requirements.txt'\n",
            "broken-sdist",
            "requirements.txt",
        ),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'git'\n", "compile-failed", "FileNotFoundError"),
        ("src/x.c:3:10: error: unknown type name 'foo'\n", "compile-failed", "src/x.c:3:10"),
        ("ValueError: bad\n", "compile-failed", "ValueError: bad"),
        ("EOFError: EOF when reading a line\n", "compile-failed", "EOFError"),
        ("make: *** [debian/rules:4: binary] Error 25\n", "compile-failed", "exit status 2"),
        ("", "compile-failed", "exit status 2"),
    ],
)
def test_a_failure_is_named(log: str, wanted: str, named: str) -> None:
    failure = classify_compile_failure(log.encode(), status="exit status 2")
    assert failure.failure_class == wanted
    assert named in failure.brief


def test_a_hostile_log_is_bounded_and_clean() -> None:
    log = b"\x1b[2J\xff\x00" + b"ValueError: " + b"{what}\x1b]0;x\x07" * 100_000
    failure = classify_compile_failure(log, status="exit status 2")
    assert len(failure.brief) <= 400
    assert "\x1b" not in failure.brief + (failure.details or "")
    assert len(failure.details or "") < 4000


def test_the_cpu_entitlement_reaches_the_build() -> None:
    job = compile_job("/build/x-1", timestamp_s=7, parallel=3)
    assert "-j3" in job.steps[0].argv
    assert job.steps[0].env["DEB_BUILD_OPTIONS"].split() == ["parallel=3", "noautodbgsym", "nocheck"]
    assert job.steps[0].env["SOURCE_DATE_EPOCH"] == "7"


def test_without_the_fork_server_the_build_starts_by_itself() -> None:
    served, alone = (compile_job("/build/x-1", timestamp_s=7, parallel=3, fork_server=asked) for asked in (True, False))
    assert served.steps[0].command == ("/usr/bin/perl", "/lxcbuild/forkserver.pl", *alone.steps[0].command)
    assert set(served.files) == {"/lxcbuild/forkserver.pl", "/lxcbuild/forkserver.py"}
    assert not alone.files


def test_a_wheel_that_pybuilds_plugin_cannot_take_apart_is_known() -> None:
    """What dh-python 5 says of greenlet, whose wheel brings C headers."""
    said = b"E: pybuild pybuild:388: build: plugin pyproject failed with: 'headers'\n"
    assert plugin_is_unfit(said)
    assert not plugin_is_unfit(b"E: pybuild pybuild:388: build: plugin pyproject failed with: exit code=1\n")
