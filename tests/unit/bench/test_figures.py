"""Figures of measurements are well-formed SVG whose geometry says what the numbers say."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from lxcbuild.bench.builds import Builds, Series
from tests.support.figures import Row, bars, builds_drawn, curves

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_as_long_as_their_parts_and_names_do_no_harm() -> None:
    drawing = bars("a <b> & c", [Row("one", {"x": 1.0, "y": 3.0}), Row("two", {"x": 2.0})], unit="s", note="<i>")
    root = ElementTree.fromstring(drawing)
    named = {rect[0].text: rect for rect in root.iter(f"{SVG}rect") if len(rect)}
    widths = {name: float(rect.attrib["width"]) for name, rect in named.items()}
    assert set(widths) == {"one, x: 1.00 s", "one, y: 3.00 s", "two, x: 2.00 s"}
    assert widths["one, y: 3.00 s"] == pytest.approx(3 * widths["one, x: 1.00 s"], abs=0.2)
    assert widths["two, x: 2.00 s"] == pytest.approx(2 * widths["one, x: 1.00 s"], abs=0.2)
    assert named["one, x: 1.00 s"].attrib["fill"] == named["two, x: 2.00 s"].attrib["fill"]
    said = [text.text for text in root.iter(f"{SVG}text")]
    assert "a <b> & c" in said
    assert "4.00 s" in said


@pytest.mark.parametrize("logarithmic", [False, True])
def test_curves_rise_with_their_values(logarithmic: bool) -> None:
    points = [(0.0, 10.0), (100.0, 20.0), (10_000.0, 40.0)]
    root = ElementTree.fromstring(curves("t", {"a": points}, across="files", up="ms", logarithmic=logarithmic))
    (line,) = root.iter(f"{SVG}polyline")
    placed = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert [x for x, _ in placed] == sorted(x for x, _ in placed)
    assert placed[0][1] - placed[1][1] == pytest.approx((placed[1][1] - placed[2][1]) / 2, abs=0.2)
    middle = (placed[1][0] - placed[0][0]) / (placed[2][0] - placed[0][0])
    assert middle == pytest.approx(0.5 if logarithmic else 0.01, abs=0.01)


def test_a_single_point_is_drawn() -> None:
    assert "polyline" in curves("t", {"a": [(5.0, 0.0)]}, across="x", up="y")


def test_the_figure_of_builds_has_phases_peers_and_what_is_left() -> None:
    series = Series(
        whole=[5.0],
        unverified=[4.0],
        phases={"compile": [3.0], "verify": [1.0], "collect": [0.001]},
        plain=[4.0],
        lean=[3.5],
    )
    series.peers["sbuild"] = [20.0]
    machine = {"cpu": "x", "cpus": 2, "kernel": "6", "load_before": 1.0, "load_after": 1.0}
    root = ElementTree.fromstring(
        builds_drawn(Builds(series={"idna": series}), machine=machine, target="debian/bookworm")
    )
    titles = [rect[0].text for rect in root.iter(f"{SVG}rect") if len(rect)]
    assert "idna: lxcbuild, verified, compile: 3.00 s" in titles
    assert "idna: lxcbuild, verified, other: 1.00 s" in titles
    assert "idna: sbuild, not verified, command: 20.0 s" in titles
    assert not any("collect" in str(title) for title in titles)
