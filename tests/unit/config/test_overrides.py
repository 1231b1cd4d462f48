"""Hand-made overrides: which apply, how they add up, and what is said of a mistake in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxcbuild.builder.machine import BuildMachine, ConverterChoice, ConverterFacts, Finish, RunPhase
from lxcbuild.config.overrides import OFF, Change, changed, load_overrides
from lxcbuild.errors import ConfigError
from lxcbuild.model import Converter, Phase, Target
from lxcbuild.state import data

BOOKWORM = Target("debian", "bookworm")
PATCH = "--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, str(tmp_path))
    folder = tmp_path / "packages"
    folder.mkdir()
    return folder


def problem(place: Path, text: str, name: str = "x.yaml") -> str:
    (place / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_overrides()
    return caught.value.brief


def test_everything_that_can_be_said(place: Path) -> None:
    (place / "fix.patch").write_text(PATCH)
    (place / "Python_LDAP.yaml").write_text(
        "description: needs its libraries\n"
        "converter: stdeb\n"
        "build-depends: {add: ['libldap-dev (>= 2.5)', 'a1 | b2'], remove: [libfoo-dev]}\n"
        "depends: {add: [ca-certificates], remove: [python3-old]}\n"
        "names: {Some.Project: python3-other, unwanted: ''}\n"
        "package: python3-ldap\n"
        "environment: {LEVEL: 3, NAME: a b}\n"
        "patches: [fix.patch]\n"
        "tests: off\n"
    )
    found = load_overrides().find("python-ldap", "3.4", BOOKWORM)
    assert found.converter == "stdeb"
    assert found.build_depends == Change(add=("libldap-dev (>= 2.5)", "a1 | b2"), remove=("libfoo-dev",))
    assert found.names == {"some-project": "python3-other", "unwanted": ""}
    assert found.environment == {"LEVEL": "3", "NAME": "a b"}
    assert [(patch.name, patch.text) for patch in found.patches] == [("fix.patch", PATCH)]
    assert (found.package, found.tests) == ("python3-ldap", OFF)
    told = found.describe()
    assert told.startswith("override packages/Python_LDAP.yaml: +libldap-dev")
    assert "patch fix.patch" in told
    assert load_overrides().find("other", "1", BOOKWORM).sources == ()


def test_versions_and_targets_choose(place: Path) -> None:
    (place / "a.yaml").write_text("project: x\nversions: '<2'\nenvironment: {A: old}\n")
    (place / "b.yaml").write_text("project: x\ntargets: ['debian/*']\nenvironment: {B: debian}\n")
    overrides = load_overrides()
    assert overrides.find("X", "1.9rc1", BOOKWORM).environment == {"A": "old", "B": "debian"}
    assert overrides.find("X", "2.0", BOOKWORM).environment == {"B": "debian"}
    assert overrides.find("X", "", Target("ubuntu", "noble")).environment == {}


def test_files_add_up_and_the_directory_of_the_command_line_is_stronger(place: Path, tmp_path: Path) -> None:
    (place / "x.yaml").write_text("converter: stdeb\nbuild-depends: {add: [aa]}\nenvironment: {A: '1', B: '1'}\n")
    more = tmp_path / "more"
    more.mkdir()
    (more / "x.yaml").write_text("converter: pyproject\nbuild-depends: {add: [bb]}\nenvironment: {B: '2'}\n")
    found = load_overrides(more).find("x", "1", BOOKWORM)
    assert found.converter == "pyproject"
    assert found.build_depends.add == ("aa", "bb")
    assert found.environment == {"A": "1", "B": "2"}
    assert found.sources == ("packages/x.yaml", "more/x.yaml")


def test_another_patch_is_another_override(place: Path) -> None:
    (place / "x.yaml").write_text("patches: [fix.patch]\n")
    (place / "fix.patch").write_text(PATCH)
    before = load_overrides().find("x", "1", BOOKWORM).digest
    (place / "fix.patch").write_text(PATCH.replace("+b", "+c"))
    after = load_overrides().find("x", "1", BOOKWORM).digest
    assert before
    assert before != after
    assert load_overrides().find("y", "1", BOOKWORM).digest == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "\nbuild_depends: {}\n",
            "packages/x.yaml:2: build_depends: there is no such key. Perhaps you meant 'build-depends'.",
        ),
        ("build-depends:\n  add: ['a;b']\n", "packages/x.yaml:2: build-depends.add[0]: 'a;b' is no relation"),
        ("converter: sdeb\n", "packages/x.yaml:1: converter: "),
        ("environment: {A: true}\n", "put it in quotes"),
        ("environment: {'A-B': x}\n", "packages/x.yaml:1: environment"),
        ('environment: {A: "x\\ny"}\n', "a variable has one line"),
        ("patches: [../../etc/shadow]\n", "is not a plain file name beside this one"),
        ("patches: [/etc/shadow]\n", "is not a plain file name beside this one"),
        ("patches: [gone.patch]\n", "packages/x.yaml:1: patches[0]: gone.patch cannot be read: No such file"),
        ("versions: new\n", "names no versions"),
        ("tests: true\n", "write off, or the command"),
    ],
)
def test_mistakes_are_told_with_file_line_and_key(place: Path, text: str, said: str) -> None:
    assert said in problem(place, text)


def test_a_file_must_speak_of_a_project(place: Path) -> None:
    assert "is not the name of a project" in problem(place, "tests: off\n", name="-x.yaml")


def test_relations_are_taken_away_by_package_and_added_once() -> None:
    change = Change(add=("bb (>= 2)", "cc"), remove=("aa", "dd"))
    assert changed(("aa (>= 1)", "bb", "cc", "dd | ee", "aab"), change) == ("bb", "cc", "aab", "bb (>= 2)")


def test_the_converter_of_an_override_holds_unless_the_user_says_otherwise() -> None:
    facts = ConverterFacts(has_setup_py=True, suite_has_pyproject_plugin=True, override=ConverterChoice.STDEB)
    for choice, converter in (
        (ConverterChoice.AUTO, Converter.STDEB),
        (ConverterChoice.PYPROJECT, Converter.PYPROJECT),
    ):
        machine = BuildMachine(choice)
        machine.start()
        while machine._phase is not Phase.INSPECT:
            machine.succeeded()
        assert machine.inspected(facts) == RunPhase(phase=Phase.PROVISION, converter=converter)
    machine = BuildMachine(ConverterChoice.AUTO)
    machine.start()
    while machine._phase is not Phase.INSPECT:
        machine.succeeded()
    ended = machine.inspected(
        ConverterFacts(has_setup_py=False, suite_has_pyproject_plugin=True, override=ConverterChoice.STDEB)
    )
    assert isinstance(ended, Finish)
