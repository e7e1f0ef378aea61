"""Panels to estimates: means, paired differences and ranks, clustered by source, and their tests.

Methods: those of intervals.py, significance.py and power.py, always over whole clusters and paired
(Miller 2024, arXiv 2411.00640); d_z (Cohen 1988); ranks with ties as in arXiv 2510.18339, section
4.3.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ecg_llm.contracts import Progress
from ecg_llm.records import METRICS, Estimate, Score
from ecg_llm.stats.draws import drawn_means, drawn_ranks, first_shares, limits
from ecg_llm.stats.intervals import (
    LEVEL,
    TINY,
    Interval,
    difference_intervals,
    mean_intervals,
    spread,
    wilson,
)
from ecg_llm.stats.panels import Pair, Panel, pairs_of, panels_of
from ecg_llm.stats.power import with_power
from ecg_llm.stats.resampling import Array, cluster_sums
from ecg_llm.stats.significance import holm, sign_flip, sign_test


class Difference(NamedTuple):
    """A paired difference of two arms and its tests; None where nothing can be told."""

    interval: Interval
    p: float | None
    """Two-sided, uncorrected."""
    test: str = ""
    """How p was computed."""
    p_sign: float | None = None
    wins: int | None = None
    losses: int | None = None
    effect: float | None = None
    error: float | None = None
    freedom: float | None = None


class Rank(NamedTuple):
    """Ranks of one arm among all arms of a panel; None where nothing can be told."""

    rank: int | None = None
    rank_adjusted: int | None = None
    rank_low: int | None = None
    rank_high: int | None = None
    p_best: float | None = None
    rank_questions: int | None = None


def estimates(
    scores: Sequence[Score],
    subsets_of: Mapping[str, tuple[str, ...]],
    cluster_of: Mapping[str, str],
    comparisons: Sequence[tuple[str, str]],
    resamples: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Estimate]:
    """Return means with ranks, and paired differences, of every metric on every subset.

    Scores are put together by `panels_of`: an answer that the judge left unjudged leaves the mean,
    since that is no fault of the arm, and is counted in `missing` like unparsed and failed ones.

    Differences are paired on the questions both arms have. p is exact McNemar's for right-or-wrong
    marks whose questions are each their own cluster ("mcnemar"), else that of random signs of whole
    clusters ("sign_flip"); Holm's correction runs over the family of one metric and subset.

    Ranks use the questions that all arms with any value share (rank_questions): 1 + the number of
    arms whose uncorrected 95 % difference lies wholly above (rank) or whose difference is
    significant after Holm over all pairs (rank_adjusted). rank_low to rank_high is the interval of
    rank over draws of other documents (`draws.drawn_means`, `draws.drawn_ranks`), p_best the share
    of those in which no arm's mean is higher.

    Args:
        scores: any number of metrics and arms.
        subsets_of: question_id -> every "set/split" it counts in; scores of other questions are
            left out.
        cluster_of: question_id -> group; a question without one is a cluster of its own.
        comparisons: pairs (a, b) whose difference a - b is tested; all pairs where none is
            declared or none of their names is an arm here, as with raters' own names.
        resamples: number of bootstrap draws and of random sign flips.
        seed: of the resampling; the same draws serve every metric.
        progress: called with (done, total) panels.

    Returns:
        Rows ordered by metric and subset, means before differences.
    """
    panels = list(panels_of(scores, subsets_of, cluster_of))
    rows: list[Estimate] = []
    for done, panel in enumerate(panels):
        if progress:
            progress(done, len(panels))
        pairs = pairs_of(panel.arms, comparisons)
        found = _differences(panel, pairs, resamples, seed)
        rows += _mean_rows(panel, _ranks(panel, found, resamples, seed), resamples, seed)
        rows += _difference_rows(panel, found, seed)
    if progress:
        progress(len(panels), len(panels))
    return rows


def differences(
    scores: Sequence[Score],
    subsets_of: Mapping[str, tuple[str, ...]],
    cluster_of: Mapping[str, str],
    comparisons: Sequence[tuple[str, str]],
    resamples: int,
    seed: int,
) -> list[Estimate]:
    """Return the paired differences of `estimates` alone, with the same arguments."""
    return [
        row
        for panel in panels_of(scores, subsets_of, cluster_of)
        for row in _difference_rows(
            panel,
            _differences(panel, pairs_of(panel.arms, comparisons), resamples, seed),
            seed,
        )
    ]


def means(panel: Panel, resamples: int, seed: int) -> list[Interval]:
    """Return the mean of each arm of a panel, with its interval by whole clusters.

    Right-or-wrong marks of questions that are each their own cluster have Wilson's.
    """
    found = mean_intervals(panel.values, panel.cluster, 0.0, 1.0, resamples, seed)
    if panel.counts_apart:
        for j, mean in enumerate(found):
            if mean.value is not None and mean.clusters > 1:
                low, high = wilson(mean.value * mean.questions, mean.questions)
                found[j] = mean._replace(low=low, high=high, method="wilson")
    return found


def placed(
    arms: int, differences: Mapping[Pair, Difference], drawn: Array, questions: int
) -> list[Rank]:
    """Return the ranks of arms.

    Args:
        arms: their number.
        differences: (a, b) -> a - b, of all pairs.
        drawn: values of the arms as chance would have them, shape (draws, arms).
        questions: that they rest on.
    """
    intervals = {pair: difference.interval for pair, difference in differences.items()}
    adjusted = holm([difference.p for difference in differences.values()])
    rank = np.ones(arms, dtype=int)
    rank_adjusted = rank.copy()
    for ((a, b), found), p_adjusted in zip(intervals.items(), adjusted, strict=True):
        if found.value is None:
            continue
        worse = b if found.value > 0 else a
        if (found.low or 0.0) > 0 or (found.high or 0.0) < 0:
            rank[worse] += 1
        if p_adjusted is not None and p_adjusted < 1 - LEVEL:
            rank_adjusted[worse] += 1
    low, high = limits(rank, drawn_ranks(drawn, intervals))
    p_best = first_shares(drawn)
    return [
        Rank(
            int(rank[j]), int(rank_adjusted[j]), int(low[j]), int(high[j]), float(p_best[j]),
            questions,
        )
        for j in range(arms)
    ]  # fmt: skip


def _mean_rows(panel: Panel, ranks: Sequence[Rank], resamples: int, seed: int) -> list[Estimate]:
    return [
        Estimate(
            metric=panel.metric, subset=panel.subset, arm=arm, method=f"mean/{mean.method}",
            value=mean.value, low=mean.low, high=mean.high, **rank._asdict(),
            questions=mean.questions, clusters=mean.clusters, missing=missing,
            missing_as=_missing_as(panel.metric, unjudged), seed=seed,
        )
        for arm, mean, rank, missing, unjudged in zip(
            panel.arms, means(panel, resamples, seed), ranks, panel.missing, panel.unjudged,
            strict=True,
        )
    ]  # fmt: skip


def _missing_as(metric: str, unjudged: int) -> str:
    value = METRICS[metric].missing_as if metric in METRICS else None
    if value is None:
        return "left out"
    return f"{value:g}" + (f"; {unjudged} unjudged left out" if unjudged else "")


def _difference_rows(panel: Panel, found: Mapping[Pair, Difference], seed: int) -> list[Estimate]:
    adjusted = holm([difference.p for difference in found.values()])
    rows = [
        Estimate(
            metric=panel.metric, subset=panel.subset, arm=panel.arms[a], against=panel.arms[b],
            method=f"difference/{one.interval.method}", value=one.interval.value,
            low=one.interval.low, high=one.interval.high, p=one.p, p_adjusted=p_adjusted,
            test=one.test, p_sign=one.p_sign, wins=one.wins, losses=one.losses, effect=one.effect,
            error=one.error, freedom=one.freedom, questions=one.interval.questions,
            clusters=one.interval.clusters, missing=panel.missing[a] + panel.missing[b], seed=seed,
        )
        for ((a, b), one), p_adjusted in zip(found.items(), adjusted, strict=True)
    ]  # fmt: skip
    return with_power(rows)


def _differences(
    panel: Panel, pairs: Sequence[Pair], resamples: int, seed: int
) -> dict[Pair, Difference]:
    """Return the paired differences of these pairs of arms."""
    if not pairs:
        return {}
    columns = panel.differences(pairs)
    reach = panel.reach
    intervals = difference_intervals(columns, panel.cluster, -reach, reach, resamples, seed)
    sums = cluster_sums(np.nan_to_num(columns), panel.cluster)
    wins, losses = (columns > TINY).sum(axis=0), (columns < -TINY).sum(axis=0)
    over, under = (sums > TINY).sum(axis=0), (sums < -TINY).sum(axis=0)
    p_sign = [sign_test(int(a), int(b)) for a, b in zip(over, under, strict=True)]
    apart = panel.counts_apart
    p_values = p_sign if apart else sign_flip(sums, resamples, seed)
    found = spread(columns, panel.cluster)
    # Documents that are more alike than chance would have them are chance.
    error = np.sqrt(np.maximum(found.error**2, found.variance / np.maximum(found.questions, 1)))
    made = {}
    for j, (pair, interval) in enumerate(zip(pairs, intervals, strict=True)):
        told, varies = interval.clusters > 1, bool(error[j] > TINY)
        deviation = float(found.variance[j]) ** 0.5
        made[pair] = Difference(
            interval,
            p_values[j] if told else None,
            ("mcnemar" if apart else "sign_flip") if told else "",
            p_sign[j] if told else None,
            int(wins[j]) if interval.questions else None,
            int(losses[j]) if interval.questions else None,
            float(found.value[j]) / deviation if deviation > TINY else None,
            float(error[j]) if varies else None,
            float(found.freedom[j]) if varies else None,
        )
    return made


def _ranks(panel: Panel, found: Mapping[Pair, Difference], resamples: int, seed: int) -> list[Rank]:
    """Return the ranks of the arms that have any value, on the questions that all of them have.

    Args:
        panel: of all arms.
        found: differences that are known already.
        resamples: number of draws.
        seed: of the draws.
    """
    unknown = dict.fromkeys(panel.arms, Rank())
    if panel.metric in METRICS and METRICS[panel.metric].layer == "other":
        return list(unknown.values())  # more words are not better words
    common = panel.shared()
    if common.cluster.size == 0 or common.cluster.max() == 0:
        return list(unknown.values())
    pairs = list(combinations(range(len(common.arms)), 2))
    if common.values.shape != panel.values.shape or not found.keys() >= set(pairs):
        found = _differences(common, pairs, resamples, seed)
    cluster_of = {
        question: str(cluster)
        for question, cluster in zip(common.questions, common.cluster, strict=True)
    }
    drawn = np.concatenate([
        part for (part,) in drawn_means([common], cluster_of, resamples, seed)
    ])  # fmt: skip
    ranks = placed(
        len(common.arms), {pair: found[pair] for pair in pairs}, drawn, len(common.questions)
    )
    return list((unknown | dict(zip(common.arms, ranks, strict=True))).values())
