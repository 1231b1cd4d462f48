"""Profiles of system calls: files, merging, and the compiled program, run by a small interpreter of classic BPF."""

from __future__ import annotations

import errno
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from lxcbuild.config.seccomp_profiles import load_seccomp
from lxcbuild.errors import ConfigError, LimitRefusedError
from lxcbuild.linux import syscall_numbers
from lxcbuild.sandbox import seccomp
from lxcbuild.state import data
from tests import ROOT

TABLES = ROOT / "tests/attacks"
MACHINES = ("x86_64", "aarch64")


def answer(program: bytes, number: int, arguments: tuple[int, ...] = (), *, arch: int) -> str:
    """What the program returns for one call, as the tables name it."""
    padded = (*(value & (2**64 - 1) for value in arguments), *([0] * (6 - len(arguments))))
    facts = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    place = value = 0
    while True:
        operation, if_true, if_false, constant = code[place]
        place += 1
        if operation == 0x20:
            value = struct.unpack_from("<I", facts, constant)[0]
        elif operation == 0x54:
            value &= constant
        elif operation == 0x05:
            place += constant
        elif operation == 0x06:
            return "allow" if constant == 0x7FFF0000 else errno.errorcode[constant & 0xFFFF]
        else:
            holds = {0x15: value == constant, 0x35: value >= constant, 0x45: bool(value & constant)}[operation]
            place += if_true if holds else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_the_compiled_program_answers_as_the_table_says(machine: str) -> None:
    table: dict[str, Any] = yaml.safe_load((TABLES / f"syscalls-{machine}.yaml").read_text())
    program = seccomp.program(load_seccomp("build"), machine)
    arch = syscall_numbers.AUDIT_ARCH[machine]
    numbers = syscall_numbers.numbers(machine)
    for number in (*range(2048), 0x40000000, 0x40000027, 2**31, 2**32 - 1):
        expected = table["native"].get(number, f"- {table['unlisted']}").split()[1]
        assert answer(program, number, arch=arch) == expected, number
    for name, arguments, expected in table["arguments"]:
        assert answer(program, numbers[name], tuple(arguments), arch=arch) == expected, (name, arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_other_calling_conventions_of_a_machine_have_no_calls(machine: str) -> None:
    program = seccomp.program(load_seccomp("trusted"), machine)
    for arch in (0x40000003, 0x40000028, 0, *syscall_numbers.AUDIT_ARCH.values()):
        if arch != syscall_numbers.AUDIT_ARCH[machine]:
            assert {answer(program, number, arch=arch) for number in range(512)} == {"ENOSYS"}


def test_the_program_is_small() -> None:
    assert len(seccomp.program(load_seccomp("build"), "x86_64")) // 8 < 400


def test_no_filter_is_asked_for_by_name() -> None:
    assert seccomp.filters("none") is None


def test_a_machine_without_a_table_is_refused() -> None:
    with pytest.raises(LimitRefusedError, match="riscv64"):
        seccomp.program(load_seccomp("build"), "riscv64")


def written(folder: Path, **files: str) -> tuple[Path, ...]:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return (data.shipped_directory("cgroups/seccomp"), folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("allow: {a: [read, read]}\notherwise: ENOSYS", "read is named twice"),
        (
            "allow: {a: mknod}\nconditions: {mknod: {rules: [], otherwise: allow}}\notherwise: ENOSYS",
            "also named under",
        ),
        ("allow: {a: read}", "otherwise: is missing"),
        ("otherwise: ELEPHANT", "otherwise"),
        ("alow: {}", "Perhaps you meant 'allow'"),
        ("conditions: {clone: {rules: [{when: [{argument: 0}], answer: allow}], otherwise: EPERM}}", "needs 'is' or"),
        (
            "conditions: {clone: {rules: [{when: [{argument: 6, is: [1]}], answer: allow}], otherwise: EPERM}}",
            "argument",
        ),
        ("conditions: {clone: {rules: [], otherwise: perhaps}}", "neither 'allow' nor"),
        ("inherits: odd", "circle"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_seccomp("odd", places=written(tmp_path, odd=text))


def test_calls_and_profiles_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    places = written(tmp_path, odd="allow: {a: raed}\notherwise: ENOSYS")
    with pytest.raises(LimitRefusedError, match="no system call raed"):
        seccomp.program(load_seccomp("odd", places=places), "x86_64")
    with pytest.raises(LimitRefusedError, match=r"no seccomp profile 'biuld'\. Perhaps you meant 'build'"):
        load_seccomp("biuld")


def test_the_administrators_file_has_the_last_word(tmp_path: Path) -> None:
    profile = load_seccomp("trusted", places=written(tmp_path, build="deny: {EACCES: {mine: ptrace}}"))
    assert profile.calls["ptrace"] == "EACCES"
    assert profile.calls["read"] == "allow"
    assert profile.calls["landlock_add_rule"] == "allow"


def test_what_liblxc_loads_first_is_short_and_has_the_namespaces() -> None:
    filters = seccomp.filters("build")
    assert filters is not None
    lines = filters.first_text.splitlines()
    assert lines[:3] == ["2", "denylist", "[all]"]
    assert {"unshare errno 1", "setns errno 1", "clone3 errno 38"} <= set(lines)
    assert len(lines) < 20
