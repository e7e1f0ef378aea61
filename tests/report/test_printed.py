"""Numbers of comparisons: their digits, and what they say when read again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecg_llm.records import Estimate
from ecg_llm.report.printed import Look, brief, printed

THEIRS = Look("", marks=False, share=False)
SHARE = Look("", marks=False, share=True)
MARKS = Look("", marks=True, share=True)


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(
        metric="m", subset="", arm="a", method="mean", value=value, low=low, high=high,
        questions=9, clusters=9, seed=0,
    )  # fmt: skip


def read(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


@given(st.floats(1e-8, 1e50), st.sampled_from([-1, 1]))
def test_a_value_reads_as_itself_to_three_digits(size: float, sign: int) -> None:
    shown = printed(estimate(sign * size), THEIRS).value
    assert read(shown) == pytest.approx(sign * size, rel=5.1e-3)
    assert len(shown) <= 17


@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e3))
def test_the_ends_of_an_interval_are_told_apart_with_like_decimals(
    low: float, width: float
) -> None:
    shown = printed(estimate(low + width / 2, low, low + width), THEIRS)
    first, last = shown.interval.split(" to ")
    assert read(last) - read(first) == pytest.approx(width, rel=0.11)
    decimals = {len(text.partition(".")[2]) for text in (shown.value, first, last)}
    assert len(decimals) == 1


@pytest.mark.parametrize(
    ("look", "row", "value", "interval"),
    [
        (SHARE, estimate(0.6667, 0.5, 0.8), "+0.667", "+0.500 to +0.800"),
        (SHARE, estimate(0.0), "0.000", ""),
        (SHARE, estimate(1.0, 1.0, 1.0), "+1.000", "+1.000 to +1.000"),
        (MARKS, estimate(-0.25, -0.3, 0.00001), "−25.0", "−30.0 to 0.0"),
        (THEIRS, estimate(101.42, 101.37, 101.46), "+101.420", "+101.370 to +101.460"),
        (THEIRS, estimate(0.0), "0", ""),
        (THEIRS, estimate(None), "–", ""),
        (Look("accuracy", marks=False, share=False), estimate(0.5), "+50.0", ""),
    ],
)
def test_numbers_as_printed(look: Look, row: Estimate, value: str, interval: str) -> None:
    shown = printed(row, look, signed=True)
    assert (shown.value, shown.interval) == (value, interval)


@given(st.floats(1e-8, 1e9), st.sampled_from([-1, 1]))
def test_a_difference_in_short_keeps_its_sign_and_size(size: float, sign: int) -> None:
    shown = brief(sign * size, THEIRS)
    assert len(shown) <= 5
    assert shown[0] == ("−" if sign < 0 else "+")
    assert read(shown) == pytest.approx(sign * size, rel=0.51)


def test_differences_of_shares_and_marks_in_short() -> None:
    assert [brief(0.05, look) for look in (SHARE, MARKS)] == ["+.05", "+5.0"]
    assert brief(0.0, THEIRS) == "0"
