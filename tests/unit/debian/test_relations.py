"""Requirements as Debian relations: every operator, markers of the target, extras, and that nothing is dropped silently."""

from __future__ import annotations

import pytest
from debian.debian_support import Version as DebianVersion
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import Specifier
from packaging.version import Version

from lxcbuild.debian.names import Distribution, NameMap
from lxcbuild.debian.relations import TargetPython, Translation, clause, own_extras, suggestions, translate
from lxcbuild.debian.versions import package_version, upstream_version
from lxcbuild.model import Target

PYTHON = TargetPython("3.11.2")


def everything(name: str) -> Distribution | None:
    return Distribution(name, "1.0", f"python3-{name}")


ANY = NameMap(archive=everything)


def run(*requirements: str, **options: object) -> Translation:
    return translate(requirements, python=PYTHON, names=ANY, **options)  # type: ignore[arg-type]


def admits(bounds: list[tuple[str, str]], version: str) -> bool:
    left = DebianVersion(version)
    tests = {
        ">=": lambda right: left >= right,
        ">>": lambda right: left > right,
        "<<": lambda right: left < right,
    }
    return all(tests[operator](DebianVersion(bound)) for operator, bound in bounds)


@pytest.mark.parametrize(
    ("requirement", "field"),
    [
        ("idna", "python3-idna"),
        ("idna>=1.2", "python3-idna (>= 1.2-0~)"),
        ("idna>1.2", "python3-idna (>> 1.2.0.~)"),
        ("idna<2.0", "python3-idna (<< 2~~)"),
        ("idna<2.0rc1", "python3-idna (<< 2.0~rc1-0~)"),
        ("idna<=1.2.3", "python3-idna (<< 1.2.4~~)"),
        ("idna==1.2.3", "python3-idna (<< 1.2.4~~), python3-idna (>= 1.2.3-0~)"),
        ("idna==1.2", "python3-idna (<< 1.2.1~~), python3-idna (>= 1.2-0~)"),
        ("idna==1.2.*", "python3-idna (<< 1.3~~), python3-idna (>= 1.2-0~)"),
        ("idna==1.2rc1", "python3-idna (<< 1.2~rc2~~), python3-idna (>= 1.2~rc1-0~)"),
        ("idna===1.2.3", "python3-idna (<< 1.2.4~~), python3-idna (>= 1.2.3-0~)"),
        ("idna~=1.4.2", "python3-idna (<< 1.5~~), python3-idna (>= 1.4.2-0~)"),
        ("idna~=1.4", "python3-idna (<< 2~~), python3-idna (>= 1.4-0~)"),
        ("idna>=2,<3", "python3-idna (<< 3~~), python3-idna (>= 2-0~)"),
        ("idna>=1!2.0", "python3-idna (>= 2.0-0~)"),
        ("Zope.Interface", "python3-zope-interface"),
    ],
)
def test_operators(requirement: str, field: str) -> None:
    assert run(requirement).field == field
    assert run(requirement).unmapped == ()


numbers = st.integers(min_value=0, max_value=4)
releases = st.tuples(numbers, numbers, st.integers(min_value=1, max_value=4)).map(lambda t: ".".join(map(str, t)))
operators = st.sampled_from([">=", ">", "<", "<=", "==", "===", "~="])


@given(operators, releases, releases, st.sampled_from(["-1", "-0ubuntu1", "+dfsg-2", "-0~lxcbuild1~deb12"]))
def test_dpkg_admits_what_pep_440_admits(operator: str, bound: str, version: str, revision: str) -> None:
    spec = Specifier(operator + bound)
    bounds = clause(spec)
    assert bounds
    assert admits(bounds, upstream_version(version) + revision) == spec.contains(Version(version))


@pytest.mark.parametrize("spec", ["==1.2.3", ">=1.2.3", "~=1.2.3", "==1.2.3rc1", "<=1.2.3", "===1.2.3.post1"])
def test_packages_made_here_satisfy_a_bound_on_their_own_version(spec: str) -> None:
    version = spec.lstrip("=<>~")
    assert admits(clause(Specifier(spec)) or [], package_version(version, Target("debian", "bookworm")))


def test_pre_releases_do_not_satisfy_a_lower_bound() -> None:
    assert not admits(clause(Specifier(">=1.2")) or [], package_version("1.2rc1", Target("debian", "bookworm")))
    assert not admits(clause(Specifier("<1.2rc1")) or [], package_version("1.2rc1", Target("debian", "bookworm")))


