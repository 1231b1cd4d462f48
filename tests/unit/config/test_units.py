"""Human units of configuration files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcbuild.config.units import bytes_text, parse_bytes, parse_cpu_list, parse_percent, parse_seconds, seconds_text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2GiB", 2 * 2**30),
        ("64KiB", 65536),
        ("10MB", 10_000_000),
        ("512M", 512 * 2**20),
        ("1.5GiB", 3 * 2**29),
        (" 7 KiB ", 7168),
        (4096, 4096),
        ("0", 0),
    ],
)
def test_sizes(text: object, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "bad", ["", "GiB", "2gib", "-1", "1e9", "2 GiB 3", None, True, 1.5, [], "9" * 400, "99999999TiB", "٣KiB"]
)
def test_what_is_no_size_is_refused_with_an_example(bad: object) -> None:
    with pytest.raises(ValueError, match=r"write bytes, or a unit such as|more than any machine has"):
        parse_bytes(bad)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20min", 1200),
        ("1h30min", 5400),
        ("90s", 90),
        ("500ms", 0.5),
        ("7d", 604800),
        ("1d 2h", 93600),
        (45, 45),
        ("1.5h", 5400),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    "bad", ["", "20", "min", "30min1h", "1h1h", "-5s", "5 parsecs", None, True, float("nan"), -1, float("inf")]
)
def test_what_is_no_duration_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match=r"duration|seconds"):
        parse_seconds(bad)


def test_percentages_need_their_sign() -> None:
    assert parse_percent("150%") == 150
    assert parse_percent("12.5 %") == 12.5
    for bad in ("150", 150, "%", "-1%", None):
        with pytest.raises(ValueError, match="write it as 150%"):
            parse_percent(bad)


@given(st.integers(min_value=0, max_value=2**60))
def test_sizes_survive_the_way_to_text_and_back(count: int) -> None:
    assert parse_bytes(bytes_text(count)) == count


@given(st.integers(min_value=1, max_value=10**10))
def test_durations_survive_the_way_to_text_and_back(milliseconds: int) -> None:
    assert round(parse_seconds(seconds_text(milliseconds / 1000)) * 1000) == milliseconds


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    for parse in (parse_bytes, parse_percent, parse_seconds):
        try:
            result: object = parse(text)
        except ValueError as error:
            result = str(error)
        assert (len(result) < 200) if isinstance(result, str) else (isinstance(result, int | float) and result >= 0)


def test_cpu_lists() -> None:
    assert parse_cpu_list("0-3,7") == {0, 1, 2, 3, 7}
    for bad in ("", "a", "1-", "-1", "1-2-3", "0-99999999", "0, 1", "1\n"):
        with pytest.raises(ValueError, match="is not a set of CPUs"):
            parse_cpu_list(bad)
    with pytest.raises(ValueError, match="3-1 runs backwards"):
        parse_cpu_list("0,3-1")
