"""Projects that are broken or naughty in one way each: a fitting class, a brief that names the cause, no traceback of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.corpus.odd_projects import PROJECTS

pytestmark = [pytest.mark.root, pytest.mark.network]

OFTEN = ("two_tops", "found_namespace")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in OFTEN else [pytest.mark.slow]) for n in PROJECTS])
def test_the_class_fits(build: Any, tmp_path: Path, name: str) -> None:
    odd = PROJECTS[name]
    done = build(odd.pack(tmp_path))
    assert b"Traceback" not in done.stderr, "a build that fails is no bug of ours"
    assert done.failure_class in odd.expect, done.build["failure"]
    if done.failure_class is None:
        assert done.build["status"] == "built"
    else:
        assert odd.says in json.dumps(done.build["failure"], ensure_ascii=False)
        assert done.build["artifacts"] == []
