"""Plots as plain geometry; the templates draw them as SVG.

Not matplotlib: its SVG carries inline styles, which the site's Content-Security-Policy forbids, and fixed colours, which neither a
dark page nor a reader's own contrast can change; letters become outlines, which nobody can select or hear. Here are bars.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from msgspec import Struct

WIDTH, HEIGHT = 640, 200
_LEFT, _BOTTOM, _TOP = 44, 22, 8


class Bar(Struct, frozen=True):
    """A rectangle with its words; ``kind`` is a class of the style sheet."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


class Mark(Struct, frozen=True):
    """A word at an axis."""

    x: float
    y: float
    text: str


class Plot(Struct, frozen=True, kw_only=True):
    """Everything of one picture. ``label`` says it in words for those who do not see it."""

    label: str
    bars: tuple[Bar, ...]
    marks_x: tuple[Mark, ...]
    marks_y: tuple[Mark, ...]
    width: int = WIDTH
    height: int = HEIGHT


def columns(label: str, names: Sequence[str], stacks: Mapping[str, Sequence[float]]) -> Plot:
    """Columns side by side, each a stack of kinds (equally long sequences, in the order from below)."""
    totals = [sum(values[i] for values in stacks.values()) for i in range(len(names))]
    top = _nice(max(totals, default=0))
    room_x, room_y = WIDTH - _LEFT - 4, HEIGHT - _TOP - _BOTTOM
    step = room_x / max(len(names), 1)
    bars = []
    for i, name in enumerate(names):
        y = float(HEIGHT - _BOTTOM)
        for kind, values in stacks.items():
            height = room_y * values[i] / top
            y -= height
            if height > 0:
                x, width = _LEFT + i * step + step * 0.08, min(step * 0.84, 60.0)
                bars.append(
                    Bar(
                        round(x, 1),
                        round(y, 1),
                        round(width, 1),
                        round(height, 1),
                        kind,
                        f"{name}: {values[i]:g} {kind}",
                    )
                )
    every = max(1, math.ceil(len(names) / 8))
    marks_x = [
        Mark(round(_LEFT + i * step + min(step * 0.84, 60.0) / 2 + step * 0.08, 1), HEIGHT - 6, name)
        for i, name in enumerate(names)
        if i % every == 0
    ]
    marks_y = [
        Mark(_LEFT - 6, round(HEIGHT - _BOTTOM - room_y * part, 1), f"{top * part:g}")
        for part in ((0.0, 0.5, 1.0) if top > 1 else (0.0, 1.0))
    ]
    return Plot(label=label, bars=tuple(bars), marks_x=tuple(marks_x), marks_y=tuple(marks_y))


def histogram(label: str, seconds: Sequence[float]) -> Plot:
    """How many took how long; bins double from a quarter of a second on."""
    edges = [0.25 * 2**i for i in range(18)]
    counts = [0.0] * (len(edges) + 1)
    for value in seconds:
        counts[next((i for i, edge in enumerate(edges) if value < edge), len(edges))] += 1
    used = [i for i, count in enumerate(counts) if count] or [0]
    chosen = range(used[0], used[-1] + 1)
    names = [f"<{duration(edges[i])}" if i < len(edges) else f"≥{duration(edges[-1])}" for i in chosen]
    return columns(label, names, {"builds": [counts[i] for i in chosen]})


def duration(seconds: float) -> str:
    """Short, for people."""
    if 0 < seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _nice(value: float) -> float:
    """The next of 1, 2, 4, 10 times a power of ten, at least 1."""
    if value <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 4, 6, 8, 10) if factor * power >= value)
