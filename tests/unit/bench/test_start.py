"""What may be said of measurements: spreads, ratios of the same round, and budgets that can fail."""

from __future__ import annotations

import pytest

from lxcbuild.bench.samples import Spread, ratios
from lxcbuild.bench.start import OURS, Starts


def test_a_spread_is_five_numbers() -> None:
    spread = Spread.of([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (spread.minimum, spread.quartile1, spread.median, spread.quartile3, spread.maximum) == (1, 2, 3, 4, 5)
    assert Spread.of([7.0]) == Spread(count=1, minimum=7, quartile1=7, median=7, quartile3=7, maximum=7)


def test_ratios_are_taken_within_a_round() -> None:
    # The machine was ten times slower in the second round: for both.
    assert ratios([2.0, 20.0], [1.0, 10.0]).median == 2
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0], [1.0, 2.0])


def measured(first: float, stop: float, reference: list[float]) -> Starts:
    ours = {name: [1.0] for name in OURS} | {"first": [first], "stop": [stop]}
    return Starts(ours=ours, memory_bytes=[40 << 20], first={"lxc-execute": reference} if reference else {})


def test_missed_budgets_fail_and_missing_peers_are_reported() -> None:
    held = [budget.holds for budget in measured(30.0, 4.0, [15.0]).budgets()]
    assert held == [True, True, True, None, False]
    held = [budget.holds for budget in measured(41.0, 5.5, []).budgets()]
    assert held == [None, False, False, None, False]


@pytest.mark.parametrize(("without", "holds"), [(28.0, True), (26.0, False)])
def test_the_network_guard_is_judged_by_the_difference(without: float, *, holds: bool) -> None:
    found = measured(30.0, 4.0, [15.0])
    found.without_network = [without] * len(found.ours["first"])
    assert [budget.holds for budget in found.budgets() if "guard" in budget.name] == [holds]
