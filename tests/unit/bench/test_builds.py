"""What ``lxcbuild bench build`` promises, computed from series."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxcbuild.bench.builds import Series, _build_depends, _names


def _series(**changes: list[float]) -> Series:
    return Series(whole=[5.0, 6.0, 7.0], unverified=[4.0, 5.0, 6.0], plain=[8.0, 10.0, 8.0], **changes)  # type: ignore[arg-type]


def test_ratios_are_taken_round_by_round() -> None:
    series = _series()
    series.phases["compile"] = [4.0, 5.0, 8.0]
    series.peers["sbuild"] = [40.0, 24.0, 70.0]
    found = {budget.name: budget for budget in series.budgets("pure")}
    assert found["compile / plain bare build"].value == pytest.approx(0.5)
    assert found["whole command / plain bare build"].value == pytest.approx(0.625)
    assert found["whole command / sbuild"].value == pytest.approx(0.125)
    assert found["without verification / sbuild"].value == pytest.approx(0.1)
    assert all(budget.holds for budget in found.values())
    series.peers["sbuild"] = [10.0, 12.0, 14.0]
    assert not {b.name: b for b in series.budgets("pure")}["whole command / sbuild"].holds


def test_an_extension_has_its_own_budget() -> None:
    series = _series()
    series.phases["compile"] = [10.0, 12.0, 9.0]
    (budget,) = series.budgets("extension")
    assert budget.value == pytest.approx(1.2)
    assert not budget.holds
    assert list(series.budgets("debian")) == []


def test_build_dependencies_of_a_signed_dsc(tmp_path: Path) -> None:
    dsc = tmp_path / "x_1.dsc"
    dsc.write_text(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nSource: x\n"
        "Build-Depends: debhelper-compat (= 13), python3-all:any,\n flit (>= 3.2), python3-pytest <!nocheck>\nFiles:\n a b c\n"
    )
    assert _build_depends(dsc) == ["debhelper-compat (= 13)", "python3-all:any", "flit (>= 3.2)"]
    assert list(_names(dsc)) == ["debhelper", "python3-all", "flit"]
