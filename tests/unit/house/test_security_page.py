"""docs/security.md and the table of attacks: every named test exists, and every attack that is spoken of has a row."""

from __future__ import annotations

import re

from tests import ROOT

PROSE = (ROOT / "docs" / "security.md").read_text()
TABLE = (ROOT / "docs" / "reference" / "attacks.md").read_text()
PAGE = PROSE + TABLE


def test_every_named_test_exists() -> None:
    written = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert {name for name in named if f"def {name}(" not in written} == set()


def test_every_attack_names_a_test() -> None:
    rows = re.findall(r"^\| \d+ \|.*$", TABLE, re.MULTILINE)
    assert rows
    assert [row for row in rows if "`test_" not in row] == []


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
