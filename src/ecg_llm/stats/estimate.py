"""Scores to estimates: means, paired differences and ranks, with intervals clustered by source.

Methods: Wilson 1927; cluster-robust standard error of a ratio mean with t on C-1 degrees and the
cluster bootstrap (Miller 2024, arXiv 2411.00640); exact McNemar (Dietterich 1998); cluster
sign-flip permutation test; Holm 1979; ranks with ties as in arXiv 2510.18339, section 4.3.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ecg_llm.contracts import Progress
from ecg_llm.records import METRICS, Estimate, Score

FEW_CLUSTERS = 30
"""Below this number of clusters the bootstrap is too narrow and t takes its place."""
LEVEL = 0.95
EXACT_CLUSTERS = 12
"""Up to this number of clusters all 2^C sign flips are enumerated."""
BLOCK = 4_000_000
"""Cells of the resampling matrix held at once, about 32 MB."""
TINY = 1e-12
Z = float(stats.norm.ppf(0.5 + LEVEL / 2))

Array = NDArray[np.float64]
Pair = tuple[int, int]


class Panel(NamedTuple):
    """One metric on one subset: a question a row, an arm a column, NaN where there is no value."""

    metric: str
    subset: str
    arms: tuple[str, ...]
    values: Array
    cluster: NDArray[np.intp]
    """Cluster number of each question, 0-based without gaps."""
    missing: tuple[int, ...]
    """Unparsed, failed and unjudged answers of each arm."""
    unjudged: tuple[int, ...]
    """Those among them that no judge gave a usable reply to."""
    single: bool
    """Every value is one score, not a mean over repeats, permutations or raters."""


class Interval(NamedTuple):
    """A ratio mean of one column with its 95 % interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    method: str
    questions: int
    clusters: int


class Difference(NamedTuple):
    """A paired difference of two arms, its interval and its two-sided p-value."""

    interval: Interval
    p: float | None


class Rank(NamedTuple):
    """Ranks of one arm among all arms of a panel; None where nothing can be told."""

    rank: int | None = None
    rank_adjusted: int | None = None
    rank_low: int | None = None
    rank_high: int | None = None
    p_best: float | None = None


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

    Scores of one question and arm are first averaged over repeats, permutations and raters. An
    unparsed or failed answer counts as the metric's `missing_as`, or leaves the mean where that
    is None; one that the judge left unjudged always leaves it, since that is no fault of the arm.
    All are counted in `missing`. Not-applicable scores never count.

    Differences are paired on the questions both arms have; Holm's correction runs over the
    family of one metric and subset. Ranks use the questions that all arms share: 1 + the number
    of arms whose uncorrected 95 % difference lies wholly above (rank) or whose difference is
    significant after Holm over all pairs (rank_adjusted).

    Args:
        scores: any number of metrics and arms.
        subsets_of: question_id -> every "set/split" it counts in; scores of other questions are
            left out.
        cluster_of: question_id -> group; a question without one is a cluster of its own.
        comparisons: pairs (a, b) whose difference a - b is tested; all pairs where none is
            declared or none of the declared applies, as with raters' own names of the systems.
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
        rows += _mean_rows(panel, resamples, seed)
        rows += _difference_rows(panel, comparisons, resamples, seed)
    if progress:
        progress(len(panels), len(panels))
    return rows


def means(panel: Panel, resamples: int, seed: int) -> list[Interval]:
    """Return the mean of each arm of a panel, with its interval by whole clusters.

    Right-or-wrong marks of questions that are each their own cluster have Wilson's.
    """
    found = mean_intervals(panel.values, panel.cluster, 0.0, 1.0, resamples, seed)
    if _counts_apart(panel):
        for j, mean in enumerate(found):
            if mean.value is not None and mean.clusters > 1:
                low, high = wilson(mean.value * mean.questions, mean.questions)
                found[j] = mean._replace(low=low, high=high, method="wilson")
    return found


