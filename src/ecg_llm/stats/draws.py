"""Means and ranks of the arms as other documents would have given them, jointly for all metrics."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from ecg_llm.stats.intervals import LEVEL, Interval, Z, spread
from ecg_llm.stats.panels import Pair, Panel, clusters_of
from ecg_llm.stats.resampling import BLOCK, Array, cluster_sums


def drawn_means(
    panels: Sequence[Panel],
    cluster_of: Mapping[str, str],
    resamples: int,
    seed: int,
    cells: int = 1,
) -> Iterator[list[Array]]:
    """Yield the means of the arms of each panel under drawn weights of the documents.

    A document weighs the same in every panel, so that metrics and subsets that share documents move
    together. Weights are exponential (Bayesian bootstrap, Rubin 1981): no draw is without a
    document of some small subset. Draws of few documents vary too little: each mean is moved away
    from the one found, so that 95 % of the draws spread as far as an interval by t on the degrees
    of freedom of `intervals.spread`.

    Args:
        panels: metrics on subsets; an arm's mean is over the questions it has.
        cluster_of: question_id -> group; a question without one is a cluster of its own.
        resamples: number of draws.
        seed: of the draws.
        cells: numbers that the caller holds for each draw; draws come in parts that fit into
            memory.

    Returns:
        Parts of all draws; in each an array of shape (draws, arms) a panel, NaN for an arm that has
        no questions, or questions of one document only.
    """
    if not panels:
        return
    questions = sorted({question for panel in panels for question in panel.questions})
    place = {question: i for i, question in enumerate(questions)}
    cluster = clusters_of(questions, cluster_of)
    values = np.full((len(questions), sum(len(panel.arms) for panel in panels)), np.nan)
    ends = np.cumsum([len(panel.arms) for panel in panels])
    for panel, end in zip(panels, ends, strict=True):
        rows = [place[question] for question in panel.questions]
        values[rows, end - len(panel.arms) : end] = panel.values
    sums = cluster_sums(np.nan_to_num(values), cluster)
    counts = cluster_sums((~np.isnan(values)).astype(float), cluster)
    found = spread(values, cluster)
    clusters = np.where(found.clusters > 1, found.clusters, np.nan)
    stretch = np.sqrt((clusters + 1) / (clusters - 1))
    stretch *= stats.t.ppf(0.5 + LEVEL / 2, found.freedom) / Z
    counts, which = np.unique(counts, axis=1, return_inverse=True)
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK // max(*sums.shape, cells))
    for start in range(0, resamples, step):
        weights = rng.standard_exponential((min(step, resamples - start), len(sums)))
        whole = (weights @ counts)[:, which.ravel()]
        drawn = (weights @ sums) / np.where(whole > 0, whole, 1.0)
        yield np.split(found.value + stretch * (drawn - found.value), ends[:-1], axis=1)


def drawn_ranks(means: Array, differences: Mapping[Pair, Interval]) -> Array:
    """Return the ranks of the arms in each draw, shape (draws, arms), with ties.

    The interval of every difference moves with the difference drawn and stays as wide as it is; a
    rank is 1 + the number of arms whose difference then lies wholly above.

    Args:
        means: of the arms as drawn, shape (draws, arms).
        differences: (a, b) -> a - b as found, of all pairs.
    """
    ranks = np.ones(means.shape)
    for (a, b), found in differences.items():
        if found.value is None or found.low is None or found.high is None:
            continue
        moved = means[:, a] - means[:, b] - found.value
        ranks[:, b] += found.low + moved > 0
        ranks[:, a] += found.high + moved < 0
    return ranks


def limits(found: Array, drawn: Array) -> Array:
    """Return the 95 % limits of each column of draws, widened to hold what was found.

    Args:
        found: shape (columns,).
        drawn: shape (draws, columns).

    Returns:
        Lower and upper limits, shape (2, columns).
    """
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0, method="inverted_cdf")
    return np.stack([np.minimum(low, found), np.maximum(high, found)])


def first_shares(values: Array) -> Array:
    """Return in which share of the draws no other value is larger, shared among equals.

    Args:
        values: shape (draws, columns).
    """
    values = values.round(12)
    first = values == values.max(axis=1, keepdims=True)
    return np.asarray((first / first.sum(axis=1, keepdims=True)).mean(axis=0))