@given(releases, st.sampled_from(["a1", "b2", "rc1", ".dev3"]))
def test_pre_releases_of_an_upper_bound_stay_out(bound: str, suffix: str) -> None:
    for spec in (f"<{bound}", f"!={bound},<{bound}".split(",")[1]):
        assert not admits(clause(Specifier(spec)) or [], upstream_version(bound + suffix) + "-1")


def test_bounds_that_differ_by_zeros_only_pass_what_the_suite_has() -> None:
    there = NameMap(archive=lambda name: Distribution(name, "4.0", f"python3-{name}"))
    assert translate(["x>=4.0.0"], python=PYTHON, names=there).field == "python3-x (>= 4.0-0~)"
    assert translate(["x>=4.0.1"], python=PYTHON, names=there).field == "python3-x (>= 4.0.1-0~)"
    assert translate(["x>=3.0.0"], python=PYTHON, names=there).field == "python3-x (>= 3.0.0-0~)"


def test_inequality_is_dropped_and_noted() -> None:
    result = run("idna!=3.1,>=3")
    assert result.field == "python3-idna (>= 3-0~)"
    assert any("!=3.1" in note for note in result.notes)


def test_upper_bounds_of_build_requirements_are_noted_and_not_enforced() -> None:
    result = run("setuptools>=61,<70", "wheel==0.40", build=True)
    assert result.field == "python3-setuptools (>= 61-0~), python3-wheel (>= 0.40-0~)"
    assert len(result.notes) == 2


def test_markers_are_those_of_the_target() -> None:
    result = run(
        "tomli; python_version < '3.11'",
        "new; python_full_version >= '3.11.2'",
        "win; sys_platform == 'win32'",
        "lin; platform_system == 'Linux' and platform_machine == 'x86_64' and os_name == 'posix'",
        "cpy; implementation_name == 'cpython' and platform_python_implementation == 'CPython'",
    )
    assert result.field == "python3-cpy, python3-lin, python3-new"
    old = translate(["tomli; python_version < '3.11'"], python=TargetPython("3.9.2"), names=ANY)
    assert old.field == "python3-tomli"
    arm = TargetPython("3.11.2", "arm64")
    assert translate(["a; platform_machine == 'aarch64'"], python=arm, names=ANY).field == "python3-a"


def test_extras_are_expanded_for_the_asked_ones_only() -> None:
    needs = {"requests": ["urllib3>=1", "PySocks>=1.5; extra == 'socks'", "chardet; extra == 'other'"]}
    result = run("requests[socks]>=2", extra_requirements=lambda name, extra: needs.get(name))
    assert result.field == "python3-pysocks (>= 1.5-0~), python3-requests (>= 2-0~), python3-urllib3 (>= 1-0~)"
    unknown = run("requests[socks]")
    assert unknown.field == "python3-requests"
    assert any("socks" in note for note in unknown.notes)


def test_extras_that_name_each_other_come_to_an_end() -> None:
    needs = {"a": ["b[x]; extra == 'x'"], "b": ["a[x]; extra == 'x'"]}
    assert run("a[x]", extra_requirements=lambda name, extra: needs[name]).field == "python3-a, python3-b"


def test_own_extras_become_suggestions() -> None:
    requires = [
        "idna",
        "click; extra == 'cli'",
        "pytest>=7; extra == 'test' and python_version > '3'",
        "idna; extra == 'x'",
    ]
    assert own_extras(requires) == ("cli", "test", "x")
    assert run(*requires).field == "python3-idna"
    assert suggestions(requires, python=PYTHON, names=ANY).field == "python3-click, python3-pytest"


def test_what_cannot_be_mapped_is_listed() -> None:
    result = translate(
        ["known", "nobody>=1", "bad @ https://example.invalid/x.zip", "no requirement at all", "odd===1-of-a-kind!"],
        python=PYTHON,
        names=NameMap(fallback={"known": "python3-known", "odd": "python3-odd"}),
    )
    assert result.field == "python3-known"
    assert [item.name for item in result.unmapped] == ["nobody", "bad", "", "odd"]
    assert all(item.reason for item in result.unmapped)


def test_an_override_can_say_that_nothing_is_needed() -> None:
    result = translate(["typing-extensions>=4"], python=PYTHON, names=NameMap(overrides={"typing-extensions": ""}))
    assert (result.field, result.unmapped) == ("", ())


def test_the_same_package_is_written_once() -> None:
    assert run("a", "A>=1", "a>=1").field == "python3-a (>= 1-0~)"
