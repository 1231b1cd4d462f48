"""``lxcbuild bench build``: our lean rules give, bit for bit, the packages of rules that a maintainer would write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import LxcBuild

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.slow]

TARGET = "debian/bookworm"


def test_lean_builds_and_plain_ones_give_the_same_packages(
    lxcbuild: LxcBuild, made_image: Callable[[str], None]
) -> None:
    made_image(TARGET)
    before = set(Path("/dev/shm").iterdir())
    kinds = ("--sample", "pure", "--sample", "extension")
    ended = lxcbuild("bench", "build", "--target", TARGET, "--runs", "1", *kinds, "--json")
    assert ended.status == 0, ended.stderr
    samples = json.loads(ended.stdout)["samples"]
    assert set(samples) == {"idna", "markupsafe"}
    for name, found in samples.items():
        assert found["same_packages_as_plain"], name
        took = found["phases"]["compile"]["median"]
        assert 0 < took < found["whole"]["median"]
        assert found["bare, plain rules"]["count"] == found["bare, lean rules"]["count"] == 1
    assert {path for path in Path("/dev/shm").iterdir() if path.name.startswith("lxcbuild-bench-")} <= before
