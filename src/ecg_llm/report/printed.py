"""Numbers of any metric as a comparison prints them: in percent, or with the digits they need."""

from math import ceil, log10
from typing import NamedTuple

from ecg_llm.records import Estimate
from ecg_llm.report.differences import compact
from ecg_llm.report.results import is_percent, number

DIGITS = 3
"""Digits of a value; of a share, decimals at least."""
WIDTH_DIGITS = 2
"""Digits of the width of an interval that its ends show."""
SMALL, LARGE = 1e-4, 1e12
"""Sizes below and from which a number has an exponent."""
NOISE = 1e-9
"""Width of an interval, as a share of its ends, that is rounding alone."""


class Look(NamedTuple):
    """How the values of a metric are printed."""

    metric: str
    """A metric of ours, which has a form of its own; empty for anyone else's."""
    marks: bool
    """Whether scores are right-or-wrong marks, whose means are shown in percent."""
    share: bool
    """Whether all scores lie between 0 and 1."""

    @property
    def percent(self) -> bool:
        """Whether values are shown in percent and differences in points."""
        return is_percent(self.metric) if self.metric else self.marks


class Printed(NamedTuple):
    """A mean or a difference as printed, with true minus signs."""

    value: str
    interval: str
    """ "low to high"; empty where there is none."""
    detectable: str
    """After correction."""

    def told(self, unit: str) -> str:
        """Return the value with its unit and interval."""
        return self.value + unit + (f" ({self.interval})" if self.interval else "")


def printed(row: Estimate, look: Look, *, signed: bool = False) -> Printed:
    """Return an estimate as printed; value, interval and what is detectable with like decimals."""
    ends = (row.low, row.high)
    if look.metric:
        texts = [number(end, look.metric, signed=signed) for end in (row.value, *ends)]
        detectable = number(row.detectable_adjusted, look.metric)
    else:
        places = 1 if look.percent else _places(row, look.share)
        scale = 100 if look.percent else 1
        texts = [_text(end, scale, places, signed=signed) for end in (row.value, *ends)]
        detectable = _text(row.detectable_adjusted, scale, places)
    interval = "" if None in ends else f"{texts[1]} to {texts[2]}"
    return Printed(texts[0], interval, detectable)


def size(margin: float, look: Look) -> str:
    """Return a difference that matters with its unit."""
    return f"{100 * margin:g} points" if look.percent else f"{margin:g}"


def brief(value: float, look: Look) -> str:
    """Return a difference in about five characters, with its sign: +12, −3.4, +.05, +1e−4."""
    if look.metric or look.percent:
        return compact(value, look.metric or "accuracy")
    large = abs(value)
    if large and not 0.01 <= large < 9999:
        return _exponent(f"{value:+.0e}")
    text = f"{value:+.{0 if large >= 9.95 else 1 if large >= 1 else 2}f}".replace("0.", ".", 1)
    return text.replace("-", "−") if large else "0"


def _places(row: Estimate, share: bool) -> int | None:
    """Return the decimals that an estimate needs; None for an exponent."""
    known = [end for end in (row.value, row.low, row.high) if end is not None]
    size = max(map(abs, known), default=0.0)
    if size == 0:
        return DIGITS if share else 0
    if not SMALL <= size < LARGE:
        return None
    needed = [DIGITS - ceil(log10(size)), DIGITS if share else 0]
    if (width := max(known) - min(known)) > NOISE * size:
        needed.append(WIDTH_DIGITS - ceil(log10(width)))
    return max(needed)


def _text(value: float | None, scale: int, places: int | None, *, signed: bool = False) -> str:
    if value is None:
        return "–"
    sign = "+" if signed else ""
    if places is None:
        return _exponent(f"{value:{sign}.{DIGITS - 1}e}")
    text = f"{value * scale:{sign},.{places}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def _exponent(text: str) -> str:
    """Return a number with an exponent in short: 1.23e−7."""
    digits, _, power = text.partition("e")
    return f"{digits}e{int(power)}".replace("-", "−") if float(digits) else "0"
