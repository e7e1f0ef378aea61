"""Power of paired comparisons: what a design can detect, and the questions a difference needs.

Methods: smallest detectable difference = (t of 1 - alpha/2 + t of .8) x standard error (Bloom
1995), with the variance d - g^2 for a gap g of marks that differ on a share d of questions
(Miettinen 1968); no less than what flips the k signs without which the test cannot reach alpha
(2^(1-k) <= alpha), and none below k clusters. Errors are those of whole clusters (Kish 1965).
McNemar's exact test goes in steps, which costs it up to five of the 80 points.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from math import ceil, isfinite, log2, sqrt
from typing import NamedTuple

from scipy import special

from ecg_llm.contracts import UsageError
from ecg_llm.records import METRICS, Estimate
from ecg_llm.stats.intervals import LEVEL, TINY

POWER = 0.8
ALPHA = 1 - LEVEL
SIGNS = ("mcnemar", "sign_flip")
"""Tests whose smallest p-value is that of all signs alike."""


class Design(NamedTuple):
    """What a difference that was tested by signs shows of how the next questions will vary."""

    questions: int
    clusters: int
    error: float
    freedom: float
    mean: float
    variance: float
    """Of the questions' differences, about the mean."""
    step: float
    """Size of a difference that is not 0, where each question is its own cluster; else 0."""

    @property
    def effect(self) -> float:
        """How many times the questions it takes because those of a cluster are alike; 1 or more."""
        return self.error**2 * self.questions / self.variance


class Need(NamedTuple):
    """What it takes to find a difference, at the mean size of a cluster now."""

    questions: int
    clusters: int


class Needed(NamedTuple):
    """What one comparison of two arms can detect, and what a wanted difference would need."""

    metric: str
    subset: str
    a: str
    b: str
    questions: int
    """That both arms have, now."""
    clusters: int
    detectable: float | None
    """The smallest difference found with 80 % power at a two-sided 5 %; None: cannot be told."""
    detectable_adjusted: float | None
    """At Holm's first step: a level of 5 % / comparisons."""
    design_effect: float | None
    """How many times the questions it takes because those of a cluster are alike; 1 or more."""
    needed_questions: int | None
    """For the wanted difference with the same power; None where the arms never differ."""
    needed_clusters: int | None
    """Of the mean size of now."""
    comparisons: int
    """That Holm's correction runs over."""
    needed_questions_adjusted: int | None
    needed_clusters_adjusted: int | None


def detectable(error: float, freedom: float, alpha: float = ALPHA) -> float | None:
    """Return the smallest difference that a t test finds with 80 % power at a two-sided level.

    Args:
        error: standard error of the difference.
        freedom: its degrees of freedom.
        alpha: two-sided level.

    Returns:
        None where the error is unknown or 0, as where two arms never differ.
    """
    if not isfinite(error) or error <= TINY:
        return None
    at = special.stdtrit(freedom, [1 - alpha / 2, POWER])
    return float(at.sum()) * error


def design_of(row: Estimate) -> Design | None:
    """Return the design of a paired difference; None where it says nothing of the next one.

    That is where two arms never differ, where there is one cluster, and for values that are no
    means of questions (strengths, corpus BLEU).
    """
    if row.test not in SIGNS or row.error is None or row.freedom is None or row.value is None:
        return None
    n, mean = row.questions, row.value
    variance = (mean / row.effect) ** 2 if row.effect else row.error**2 * n
    apart = (row.wins or 0) + (row.losses or 0)
    step = sqrt((variance * (n - 1) + mean**2 * n) / apart) if row.clusters == n and apart else 0.0
    return Design(n, row.clusters, row.error, row.freedom, mean, variance, step)


