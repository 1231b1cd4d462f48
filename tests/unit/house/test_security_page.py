"""docs/security.md and the table of attacks: every named test exists, and every attack that is spoken of has a row."""

from __future__ import annotations

import ast
import re

from tests import ROOT

PROSE = (ROOT / "docs" / "security.md").read_text()
TABLE = (ROOT / "docs" / "reference" / "attacks.md").read_text()
PAGE = PROSE + TABLE


def test_every_named_test_exists() -> None:
    written = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert {name for name in named if f"def {name}(" not in written} == set()


def numbers_of_tests() -> dict[str, set[int]]:
    """The attacks that each test is marked with."""
    found: dict[str, set[int]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                marks = " ".join(map(ast.unparse, node.decorator_list))
                found[node.name] = set(map(int, re.findall(r"mark\.attack\(number=(\d+)\)", marks)))
    return found


def test_every_attack_names_tests_with_its_number() -> None:
    marked = numbers_of_tests()
    rows = {int(number): row for number, row in re.findall(r"^\| (\d+) \|(.*)$", TABLE, re.MULTILINE)}
    assert set(rows) == set().union(*marked.values())
    for number, row in rows.items():
        named = re.findall(r"`(test_\w+)`", row)
        assert named, number
        assert [name for name in named if number not in marked[name]] == []


def test_every_named_file_exists() -> None:
    for name in re.findall(r"`((?:tests|docs|cgroups|scripts)/[\w./-]+)`", PAGE):
        assert (ROOT / name).exists(), name


def test_every_attack_that_is_spoken_of_has_a_row() -> None:
    rows = {int(number) for number in re.findall(r"^\| (\d+) \|", TABLE, re.MULTILINE)}
    prose = PROSE.replace("\n", " ").replace('"Attack 17"', "")
    spoken: set[int] = set()
    for words in re.findall(r"attacks? ([\d, to]+\d)", prose):
        for part in words.split(","):
            ends = [int(number) for number in part.split(" to ")]
            spoken |= set(range(ends[0], ends[-1] + 1))
    assert spoken - rows == set()
    assert spoken
