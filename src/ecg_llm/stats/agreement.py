"""How far raters agree on grades and on the order of the arms, with intervals clustered by source.

Methods: Cohen 1968 (kappa with quadratic weights); Krippendorff 2011 (alpha); Kendall 1945 (tau-b);
Shrout & Fleiss 1979 and McGraw & Wong 1996 (ICC(2,1), also called ICC(A,1)).
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_llm.stats.intervals import Interval, mean_intervals, of_sums
from ecg_llm.stats.resampling import Array, cluster_sums

Index = NDArray[np.intp]
ONE_GRADE = "undefined: the grades do not vary"
ALL_EQUAL = "no disagreement in any document, so no interval"


class Agreement(NamedTuple):
    """A coefficient with its 95 % interval; the note says why one is missing."""

    interval: Interval
    note: str = ""


def equal_grades(grades: Array, cluster: Index, resamples: int, seed: int) -> Agreement:
    """Return the share of items to which two raters give the same grade.

    Args:
        grades: of items by two raters, shape (items, 2), NaN where there is none.
        cluster: number of each item's cluster, 0-based without gaps.
        resamples: bootstrap draws.
        seed: of the draws.
    """
    grades, cluster = _shared(grades, cluster)
    if not len(grades):
        return _without(0)
    equal = (grades[:, 0] == grades[:, 1]).astype(float)
    return Agreement(mean_intervals(equal[:, None], cluster, 0.0, 1.0, resamples, seed)[0])


def kappa(
    grades: Array, levels: Sequence[float], cluster: Index, resamples: int, seed: int
) -> Agreement:
    """Return Cohen's kappa of two raters, weighted by the square of the steps between grades.

    Args:
        grades: as for `equal_grades`.
        levels: the scale, from the lowest grade to the highest.
        cluster: as for `equal_grades`.
        resamples: bootstrap draws.
        seed: of the draws.
    """
    grades, cluster = _shared(grades, cluster)
    if not len(grades):
        return _without(0)
    count = len(levels)
    codes = np.searchsorted(np.array(levels), grades)
    tables = np.zeros((int(cluster.max()) + 1, count, count))
    np.add.at(tables, (cluster, codes[:, 0], codes[:, 1]), 1.0)
    steps = np.subtract.outer(np.arange(count), np.arange(count)) ** 2.0

    def coefficient(sums: Array) -> Array:
        table = sums.reshape(-1, count, count)
        observed = (table * steps).sum(axis=(1, 2)) * table.sum(axis=(1, 2))
        expected = np.einsum("rij,rkl,il->r", table, table, steps, optimize=True)
        return _less(observed, expected)

    return _found(coefficient, tables.reshape(len(tables), -1), len(grades), resamples, seed)


def alpha(
    grades: Array,
    levels: Sequence[float],
    cluster: Index,
    resamples: int,
    seed: int,
    metric: Literal["nominal", "ordinal", "interval"] = "ordinal",
) -> Agreement:
    """Return Krippendorff's alpha of any number of raters; grades may be missing.

    Args:
        grades: of items by raters, NaN where there is none; an item with one grade says nothing.
        levels: the scale, from the lowest grade to the highest.
        cluster: as for `equal_grades`.
        resamples: bootstrap draws.
        seed: of the draws.
        metric: how far apart two grades are.
    """
    count = len(levels)
    used = (~np.isnan(grades)).sum(axis=1) > 1
    if not used.any():
        return _without(0)
    cluster = np.unique(cluster[used], return_inverse=True)[1]
    votes = (grades[used][:, :, None] == np.array(levels)).sum(axis=1).astype(float)
    pairs = votes[:, :, None] * (votes[:, None, :] - np.eye(count))
    pairs /= (votes.sum(axis=1) - 1)[:, None, None]
    lines = np.asarray(levels, dtype=float)

    def coefficient(sums: Array) -> Array:
        coincidences = sums.reshape(-1, count, count)
        n = coincidences.sum(axis=2)
        if metric == "ordinal":
            middle = n.cumsum(axis=1) - n / 2
            apart = (middle[:, :, None] - middle[:, None, :]) ** 2
        elif metric == "interval":
            apart = np.broadcast_to(np.subtract.outer(lines, lines) ** 2, coincidences.shape)
        else:
            apart = np.broadcast_to(1 - np.eye(count), coincidences.shape)
        observed = (coincidences * apart).sum(axis=(1, 2)) * (n.sum(axis=1) - 1)
        expected = np.einsum("ri,rj,rij->r", n, n, apart, optimize=True)
        return _less(observed, expected)

    sums = cluster_sums(pairs.reshape(len(pairs), -1), cluster)
    return _found(coefficient, sums, int(used.sum()), resamples, seed)


def kendall(values: Array, question: Index, cluster: Index, resamples: int, seed: int) -> Agreement:
    """Return Kendall's tau-b of the orders in which two raters put the answers to each question.

    Pairs of answers are counted within questions, and their counts are added up over questions.

    Args:
        values: of answers by two raters, higher is better, shape (answers, 2), NaN where missing.
        question: number of each answer's question.
        cluster: as for `equal_grades`, of each answer.
        resamples: bootstrap draws.
        seed: of the draws.
    """
    known = ~np.isnan(values).any(axis=1)
    if not known.any():
        return _without(0)
    order = np.argsort(question[known], kind="stable")
    values, cluster = values[known][order], cluster[known][order]
    starts = np.flatnonzero(np.diff(question[known][order], prepend=-1))
    counts, at = [], []
    for start, part in zip(starts, np.split(values, starts[1:]), strict=True):
        first, second = np.triu_indices(len(part), 1)
        ahead, also = np.sign(part[first] - part[second]).T
        counts.append((ahead @ also, ahead @ ahead, also @ also))
        at.append(cluster[start])
    sums = cluster_sums(np.array(counts), np.unique(at, return_inverse=True)[1])

    def coefficient(sums: Array) -> Array:
        both, first, second = sums.T
        known = (first > 0) & (second > 0)
        return np.where(known, both / np.sqrt(np.where(known, first * second, 1.0)), np.nan)

    note = "undefined: one of the two always ties"
    return _found(coefficient, sums, len(counts), resamples, seed, note)


def icc(values: Array, cluster: Index, resamples: int, seed: int) -> Agreement:
    """Return ICC(2,1): how far single marks of any rater can be taken for those of another.

    Args:
        values: of items by two or more raters; items that one of them did not mark are left out.
        cluster: as for `equal_grades`.
        resamples: bootstrap draws.
        seed: of the draws.
    """
    values, cluster = _shared(values, cluster)
    if not len(values):
        return _without(0)
    raters = values.shape[1]
    values = values - values.mean()
    parts = np.column_stack([
        np.ones(len(values)), (values**2).sum(axis=1), values.sum(axis=1) ** 2, values
    ])  # fmt: skip

    def coefficient(sums: Array) -> Array:
        n, squares, rows, columns = sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3:]
        middle = columns.sum(axis=1) ** 2 / (n * raters)
        between = rows / raters - middle
        judges = (columns**2).sum(axis=1) / n - middle
        rest = (squares - middle - between - judges) / np.maximum((n - 1) * (raters - 1), 1)
        between, judges = between / np.maximum(n - 1, 1), judges / (raters - 1)
        whole = between + (raters - 1) * rest + raters * (judges - rest) / n
        known = (n > 1) & (np.abs(whole) > 1e-12)
        return np.where(known, (between - rest) / np.where(known, whole, 1.0), np.nan)

    return _found(coefficient, cluster_sums(parts, cluster), len(values), resamples, seed)


def _shared(grades: Array, cluster: Index) -> tuple[Array, Index]:
    """Return the items that all raters graded, and their clusters without gaps."""
    known = ~np.isnan(grades).any(axis=1)
    return grades[known], np.unique(cluster[known], return_inverse=True)[1]


def _less(observed: Array, expected: Array) -> Array:
    """Return 1 - observed / expected, NaN where nothing is expected."""
    known = expected > 0
    return np.where(known, 1 - observed / np.where(known, expected, 1.0), np.nan)


def _without(items: int) -> Agreement:
    return Agreement(Interval(None, None, None, "none", items, 0), "no item with two grades")


def _found(
    coefficient: Callable[[Array], Array],
    sums: Array,
    items: int,
    resamples: int,
    seed: int,
    undefined: str = ONE_GRADE,
) -> Agreement:
    interval = of_sums(coefficient, sums, items, resamples, seed, -1.0, 1.0)
    if interval.value is None:
        return Agreement(interval, undefined)
    if interval.method == "cluster_bound":  # that of a mean, which this is not
        return Agreement(interval._replace(low=None, high=None, method="none"), ALL_EQUAL)
    return Agreement(interval)
