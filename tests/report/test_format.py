"""Numbers as people read them: known values, and what holds for all of them."""

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.report.format import bar, duration, interval, percent, plural, signed_percent, significant, time_unit


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0, 3, "0"),
        (-0.0, 3, "0"),
        (1234.5, 3, "1234"),
        (123.45, 3, "123"),
        (12.345, 3, "12.3"),
        (1.2345, 3, "1.23"),
        (0.012345, 3, "0.0123"),
        (-0.012345, 3, "-0.0123"),
        (9.996, 3, "10.0"),
        (0.099996, 3, "0.100"),
        (999.6, 3, "1000"),
        (1.0, 4, "1.000"),
        (1e-9, 1, "0.000000001"),
        (inf, 3, "inf"),
        (-inf, 3, "-inf"),
        (nan, 3, "nan"),
    ],
)
def test_significant_digits(value: float, digits: int, text: str) -> None:
    """Never an exponent, all digits before the point, and rounding up does not add one behind it."""
    assert significant(value, digits) == text


@given(st.floats(1e-12, 1e12), st.integers(1, 6), st.booleans())
def test_a_number_keeps_its_significant_digits(value: float, digits: int, negative: bool) -> None:
    """As many as asked for and within half of the last one; more only before the point."""
    text = significant(-value if negative else value, digits)
    assert "e" not in text
    assert text.startswith("-") == negative
    shown = text.lstrip("-").replace(".", "").lstrip("0")
    assert len(shown) == digits or ("." not in text and len(shown) > digits)
    assert abs(abs(float(text)) - value) <= value * 0.5 * 10.0 ** (1 - digits) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("values_ns", "unit"),
    [
        ([], "ns"),
        ([0.0], "ns"),
        ([0.4], "ns"),
        ([999.9], "ns"),
        ([1e3], "µs"),
        ([5.0, 2e6], "ms"),
        ([-3e9], "s"),
        ([1e13], "s"),
    ],
)
def test_a_column_of_durations_has_the_unit_of_its_greatest(values_ns: list[float], unit: str) -> None:
    """The largest unit in which the greatest is at least 1."""
    assert time_unit(values_ns)[0] == unit


@pytest.mark.parametrize(
    ("ns", "text"), [(281_234, "281 µs"), (1.5, "1.50 ns"), (2.5e9, "2.50 s"), (0, "0 ns"), (64_000_000, "64.0 ms")]
)
def test_a_duration_in_a_sentence(ns: float, text: str) -> None:
    """A number and its unit."""
    assert duration(ns) == text


def test_shares_and_changes_are_percentages() -> None:
    """A change always has a sign."""
    assert percent(0.1234) == "12.3 %"
    assert percent(0.00004, 2) == "0.00 %"
    assert signed_percent(0.012) == "+1.2 %"
    assert signed_percent(-0.012, 2) == "-1.20 %"
    assert signed_percent(0) == "+0.0 %"


def test_an_interval_is_in_the_columns_unit_or_a_dash() -> None:
    """A missing end is a missing interval."""
    assert interval(1_000, 2_500, 1e3) == "[1.00, 2.50]"
    assert interval(0.99, 1.012, digits=4) == "[0.9900, 1.012]"
    assert interval(None, None) == interval(1.0, None) == interval(None, 1.0) == "–"


@given(st.floats(-1, 2))
def test_a_bar_is_its_share_of_the_width(share: float) -> None:
    """In eighths of a character; beyond 0 and 1 it is empty or full."""
    eighths = {" ": 0, "▏": 1, "▎": 2, "▍": 3, "▌": 4, "▋": 5, "▊": 6, "▉": 7, "█": 8}
    drawn = bar(share, 20)
    assert sum(eighths[block] for block in drawn) == round(min(max(share, 0), 1) * 160)
    assert len(drawn) <= 20
    assert "█" not in drawn.lstrip("█")


def test_a_count_agrees_with_its_noun() -> None:
    """Thousands are set apart."""
    assert [plural(count, "round") for count in (0, 1, 2, 12_345)] == [
        "0 rounds",
        "1 round",
        "2 rounds",
        "12,345 rounds",
    ]
