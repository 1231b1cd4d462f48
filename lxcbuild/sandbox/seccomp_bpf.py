"""Compiles answers per system call into classic BPF (Linux: Documentation/userspace-api/seccomp_filter.rst, linux/filter.h).

The program first checks the calling convention, then searches the number in a balanced tree of ranges: eight or nine comparisons
for any call, and the kernel remembers which numbers are always allowed anyway. Numbers of x32 (bit 30) are above all ranges.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping

from lxcbuild.config.seccomp_profiles import Conditions, Rule, Test

# linux/bpf_common.h, linux/seccomp.h
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06  # LD W ABS, ALU AND K, RET K
_JUMP, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_BITS = 0x05, 0x15, 0x35, 0x45
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
#: Offsets in ``struct seccomp_data``; the low half of an argument comes first on the machines that we have tables for.
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

#: The kernel's limit is 4,096 instructions for one program (BPF_MAXINSNS).
MAX_INSTRUCTIONS = 4096

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant
_Code = list[Instruction]
Answer = str | Conditions


def errno_of(name: str) -> int:
    """The number of a named error."""
    number: int = getattr(errno, name)
    return number


def compile_filter(answers: Mapping[int, Answer], *, otherwise: str, audit_arch: int) -> bytes:
    """An array of ``struct sock_filter``. ``answers``: number to ``allow``, the name of an error, or conditions."""
    ranges = _ranges(answers, otherwise)
    code: _Code = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, audit_arch),
        (_RETURN, 0, 0, _verdict(otherwise)),
        (_LOAD, 0, 0, _NUMBER),
        *_tree(ranges),
    ]
    assert len(code) <= MAX_INSTRUCTIONS, "the profile is larger than the kernel takes"
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _ranges(answers: Mapping[int, Answer], otherwise: str) -> list[tuple[int, Answer]]:
    """First number of each run of equal answers; the last run has no end."""
    found: list[tuple[int, Answer]] = []
    for number in range(max(answers) + 2):
        answer = answers.get(number, otherwise)
        if not found or found[-1][1] != answer:
            found.append((number, answer))
    return found


def _verdict(answer: str) -> int:
    return _RET_ALLOW if answer == "allow" else _RET_ERRNO | errno_of(answer)


def _tree(ranges: list[tuple[int, Answer]]) -> _Code:
    """Decide among the ranges; the number is in the accumulator."""
    if len(ranges) == 1:
        answer = ranges[0][1]
        return _conditions(answer) if isinstance(answer, Conditions) else [(_RETURN, 0, 0, _verdict(answer))]
    middle = len(ranges) // 2
    low, high = _tree(ranges[:middle]), _tree(ranges[middle:])
    if len(low) <= 255:  # conditional jumps are one byte wide
        return [(_JUMP_GREATER_EQUAL, len(low), 0, ranges[middle][0]), *low, *high]
    return [(_JUMP_GREATER_EQUAL, 0, 1, ranges[middle][0]), (_JUMP, 0, 0, len(low)), *low, *high]


def _conditions(conditions: Conditions) -> _Code:
    code: _Code = []
    for rule in conditions.rules:
        code += _rule(rule)
    return [*code, (_RETURN, 0, 0, _verdict(conditions.otherwise))]


def _rule(rule: Rule) -> _Code:
    """Return the rule's answer when all its tests hold, else fall out at the end."""
    code: _Code = [(_RETURN, 0, 0, _verdict(rule.answer))]
    for test in reversed(rule.when):
        code = [*_test(test, skip=len(code)), *code]
    return code


def _test(test: Test, *, skip: int) -> _Code:
    """Fall through when the test holds, else jump over ``skip`` instructions more."""
    assert skip <= 255
    code: _Code = [(_LOAD, 0, 0, _ARGUMENTS + 8 * test.argument)]
    if test.mask != 0xFFFFFFFF:
        code.append((_AND, 0, 0, test.mask))
    checks = [(_JUMP_EQUAL, value) for value in test.is_]
    if test.any_bit is not None:
        checks.append((_JUMP_BITS, test.any_bit))
    for place, (kind, value) in enumerate(checks):
        last = place == len(checks) - 1
        code.append((kind, len(checks) - 1 - place, skip if last else 0, value))
    return code
