"""Debian versions of PEP 440 versions: the table, and that dpkg's order is packaging's."""

from __future__ import annotations

import pytest
from debian.debian_support import Version as DebianVersion
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from lxcbuild.debian.versions import package_version, target_suffix, upstream_version
from lxcbuild.errors import BadNameError
from lxcbuild.model import Target

BOOKWORM = Target("debian", "bookworm")
numbers = st.integers(min_value=0, max_value=30)


@st.composite
def public_versions(draw: st.DrawFn) -> str:
    # The last number is not zero: dpkg, unlike PEP 440, tells 1.0 from 1.0.0.
    release = [*draw(st.lists(numbers, max_size=3)), draw(st.integers(min_value=1, max_value=30))]
    text = ".".join(map(str, release))
    if draw(st.booleans()):
        text += draw(st.sampled_from(["a", "b", "rc"])) + str(draw(numbers))
    if draw(st.booleans()):
        text += f".post{draw(numbers)}"
    if draw(st.booleans()):
        text += f".dev{draw(numbers)}"
    return text


def compare(left: object, right: object) -> int:
    return (left > right) - (left < right)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("python", "debian"),
    [
        ("1.0", "1.0"),
        ("1.0rc1", "1.0~rc1"),
        ("1.0.0-beta.2", "1.0.0~b2"),
        ("v2.0a1", "2.0~a1"),
        ("1.0.dev3", "1.0~~dev3"),
        ("1.0a1.dev3", "1.0~a1~dev3"),
        ("1.0.post2", "1.0+post2"),
        ("1.0-2", "1.0+post2"),
        ("1!2.0", "2.0"),
        ("1.0+g12.d5", "1.0+~g12.d5"),
    ],
)
def test_table(python: str, debian: str) -> None:
    assert upstream_version(python) == debian


@given(public_versions(), public_versions())
def test_dpkg_orders_releases_as_python_does(left: str, right: str) -> None:
    python = compare(Version(left), Version(right))
    assert compare(DebianVersion(upstream_version(left)), DebianVersion(upstream_version(right))) == python
    full = [DebianVersion(package_version(text, BOOKWORM)) for text in (left, right)]
    assert compare(*full) == python


@given(public_versions(), public_versions(), st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8})?", fullmatch=True))
def test_local_part_sorts_just_above_its_release(version: str, other: str, local: str) -> None:
    with_local = f"{version}+{local}"
    assert DebianVersion(upstream_version(version)) < DebianVersion(upstream_version(with_local))
    if Version(other).public != Version(version).public:
        python = compare(Version(with_local), Version(other))
        assert compare(DebianVersion(upstream_version(with_local)), DebianVersion(upstream_version(other))) == python


@given(public_versions())
def test_any_official_revision_supersedes_ours(version: str) -> None:
    ours = DebianVersion(package_version(version, BOOKWORM))
    assert ours.epoch is None
    assert ours < DebianVersion(upstream_version(version) + "-1")
    assert ours < DebianVersion(upstream_version(version) + "-0ubuntu1")


def test_newer_suites_have_higher_versions() -> None:
    suites = ["bullseye", "bookworm", "trixie", "forky", "sid"]
    full = [DebianVersion(package_version("1.0", Target("debian", suite))) for suite in suites]
    assert full == sorted(full)
    assert target_suffix(Target("ubuntu", "noble")) == "ubuntu24.04"
    assert package_version("3.10", BOOKWORM) == "3.10-0~lxcbuild1~deb12"


@pytest.mark.parametrize("text", ["", "1.0; rm -rf /", "../1", "1.0'--", "x" * 300, "1." * 200 + "1"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(BadNameError):
        upstream_version(text)
