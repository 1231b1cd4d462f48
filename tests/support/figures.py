"""Bars and curves as SVG files: letters stay letters, and nothing has to be installed to draw them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, ClassVar

from msgspec import Struct

from lxcbuild.bench.builds import Builds
from lxcbuild.bench.parallel import ParallelRuns
from lxcbuild.bench.samples import Spread

#: Dark enough on white, and told apart by people who do not see all colours (Okabe and Ito, jfly.uni-koeln.de/color).
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#7f7f7f", "#f0e442", "#000000")
_WIDTH, _LEFT, _RIGHT, _LINE = 860, 230, 70, 22
#: Phases that take less are drawn with the rest.
_SHOWN_S = 0.02


class Row(Struct, frozen=True):
    """One bar: its name and its parts by kind, in the order they are drawn; lengths in the figure's unit."""

    name: str
    parts: Mapping[str, float]


def bars(title: str, rows: Sequence[Row], *, unit: str, note: str = "") -> str:
    """Horizontal bars below each other, each of coloured parts, with its sum behind it. ``note`` is small print."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.parts))
    longest = max((sum(row.parts.values()) for row in rows), default=0.0) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    parts = [_text(10, 24, title, size=16)]
    y = 44.0
    x = 10.0
    for kind in kinds:
        if x + 30 + 7 * len(kind) > _WIDTH:
            x, y = 10.0, y + 18
        parts.append(f'<rect x="{x:.0f}" y="{y - 10:.0f}" width="12" height="12" fill="{_colour(kinds, kind)}"/>')
        parts.append(_text(x + 17, y, kind))
        x += 34 + 7 * len(kind)
    y += 14
    for row in rows:
        parts.append(_text(_LEFT - 8, y + 14, row.name, anchor="end"))
        x = float(_LEFT)
        for kind, value in row.parts.items():
            said = escape(f"{row.name}, {kind}: {_number(value)} {unit}")
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 3:.1f}" width="{value * scale:.1f}" height="15" '
                f'fill="{_colour(kinds, kind)}"><title>{said}</title></rect>'
            )
            x += value * scale
        parts.append(_text(x + 5, y + 14, f"{_number(sum(row.parts.values()))} {unit}"))
        y += _LINE
    if note:
        parts.append(_text(10, y + 22, note, size=11))
        y += 20
    return _svg(parts, y + 14, title)


def curves(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    across: str,
    up: str,
    logarithmic: bool = False,
    note: str = "",
) -> str:
    """Points joined by lines. ``across`` and ``up`` name the axes; ``logarithmic`` is about the first, from 1 on."""
    frame = _Frame.around([point for each in series.values() for point in each], logarithmic=logarithmic)
    parts = [_text(10, 24, title, size=16), _text(_Frame.LEFT, 40, up, size=11), *frame.marks()]
    parts.append(_text(_Frame.LEFT + _Frame.ACROSS / 2, _Frame.LOW + 36, across, anchor="middle"))
    for number, (name, each) in enumerate(series.items()):
        placed = [(frame.x(x), frame.y(y)) for x, y in each]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        colour = _colour(list(series), name)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}">'
            f"<title>{escape(f'{name}: {point[0]:,.0f}, {_number(point[1])}')}</title></circle>"
            for (x, y), point in zip(placed, each, strict=True)
        ]
        parts.append(f'<rect x="{90 + 190 * number}" y="{_Frame.LOW + 46}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(107 + 190 * number, _Frame.LOW + 56, name))
    if note:
        parts.append(_text(10, _Frame.LOW + 78, note, size=11))
    return _svg(parts, _Frame.LOW + 90, title)


def builds_drawn(found: Builds, *, machine: dict[str, Any], target: str) -> str:
    """The medians as an SVG: our command by phases, and whole commands of the others, for each sample."""

    rows = []
    for name, series in found.series.items():
        medians = {phase: Spread.of(values).median for phase, values in series.phases.items()}
        shown = {phase: took_s for phase, took_s in medians.items() if took_s >= _SHOWN_S}
        rest = max(Spread.of(series.whole).median - sum(shown.values()), 0.0)
        rows.append(Row(f"{name}: lxcbuild, verified", {**shown, "other": rest}))
        rows.append(Row(f"{name}: bare, plain rules", {"build": Spread.of(series.plain).median}))
        rows.append(Row(f"{name}: bare, lean rules", {"build": Spread.of(series.lean).median}))
        rows += [
            Row(f"{name}: {peer}, not verified", {"command": Spread.of(values).median})
            for peer, values in series.peers.items()
        ]
    rounds = max(len(series.whole) for series in found.series.values())
    cold = any(series.cold for series in found.series.values())
    note = (
        f"{machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}, load {machine['load_before']:.1f} to "
        f"{machine['load_after']:.1f}; medians of {rounds} interleaved rounds"
    )
    how = "nothing installed ahead" if cold else "all installed ahead"
    return bars(f"Whole builds for {target}, {how}", rows, unit="s", note=note)


def crowd_drawn(found: ParallelRuns) -> str:
    """The start of each sandbox beside those that live already, as an SVG."""
    points = [(number, took_ms) for number, took_ms in enumerate(found.first_ms)]
    return curves(
        "Start of one more sandbox beside those that live",
        {"first byte": points},
        across="sandboxes that live already",
        up="ms from request to first byte",
    )


def trees_drawn(trees: Mapping[int, Sequence[float]]) -> str:
    """The start of a sandbox by the files in its tree, as an SVG."""
    spreads = {size: Spread.of(series) for size, series in trees.items()}
    return curves(
        "Start of a sandbox by the files in its tree",
        {
            "median": [(size, five.median) for size, five in spreads.items()],
            "lower quartile": [(size, five.quartile1) for size, five in spreads.items()],
        },
        across="more files in the tree than the base image has (logarithmic)",
        up="ms from request to first byte",
        logarithmic=True,
    )


class _Frame(Struct, frozen=True, kw_only=True):
    """Where a point of the data lies in the picture."""

    LEFT: ClassVar[int] = 70
    HIGH: ClassVar[int] = 44
    LOW: ClassVar[int] = 344
    ACROSS: ClassVar[int] = _WIDTH - 140

    xs: tuple[float, ...]
    top: float
    logarithmic: bool

    @classmethod
    def around(cls, points: Sequence[tuple[float, float]], *, logarithmic: bool) -> _Frame:
        """With room for all of at least one point."""
        xs = tuple(sorted({x for x, _ in points}))
        return cls(xs=xs, top=_nice(max(y for _, y in points)), logarithmic=logarithmic)

    def x(self, value: float) -> float:
        """Pixels from the left."""
        first, last = self._scaled(self.xs[0]), self._scaled(self.xs[-1])
        return self.LEFT + (self._scaled(value) - first) / ((last - first) or 1.0) * self.ACROSS

    def y(self, value: float) -> float:
        """Pixels from above."""
        return self.LOW - value / self.top * (self.LOW - self.HIGH)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1.0)) if self.logarithmic else value

    def marks(self) -> Iterator[str]:
        """Lines and numbers of both axes."""
        for step in range(6):
            value = self.top * step / 5
            yield f'<path d="M{self.LEFT} {self.y(value):.1f}H{self.LEFT + self.ACROSS}" stroke="#ddd"/>'
            yield _text(self.LEFT - 6, self.y(value) + 4, _number(value), anchor="end")
        first, last = self.xs[0], self.xs[-1]
        few = len(self.xs) <= 12
        for value in self.xs if few else [first + (last - first) * step / 8 for step in range(9)]:
            yield _text(self.x(value), self.LOW + 18, f"{value:,.0f}", anchor="middle")


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" font-family="sans-serif">'
    ground = f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#fff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", ground, *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _colour(names: Sequence[str], name: str) -> str:
    return _COLOURS[names.index(name) % len(_COLOURS)]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _nice(value: float) -> float:
    """The next number of 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= value * 0.999)
