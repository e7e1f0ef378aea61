"""Means and other statistics of questions in clusters, with their 95 % intervals.

Methods: Wilson 1927, for clusters with the effective number of questions (Kish 1965; Dean & Pagano
2015); cluster-robust variance CR2 with t on the degrees that unequal and alike clusters leave (Bell
& McCaffrey 2002; Imbens & Kolesar 2016); cluster bootstrap with percentiles as far out as few
clusters need (Hesterberg 2015, arXiv 1411.5279). docs/decisions/0017-intervals.md says what each is
for, and how often it holds the truth.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ecg_llm.stats.resampling import (
    Array,
    Index,
    bootstrap_means,
    cluster_sums,
    cluster_weights,
)

FEW_CLUSTERS = 10
"""Below this number of clusters the bootstrap is too narrow and t takes its place."""
LEVEL = 0.95
TINY = 1e-12
Z = float(stats.norm.ppf(0.5 + LEVEL / 2))


class Interval(NamedTuple):
    """A ratio mean of one column with its 95 % interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    method: str
    questions: int
    clusters: int


class Spread(NamedTuple):
    """Ratio means of some columns and how they vary between clusters, each shape (columns,)."""

    value: Array
    error: Array
    """Cluster-robust standard error (CR2), NaN for fewer than two clusters."""
    error_drawn: Array
    """What the standard deviation of the cluster bootstrap tends to (CR0): too small."""
    freedom: Array
    """Degrees of freedom of the error if questions of a cluster were no more alike than others."""
    freedom_alike: Array
    """The same if they are as alike as they seem."""
    variance: Array
    """Of the questions, by n-1."""
    questions: Array
    clusters: Index

    @property
    def design_effect(self) -> Array:
        """How many times the variance of the mean is that of as many separate questions."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.error**2 * self.questions / self.variance)


def spread(columns: Array, cluster: Index) -> Spread:
    """Return the ratio means of columns of questions, NaN where missing, and their errors.

    Args:
        columns: shape (questions, columns).
        cluster: number of each question's cluster, 0-based without gaps.
    """
    known = ~np.isnan(columns)
    filled = np.where(known, columns, 0.0)
    n = known.sum(axis=0).astype(float)
    counts = cluster_sums(known.astype(float), cluster)
    clusters = (counts > 0).sum(axis=0)
    value = filled.sum(axis=0) / np.maximum(n, 1)
    residuals = cluster_sums(np.where(known, filled - value, 0.0), cluster)
    told = clusters > 1
    share = np.where(told, counts / np.maximum(n, 1), 0.0)
    error = np.sqrt((residuals**2 / (1 - share)).sum(axis=0)) / np.maximum(n, 1)
    error_drawn = np.sqrt((residuals**2).sum(axis=0)) / np.maximum(n, 1)
    variance = (np.where(known, filled - value, 0.0) ** 2).sum(axis=0) / np.maximum(n - 1, 1)
    # Kish: the design effect is 1 + likeness x (mean size of a question's cluster - 1).
    excess = (counts**2).sum(axis=0) / np.maximum(n, 1) - 1
    effect = error**2 * n / np.maximum(variance, TINY)
    likeness = np.clip((effect - 1) / np.where(excess > TINY, excess, np.inf), 0.0, 1.0)
    return Spread(
        value, np.where(told, error, np.nan), error_drawn,
        _freedom(counts, share, np.zeros_like(value)), _freedom(counts, share, likeness),
        variance, n, clusters,
    )  # fmt: skip


def _freedom(counts: Array, share: Array, likeness: Array) -> Array:
    """Return Satterthwaite's degrees of freedom of the CR2 variance of a mean.

    Sums over clusters have the variance v = n (1 + likeness (n - 1)), their residuals the
    covariance M = diag(v) - share v' - v share' + sum(v) share share', and CR2 the weights
    1 / (1 - share) on its diagonal W: the degrees are tr(WM)^2 / tr(WMWM).
    """
    v = counts * (1 + likeness * (counts - 1))
    total = v.sum(axis=0)
    w = 1 / (1 - share)
    trace = (w * (v - 2 * share * v + share**2 * total)).sum(axis=0)
    ss, sv, vv = ((w * pair).sum(axis=0) for pair in (share**2, share * v, v**2))
    cross = (w**2 * v * (total * share**2 - 2 * share * v)).sum(axis=0)
    square = (w**2 * v**2).sum(axis=0) + 2 * cross
    square += (total * ss - sv) ** 2 + 2 * (total * sv - vv) * -ss + sv**2
    return np.asarray(np.maximum(trace**2 / np.maximum(square, TINY), 0.5))


def mean_intervals(
    columns: Array, cluster: Index, least: float, most: float, resamples: int, seed: int
) -> list[Interval]:
    """Return the ratio mean and interval of each column of a questions x columns matrix.

    Columns that keep within `least` and `most` have Wilson's interval for their effective number
    of questions ("cluster_wilson"), the others what `difference_intervals` gives.
    """
    found = spread(columns, cluster)
    within = _within(columns, least, most)
    share = np.clip((found.value - least) / (most - least), 0.0, 1.0)
    effective = share * (1 - share) * ((most - least) / np.maximum(found.error, TINY)) ** 2
    quantile = stats.t.ppf(0.5 + LEVEL / 2, found.freedom_alike)
    low, high = (least + end * (most - least) for end in _wilson(share, effective, quantile))
    methods = np.full(len(within), "cluster_wilson")
    if not within.all():
        part = _resampled(found, columns, cluster, ~within, resamples, seed)
        low, high = (np.where(within, *pair) for pair in zip((low, high), part, strict=False))
        methods = np.where(within, methods, part[2])
    return _made(found, low, high, methods, within, least, most)


def difference_intervals(
    columns: Array, cluster: Index, least: float, most: float, resamples: int, seed: int
) -> list[Interval]:
    """Return the ratio mean and interval of each column of paired differences.

    The interval is the cluster bootstrap's ("cluster_bootstrap"), below FEW_CLUSTERS that of t on
    CR2 ("cluster_t"). It ends at `least` and `most` where the column keeps within them. Without
    variation between clusters it would have no width: the bound of `_bound` takes its place
    ("cluster_bound"), or none where `least` and `most` are not finite.
    """
    found = spread(columns, cluster)
    every = np.full(columns.shape[1], True)
    low, high, methods = _resampled(found, columns, cluster, every, resamples, seed)
    return _made(found, low, high, methods, _within(columns, least, most), least, most)


def _within(columns: Array, least: float, most: float) -> NDArray[np.bool_]:
    inside = (columns >= least - 1e-6) & (columns <= most + 1e-6)
    return np.asarray((inside | np.isnan(columns)).all(axis=0))


def _resampled(
    found: Spread,
    columns: Array,
    cluster: Index,
    wanted: NDArray[np.bool_],
    resamples: int,
    seed: int,
) -> tuple[Array, Array, NDArray[np.str_]]:
    """Return lower and upper ends and methods; those of the columns not wanted say nothing."""
    half = stats.t.ppf(0.5 + LEVEL / 2, found.freedom) * found.error
    low, high = found.value - half, found.value + half
    many = wanted & (found.clusters >= FEW_CLUSTERS) & (found.error > TINY)
    if many.any():
        drawn = bootstrap_means(columns[:, many], cluster, resamples, seed)
        wider = found.error[many] / found.error_drawn[many]
        low[many], high[many] = _percentiles(drawn, found.clusters[many], wider)
    return low, high, np.where(many, "cluster_bootstrap", "cluster_t")


def _percentiles(drawn: Array, clusters: Index, wider: Array) -> tuple[Array, Array]:
    """Return the ends of the intervals of columns of draws.

    Hesterberg's expanded percentiles: as far out as t is beyond the normal distribution, and as the
    error is beyond what the bootstrap of so few clusters shows.

    Args:
        drawn: shape (resamples, columns).
        clusters: of each column.
        wider: how many times the standard deviation of its draws the error of each column is.
    """
    tail = stats.norm.cdf(-stats.t.ppf(0.5 + LEVEL / 2, clusters - 1) * wider)
    ordered = np.sort(np.ascontiguousarray(drawn.T))
    column = np.arange(len(ordered))

    def quantile(at: Array) -> Array:
        place = at * (ordered.shape[1] - 1)
        below = np.floor(place).astype(np.intp)
        above = np.minimum(below + 1, ordered.shape[1] - 1)
        low, high = ordered[column, below], ordered[column, above]
        return np.asarray(low + (place - below) * (high - low))

    return quantile(tail), quantile(1 - tail)


def _made(
    found: Spread,
    low: Array,
    high: Array,
    methods: NDArray[np.str_],
    within: NDArray[np.bool_],
    least: float,
    most: float,
) -> list[Interval]:
    made = []
    for j, mean in enumerate(found.value.tolist()):
        clusters = int(found.clusters[j])
        ends: tuple[float | None, float | None] = float(low[j]), float(high[j])
        method = str(methods[j])
        if clusters > 1 and found.error[j] <= TINY and within[j] and np.isfinite(most - least):
            ends, method = _bound(mean, clusters, least, most), "cluster_bound"
        elif clusters < 2 or found.error[j] <= TINY:
            ends, method = (None, None), "none"
        elif within[j]:
            ends = max(float(low[j]), least), min(float(high[j]), most)
        n = int(found.questions[j])
        made.append(Interval(mean if n else None, *ends, method, n, clusters))
    return made


def _bound(value: float, clusters: int, least: float, most: float) -> tuple[float, float]:
    """Return bounds of a mean whose clusters all agree.

    None of C clusters deviates, so by Wilson at most a share u = z^2 / (C + z^2) of clusters
    does, and those lie anywhere between `least` and `most`.
    """
    share = wilson(0, clusters)[1]
    return (1 - share) * value + share * least, (1 - share) * value + share * most


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion."""
    (low,), (high,) = _wilson(np.array([successes / n]), np.array([float(n)]), np.array([Z]))
    return float(low), float(high)


