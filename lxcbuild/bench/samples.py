"""Many measurements of one thing, and what may be said of them: never a single figure. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

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


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """How many times theirs ours is, round by round: what disturbed a whole round disturbs both."""
    return Spread.of([mine / other for mine, other in zip(ours, theirs, strict=True)])
