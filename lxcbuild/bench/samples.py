"""Many measurements of one thing, and what may be said of them: never a single figure. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct


class Spread(Struct, frozen=True, kw_only=True):
    """Five numbers of a series, in milliseconds unless the series is of ratios."""

    count: int
    minimum: float
    quartile1: float
    median: float
    quartile3: float
    maximum: float

    @classmethod
    def of(cls, series: Sequence[float]) -> Spread:
        """Of at least one measurement."""
        quartiles = [series[0]] * 3 if len(series) == 1 else statistics.quantiles(series, n=4, method="inclusive")
        first, middle, third = quartiles
        return cls(
            count=len(series),
            minimum=min(series),
            quartile1=first,
            median=middle,
            quartile3=third,
            maximum=max(series),
        )

    def texts(self, digits: int = 2) -> tuple[str, ...]:
        """The five numbers for a table."""
        values = (self.minimum, self.quartile1, self.median, self.quartile3, self.maximum)
        return tuple(f"{value:.{digits}f}" for value in values)


def document(series: Sequence[float]) -> dict[str, Any]:
    """The spread of a series, and every single value."""
    return {**msgspec.to_builtins(Spread.of(series)), "series": [round(value, 3) for value in series]}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """How many times theirs ours is, round by round: what disturbed a whole round disturbs both."""
    return Spread.of([mine / other for mine, other in zip(ours, theirs, strict=True)])
