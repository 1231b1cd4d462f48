"""The shape of the code: no circles, no double names, no large folders; what is left of each is on a list that only shrinks."""

from __future__ import annotations

import re

import pytest

from tests.support import structure


@pytest.mark.parametrize("rule", structure.RULES)
def test_no_more_of_it_than_the_list_allows(rule: str) -> None:
    found, listed = structure.RULES[rule](), structure.counts(structure.allowed()[rule])
    assert {name: count for name, count in found.items() if count > listed.get(name, 0)} == {}
    gone = {name: count for name, count in listed.items() if count > found.get(name, 0)}
    assert gone == {}, "well done; now run .venv/bin/python -m tests.support.structure"


def test_every_import_in_a_function_has_a_measured_reason() -> None:
    entries = structure.allowed()["imports_in_functions"]
    assert [name for name, entry in entries.items() if not re.search(r"\d", entry["why"])] == []
