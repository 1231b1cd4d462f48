"""The fixtures of the attack tests themselves."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.root


def test_scripts_run_as_the_build_user(run_attack) -> None:
    said = run_attack("attack_00_smoke")
    assert said["uid"] == 1000
    assert said["pid"] > 1
