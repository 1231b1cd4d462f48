"""Bounds of time and of shares, on machines that other people use too.

These are for what hostile input may cost and for limits that are times themselves. A test whose verdict is a figure of speed or a
share is marked ``bench``.

A bound is stated for an idle machine. Where it is passed, the machine is asked how slow it is at this moment; and a share that
noise can only spoil is measured again before anything is called broken. What is really broken fails every time.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

#: Additions in a loop per second, and seconds to start /bin/true, on the idle machine that the bounds were found on.
IDLE_ADDITIONS_PER_S = 8e6
IDLE_START_S = 0.0015
#: Whoever makes a machine slow may have gone when it is asked.
GRACE = 2.0


def slowness() -> float:
    """How many times slower than that idle machine this one is now, in counting or in starting programs; at least 1."""
    made = 0
    begun = time.perf_counter()
    while (counted_s := time.perf_counter() - begun) < 0.2:
        for _ in range(10_000):
            made += 1
    begun = time.perf_counter()
    for _ in range(20):
        subprocess.run(["/bin/true"], check=True)
    started_s = (time.perf_counter() - begun) / 20
    return max(1.0, IDLE_ADDITIONS_PER_S * counted_s / made, started_s / IDLE_START_S)


def quick(took_s: float, bound_s: float) -> bool:
    """Whether a time is within a bound, as slow as this machine is now."""
    return took_s < bound_s or took_s < GRACE * bound_s * slowness()


@contextmanager
def within(bound_s: float) -> Iterator[None]:
    """What is done here must take less CPU time than this (see ``quick``); tests that run beside it do not count."""
    begun = time.process_time()
    yield
    took_s = time.process_time() - begun
    assert quick(took_s, bound_s), f"{took_s:.2f} s instead of {bound_s}"


def once(measure: Callable[[], T], holds: Callable[[T], bool], *, tries: int = 5) -> T:
    """Measure until it holds, and give that; fails with every figure where it never does."""
    found = []
    for _ in range(tries):
        found.append(measure())
        if holds(found[-1]):
            return found[-1]
    raise AssertionError(f"in none of {tries} measurements: {found}")