def _wilson(share: Array, n: Array, z: Array) -> tuple[Array, Array]:
    centre = (share * n + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * np.sqrt(share * (1 - share) * n + z * z / 4)
    return np.maximum(0.0, centre - half), np.minimum(1.0, centre + half)


def of_sums(
    statistic: Callable[[Array], Array],
    sums: Array,
    items: int,
    resamples: int,
    seed: int,
    least: float = -np.inf,
    most: float = np.inf,
) -> Interval:
    """Return a statistic of sums over clusters, with its interval by whole clusters.

    The interval is the cluster bootstrap's; below FEW_CLUSTERS that of the jackknife over clusters
    with t on C-1 degrees (Miller 1974; Hughes 2022, arXiv 2210.13265). Where all clusters
    say the same there is none, or the bound of a mean if `least` and `most` are finite.

    Args:
        statistic: rows of sums, shape (n, columns) -> n values, NaN where undefined.
        sums: of each cluster, shape (clusters, columns); a cluster with nothing but zeros is none.
        items: what the interval says it rests on.
        resamples: number of bootstrap draws.
        seed: of the draws.
        least: the interval ends here at the latest.
        most: and here.
    """
    sums = sums[sums.any(axis=1)]
    clusters = len(sums)
    if not clusters:
        return Interval(None, None, None, "none", items, 0)
    total = sums.sum(axis=0)
    value = float(statistic(total[None])[0])
    without = statistic(total - sums) if clusters > 1 else np.full(1, np.nan)

    def drawn() -> Array:
        return np.concatenate([
            statistic(weights @ sums) for weights in cluster_weights(clusters, resamples, seed)
        ])  # fmt: skip

    found = of_draws(value, without, drawn, items, least, most)
    if found.value is not None and _error(without) <= TINY and np.isfinite((least, most)).all():
        low, high = _bound(value, clusters, least, most)
        found = found._replace(low=low, high=high, method="cluster_bound")
    return found


def of_draws(
    value: float,
    without: Array,
    drawn: Callable[[], Array],
    items: int,
    least: float = -np.inf,
    most: float = np.inf,
) -> Interval:
    """Return a statistic with the interval of `of_sums`; none where all clusters say the same.

    Args:
        value: of the statistic, NaN where undefined.
        without: its values without each of the clusters, shape (clusters,).
        drawn: called for its values in a bootstrap, where there are clusters enough for one.
        items: what the interval says it rests on.
        least: the interval ends here at the latest.
        most: and here.
    """
    clusters = len(without)
    if not np.isfinite(value):
        return Interval(None, None, None, "none", items, clusters)
    error = _error(without)
    none = Interval(value, None, None, "none", items, clusters)
    if error <= TINY:
        return none
    if clusters < FEW_CLUSTERS:
        if np.isnan(error):  # undefined without one of them
            return none
        half = float(stats.t.ppf(0.5 + LEVEL / 2, clusters - 1) * error)
        low, high, method = value - half, value + half, "cluster_jackknife"
    else:
        values = drawn()
        known = values[np.isfinite(values)]
        if len(known) < 0.9 * len(values) or np.ptp(known) <= TINY:
            return none
        wider = np.array([clusters / (clusters - 1)]) ** 0.5
        ends = _percentiles(known[:, None], np.array([clusters]), wider)
        low, high = (float(end[0]) for end in ends)
        method = "cluster_bootstrap"
    return Interval(value, max(low, least), min(high, most), method, items, clusters)


def _error(without: Array) -> float:
    """Return the jackknife's standard error from the values without each cluster."""
    clusters = len(without)
    return float(np.sqrt((clusters - 1) / clusters * ((without - without.mean()) ** 2).sum()))
