"""Tests of paired differences, exact or by random signs, and their correction for being many.

Methods: exact McNemar (Dietterich 1998); permutation test that flips the signs of whole clusters
(Fisher 1935); sign test over clusters; Holm 1979.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from ecg_llm.stats.resampling import EXACT_CLUSTERS, Array, cluster_signs, every_sign

TINY = 1e-12
PARTS = (1, 2, 3, 4, 6, 8, 12, 24)
"""Parts of one that sums may be multiples of: marks, quarter grades, means of a few repeats."""
GRID = 20_000_000
"""Most steps, clusters times cells, that an exact p-value may take: about 20 ms."""
SMALLEST = 1e-300
COLUMNS = 500
"""Columns that all signs are tried on at once, about 16 MB."""


def sign_test(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of this many signs in either direction.

    Over single right-or-wrong items that only one of two arms solved it is McNemar's exact test.
    """
    return min(1.0, 2 * float(stats.binom.cdf(min(wins, losses), wins + losses, 0.5)))


def sign_flip(sums: Array, resamples: int, seed: int) -> list[float]:
    """Return the two-sided p-value of each column under random signs of its cluster sums.

    Exact, as if all signs were tried, where no more than EXACT_CLUSTERS sums differ from zero, or
    all are multiples of a simple part, as those of marks and grades are; elsewhere from `resamples`
    random signs, with what was seen as one more.

    Args:
        sums: of the differences of each cluster, shape (clusters, columns).
        resamples: number of random signs.
        seed: of the signs.
    """
    p_values = np.ones(sums.shape[1])
    active = (np.abs(sums) > TINY).sum(axis=0)
    largest = np.argsort(-np.abs(sums), axis=0, kind="stable")[:EXACT_CLUSTERS]
    few = np.flatnonzero(active <= EXACT_CLUSTERS)
    signs = every_sign(len(largest))
    for some in np.split(few, range(COLUMNS, len(few), COLUMNS)):
        terms = np.take_along_axis(sums[:, some], largest[:, some], axis=0)
        p_values[some] = _reached(signs, terms) / len(signs)
    many = np.flatnonzero(active > EXACT_CLUSTERS)
    exact = np.array([_on_grid(sums[:, j]) for j in many])
    p_values[many] = exact
    many = many[np.isnan(exact)]
    if len(many):
        every = cluster_signs(len(sums), resamples, seed)
        reached = sum((_reached(signs, sums[:, many]) for signs in every), np.zeros(len(many)))
        p_values[many] = (1 + reached) / (1 + resamples)
    return [float(p) for p in p_values]


def _on_grid(sums: Array) -> float:
    """Return the exact p-value of sums on a grid, NaN where there is none or it is too fine.

    The distribution of the total under random signs is built up sum by sum.
    """
    for parts in PARTS:
        whole = np.rint(sums * parts)
        near = np.abs(sums * parts - whole).max() < 1e-6
        # Sums of a metric of small numbers are near 0, which is no step.
        if near and np.array_equal(whole != 0, np.abs(sums) > TINY):
            break
    else:
        return float("nan")
    if np.abs(whole).sum() > GRID:
        return float("nan")
    steps = np.abs(whole[whole != 0]).astype(int)
    most = int(steps.sum())
    if len(steps) * most > GRID:
        return float("nan")
    chance = np.zeros(2 * most + 1)
    chance[most] = 1.0
    reach = 0
    for step in np.sort(steps):
        inner = chance[most - reach : most + reach + 1] / 2
        grown = np.zeros(2 * (reach + step) + 1)
        grown[: 2 * reach + 1] = inner
        grown[2 * step :] += inner
        reach += int(step)
        chance[most - reach : most + reach + 1] = grown
    tail = int(abs(whole.sum()))
    return float(np.clip(2 * chance[most + tail :].sum(), SMALLEST, 1.0)) if tail else 1.0


def _reached(signs: Array, sums: Array) -> Array:
    """Return how many of these signs give each column a total as far from zero as its own."""
    needed = np.abs(sums.sum(axis=0)) * (1 - 1e-9) - TINY
    return np.asarray((np.abs(signs @ sums) >= needed).sum(axis=0), dtype=float)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values, in order; a missing one stays missing."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for position, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - position) * p))
        adjusted[i] = largest
    return adjusted
