"""How far metrics put arms and answers in one order, and how far judges grade as experts do.

Methods: Kendall 1945 (tau-b) and Spearman's rho with mid-ranks. Over arms with limits from draws of
documents; over answers with the infinitesimal jackknife over documents (Efron 1982; Williams 2000
for clusters) on Fisher's scale, by t on C-1 degrees. Grades: `agreement`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean, median_low
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from ecg_llm.contracts import Progress
from ecg_llm.records import GRADES, METRICS, Agreement, Score
from ecg_llm.stats.agreement import Agreement as Coefficient
from ecg_llm.stats.agreement import alpha, equal_grades, icc, kappa
from ecg_llm.stats.draws import drawn_means
from ecg_llm.stats.intervals import LEVEL, TINY, Interval
from ecg_llm.stats.panels import Panel, clusters_of, panels_of
from ecg_llm.stats.resampling import Array, Index, cluster_sums

MAIN = (
    "accuracy",
    "accuracy_likelihood",
    "verdict",
    "ranking",
    "reference_similarity",
    "human",
    "fact_recall",
    "rouge1",
    "rougeL",
    "bleu",
    "bertscore",
)
"""Metrics that are compared, where there are scores of them."""
EXPERTS = "experts"
"""All experts together, as `a` or `b` of grades."""
LEVELS = tuple(sorted(GRADES.values()))
FEWEST = 3
"""Arms or answers that make an order."""
TIES = "one of the two is the same for all"
SETTLED = "the same in every draw of documents"
ONE_FOR_SOME = "some arm has answers of one document only, so no limits"
UNSETTLED = "undefined without some of the documents, so no limits"
ONE_DOCUMENT = "one document, so no limits"
IN_FULL = "no disagreement in any document, so no limits"

Item = tuple[str, str, int]
"""question_id, arm, repeat."""
Grades = Mapping[Item, float]


class _Parts(NamedTuple):
    """What each item adds to a coefficient both / sqrt(first x second)."""

    sums: Array
    """both, first and second, shape (items, 3)."""
    degree: int
    """How the sums grow with the weight of the items: to the power of this."""


def agreement(
    scores: Sequence[Score],
    subsets_of: Mapping[str, tuple[str, ...]],
    cluster_of: Mapping[str, str],
    resamples: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Agreement]:
    """Return how far the metrics of MAIN, the judges and the experts agree on every subset.

    Values are those of `panels.panels_of`: means over repeats, permutations and raters, with a
    missing answer counted as the metric's `missing_as`, or left out where that is None.

    - level "arms": "kendall" and "spearman" of every two metrics, also of different kinds of
      questions, over the means of the arms that both have, three at least. Limits are the 2.5 and
      97.5 % points under `draws.drawn_means` or their mirror images about the value, whichever lie
      further out: noise shuffles arms that lie close together, so that data agree less than the
      truth, and draws less than the data. Simulated, they hold the tau of the true means in 95 % of
      cases or more; in fewer (75 to 90 %) where thirty documents or less order seven arms or more
      that hardly differ.
    - level "answers": the same of every two metrics of one kind of question, over all answers that
      have both, whichever the question; and "kendall_within" of pairs of answers to one question,
      which leaves out that questions differ in difficulty.
    - level "grades": each judge (rater of "verdict") and the experts (raters of "human") on the
      answers that both graded, every two experts, and the experts among themselves ("experts" as a
      and b). Of several experts' grades for an answer, "agreement" and "kappa" take the lower
      middle one, "icc" and "spearman" the mean; "alpha" takes each expert for a rater beside the
      judge, so that it also falls where experts differ. Who graded an answer again counts with the
      first time; a grade that is not on the scale of GRADES is left out.

    Args:
        scores: any number of metrics, arms and raters.
        subsets_of: question_id -> every "set/split" it counts in; others are left out.
        cluster_of: question_id -> group; a question without one is a cluster of its own.
        resamples: number of draws.
        seed: of the draws.
        progress: called with (done, total) subsets.

    Returns:
        Rows ordered by subset and level, metrics in the order of MAIN. The note of a row says why
        it has no value or no limits.
    """
    scores = [score for score in scores if score.metric in MAIN]
    by_subset: dict[str, dict[str, Panel]] = defaultdict(dict)
    for panel in panels_of(scores, subsets_of, cluster_of):
        if not np.isnan(panel.values).all():
            by_subset[panel.subset][panel.metric] = panel
    rows: list[Agreement] = []
    for done, (subset, found) in enumerate(sorted(by_subset.items())):
        if progress:
            progress(done, len(by_subset))
        panels = [found[metric] for metric in MAIN if metric in found]
        rows += _over_arms(panels, cluster_of, resamples, seed)
        rows += _over_answers(panels, cluster_of)
        here = [score for score in scores if subset in subsets_of.get(score.question_id, ())]
        rows += _grades(subset, here, cluster_of, resamples, seed)
    if progress:
        progress(len(by_subset), len(by_subset))
    return rows


def _over_arms(
    panels: Sequence[Panel], cluster_of: Mapping[str, str], resamples: int, seed: int
) -> Iterator[Agreement]:
    arms = sorted({arm for panel in panels for arm in panel.arms})
    columns = [[arms.index(arm) for arm in panel.arms] for panel in panels]
    means = np.full((1, len(panels), len(arms)), np.nan)
    for m, panel in enumerate(panels):
        answered = ~np.isnan(panel.values)
        total = np.nan_to_num(panel.values).sum(axis=0)
        means[0, m, columns[m]] = np.where(
            answered.any(axis=0), total / np.maximum(answered.sum(axis=0), 1), np.nan
        )
    pairs = list(combinations(range(len(panels)), 2))
    if not pairs:
        return
    found = _of_arms(means)
    drawn = []
    cells = len(panels) ** 2 * len(arms) ** 2
    for part in drawn_means(panels, cluster_of, resamples, seed, cells):
        moved = np.full((len(part[0]), *means.shape[1:]), np.nan)
        for m, mean in enumerate(part):
            moved[:, m, columns[m]] = mean
        drawn.append(_of_arms(moved))
    draws = np.concatenate(drawn)
    fixed = np.isnan(moved[0]) & ~np.isnan(means[0])
    for a, b in pairs:
        common = ~np.isnan(means[0, [a, b]]).any(axis=0)
        both = int(common.sum())
        questions = sorted({*panels[a].questions, *panels[b].questions})
        clusters = int(clusters_of(questions, cluster_of).max()) + 1
        for k, measure in enumerate(("kendall", "spearman")):
            value, some = float(found[0, k, a, b]), draws[:, k, a, b]
            if both < FEWEST:
                note = f"fewer than {FEWEST} arms"
                interval = Interval(None, None, None, "none", both, clusters)
            else:
                interval, note = _of_draws(value, some, both, clusters)
                if interval.low is not None and fixed[[a, b]][:, common].any():
                    interval, note = interval._replace(low=None, high=None), ONE_FOR_SOME
            yield _row("arms", panels[a], panels[b], measure, interval, note)


def _of_draws(value: float, drawn: Array, items: int, clusters: int) -> tuple[Interval, str]:
    """Return a coefficient with the limits of its draws, and what is missing or odd about them."""
    none = Interval(None, None, None, "none", items, clusters)
    if np.isnan(value):
        return none, TIES
    known = drawn[~np.isnan(drawn)]
    if clusters < 2:
        return none._replace(value=value), ONE_DOCUMENT
    if len(known) < 0.9 * len(drawn):
        return none._replace(value=value), UNSETTLED
    tail = 50 * (1 - LEVEL)
    low, high = (float(limit) for limit in np.percentile(known, [tail, 100 - tail]))
    settled = np.ptp(known) <= TINY
    low, high = min(low, 2 * value - high), max(high, 2 * value - low)
    interval = Interval(value, max(low, -1.0), min(high, 1.0), "draws", items, clusters)
    return interval, SETTLED if settled else ""


def _of_arms(means: Array) -> Array:
    """Return tau-b and rho of every two metrics over the arms that both have.

    Args:
        means: of the arms, shape (draws, metrics, arms), NaN where there is none.

    Returns:
        Shape (draws, 2, metrics, metrics), NaN where undefined.
    """
    apart = (means[..., :, None] - means[..., None, :]).round(12)
    signs = np.sign(np.nan_to_num(apart))
    known = (~np.isnan(means)).astype(float)
    common = known[:, :, None] * known[:, None]  # draws, metrics, metrics, arms
    flat = signs.reshape(*signs.shape[:2], -1)
    pairs = (known[..., :, None] * known[..., None, :]).reshape(flat.shape)
    both = flat @ flat.swapaxes(1, 2)
    size = flat**2 @ pairs.swapaxes(1, 2)
    tau = _ratio(both, size * size.swapaxes(1, 2))
    # The sum of an arm's signs is twice its mid-rank less the mean rank.
    ranks = (signs @ known[:, None].swapaxes(2, 3)).swapaxes(2, 3) * common
    both = np.einsum("dmni,dnmi->dmn", ranks, ranks)
    size = (ranks**2).sum(axis=3)
    rho = _ratio(both, size * size.swapaxes(1, 2))
    return np.stack([tau, rho], axis=1)


def _over_answers(panels: Sequence[Panel], cluster_of: Mapping[str, str]) -> Iterator[Agreement]:
    for a, b in combinations(panels, 2):
        if METRICS[a.metric].kind != METRICS[b.metric].kind:
            continue
        first, second, question = _both(a, b)
        cluster = clusters_of(question, cluster_of)
        for measure, parts_of in (("kendall", _kendall), ("spearman", _spearman)):
            if len(first) < FEWEST:
                clusters = len(set(cluster.tolist()))
                interval = Interval(None, None, None, "none", len(first), clusters)
                note = f"fewer than {FEWEST} shared answers" if len(first) else "no shared answers"
            else:
                interval, note = _of_parts(parts_of(first, second), cluster)
            yield _row("answers", a, b, measure, interval, note)
        if len(first) >= FEWEST:
            interval, note = _within(first, second, question, cluster)
            yield _row("answers", a, b, "kendall_within", interval, note)


def _both(a: Panel, b: Panel) -> tuple[Array, Array, list[str]]:
    """Return the values of the answers that both metrics have, and their questions, in order."""
    questions = sorted(set(a.questions) & set(b.questions))
    arms = sorted(set(a.arms) & set(b.arms))
    values = []
    for panel in (a, b):
        row = {question: i for i, question in enumerate(panel.questions)}
        rows = [row[question] for question in questions]
        columns = [panel.arms.index(arm) for arm in arms]
        values.append(panel.values[np.ix_(rows, columns)].round(12))
    known = ~np.isnan(values[0]) & ~np.isnan(values[1])
    of_answer = np.nonzero(known)[0].tolist()
    return values[0][known], values[1][known], [questions[i] for i in of_answer]


def _kendall(first: Array, second: Array) -> _Parts:
    """Return what each answer adds to tau-b: its pairs with all others, by sign."""
    n = len(first)
    x, y = np.sort(first), np.sort(second)
    below, upto = (np.searchsorted(x, first, side) for side in ("left", "right"))
    under, up = (np.searchsorted(y, second, side) for side in ("left", "right"))
    levels = under[np.argsort(first, kind="stable")]
    prefixes = np.concatenate([below, below, upto, upto])
    limits = np.concatenate([under, under + 1, under, under + 1])
    both_less, less_upto, upto_less, both_upto = np.split(_counted(levels, prefixes, limits), 4)
    more = n - upto - up + both_upto
    against = (below - less_upto) + (under - upto_less)
    return _Parts(
        np.column_stack([both_less + more - against, n - (upto - below), n - (up - under)]).astype(
            float
        ),
        degree=2,
    )


def _counted(levels: Index, prefixes: Index, limits: Index) -> Index:
    """Return how many of the first `prefixes` of the levels lie below each of the limits.

    A prefix is made of runs whose lengths are the powers of two in it; the levels are sorted within
    all runs of one length at once.
    """
    n = len(levels)
    place = np.arange(n)
    found = np.zeros(len(prefixes), dtype=np.intp)
    for k in range(n.bit_length()):
        keys = np.sort((place >> k) * (n + 1) + levels)
        some = np.flatnonzero(prefixes >> k & 1)
        run = (prefixes[some] >> k) - 1
        found[some] += np.searchsorted(keys, run * (n + 1) + limits[some]) - (run << k)
    return found


def _spearman(first: Array, second: Array) -> _Parts:
    """Return what each answer adds to rho: its own ranks, and what it does to those of others."""
    values = (first, second)
    ranks = [2 * stats.rankdata(some) - (len(some) + 1) for some in values]

    def moved(of: int, by: int) -> Array:
        """Return what the place of each answer in one order does to the ranks in the other."""
        order = np.argsort(values[of], kind="stable")
        ordered = values[of][order]
        sums = np.concatenate([[0.0], ranks[by][order].cumsum()])
        ends = (np.searchsorted(ordered, values[of], side) for side in ("left", "right"))
        return -np.asarray(sum(sums[end] for end in ends), dtype=float)

    def part(a: int, b: int) -> Array:
        return np.asarray((ranks[a] * ranks[b] + moved(a, b) + moved(b, a)) / 3)

    return _Parts(np.column_stack([part(0, 1), part(0, 0), part(1, 1)]), degree=3)


def _within(
    first: Array, second: Array, question: Sequence[str], cluster: Index
) -> tuple[Interval, str]:
    """Return tau-b of the pairs of answers to one question, counted over all questions."""
    number = np.unique(question, return_inverse=True)[1]
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    sizes = np.diff(starts, append=len(number))
    sums, of_question = [], []
    for size in np.unique(sizes[sizes > 1]):
        answers = starts[sizes == size][:, None] + np.arange(size)
        left, right = np.triu_indices(size, 1)
        x, y = (np.sign(some[answers[:, left]] - some[answers[:, right]])
                for some in (first, second))  # fmt: skip
        sums.append(np.column_stack([(x * y).sum(1), (x * x).sum(1), (y * y).sum(1)]))
        of_question.append(cluster[answers[:, 0]])
    if not sums:
        return Interval(None, None, None, "none", 0, 0), "one arm only"
    parts = _Parts(np.concatenate(sums), degree=1)
    interval, note = _of_parts(parts, np.concatenate(of_question))
    return interval._replace(questions=len(first)), note


def _of_parts(parts: _Parts, cluster: Index) -> tuple[Interval, str]:
    """Return a coefficient with its limits, and what is missing."""
    cluster = np.unique(cluster, return_inverse=True)[1]
    sums, share = cluster_sums(parts.sums, cluster), np.bincount(cluster) / len(cluster)
    clusters, items = len(sums), len(parts.sums)
    both, first, second = sums.sum(axis=0)
    none = Interval(None, None, None, "none", items, clusters)
    if first <= 0 or second <= 0:
        return none, TIES
    size = float(np.sqrt(first * second))
    value = float(both / size)
    off = sums[:, 0] / size - value / 2 * (sums[:, 1] / first + sums[:, 2] / second)
    if clusters < 2:
        return none._replace(value=value), ONE_DOCUMENT
    error = parts.degree * float(np.sqrt((off**2 / (1 - share)).sum()))
    if error <= TINY or abs(value) >= 1 - TINY:
        return none._replace(value=value), IN_FULL
    half = float(stats.t.ppf(0.5 + LEVEL / 2, clusters - 1)) * error / (1 - value**2)
    low, high = (float(np.tanh(np.arctanh(value) + side * half)) for side in (-1, 1))
    return Interval(value, low, high, "cluster_jackknife", items, clusters), ""


def _grades(
    subset: str,
    scores: Sequence[Score],
    cluster_of: Mapping[str, str],
    resamples: int,
    seed: int,
) -> Iterator[Agreement]:
    judges, experts = _by_rater(scores, "verdict"), _by_rater(scores, "human")
    if not experts:
        return
    of_item: dict[Item, list[float]] = defaultdict(list)
    for grades in experts.values():
        for item, grade in grades.items():
            of_item[item].append(grade)
    middle = {item: median_low(grades) for item, grades in of_item.items()}
    mean = {item: fmean(grades) for item, grades in of_item.items()}

    def rows(a: str, b: str, found: Mapping[str, Coefficient]) -> Iterator[Agreement]:
        for measure, (interval, note) in found.items():
            if not note and interval.low is None:
                note = ONE_DOCUMENT if interval.clusters < 2 else UNSETTLED
            yield Agreement(
                level="grades", subset=subset, a=a, b=b, measure=measure, value=interval.value,
                low=interval.low, high=interval.high, items=interval.questions,
                clusters=interval.clusters, note=note,
            )  # fmt: skip

    def table(*columns: Grades) -> tuple[Array, Index]:
        """Return the grades of answers by rater, NaN where there is none, and the clusters."""
        items = sorted({item for column in columns for item in column})
        values = [[column.get(item, np.nan) for column in columns] for item in items]
        return np.array(values), clusters_of([item[0] for item in items], cluster_of)

    def pair(a: Grades, b: Grades) -> dict[str, Coefficient]:
        grades, cluster = table(a, b)
        return {
            "agreement": equal_grades(grades, cluster, resamples, seed),
            "kappa": kappa(grades, LEVELS, cluster, resamples, seed),
            "alpha": alpha(grades, LEVELS, cluster, resamples, seed),
            "icc": icc(grades, cluster, resamples, seed),
        }

    for judge, judged in judges.items():
        found = pair(judged, middle)
        shared = sorted(judged.keys() & mean.keys())
        every = [judged, *experts.values()]
        marks = np.array([[some.get(item, np.nan) for some in every] for item in shared])
        cluster = clusters_of([item[0] for item in shared], cluster_of)
        if shared:
            both = np.array([[judged[item], mean[item]] for item in shared])
            found["alpha"] = alpha(marks, LEVELS, cluster, resamples, seed)
            found["icc"] = icc(both, cluster, resamples, seed)
            found["spearman"] = Coefficient(*_of_parts(_spearman(*both.T), cluster))
        yield from rows(judge, EXPERTS, found)
    for (a, first), (b, second) in combinations(experts.items(), 2):
        yield from rows(a, b, pair(first, second))
    if len(experts) > 1:
        marks, cluster = table(*experts.values())
        among = {
            "alpha": alpha(marks, LEVELS, cluster, resamples, seed),
            "icc": icc(marks, cluster, resamples, seed),
        }
        yield from rows(EXPERTS, EXPERTS, among)


def _by_rater(scores: Sequence[Score], metric: str) -> dict[str, dict[Item, float]]:
    """Return the first grade of each rater for each answer."""
    found: dict[str, dict[Item, float]] = defaultdict(dict)
    graded = [score for score in scores if score.metric == metric and score.value in LEVELS]
    for score in sorted(graded, key=lambda score: score.occasion):
        item = score.question_id, score.arm, score.repeat
        found[score.rater].setdefault(item, float(score.value or 0))
    return dict(sorted(found.items()))


def _row(
    level: Literal["arms", "answers"],
    a: Panel,
    b: Panel,
    measure: str,
    interval: Interval,
    note: str,
) -> Agreement:
    return Agreement(
        level=level, subset=a.subset, a=a.metric, b=b.metric, measure=measure,
        value=interval.value, low=interval.low, high=interval.high, items=interval.questions,
        clusters=interval.clusters, note=note,
    )  # fmt: skip


def _ratio(both: Array, size: Array) -> Array:
    """Return both / sqrt(size), NaN where there is nothing to divide by."""
    return np.where(size > 0, both / np.sqrt(np.where(size > 0, size, 1.0)), np.nan)