def clusters_of(questions: Sequence[str], cluster_of: Mapping[str, str]) -> NDArray[np.intp]:
    """Return the cluster number of each question, 0-based without gaps.

    A question without a group is a cluster of its own.
    """
    groups = [cluster_of.get(question) or f"question {question}" for question in questions]
    return np.unique(np.array(groups, dtype=object), return_inverse=True)[1].astype(np.intp)


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion."""
    centre = (successes + Z * Z / 2) / (n + Z * Z)
    half = Z / (n + Z * Z) * np.sqrt(successes * (n - successes) / n + Z * Z / 4)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def mcnemar(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value for this many discordant items in either direction."""
    if wins + losses == 0:
        return 1.0
    return float(stats.binomtest(wins, wins + losses, 0.5).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values, in order; a missing one stays missing."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for position, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - position) * p))
        adjusted[i] = largest
    return adjusted


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

    The interval is the percentiles of the cluster bootstrap; below FEW_CLUSTERS the jackknife over
    clusters with t on C-1 degrees (Miller 1974; Hughes 2022, arXiv 2210.13265). Where all clusters
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
        tail = 50 * (1 - LEVEL)
        low, high = (float(limit) for limit in np.percentile(known, [tail, 100 - tail]))
        method = "cluster_bootstrap"
    return Interval(value, max(low, least), min(high, most), method, items, clusters)


def _error(without: Array) -> float:
    """Return the jackknife's standard error from the values without each cluster."""
    clusters = len(without)
    return float(np.sqrt((clusters - 1) / clusters * ((without - without.mean()) ** 2).sum()))


def placed(arms: int, differences: Mapping[Pair, Difference], drawn: Array) -> list[Rank]:
    """Return the ranks of arms.

    Args:
        arms: their number.
        differences: (a, b) -> a - b, of all pairs.
        drawn: values of the arms as chance would have them, shape (draws, arms).
    """
    adjusted = holm([difference.p for difference in differences.values()])
    rank = np.ones(arms, dtype=int)
    rank_adjusted = rank.copy()
    for ((a, b), (interval, _)), p_adjusted in zip(differences.items(), adjusted, strict=True):
        if interval.value is None:
            continue
        worse = b if interval.value > 0 else a
        if (interval.low or 0.0) > 0 or (interval.high or 0.0) < 0:
            rank[worse] += 1
        if p_adjusted is not None and p_adjusted < 1 - LEVEL:
            rank_adjusted[worse] += 1
    drawn = drawn.round(12)
    place = np.stack([1 + (drawn > drawn[:, [j]]).sum(1) for j in range(arms)], axis=1)
    best = place == 1
    p_best = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(place, [tail, 100 - tail], axis=0, method="inverted_cdf")
    return [
        Rank(int(rank[j]), int(rank_adjusted[j]), int(low[j]), int(high[j]), float(p_best[j]))
        for j in range(arms)
    ]


def panels_of(
    scores: Sequence[Score],
    subsets_of: Mapping[str, tuple[str, ...]],
    cluster_of: Mapping[str, str],
) -> Iterator[Panel]:
    """Yield the panels of these scores, sorted by metric and subset."""
    cells: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = defaultdict(dict)
    missing: dict[tuple[str, str, str], int] = defaultdict(int)
    unjudged: dict[tuple[str, str, str], int] = defaultdict(int)
    for score in scores:
        if score.status == "not_applicable":
            continue
        value = score.value
        if score.status in ("unparsed", "error"):
            value = METRICS[score.metric].missing_as if score.metric in METRICS else None
        for subset in subsets_of.get(score.question_id, ()):
            # An arm whose answers all failed keeps its (empty) column.
            values = cells[score.metric, subset].setdefault((score.question_id, score.arm), [])
            if score.status != "scored":
                missing[score.metric, subset, score.arm] += 1
                unjudged[score.metric, subset, score.arm] += score.status == "unjudged"
            if value is not None:
                values.append(value)
    for (metric, subset), cell in sorted(cells.items()):
        questions = sorted({question for question, _ in cell})
        arms = tuple(sorted({arm for _, arm in cell}))
        row_of = {question: i for i, question in enumerate(questions)}
        column_of = {arm: j for j, arm in enumerate(arms)}
        matrix = np.full((len(questions), len(arms)), np.nan)
        for (question, arm), values in cell.items():
            if values:
                matrix[row_of[question], column_of[arm]] = sum(values) / len(values)
        cluster = clusters_of(questions, cluster_of)
        yield Panel(
            metric, subset, arms, matrix, cluster,
            missing=tuple(missing[metric, subset, arm] for arm in arms),
            unjudged=tuple(unjudged[metric, subset, arm] for arm in arms),
            single=all(len(values) <= 1 for values in cell.values()),
        )  # fmt: skip


def _mean_rows(panel: Panel, resamples: int, seed: int) -> list[Estimate]:
    ranks = _ranks(panel, resamples, seed)
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


def _difference_rows(
    panel: Panel, comparisons: Sequence[tuple[str, str]], resamples: int, seed: int
) -> list[Estimate]:
    pairs = pairs_of(panel.arms, comparisons)
    differences = _differences(panel, pairs, resamples, seed)
    adjusted = holm([difference.p for difference in differences])
    return [
        Estimate(
            metric=panel.metric, subset=panel.subset, arm=panel.arms[a], against=panel.arms[b],
            method=f"difference/{interval.method}", value=interval.value, low=interval.low,
            high=interval.high, p=p, p_adjusted=p_adjusted, questions=interval.questions,
            clusters=interval.clusters, missing=panel.missing[a] + panel.missing[b], seed=seed,
        )
        for (a, b), (interval, p), p_adjusted in zip(pairs, differences, adjusted, strict=True)
    ]  # fmt: skip


def pairs_of(arms: Sequence[str], comparisons: Sequence[tuple[str, str]]) -> list[Pair]:
    """Return the places of the declared pairs among the arms; of all pairs where none applies."""
    place = {arm: j for j, arm in enumerate(arms)}
    declared = [(place[a], place[b]) for a, b in comparisons if a in place and b in place]
    return list(dict.fromkeys(declared)) or list(combinations(range(len(arms)), 2))


def _differences(
    panel: Panel, pairs: Sequence[Pair], resamples: int, seed: int
) -> list[Difference]:
    """Return the paired differences of these pairs of arms."""
    if not pairs:
        return []
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    columns = panel.values[:, first] - panel.values[:, second]
    intervals = mean_intervals(columns, panel.cluster, -1.0, 1.0, resamples, seed)
    if _counts_apart(panel):
        p_values = [
            mcnemar(int(wins), int(losses))
            for wins, losses in zip((columns > 0).sum(0), (columns < 0).sum(0), strict=True)
        ]
    else:
        sums = cluster_sums(np.nan_to_num(columns), panel.cluster)
        p_values = _sign_flip(sums, resamples, seed)
    return [
        Difference(interval, p if interval.clusters > 1 else None)
        for interval, p in zip(intervals, p_values, strict=True)
    ]


def _ranks(panel: Panel, resamples: int, seed: int) -> list[Rank]:
    """Return the ranks of the arms on the questions that all of them have."""
    unknown = [Rank() for _ in panel.arms]
    if panel.metric in METRICS and METRICS[panel.metric].layer == "other":
        return unknown  # more words are not better words
    shared = ~np.isnan(panel.values).any(axis=1)
    cluster = np.unique(panel.cluster[shared], return_inverse=True)[1]
    if cluster.size == 0 or cluster.max() == 0:
        return unknown
    common = panel._replace(values=panel.values[shared], cluster=cluster)
    pairs = list(combinations(range(len(panel.arms)), 2))
    differences = dict(zip(pairs, _differences(common, pairs, resamples, seed), strict=True))
    drawn = _bootstrap(common.values, cluster, resamples, seed)
    return placed(len(panel.arms), differences, drawn)


def _counts_apart(panel: Panel) -> bool:
    """Whether values are single right-or-wrong marks, each question its own cluster."""
    known = panel.values[~np.isnan(panel.values)]
    return (
        panel.single
        and (panel.metric not in METRICS or METRICS[panel.metric].binary)
        and bool(np.isin(known, (0.0, 1.0)).all())
        and len(set(panel.cluster.tolist())) == len(panel.cluster)
    )


def mean_intervals(
    columns: Array, cluster: NDArray[np.intp], least: float, most: float, resamples: int, seed: int
) -> list[Interval]:
    """Return the ratio mean and interval of each column of a questions x columns matrix.

    `least` and `most` bound the mean where the column keeps to them. Without variation between
    clusters a resampling interval would have no width: the bound of `_bound` takes its place.
    """
    known = ~np.isnan(columns)
    n = known.sum(axis=0)
    sums = cluster_sums(np.where(known, columns, 0.0), cluster)
    counts = cluster_sums(known.astype(float), cluster)
    clusters = (counts > 0).sum(axis=0)
    value = sums.sum(axis=0) / np.maximum(n, 1)
    residuals = sums - value * counts
    spread = np.sqrt((residuals**2).sum(axis=0) * clusters / np.maximum(clusters - 1, 1))
    error = spread / np.maximum(n, 1)
    bounded = np.array([
        bool(((column >= least - 1e-6) & (column <= most + 1e-6) | np.isnan(column)).all())
        for column in columns.T
    ])  # fmt: skip
    many = (clusters >= FEW_CLUSTERS) & (error > TINY)
    half = stats.t.ppf(0.5 + LEVEL / 2, np.maximum(clusters - 1, 1)) * error
    low, high = value - half, value + half
    if many.any():
        drawn = _bootstrap(columns[:, many], cluster, resamples, seed)
        tail = 50 * (1 - LEVEL)
        low[many], high[many] = np.percentile(drawn, [tail, 100 - tail], axis=0)
    made = []
    for j in range(columns.shape[1]):
        mean, few = float(value[j]), int(clusters[j])
        limits = (float(low[j]), float(high[j]))
        method = "cluster_bootstrap" if many[j] else "cluster_t"
        if few > 1 and error[j] <= TINY and bounded[j]:
            limits, method = _bound(mean, few, least, most), "cluster_bound"
        elif few < 2 or error[j] <= TINY:
            made.append(Interval(mean if n[j] else None, None, None, "none", int(n[j]), few))
            continue
        if bounded[j]:
            limits = (max(limits[0], least), min(limits[1], most))
        made.append(Interval(mean, *limits, method, int(n[j]), few))
    return made


def _bound(value: float, clusters: int, least: float, most: float) -> tuple[float, float]:
    """Return bounds of a mean whose clusters all agree.

    None of C clusters deviates, so by Wilson at most a share u = z^2 / (C + z^2) of clusters
    does, and those lie anywhere between `least` and `most`.
    """
    share = wilson(0, clusters)[1]
    return (1 - share) * value + share * least, (1 - share) * value + share * most


def cluster_sums(columns: Array, cluster: NDArray[np.intp]) -> Array:
    """Return the sums of the rows of each cluster, shape (clusters, columns)."""
    order = np.argsort(cluster, kind="stable")
    starts = np.searchsorted(cluster[order], np.arange(cluster.max() + 1))
    return np.add.reduceat(columns[order], starts, axis=0)


def _bootstrap(columns: Array, cluster: NDArray[np.intp], resamples: int, seed: int) -> Array:
    """Return ratio means of each column over clusters drawn with replacement.

    Shape (resamples, columns). How often each cluster is drawn is a row of weights, so that all
    sums of a block are one matrix product.
    """
    known = ~np.isnan(columns)
    sums = cluster_sums(np.where(known, columns, 0.0), cluster)
    counts = cluster_sums(known.astype(float), cluster)
    counts, which = np.unique(counts, axis=1, return_inverse=True)
    made = []
    for weights in cluster_weights(len(sums), resamples, seed):
        denominators = (weights @ counts)[:, which.ravel()]
        # Only a column of very few clusters can be missed by a whole draw, and those use t.
        made.append((weights @ sums) / np.maximum(denominators, 1.0))
    return np.concatenate(made)


def cluster_weights(clusters: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield how often each cluster is drawn, a resample a row, in parts that fit into memory."""
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK // clusters)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, clusters, size=(rows, clusters), dtype=np.int64)
        drawn += np.arange(rows)[:, None] * clusters
        weights = np.bincount(drawn.ravel(), minlength=rows * clusters)
        yield weights.reshape(rows, clusters).astype(float)


def _sign_flip(sums: Array, resamples: int, seed: int) -> list[float]:
    """Return the two-sided p-value of each column under random signs of its cluster sums."""
    observed = np.abs(sums.sum(axis=0))
    p_values = np.ones(sums.shape[1])
    active = (np.abs(sums) > TINY).sum(axis=0)
    for j in np.flatnonzero(active <= EXACT_CLUSTERS):
        terms = sums[np.abs(sums[:, j]) > TINY, j]
        signs = every_sign(len(terms))
        p_values[j] = (np.abs(signs @ terms) >= observed[j] * (1 - 1e-9) - TINY).mean()
    many = np.flatnonzero(active > EXACT_CLUSTERS)
    if len(many):
        reached = np.zeros(len(many))
        for signs in cluster_signs(len(sums), resamples, seed):
            totals = np.abs(signs @ sums[:, many])
            reached += (totals >= observed[many] * (1 - 1e-9) - TINY).sum(axis=0)
        p_values[many] = (1 + reached) / (1 + resamples)
    return [float(p) for p in p_values]


def every_sign(clusters: int) -> Array:
    """Return all ways to give each cluster a sign, shape (2 ** clusters, clusters)."""
    signs = np.array(list(product((1.0, -1.0), repeat=clusters)))
    return signs.reshape(2**clusters, clusters)


def cluster_signs(clusters: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield random signs of each cluster, a resample a row, in parts that fit into memory."""
    rng = np.random.default_rng([seed, 1])
    step = max(1, BLOCK // clusters)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        yield 2 * rng.integers(0, 2, size=(rows, clusters), dtype=np.int8).astype(float) - 1