def smallest(design: Design, alpha: float = ALPHA, clusters: int | None = None) -> float | None:
    """Return the smallest difference that signs find with 80 % power at a two-sided level.

    Args:
        design: of now.
        alpha: two-sided level.
        clusters: number of clusters like those of now; as many as now where None.

    Returns:
        None where so few clusters cannot reach the level, whatever they show.
    """
    count = design.clusters if clusters is None else clusters
    signs = _signs(alpha)
    if count < signs:
        return None
    freedom = design.freedom * (count - 1) / (design.clusters - 1)
    found = detectable(design.error * sqrt(design.clusters / count), freedom, alpha)
    if found is None:
        return None
    # d - g^2, at this gap or, if a larger one was seen, as seen.
    variance, square = design.variance, found**2
    found *= sqrt((variance + max(design.mean**2, square)) / (variance + square))
    if count == signs:  # every cluster must say the same
        alike = float(special.ndtri(POWER ** (1 / count)))
        found = max(found, design.error * sqrt(design.clusters) * alike)
    return max(found, design.step * float(special.betaincinv(signs, count - signs + 1, POWER)))


def with_power(family: Sequence[Estimate]) -> list[Estimate]:
    """Return the paired differences of one family with what their designs can detect."""
    tested = max(1, sum(row.p is not None for row in family))
    return [
        row.model_copy(
            update={
                "detectable": _detectable(row, ALPHA),
                "detectable_adjusted": _detectable(row, ALPHA / tested),
            }
        )
        for row in family
    ]


def _detectable(row: Estimate, alpha: float) -> float | None:
    if row.test == "t" and row.error is not None and row.freedom is not None:
        return detectable(row.error, row.freedom, alpha)
    design = design_of(row)
    return None if design is None else smallest(design, alpha)


def needed(row: Estimate, difference: float, comparisons: int = 1) -> Need | None:
    """Return how many questions like those of now find this difference with 80 % power.

    It is the least number at which `smallest` is no larger, so that what a row can detect and what
    it needs never contradict each other.

    Args:
        row: a paired difference.
        difference: wanted, above 0, in units of the metric.
        comparisons: that a level of 5 % is shared by (Holm's first step).

    Returns:
        None where `design_of` has none.
    """
    design = design_of(row)
    if design is None:
        return None
    alpha = ALPHA / comparisons

    def finds(clusters: int) -> bool:
        found = smallest(design, alpha, clusters)
        return found is not None and found <= difference * (1 + TINY)

    least = most = max(2, _signs(alpha))
    while not finds(most):
        most *= 2
    clusters = bisect_left(range(most), True, lo=least, key=finds)
    return Need(ceil(clusters * design.questions / design.clusters - 1e-9), clusters)


def planned(rows: Sequence[Estimate], difference: float) -> list[Needed]:
    """Return what every comparison can detect, and what this difference would need.

    Args:
        rows: estimates; means among them are left out.
        difference: wanted, in units of the metric.

    Returns:
        One row a comparison, in order; none of metrics where more is not better.

    Raises:
        UsageError: the difference is no number above 0.
    """
    if not (isfinite(difference) and difference > 0):
        raise UsageError(
            f"A difference of {difference} cannot be planned for; give a number above 0, like 0.03."
        )
    tested = Counter((row.metric, row.subset) for row in rows if row.against and row.p is not None)
    made = []
    for row in rows:
        if row.against and not (row.metric in METRICS and METRICS[row.metric].layer == "other"):
            design, comparisons = design_of(row), tested[row.metric, row.subset]
            now, corrected = (needed(row, difference, count) for count in (1, comparisons or 1))
            made.append(
                Needed(
                    row.metric, row.subset, row.arm, row.against, row.questions, row.clusters,
                    row.detectable, row.detectable_adjusted, design and design.effect,
                    now and now.questions, now and now.clusters, comparisons,
                    corrected and corrected.questions, corrected and corrected.clusters,
                )
            )  # fmt: skip
    return made


def _signs(alpha: float) -> int:
    """Return how many signs must be alike for a p-value of alpha."""
    return ceil(log2(2 / alpha) - TINY)
