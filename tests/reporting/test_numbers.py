from __future__ import annotations

import pytest

from graftgan.reporting.numbers import (
    NONE,
    Bar,
    Interval,
    Scale,
    count,
    decimals_for,
    floor_text,
    kimg,
    number,
    range_text,
    share,
    text,
)


@pytest.mark.parametrize("raw", [None, "3", True, float("nan"), float("inf"), [1]])
def test_what_is_not_a_finite_number_is_unknown(raw: object) -> None:
    assert number(raw) is None
    assert text(number(raw), 2) == NONE


def test_intervals_are_read_from_dictionaries_and_bare_numbers() -> None:
    assert Interval.of({"difference": 1, "low": 0, "high": 2}, "difference") == Interval(1, 0, 2)
    assert Interval.of(0.5) == Interval(0.5)
    assert not Interval.of({"value": 1, "low": None, "high": 2}).known
    assert range_text(Interval(1.0), 2) == ""


@pytest.mark.parametrize(
    ("intervals", "decimals"),
    [
        ([Interval(0.021, 0.015, 0.027)], 3),
        ([Interval(21, 14, 28)], 0),
        ([Interval(21, 14, 28), Interval(5, 4.95, 5.05)], 2),
        ([Interval(0.0123)], 4),
        ([Interval(123.0)], 0),
        ([Interval(None)], 2),
        ([Interval(1.0, 1.0, 1.0)], 2),
        ([Interval(1e-9, 0.9e-9, 1.1e-9)], 5),
    ],
)
def test_decimals_follow_the_narrowest_interval(intervals: list[Interval], decimals: int) -> None:
    assert decimals_for(intervals) == decimals


def test_signs() -> None:
    assert text(-0.08, 2) == "−0.08"
    assert text(-0.0001, 2) == "0.00", "no minus before nothing"
    assert text(0.08, 2, signed=True) == "+0.08"
    assert text(0.0, 1, signed=True) == "0.0"
    assert range_text(Interval(0, -0.5, 0.5), 1, signed=True) == "−0.5 to +0.5"


def test_a_small_floor_is_not_shown_as_nothing() -> None:
    assert floor_text(0.0004, 3) == "0.0004"
    assert floor_text(0.0, 3) == "0.000"
    assert floor_text(1e-9, 3) == "0.00000"
    assert floor_text(None, 3) == NONE


def test_counts() -> None:
    assert count(1234567) == "1\u202f234\u202f567"
    assert kimg(24000) == "24 kimg"
    assert kimg(None) == NONE
    assert share(1, 40) == "2 %"
    assert share(1, 0) == NONE


def test_bars_lie_on_the_shared_scale() -> None:
    scale = Scale(0.0, 10.0)
    assert scale.bar(Interval(5, 4, 8), 2) == Bar(start=40, width=40, dot=50, floor=20)
    assert scale.bar(Interval(5)) == Bar(start=50, width=0, dot=50, floor=None)
    assert scale.bar(Interval(None, 1, 2)) is None
    assert scale.bar(Interval(50, -3, 99)) == Bar(start=0, width=100, dot=100, floor=None)


def test_a_scale_holds_everything_and_zero() -> None:
    scale = Scale.over([Interval(2, 1, 3), Interval(None)], [7.0, None])
    assert scale.low == 0 and scale.high == pytest.approx(7.28)
    below = Scale.over([Interval(-1, -2, 0)])
    assert below.low < -2 and below.high > 0
    empty = Scale.over([])
    assert empty.high > empty.low
