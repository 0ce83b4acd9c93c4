"""Numbers as people read them, with as many decimals as the interval supports."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

NONE = "–"
MAX_DECIMALS = 5
ROUNDING = 1e-9


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its interval; each is None where it is not known.

    Attributes:
        value: The estimate.
        low: Lower end.
        high: Upper end.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, raw: Any, key: str = "value") -> Interval:
        """Read `{key, low, high}`; anything that is not a finite number counts as unknown."""
        if not isinstance(raw, dict):
            return cls(number(raw))
        return cls(number(raw.get(key)), number(raw.get("low")), number(raw.get("high")))

    @property
    def known(self) -> bool:
        """Whether both ends are known."""
        return self.low is not None and self.high is not None


def number(raw: Any) -> float | None:
    """Return a finite float, or None for anything else."""
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return None
    return float(raw) if math.isfinite(raw) else None


def decimals_for(intervals: Iterable[Interval]) -> int:
    """Return the decimals that show two digits of the narrowest interval, or three of the largest value."""
    given = list(intervals)
    widths = [i.high - i.low for i in given if i.low is not None and i.high is not None and i.high > i.low]
    if widths:
        wanted = 1 - math.floor(math.log10(min(widths)) + ROUNDING)
    else:
        largest = max((abs(i.value) for i in given if i.value), default=1.0)
        wanted = 2 - math.floor(math.log10(largest))
    return min(max(wanted, 0), MAX_DECIMALS)


def text(value: float | None, decimals: int, signed: bool = False) -> str:
    """Return a value with a true minus sign, or a dash where it is unknown."""
    if value is None:
        return NONE
    rounded = round(value, decimals) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{decimals}f}".replace("-", "−")


def floor_text(value: float | None, decimals: int) -> str:
    """Return a floor with at least one digit that is not zero, if it has one within five decimals."""
    if value:
        decimals = max(decimals, min(-math.floor(math.log10(abs(value))), MAX_DECIMALS))
    return text(value, decimals)


def range_text(interval: Interval, decimals: int, signed: bool = False) -> str:
    """Return `low to high`, or an empty text where the ends are unknown."""
    if not interval.known:
        return ""
    return f"{text(interval.low, decimals, signed)} to {text(interval.high, decimals, signed)}"


def count(value: Any) -> str:
    """Return a whole number with thin spaces between thousands, or a dash."""
    found = number(value)
    return NONE if found is None else f"{round(found):,}".replace(",", "\u202f")


def kimg(images: Any) -> str:
    """Return a number of images in thousands, such as `24 kimg`."""
    found = number(images)
    return NONE if found is None else f"{found / 1000:.3g} kimg"


def share(part: float, whole: float) -> str:
    """Return a part of a whole in per cent."""
    return f"{100 * part / whole:.0f} %" if whole else NONE


def percent(value: float) -> float:
    """Return a position between 0 and 1 as per cent with two decimals, cut at the ends."""
    return round(100 * min(max(value, 0.0), 1.0), 2)


@dataclass(frozen=True)
class Bar:
    """An interval drawn on a scale, all in per cent of the scale's width.

    Attributes:
        start: Where the interval begins.
        width: Its length.
        dot: Where the value is.
        floor: Where the real-versus-real floor is, or None.
    """

    start: float
    width: float
    dot: float
    floor: float | None = None


@dataclass(frozen=True)
class Scale:
    """The range that a group of bars shares.

    Attributes:
        low: Value at the left end.
        high: Value at the right end, above `low`.
    """

    low: float
    high: float

    @classmethod
    def over(cls, intervals: Iterable[Interval], extra: Iterable[float | None] = ()) -> Scale:
        """Return a scale from 0, or below, to a little above everything given."""
        values = [v for i in intervals for v in (i.value, i.low, i.high) if v is not None]
        values += [v for v in extra if v is not None]
        top, bottom = max([*values, 0.0]), min([*values, 0.0])
        margin = 0.04 * (top - bottom) or 1.0
        return cls(bottom - (margin if bottom < 0 else 0.0), top + margin)

    def at(self, value: float) -> float:
        """Return where a value lies, in per cent."""
        return percent((value - self.low) / (self.high - self.low))

    def bar(self, interval: Interval, floor: float | None = None) -> Bar | None:
        """Return the drawing of an interval, or None where the value is unknown."""
        if interval.value is None:
            return None
        dot = self.at(interval.value)
        start = dot if interval.low is None else self.at(interval.low)
        end = dot if interval.high is None else self.at(interval.high)
        return Bar(start, round(end - start, 2), dot, None if floor is None else self.at(floor))
