"""Debian source packages as inputs: hostile .dsc files, hostile debian/control, relations, packages that exclude each other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.debian import sourcepackage
from lxcbuild.debian.checks.installsets import install_sets, python_packages
from lxcbuild.debian.gate.artifacts import ArtifactError
from lxcbuild.debian.inside import read_debian, report
from lxcbuild.debian.sourcepackage import SourcePackage, build_relations, read_dsc, relations_on_others
from lxcbuild.debian.steps import StepFailure
from lxcbuild.errors import BadNameError
from lxcbuild.model import FailureClass

DIGEST = "ab" * 32
DSC = f"""\
Format: 3.0 (quilt)
Source: hello
Binary: hello
Version: 1:2.10-3
Checksums-Sha256:
 {DIGEST} 725946 hello_2.10.orig.tar.gz
 {DIGEST} 12688 hello_2.10-3.debian.tar.xz
"""
SIGNED = (
    f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{DSC}"
    "-----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n"
)


def read(text: str) -> sourcepackage.Dsc:
    return read_dsc(text.encode(), what="x.dsc")


@pytest.mark.parametrize("text", [DSC, SIGNED, SIGNED.replace("\n", "\r\n")])
def test_a_dsc_names_its_files_whether_signed_or_not(text: str) -> None:
    found = read(text)
    assert (found.source, found.version) == ("hello", "1:2.10-3")
    assert found.files["hello_2.10.orig.tar.gz"] == (DIGEST, 725946)
    assert len(found.files) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("hello_2.10.orig.tar.gz", "../etc/shadow"), "malformed"),
        (("hello_2.10.orig.tar.gz", "/etc/shadow"), "malformed"),
        (("hello_2.10.orig.tar.gz", ".hidden"), "malformed"),
        (("hello_2.10.orig.tar.gz", "another.dsc"), "not a file of a source package"),
        (("hello_2.10.orig.tar.gz", "hello_2.10-3.debian.tar.xz"), "repeated"),
        ((DIGEST, "ab" * 20), "malformed"),
        (("3.0 (quilt)", "3.0 (custom)"), "format"),
        (("Source: hello", "Source: ../hello"), "package name"),
        (("Source: hello", "Source: hello\nSource: other"), "twice"),
        (("1:2.10-3", "1; rm -rf /"), "version"),
        (("Checksums-Sha256", "Files"), "no files"),
        (("Binary: hello", "Binary: \x1b[2J"), "control characters"),
    ],
)
def test_a_hostile_dsc_is_refused(change: tuple[str, str], told: str) -> None:
    with pytest.raises(ArtifactError, match=told):
        read(DSC.replace(*change))


@pytest.mark.parametrize(
    "text",
    [
        SIGNED + "Source: other\n",
        "Source: other\n" + SIGNED,
        SIGNED.replace("-----BEGIN PGP SIGNATURE-----", "-----BEGIN PGP SIGNATURE----"),
        SIGNED + SIGNED,
        "-----BEGIN PGP SIGNED MESSAGE-----",
    ],
)
def test_what_stands_around_a_signed_text_is_never_read(text: str) -> None:
    with pytest.raises(ArtifactError):
        read(text)


def test_a_dsc_is_bounded() -> None:
    with pytest.raises(ArtifactError, match="bytes"):
        read(DSC + "X-Long: " + "x" * 2_000_000)
    many = "".join(f" {DIGEST} 1 hello_{n}.tar.gz\n" for n in range(60))
    with pytest.raises(ArtifactError, match="more than 50 files"):
        read(DSC + many)


# -- relations ------------------------------------------------------------------------------------------------------


def test_restriction_formulas_are_decided_and_architectures_left_to_apt() -> None:
    found = build_relations(
        [
            "debhelper-compat (= 13)",
            "python3-pytest <!nocheck>",
            "doxygen <!nodoc>",
            "valgrind [amd64 arm64] <!nocheck !stage1>",
            "gcc-avr <nocheck> <stage1>",
            "libfoo-dev:native (>= 1.2~) [linux-any] | libbar-dev <!nocheck>",
        ]
    )
    assert found == ("debhelper-compat (= 13)", "doxygen", "gcc-avr", "libfoo-dev (>= 1.2~) [linux-any]")
    assert "python3-pytest" in build_relations(["python3-pytest <!nocheck>"], profiles=())


@pytest.mark.parametrize(
    "text", ["-o APT::x=y", "foo; rm", "foo (>= 1.0) bar", "${misc:Depends}", "foo\x00", "Conflicts: x"]
)
def test_what_is_no_relation_never_reaches_apt(text: str) -> None:
    with pytest.raises(BadNameError):
        build_relations([text])


def test_relations_on_packages_of_the_same_build_are_left_out() -> None:
    own = {"libx1", "x-data"}
    assert relations_on_others("libc6 (>= 2.36), libx1 (= 1.0-1), x-data | other", own) == ("libc6 (>= 2.36)",)
    assert relations_on_others("", own) == ()


# -- debian/ --------------------------------------------------------------------------------------------------------

CONTROL = """\
# a comment
Source: demo
Build-Depends: debhelper-compat (= 13),
# another
 libfoo-dev (>= 1.0) <!nocheck>,
Build-Depends-Indep: python3-sphinx <!nodoc>

Package: libdemo1
Architecture: any
Description: x

