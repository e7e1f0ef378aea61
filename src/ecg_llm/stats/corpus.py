"""N-gram counts of answers to corpus BLEU: values, paired differences and ranks of the arms.

Methods: Papineni et al. 2002; bootstrap of whole documents (Koehn 2004); p-values by approximate
randomisation, the answers of two arms exchanged by whole clusters (Riezler & Maxwell 2005).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ecg_llm.contracts import NgramCounts
from ecg_llm.records import Estimate
from ecg_llm.stats.estimate import Difference, Rank, placed
from ecg_llm.stats.intervals import LEVEL, TINY, Interval, Z, of_draws
from ecg_llm.stats.panels import clusters_of, pairs_of
from ecg_llm.stats.resampling import (
    EXACT_CLUSTERS,
    Array,
    cluster_signs,
    cluster_weights,
    every_sign,
)
from ecg_llm.stats.significance import holm

METRIC = "bleu_corpus"
Index = NDArray[np.intp]


class Texts(NamedTuple):
    """Answers to some questions, of the arms that have them all, an arm a column."""

    column: Mapping[int, int]
    """Number of an arm -> its column."""
    questions: int
    counts: Array
    """Of all answers, shape (arms, counts)."""
    values: Array
    without: Array
    """Values without each of the clusters, shape (clusters, arms); NaN without the only one."""
    drawn: Array
    """Values over clusters drawn with replacement, shape (resamples, arms)."""
    signed: Array
    """Counts with a sign for each cluster, shape (draws, arms, counts): random ones, or all signs
    that a few clusters can have."""


def bleu_estimates(
    rows: Sequence[NgramCounts],
    signature: str,
    subsets_of: Mapping[str, tuple[str, ...]],
    cluster_of: Mapping[str, str],
    comparisons: Sequence[tuple[str, str]],
    resamples: int,
    seed: int,
) -> list[Estimate]:
    """Return corpus BLEU, from 0 to 1, of every arm on every subset, with differences and ranks.

    The answers of an arm to the questions of a subset are one text, repeats included. A failed,
    refused or empty answer is an empty line of it, so that it costs what it leaves out; failed and
    refused ones are counted in `missing`. Differences and ranks are as in `estimate.estimates`,
    with intervals of `estimate.of_draws` and p-values of approximate randomisation.

    Args:
        rows: answers of any number of arms.
        signature: how they were counted; ends the `method` of an arm's row.
        subsets_of: question_id -> every "set/split" it counts in; others are left out.
        cluster_of: question_id -> group; a question without one is a cluster of its own.
        comparisons: pairs (a, b) whose difference a - b is tested; all pairs where none applies.
        resamples: number of bootstrap draws and of random exchanges.
        seed: of both; the same serve all arms.

    Returns:
        Rows ordered by subset, arms before differences.
    """
    parts: dict[str, list[NgramCounts]] = defaultdict(list)
    for row in rows:
        for subset in subsets_of.get(row.question_id, ()):
            parts[subset].append(row)
    return [
        made
        for subset, part in sorted(parts.items())
        for made in _rows(subset, part, signature, cluster_of, comparisons, resamples, seed)
    ]


def _rows(
    subset: str,
    rows: Sequence[NgramCounts],
    signature: str,
    cluster_of: Mapping[str, str],
    comparisons: Sequence[tuple[str, str]],
    resamples: int,
    seed: int,
) -> Iterator[Estimate]:
    questions = sorted({row.question_id for row in rows})
    arms = sorted({row.arm for row in rows})
    row_of = {question: i for i, question in enumerate(questions)}
    column_of = {arm: j for j, arm in enumerate(arms)}
    counts = np.zeros((len(questions), len(arms), len(rows[0].counts)))
    known = np.zeros((len(questions), len(arms)), dtype=bool)
    missing = [0] * len(arms)
    for row in rows:
        i, j = row_of[row.question_id], column_of[row.arm]
        counts[i, j] += row.counts
        known[i, j] = True
        missing[j] += row.missing
    cluster = clusters_of(questions, cluster_of)

    @cache
    def of_questions(mask: bytes) -> Texts:
        some = np.frombuffer(mask, dtype=bool)
        have = np.flatnonzero(known[some].all(axis=0)).tolist()
        return _texts(counts[some][:, have], have, cluster[some], resamples, seed)

    def shared_by(*columns: int) -> Texts:
        """Return the answers to the questions that all of these arms have."""
        return of_questions(known[:, columns].all(axis=1).tobytes())

    every = range(len(arms))
    ranks = _ranks(shared_by(*every), len(arms))
    for j, (arm, rank) in enumerate(zip(arms, ranks, strict=True)):
        interval = _interval(shared_by(j), j)
        yield Estimate(
            metric=METRIC, subset=subset, arm=arm, method=f"corpus/{interval.method} {signature}",
            value=interval.value, low=interval.low, high=interval.high, **rank._asdict(),
            questions=interval.questions, clusters=interval.clusters, missing=missing[j],
            missing_as="an empty answer", seed=seed,
        )  # fmt: skip
    pairs = pairs_of(arms, comparisons)
    differences = [_difference(shared_by(a, b), a, b) for a, b in pairs]
    adjusted = holm([difference.p for difference in differences])
    for (a, b), found, p_adjusted in zip(pairs, differences, adjusted, strict=True):
        interval = found.interval
        yield Estimate(
            metric=METRIC, subset=subset, arm=arms[a], against=arms[b],
            method=f"difference/{interval.method}", value=interval.value, low=interval.low,
            high=interval.high, p=found.p, p_adjusted=p_adjusted, test=found.test,
            questions=interval.questions, clusters=interval.clusters,
            missing=missing[a] + missing[b], seed=seed,
        )  # fmt: skip


def _texts(counts: Array, arms: Sequence[int], cluster: Index, resamples: int, seed: int) -> Texts:
    """Return the answers of these arms by their counts, shape (questions, arms, counts)."""
    names, cluster = np.unique(cluster, return_inverse=True)
    clusters, shape = len(names), counts.shape[1:]
    sums = np.zeros((clusters, *shape))
    np.add.at(sums, cluster, counts)
    total = sums.sum(axis=0)
    without, drawn, signed = np.full((clusters, len(arms)), np.nan), [], []
    if clusters > 1:
        without = bleu(total - sums)
        flat = sums.reshape(clusters, -1)
        for weights in cluster_weights(clusters, resamples, seed):
            drawn.append(bleu((weights @ flat).reshape(-1, *shape)))
        exact = clusters <= EXACT_CLUSTERS
        all_signs = [every_sign(clusters)] if exact else cluster_signs(clusters, resamples, seed)
        signed = [(signs @ flat).reshape(-1, *shape) for signs in all_signs]
    return Texts(
        {arm: column for column, arm in enumerate(arms)}, len(counts), total, bleu(total), without,
        np.concatenate(drawn or [np.zeros((0, len(arms)))]),
        np.concatenate(signed or [np.zeros((0, *shape))]),
    )  # fmt: skip


def bleu(counts: Array) -> Array:
    """Return BLEU, from 0 to 1, of counts along the last axis: sacrebleu's compute_bleu, for many.

    Exponential smoothing, four orders; 0 where an order has no n-gram at all, NaN where there is no
    reference.
    """
    length, wanted = counts[..., 0], counts[..., 1]
    common, total = np.split(counts[..., 2:], 2, axis=-1)
    none = common == 0
    halvings = 2.0 ** np.cumsum(none, axis=-1)
    precision = np.where(none, 1 / halvings, common) / np.maximum(total, 1)
    brevity = np.exp(np.minimum(0.0, 1 - wanted / np.maximum(length, 1)))
    value = brevity * np.exp(np.log(precision).mean(axis=-1))
    value = np.where((total > 0).all(axis=-1) & ~none.all(axis=-1), np.minimum(value, 1.0), 0.0)
    return np.where(wanted > 0, value, np.nan)


def _interval(texts: Texts, arm: int) -> Interval:
    j = texts.column[arm]
    value, without = float(texts.values[j]), texts.without[:, j]
    return of_draws(value, without, lambda: texts.drawn[:, j], texts.questions, 0.0, 1.0)


def _difference(texts: Texts, arm: int, other: int) -> Difference:
    a, b = texts.column[arm], texts.column[other]
    value = float(texts.values[a] - texts.values[b])
    without = texts.without[:, a] - texts.without[:, b]
    interval = of_draws(
        value, without, lambda: texts.drawn[:, a] - texts.drawn[:, b], texts.questions, -1.0, 1.0
    )
    if len(without) < 2:
        return Difference(interval, None)
    return Difference(interval, _exchanged(texts, a, b), "randomisation")


def _exchanged(texts: Texts, a: int, b: int) -> float:
    """Return the two-sided p-value of a difference, where each cluster may be either arm's."""
    both = texts.counts[a] + texts.counts[b]
    apart = texts.signed[:, a] - texts.signed[:, b]
    made = np.abs(bleu((both + apart) / 2) - bleu((both - apart) / 2))
    reached = int((made >= abs(texts.values[a] - texts.values[b]) * (1 - 1e-9) - TINY).sum())
    drawn = int(len(texts.without) > EXACT_CLUSTERS)  # what was seen is one of the draws
    return (reached + drawn) / (len(made) + drawn)


def _ranks(texts: Texts, arms: int) -> list[Rank]:
    clusters = len(texts.without)
    if clusters < 2:
        return [Rank() for _ in range(arms)]
    pairs = combinations(range(arms), 2)
    differences = {(a, b): _difference(texts, a, b) for a, b in pairs}
    # Draws of few clusters vary too little, as in draws.drawn_means.
    wider = (clusters / (clusters - 1)) ** 0.5 * special.stdtrit(clusters - 1, 0.5 + LEVEL / 2) / Z
    drawn = texts.values + wider * (texts.drawn - texts.values)
    return placed(arms, differences, drawn, texts.questions)
