"""The difference of two estimates that rest on different questions of different documents."""

from math import hypot, sqrt
from typing import NamedTuple

from scipy import special

from ecg_llm.records import Estimate
from ecg_llm.stats.intervals import LEVEL, Interval
from ecg_llm.stats.power import POWER


class Gap(NamedTuple):
    """A difference of two independent estimates; None where nothing can be told."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    """Two-sided, uncorrected."""
    detectable_adjusted: float | None = None
    """The smallest difference found with 80 % power at Holm's first step."""


def gap(first: Estimate | Interval, second: Estimate | Interval, comparisons: int = 1) -> Gap:
    """Return first - second with its 95 % interval, put together from the two intervals.

    Half-widths towards each other are added in squares (MOVER: Zou & Donner 2008; Newcombe 1998,
    method 10). That keeps what an interval knows of clusters, few of them, and the ends of the
    scale, where a common standard error would not. p is what the half-width towards zero implies
    by Student's t on one degree less than the clusters of the side that has fewer, so that p is
    0.05 where the interval ends at zero.

    Args:
        first: a mean, or a paired difference of two arms.
        second: the same on questions of other documents.
        comparisons: that are corrected together; they matter to `detectable_adjusted` alone.
    """
    if first.value is None or second.value is None:
        return Gap()
    value = first.value - second.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Gap(value)
    down = hypot(first.value - first.low, second.high - second.value)
    up = hypot(first.high - first.value, second.value - second.low)
    freedom = max(min(first.clusters, second.clusters) - 1, 1)
    quantile = float(special.stdtrit(freedom, 0.5 + LEVEL / 2))
    towards = down if value > 0 else up
    p = float(value == 0)
    if towards > 0:
        p = 2 * float(special.stdtr(freedom, -abs(value) / towards * quantile))
    error = sqrt((down**2 + up**2) / 2) / quantile
    needed = float(special.stdtrit(freedom, 1 - (1 - LEVEL) / (2 * comparisons)))
    found = error * (needed + float(special.stdtrit(freedom, POWER)))
    return Gap(value, value - down, value + up, p, found)