Package: demo-doc
Architecture: all
Description: y
"""
CHANGELOG = "demo (2:1.0-1) unstable; urgency=medium\n\n  * x\n\n -- A B <a@b.org>  Sat, 21 Nov 2026 01:00:00 +0000\n"


@pytest.fixture
def inspected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SourcePackage | StepFailure]:
    """What the script inside finds in a tree, read by the host."""

    def run(control: str | None = CONTROL, changelog: str | None = CHANGELOG) -> SourcePackage | StepFailure:
        debian = tmp_path / "tree" / "debian"
        debian.mkdir(parents=True)
        for name, text in (("control", control), ("changelog", changelog)):
            if text is not None:
                (debian / name).write_text(text)
        monkeypatch.setattr(report, "OUT", tmp_path)
        read_debian.main([str(tmp_path / "tree")])
        return sourcepackage.parse((tmp_path / sourcepackage.RESULT).read_bytes())

    return run


def has_dpkg_parsechangelog() -> bool:
    return Path("/usr/bin/dpkg-parsechangelog").exists()


needs_dpkg_dev = pytest.mark.skipif(not has_dpkg_parsechangelog(), reason="needs dpkg-dev on the host")


@needs_dpkg_dev
def test_debian_is_read(inspected: Callable[..., SourcePackage]) -> None:
    found = inspected()
    assert isinstance(found, SourcePackage), found
    assert (found.source, found.version, found.distribution) == ("demo", "2:1.0-1", "unstable")
    assert found.upstream == "1.0"
    assert found.tree == "/build/demo-1.0"
    assert found.timestamp_s == 1795222800
    assert found.build_depends == ("debhelper-compat (= 13)", "python3-sphinx")
    assert [item.name for item in found.made_for("amd64")] == ["libdemo1", "demo-doc"]


@needs_dpkg_dev
@pytest.mark.parametrize(
    "change",
    [
        {"control": None},
        {"changelog": None},
        {"control": CONTROL.replace("Source: demo", "Source: other")},
        {"control": CONTROL.replace("Source: demo", "Sauce: demo")},
        {"control": CONTROL.replace("Package: libdemo1", "Package: ../x")},
        {"control": CONTROL.replace("libfoo-dev (>= 1.0)", "-o Dir::Etc=/x")},
        {"control": "Source: demo\n"},
        {"control": " x\n"},
        {"control": "x" * 5_000_000},
        {"changelog": "nonsense\n"},
        {"changelog": CHANGELOG.replace("2:1.0-1", "1.0/../..")},
    ],
)
def test_a_broken_debian_is_a_broken_source(
    inspected: Callable[..., SourcePackage | StepFailure], change: dict[str, str | None]
) -> None:
    found = inspected(**change)
    assert isinstance(found, StepFailure)
    assert found.failure_class is FailureClass.BROKEN_SDIST


def test_architectures_decide_what_is_made() -> None:
    document: dict[str, Any] = {
        "schema": 1,
        "source": "x",
        "version": "1",
        "distribution": "sid",
        "timestamp": 1,
        "binaries": [
            {"name": f"b{n}", "architectures": [word]}
            for n, word in enumerate(["armhf", "any-amd64", "linux-any", "all", "i386"])
        ],
    }
    found = sourcepackage.parse(json.dumps(document).encode())
    assert isinstance(found, SourcePackage)
    assert [item.name for item in found.made_for("amd64")] == ["b1", "b2", "b3"]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"schema": 1}', b'{"schema": 1, "failure": {"class": "oom"}}'])
def test_a_result_that_is_not_ours_is_a_broken_source(data: bytes) -> None:
    found = sourcepackage.parse(data)
    assert isinstance(found, StepFailure)
    assert found.failure_class is FailureClass.BROKEN_SDIST


def test_file_names_are_checked_before_they_are_arguments() -> None:
    for name in ("--help.dsc", "a b.dsc", "../x.dsc", "x/y.dsc"):
        with pytest.raises(BadNameError):
            sourcepackage.unpack_job(name, tree="/build/x")
    (first,) = sourcepackage.unpack_job("hello_2.10-3.dsc", tree="/build/hello-2.10").steps
    assert first.argv[0] == "dpkg-source"
    assert not first.as_root


# -- sets -----------------------------------------------------------------------------------------------------------


def test_conflicting_packages_are_installed_apart_with_their_dependencies() -> None:
    stanzas = {
        "common.deb": {"Package": "x-common"},
        "gtk.deb": {"Package": "x-gtk", "Depends": "x-common (= 1)", "Conflicts": "x-nox"},
        "nox.deb": {"Package": "x-nox", "Depends": "x-common"},
        "old.deb": {"Package": "x-old", "Breaks": "x-common (<< 0.5)"},
    }
    assert install_sets(stanzas) == (("common.deb", "gtk.deb", "old.deb"), ("common.deb", "nox.deb"))


def test_packages_that_conflict_through_what_they_provide_are_apart() -> None:
    stanzas = {
        "a.deb": {"Package": "a", "Provides": "mta", "Conflicts": "mta"},
        "b.deb": {"Package": "b", "Provides": "mta (= 1)"},
    }
    assert install_sets(stanzas) == (("a.deb",), ("b.deb",))
    assert install_sets({"a.deb": stanzas["a.deb"]}) == (("a.deb",),)


def test_only_python_packages_are_imported() -> None:
    names = [{"Package": name} for name in ("python3-x", "python3-x-doc", "x-utils", "python-x-doc")]
    assert python_packages(names) == ("python3-x",)


def test_dpkg_source_has_the_options_that_are_used() -> None:
    if not Path("/usr/bin/dpkg-source").exists():
        pytest.skip("needs dpkg-dev on the host")
    told = subprocess.run(["dpkg-source", "--help"], capture_output=True, text=True, check=True).stdout
    assert "--no-copy" in told
    assert "--no-check" in told
