"""Attack 48: a build prints what costs most to read. Whatever it is, the host reads the end of a log within a second or two."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from lxcbuild import text
from lxcbuild.cli.verbs.records import explain
from lxcbuild.debian.checks import lintian, upstreamtests, verification
from lxcbuild.debian.source import compilation, cratejobs, decisive
from lxcbuild.debian.tables import requirement_table
from lxcbuild.model import Phase
from lxcbuild.report import gather
from tests.support.patterns import patterns_of, repeated, worst
from tests.support.timing import within

TAIL = 128 * 1024
#: With each the length of lines that its patterns get whole.
READERS: list[tuple[Callable[[bytes], Any], ModuleType, int]] = [
    (lambda tail: compilation.classify_compile_failure(tail, status="exit status 1"), compilation, 1990),
    (compilation.missing_in_tail, compilation, 1990),
    (compilation.plugin_is_unfit, compilation, TAIL),
    (lambda tail: compilation.native_in_log(tail.splitlines(keepends=True)), compilation, TAIL),
    (lambda tail: verification.classify_install_failure(tail, status="exit status 1"), verification, 1990),
    (lambda tail: verification.natives_in(tail.decode("utf-8", "replace")), verification, 1990),
    (upstreamtests.usage_error, upstreamtests, 1990),
    (lambda tail: upstreamtests.missing_modules(tail, own=()), upstreamtests, 1990),
    (lambda tail: decisive.decisive_lines(tail.decode("utf-8", "replace")), decisive, 290),
    (lambda tail: explain.last_section(tail.decode("utf-8", "replace"), Phase.COMPILE), explain, TAIL),
    (lintian.parse_lintian, lintian, TAIL),
    (lambda tail: cratejobs.crate_names(tail.decode("utf-8", "replace")), cratejobs, TAIL),
    (lambda tail: gather.cluster(tail.decode("utf-8", "replace"), project="a"), gather, TAIL),
    (text.for_log, text, TAIL),
    (lambda tail: text.for_log(tail.decode("utf-8", "replace")), text, TAIL),
    (text.one_line, text, TAIL),
]
#: What is no beginning of a pattern, and was worse.
MORE = (
    "a ",
    "mkdir /x ",
    "cp '/x ",
    "package `a requires ",
    "a:1:1",
    "\x9d",
    "\x1b]",
    "\x9b",
    "a.b.",
    "native cc ",
    "\r",
    "\n ",
)


def own_patterns(module: ModuleType) -> Iterator[re.Pattern[Any]]:
    for value in vars(module).values():
        yield from patterns_of(value)
    if module is compilation:
        yield from map(re.compile, requirement_table().phrases)
    if module is text:  # compiled when first used
        yield from map(re.compile, text.PATTERNS)


@pytest.fixture(scope="module")
def worst_of() -> Callable[[ModuleType], list[str]]:
    known: dict[str, list[str]] = {}

    def find(module: ModuleType) -> list[str]:
        if module.__name__ not in known:
            known[module.__name__] = list(dict.fromkeys((*(worst(p) for p in own_patterns(module)), *MORE)))
        return known[module.__name__]

    return find


@pytest.mark.attack(number=48)
@pytest.mark.parametrize("number", range(len(READERS)))
def test_the_end_of_a_log_is_read_in_no_time(number: int, worst_of: Callable[[ModuleType], list[str]]) -> None:
    read, module, length = READERS[number]
    for worse in worst_of(module):
        data = repeated(repeated(worse, length) + "\n", TAIL).encode("utf-8", "replace")
        with within(1):
            read(data)


@pytest.mark.attack(number=48)
def test_a_long_line_of_compilers_costs_no_more_than_its_length() -> None:
    with within(2):
        assert compilation.native_in_log([b"cc native " * (1 << 20)]) is None


@pytest.mark.attack(number=48)
def test_no_more_of_a_log_is_read_than_its_bound() -> None:
    chunk, given = b"cc native\n" * (1 << 20), 0

    def endless() -> Iterator[bytes]:
        nonlocal given
        while True:
            given += len(chunk)
            yield chunk

    assert compilation.native_in_log(endless()) is None
    assert given < 256 * 1024 * 1024


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"x86_64-linux-gnu-gcc -O2 -march=native -c a.c", "-march=native"),
        (b"g++ -O2 -mcpu=native a.cc", "-mcpu=native"),
        (b"rustc -C target-cpu=native", "target-cpu=native"),
        (b"-march=native cc -march=nativ", None),
        (b"accent -march=native", None),
    ],
)
def test_a_compiler_that_was_told_to_use_this_processor_is_seen(line: bytes, said: str | None) -> None:
    found = compilation.native_in_log([b"x\n", line])
    assert (found is None) if said is None else (found is not None and said in found)
