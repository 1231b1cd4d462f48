"""Names of packages: normalisation, refusal, the mapping order."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxcbuild.debian.names import (
    FALLBACK_PATH,
    Distribution,
    NameMap,
    Origin,
    binary_package,
    load_fallback,
    normalise,
    parse_fallback,
    source_package,
)
from lxcbuild.errors import BadNameError


@pytest.mark.parametrize(
    ("name", "plain"), [("idna", "idna"), ("Zope.Interface", "zope-interface"), ("A__b..c", "a-b-c"), ("x", "x")]
)
def test_names_are_normalised(name: str, plain: str) -> None:
    assert normalise(name) == plain
    assert binary_package(name) == f"python3-{plain}"


@pytest.mark.parametrize(
    "name",
    ["", "a;b", "../etc", "a/b", "a b", "-a", "a-", "x'y", "a$(id)", "a\n", "é", "\u0131", "a" * 300, "a\0b", "<a>"],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(BadNameError):
        normalise(name)


def test_source_package_has_the_prefix_once() -> None:
    assert source_package("idna") == "python-idna"
    assert source_package("Python_DateUtil") == "python-dateutil"


def test_mapping_order() -> None:
    archive = {"b": Distribution("b", "1.0", "python3-archive-b"), "a": Distribution("a", "1.0", "python3-archive-a")}
    names = NameMap(
        overrides={"a": "python3-mine"},
        archive=archive.get,
        built={"b": Distribution("b", "2", "python3-b"), "c": Distribution("c", "3", "python3-c")},
        fallback={"c": "python3-old-c", "d": "python3-dee"},
    )
    found = {name: names.find(name) for name in "abcde"}
    assert [m and (m.package, m.origin, m.version) for m in found.values()] == [
        ("python3-mine", Origin.OVERRIDE, None),
        ("python3-archive-b", Origin.ARCHIVE, "1.0"),
        ("python3-c", Origin.BUILT, "3"),
        ("python3-dee", Origin.FALLBACK, None),
        None,
    ]


def test_a_package_made_here_takes_the_name_that_the_archive_uses() -> None:
    names = NameMap(archive={"zope-interface": Distribution("zope-interface", "5", "python3-zope.interface")}.get)
    assert names.binary_package("zope.interface") == "python3-zope.interface"
    assert names.binary_package("nobody_has_it") == "python3-nobody-has-it"


def test_a_name_that_the_suite_has_for_another_project_is_not_taken() -> None:
    archive = {"python-apt": Distribution("python-apt", "2", "python3-apt"), "b": Distribution("b", "1", "python3-b")}
    names = NameMap(archive=archive.get, overrides={"mine": "python3-mine"}, taken=lambda _: True)
    package = names.binary_package("Apt")
    assert (package, source_package("Apt", package)) == ("python3-apt.pypi", "python-apt.pypi")
    # What another project is called cannot be the same, however it writes its name.
    assert names.binary_package("apt.pypi") == "python3-apt-pypi.pypi"
    for project, same in (("python-apt", "python3-apt"), ("b", "python3-b"), ("mine", "python3-mine")):
        assert names.binary_package(project) == same
        assert source_package(project, same) == source_package(project)


def test_fallback_table_is_read_from_an_image(tmp_path: Path) -> None:
    assert load_fallback(tmp_path) == {}
    table = tmp_path / FALLBACK_PATH
    table.parent.mkdir(parents=True)
    table.write_text("# comment\nPyYAML python3-yaml\nBad\nX;y python3-x\nTwo python3-two; PEP386\nZ $(id)\n")
    assert load_fallback(tmp_path) == {"pyyaml": "python3-yaml"}
    assert parse_fallback("Pillow python3-pil\npillow other\n") == {"pillow": "python3-pil"}
