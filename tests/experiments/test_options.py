"""Options as people write them."""

from contextlib import suppress
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.errors import InputError
from perstep.experiments.options import (
    RunOptions,
    at_least,
    format_counts,
    parse_counts,
    parse_seconds,
    parse_share,
)
from perstep.measure import Effort


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("30", 30),
        ("1.5m", 90),
        ("2min", 120),
        ("200ms", 0.2),
        ("1h", 3600),
        (" 5 S ", 5),
        (".5s", 0.5),
        ("50us", 5e-5),
        ("2µs", 2e-6),
    ],
)
def test_a_duration_has_a_unit_or_is_seconds(text: str, seconds: float) -> None:
    """Capitals and spaces do not matter."""
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "0", "0s", "-1s", "1e3", "5.", "10x", "1s2s", "inf", "nan", "٣s", "1 000"])
def test_what_is_no_duration_says_what_would_be(text: str) -> None:
    """Zero is none: nothing could be measured in it."""
    with pytest.raises(ValueError, match="is not a duration; write 30s, 500ms or 2m"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "share"), [("1%", 0.01), ("0.01", 0.01), ("0.5 %", 0.005), ("99%", 0.99), (".5", 0.5)]
)
def test_a_share_is_a_percentage_or_a_fraction(text: str, share: float) -> None:
    """Both are hundredths."""
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "0", "0%", "1", "2", "100%", "-1%", "1e-2", "nan", "1%%", "one"])
def test_what_is_no_share_says_what_would_be(text: str) -> None:
    """It lies between 0 and 1."""
    with pytest.raises(ValueError, match=r"is not a share between 0 and 1; write 1% or 0\.01"):
        parse_share(text)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("64", (64,)),
        ("4,1,2,1", (1, 2, 4)),
        ("8-1024*2", (8, 16, 32, 64, 128, 256, 512, 1024)),
        ("8-100x3", (8, 24, 72)),
        ("8-64+8", (8, 16, 24, 32, 40, 48, 56, 64)),
        ("0-3", (0, 1, 2, 3)),
        (" 1, 8 - 32 * 2 ", (1, 8, 16, 32)),
        ("5-5*2", (5,)),
    ],
)
def test_counts_are_a_list_or_a_range(text: str, counts: tuple[int, ...]) -> None:
    """Ascending, each once; the last of a range only if a step falls on it."""
    assert parse_counts(text) == counts


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "write 64, a list"),
        ("8-", "write 64, a list"),
        ("8,,9", "write 64, a list"),
        ("-8", "write 64, a list"),
        ("8-64**2", "write 64, a list"),
        ("1.5", "write 64, a list"),
        ("64-8", "write 8-64"),
        ("8-64*1", r"write 8-64\*2"),
        ("0-64*2", r"write 1-64\*2"),
        ("8-64+0", r"write 8-64\+1"),
        ("1-1000000000", "more than 10,000 numbers"),
    ],
)
def test_what_is_no_list_of_counts_says_what_would_be(text: str, says: str) -> None:
    """A range that ends before it begins, or never gets on, too."""
    with pytest.raises(ValueError, match=says):
        parse_counts(text)


@given(st.sets(st.integers(0, 10**12 - 1), min_size=1, max_size=20))
def test_written_counts_are_read_again(counts: set[int]) -> None:
    """What a manifest holds can be given on a command line."""
    assert parse_counts(format_counts(sorted(counts))) == tuple(sorted(counts))


@given(st.text(alphabet="0123456789-*x+, ", max_size=12))
def test_any_text_is_counts_or_a_value_error(text: str) -> None:
    """Never an endless loop, never a full memory."""
    with suppress(ValueError):
        counts = parse_counts(text)
        assert list(counts) == sorted(set(counts))


@given(st.text(max_size=8))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    """Whatever is typed."""
    for parse in (parse_seconds, parse_share):
        with suppress(ValueError):
            assert parse(text) > 0


@pytest.mark.parametrize(
    ("options", "effort"),
    [
        ({}, Effort(0.005, 30.0, None)),
        ({"fast": True}, Effort(0.02, 3.0, None)),
        ({"rigorous": True}, Effort(0.002, 300.0, None)),
        ({"fast": True, "budget": 7.0}, Effort(0.02, 7.0, None)),
        ({"rigorous": True, "precision": 0.1}, Effort(0.1, 300.0, None)),
        ({"rounds": 5}, Effort(None, inf, 5)),
        ({"rounds": 5, "budget": 2.0, "precision": 0.1}, Effort(0.1, 2.0, 5)),
    ],
)
def test_options_become_an_effort(options: dict[str, float], effort: Effort) -> None:
    """A preset gives way to what is said; a number of rounds is measured whatever time and precision."""
    assert RunOptions(**options).effort() == effort


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fast": True, "rigorous": True}, "--fast and --rigorous exclude each other"),
        ({"rounds": 0}, "rounds 0: at least 1"),
        ({"rounds": -3}, "rounds -3: at least 1"),
        ({"budget": 0.0}, "budget 0.0 s: it must be above 0"),
        ({"precision": 0.0}, "precision 0.0: it must lie between 0 and 1"),
        ({"precision": 1.5}, "precision 1.5: it must lie between 0 and 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], said: str) -> None:
    """From Python too, where nothing has parsed them."""
    with pytest.raises(InputError, match=said):
        RunOptions(**options).effort()


def test_a_count_below_its_minimum_is_told_by_its_name_on_the_command_line() -> None:
    """The first one that is wrong."""
    at_least(1, new_tokens=1, batch=7)
    with pytest.raises(InputError, match="--new-tokens 0: it must be at least 1"):
        at_least(1, batch=1, new_tokens=0)
