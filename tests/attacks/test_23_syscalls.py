"""Attack 23: every system call number, in every calling convention, is answered as the checked-in table says."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lxcbuild.linux import syscall_numbers
from lxcbuild.state import data

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the script has machine code of x86_64"),
]
SCRIPT = "attack_23_every_syscall"
TABLE = Path(__file__).with_name("syscalls-x86_64.yaml")
NUMBERS = syscall_numbers.numbers("x86_64")


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    return yaml.safe_load(TABLE.read_text())


def vectors(table: dict[str, Any]) -> str:
    return json.dumps([[NUMBERS[name], arguments] for name, arguments, _ in table["arguments"]])


def differences(table: dict[str, Any], found: dict[str, list[str]]) -> list[str]:
    """Every answer that is not the table's."""
    wrong = []
    for number, answer in enumerate(found["native"]):
        expected = table["trampolines"].get(number)
        if expected is None:
            expected = [table["native"].get(number, f"? {table['unlisted']}").split()[1]]
        if answer not in expected:
            wrong.append(f"{number}: {answer}, not {expected}")
    for kind in ("x32", "i386"):
        wrong += [f"{kind} {n}: {answer}" for n, answer in enumerate(found[kind]) if answer != table[kind]]
    for (name, arguments, expected), answer in zip(table["arguments"], found["arguments"], strict=True):
        if answer != expected:
            wrong.append(f"{name}{arguments}: {answer}, not {expected}")
    return wrong


def test_the_table_names_every_call_that_we_know(table) -> None:
    assert {number: line.split()[0] for number, line in table["native"].items()} == {n: k for k, n in NUMBERS.items()}


@pytest.mark.attack(number=23)
def test_every_call_is_answered_as_the_table_says(run_attack, table) -> None:
    found = run_attack(SCRIPT, vectors(table))
    assert [len(found[kind]) for kind in ("native", "x32", "i386")] == [1024] * 3
    assert differences(table, found) == []


def test_without_the_filter_every_call_goes_through(run_attack, table) -> None:
    found = run_attack(SCRIPT, vectors(table), seccomp="none")
    for kind in ("native", "x32", "i386"):
        refused = {number for number, answer in enumerate(found[kind]) if answer != "allow"}
        assert refused <= set(table["trampolines"])
    assert set(found["arguments"]) == {"allow"}


@pytest.mark.attack(number=23)
def test_one_changed_line_of_the_profile_shows(run_attack, table, tmp_path, monkeypatch) -> None:
    place = tmp_path / "configuration" / "cgroups" / "seccomp"
    place.mkdir(parents=True)
    shutil.copy(data.shipped_directory("cgroups/seccomp") / "build.yaml", place / "weak.yaml")
    (place / "weak.yaml").write_text((place / "weak.yaml").read_text().replace("kcmp userfaultfd", "userfaultfd"))
    (place / "build.yaml").write_text("allow: {more: kcmp}\ndeny: {EACCES: {odd: getpid}}\n")
    monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, os.fspath(tmp_path / "configuration"))
    assert differences(table, run_attack(SCRIPT, vectors(table), seccomp="weak")) == ["312: ENOSYS, not ['EPERM']"]
    monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, os.fspath(tmp_path / "configuration"))
    found = differences(table, run_attack(SCRIPT, vectors(table), name="merged", seccomp="build"))
    assert found == ["39: EACCES, not ['allow']", "312: allow, not ['EPERM']"]


def test_the_profile_for_trusted_installations_adds_what_it_says(run_attack, table) -> None:
    found = run_attack(SCRIPT, vectors(table), seccomp="trusted")
    more = {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"}
    more |= {"io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents"}
    assert differences(table, found) == [f"{n}: allow, not ['ENOSYS']" for n in sorted(NUMBERS[name] for name in more)]
