"""Scores and rankings to numbers for how far place, slot and length sway an arm or a judge.

Methods: spread of the recall over the places of the key (RStd; Zheng et al. 2024, arXiv
2309.03882); effects of slot and length by `bias`; regression on the words within questions and
arms (two-way fixed effects); agreement between judges by `agreement`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_llm.contracts import Block
from ecg_llm.records import GRADES, LETTERS, Question, Reliability, Score
from ecg_llm.stats.agreement import Agreement, alpha, equal_grades, kappa, kendall
from ecg_llm.stats.bias import effects
from ecg_llm.stats.intervals import Interval, mean_intervals, of_sums
from ecg_llm.stats.panels import clusters_of
from ecg_llm.stats.resampling import Array, cluster_sums
from ecg_llm.stats.strength import shown, told_apart

SCALES: Mapping[str, tuple[float, ...]] = {
    "verdict": tuple(sorted(GRADES.values())),
    "harm": (0.0, 0.5, 1.0),
}
"""Metrics on which judges are compared, with their grades."""
CONFOUNDED = "cannot be told apart from the arms here"
LENGTH = "longer answers may also be better"
Index = NDArray[np.intp]
Item = tuple[str, str, int]
"""question_id, arm, repeat."""


class JudgeReply(NamedTuple):
    """Whether a judge's reply could be read; failed requests are no replies."""

    judge: str
    question_id: str
    mode: str
    asked_again: bool
    unread: bool
    """In the end."""


def choice_reliability(
    scores: Sequence[Score],
    questions: Mapping[str, Question],
    cluster_of: Mapping[str, str],
    resamples: int,
    seed: int,
) -> list[Reliability]:
    """Return how far the place of an option sways each arm, and how many replies had no letter.

    Only letters that were read count for the places, by the place at which options were shown:
    place_share (of questions that have this place), place_recall and recall_spread. The spread is
    above 0 by chance alone: `expected` is its mean without bias, the note says what it may reach.

    Args:
        scores: those of "accuracy" and "unread" are used.
        questions: question_id -> question; scores of others are left out.
        cluster_of: question_id -> group; a question without one is a cluster of its own.
        resamples: bootstrap draws.
        seed: of the draws.
    """
    read: dict[str, list[Score]] = defaultdict(list)
    unread: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        if score.status == "scored" and score.question_id in questions:
            if score.metric == "accuracy" and score.label:
                read[score.arm].append(score)
            elif score.metric == "unread":
                unread[score.arm].append(score)
    rows: list[Reliability] = []
    for arm in sorted(read.keys() | unread.keys()):
        rows += _places(arm, read[arm], questions, cluster_of, resamples, seed)
        rows += _share(
            "choice", arm, "unparsed", "",
            [(score.question_id, float(score.value or 0)) for score in unread[arm]],
            cluster_of, resamples, seed,
        )  # fmt: skip
    return rows


def judge_reliability(
    blocks: Sequence[Block],
    scores: Sequence[Score],
    words_of: Mapping[Item, int],
    replies: Sequence[JudgeReply],
    cluster_of: Mapping[str, str],
    resamples: int,
    seed: int,
) -> list[Reliability]:
    """Return how far slot and length sway each judge, and how far judges agree.

    `expected` of swap_consistency is the consistency of pairs that were shown again in the same
    order: what the judge's own noise leaves (a coin's would be a half). The interval is that of the
    difference of the two, laid about `expected`, which is an estimate itself. Answers that were not
    shown tell nothing of a judge, and are left out everywhere.

    Args:
        blocks: rankings of any number of judges.
        scores: those of "verdict" and "harm" are used, with the judge as rater.
        words_of: (question_id, arm, repeat) -> words of the answer; of 0 words it was not shown.
        replies: of the judges.
        cluster_of: question_id -> group; a question without one is a cluster of its own.
        resamples: bootstrap draws.
        seed: of the draws.

    Returns:
        Rows by judge, then of the pairs of judges and of the panel. A measure without anything to
        measure has no row.
    """
    ranked: dict[str, list[Block]] = defaultdict(list)
    for block in map(shown, blocks):
        if len(block.arms) > 1:
            ranked[block.judge].append(block)
    marks: dict[str, dict[str, dict[Item, float]]] = defaultdict(lambda: defaultdict(dict))
    for score in scores:
        item = score.question_id, score.arm, score.repeat
        if score.rater and score.value is not None and words_of.get(item, 0) > 0:
            marks[score.metric][score.rater][item] = score.value
    shares = {judge: _mean_shares(some) for judge, some in ranked.items()}
    read: dict[tuple[str, str], list[JudgeReply]] = defaultdict(list)
    for reply in replies:
        read[reply.judge, reply.mode].append(reply)
    rows: list[Reliability] = []
    for judge in sorted(ranked.keys() | marks["verdict"].keys() | {judge for judge, _ in read}):
        if judge in ranked:
            rows += _slots(judge, ranked[judge], cluster_of, resamples, seed)
            rows += _swaps(judge, ranked[judge], cluster_of, resamples, seed)
            rows += _effects(judge, ranked[judge], cluster_of)
        rows += _length_slope(
            judge, marks["verdict"].get(judge, {}), words_of, cluster_of, resamples, seed
        )
        for (_, mode), some in sorted(pair for pair in read.items() if pair[0][0] == judge):
            unread = [(reply.question_id, float(reply.unread)) for reply in some]
            again = [(reply.question_id, float(reply.asked_again)) for reply in some]
            rows += _share("judge", judge, "unparsed", mode, unread, cluster_of, resamples, seed)
            rows += _share("judge", judge, "asked_again", mode, again, cluster_of, resamples, seed)
    for metric in SCALES:
        rows += _between(metric, marks.get(metric, {}), cluster_of, resamples, seed)
    rows += _between("ranking", shares, cluster_of, resamples, seed)
    return rows


def _places(
    arm: str,
    scores: Sequence[Score],
    questions: Mapping[str, Question],
    cluster_of: Mapping[str, str],
    resamples: int,
    seed: int,
) -> Iterator[Reliability]:
    if not scores:
        return
    asked = [questions[score.question_id] for score in scores]
    cluster = clusters_of([question.question_id for question in asked], cluster_of)
    options = np.array([len(question.options) for question in asked])
    turned = np.array([score.permutation for score in scores])
    named = (np.array([LETTERS.index(score.label) for score in scores]) - turned) % options
    key = (np.array([LETTERS.index(question.answer) for question in asked]) - turned) % options
    places = np.arange(options.max())
    at_key = key[:, None] == places
    shares = (named[:, None] == places).astype(float) - at_key
    shares[places >= options[:, None]] = np.nan
    for place, share in zip(
        places, mean_intervals(shares, cluster, -1.0, 1.0, resamples, seed), strict=True
    ):
        yield _row("choice", arm, "place_share", LETTERS[place], share, 0.0)
    right = np.where(at_key, (named == key)[:, None].astype(float), np.nan)
    keyed = np.flatnonzero(at_key.any(axis=0))
    right = right[:, keyed]
    recalls = mean_intervals(right, cluster, 0.0, 1.0, resamples, seed)
    for place, recall in zip(keyed, recalls, strict=True):
        yield _row("choice", arm, "place_recall", LETTERS[place], recall)
    if len(keyed) < 2:
        return
    values = np.nanmean(right, axis=0)
    off = cluster_sums(np.nan_to_num(right - values), cluster) / at_key[:, keyed].sum(axis=0)
    clusters = len(off)
    interval = Interval(float(values.std()), None, None, "none", len(scores), clusters)
    if clusters < 2:
        yield _row("choice", arm, "recall_spread", "", interval)
        return
    size, vectors = np.linalg.eigh(off.T @ off * clusters / (clusters - 1))
    noise = np.random.default_rng(seed).standard_normal((resamples, len(size)))
    chance = (noise @ (vectors * np.sqrt(np.maximum(size, 0))).T).std(axis=1)
    note = f"up to {np.percentile(chance, 95):.3f} by chance in 95 of 100 cases"
    yield _row("choice", arm, "recall_spread", "", interval, float(chance.mean()), note)


def _slots(
    judge: str, blocks: Sequence[Block], cluster_of: Mapping[str, str], resamples: int, seed: int
) -> Iterator[Reliability]:
    most = max(len(block.arms) for block in blocks)
    ranks = np.full((len(blocks), most), np.nan)
    for row, block in zip(ranks, blocks, strict=True):
        shares = np.array(_shares(block.places))
        row[: len(shares)] = 1 + (1 - shares) * (most - 1)
    cluster = clusters_of([block.question_id for block in blocks], cluster_of)
    found = mean_intervals(ranks, cluster, 1.0, float(most), resamples, seed)
    for slot, interval in enumerate(found, start=1):
        yield _row("judge", judge, "slot_rank", str(slot), interval, (most + 1) / 2)


@cache
def _shares(places: tuple[int, ...]) -> tuple[float, ...]:
    """Return the share of the others that stands below each, ties half."""
    place = np.array(places)
    below = (place > place[:, None]).sum(axis=1) + (place == place[:, None]).sum(axis=1) / 2 - 0.5
    return tuple((below / (len(places) - 1)).tolist())


def _mean_shares(blocks: Sequence[Block]) -> dict[Item, float]:
    """Return the share of rivals that one judge placed below each answer, over its blocks."""
    found: dict[Item, list[float]] = defaultdict(list)
    for block in blocks:
        for arm, share in zip(block.arms, _shares(block.places), strict=True):
            found[block.question_id, arm, block.repeat].append(share)
    return {item: sum(shares) / len(shares) for item, shares in found.items()}


def _swaps(
    judge: str, blocks: Sequence[Block], cluster_of: Mapping[str, str], resamples: int, seed: int
) -> Iterator[Reliability]:
    # Outcomes of each two answers (first one placed above, beside, below), by who stood first.
    outcomes: dict[tuple[str, int, str, str], Array] = defaultdict(lambda: np.zeros((2, 3)))
    for block in blocks:
        for early, late in combinations(zip(block.arms, block.places, strict=True), 2):
            swapped = early > late
            (a, place_a), (b, place_b) = (late, early) if swapped else (early, late)
            outcome = int(np.sign(place_a - place_b)) + 1
            outcomes[block.question_id, block.repeat, a, b][int(swapped), outcome] += 1
    counts = np.array(list(outcomes.values()))
    alike = 1 - np.abs(np.subtract.outer(np.arange(3), np.arange(3))) / 2
    order, other = counts[:, 0], counts[:, 1]
    times = counts.sum(axis=2)
    sums = np.column_stack([
        np.einsum("gi,ij,gj->g", order, alike, other),
        times[:, 0] * times[:, 1],
        np.einsum("goi,ij,goj->g", counts, alike, counts) - times.sum(axis=1),
        (times * (times - 1)).sum(axis=1),
    ])  # fmt: skip
    swaps, repeats = int(sums[:, 1].sum()), int(sums[:, 3].sum()) // 2
    if not swaps:
        return
    cluster = clusters_of([question for question, *_ in outcomes], cluster_of)
    sums = cluster_sums(sums, cluster)
    interval = of_sums(
        lambda sums: _ratio(sums[:, 0], sums[:, 1]), sums[:, :2], swaps, resamples, seed, 0.0, 1.0
    )
    if not repeats:
        yield _row("judge", judge, "swap_consistency", "", interval)
        return
    expected = float(sums[:, 2].sum() / sums[:, 3].sum())
    less = of_sums(
        lambda sums: _ratio(sums[:, 0], sums[:, 1]) - _ratio(sums[:, 2], sums[:, 3]),
        sums, swaps, resamples, seed, -1.0, 1.0,
    )  # fmt: skip
    if less.low is not None and less.high is not None:
        low, high = max(0.0, expected + less.low), min(1.0, expected + less.high)
        interval = interval._replace(low=low, high=high)
    note = f"expected: {repeats} pairs in the same order"
    yield _row("judge", judge, "swap_consistency", "", interval, expected, note)


def _ratio(part: Array, whole: Array) -> Array:
    """Return the ratios, NaN where there is nothing to divide by."""
    return part / np.where(whole > 0, whole, np.nan)


def _effects(
    judge: str, blocks: Sequence[Block], cluster_of: Mapping[str, str]
) -> Iterator[Reliability]:
    found = effects(blocks, cluster_of)
    if found is None:
        return
    for measure, interval, caution in (
        ("slot_effect", found.slot, ""),
        ("length_effect", found.length, LENGTH),
    ):
        note = CONFOUNDED if interval.value is None else caution
        yield _row("judge", judge, measure, "", interval, 0.0, note)


def _length_slope(
    judge: str,
    verdicts: Mapping[Item, float],
    words_of: Mapping[Item, int],
    cluster_of: Mapping[str, str],
    resamples: int,
    seed: int,
) -> Iterator[Reliability]:
    items = sorted(verdicts)
    if not items:
        return
    questions = [question for question, _, _ in items]
    question = np.unique(questions, return_inverse=True)[1]
    arm = np.unique([arm for _, arm, _ in items], return_inverse=True)[1]
    columns = np.column_stack([
        [verdicts[item] for item in items],
        np.log2([words_of[item] for item in items]),
        np.eye(arm.max() + 1)[arm],
    ])  # fmt: skip
    mean = cluster_sums(columns, question) / np.bincount(question)[:, None]
    within = columns - mean[question]
    arms = within[:, 2:]
    cluster = clusters_of(questions, cluster_of)
    if not told_apart(within[:, 1], arms):
        none = Interval(None, None, None, "none", len(items), int(cluster.max()) + 1)
        yield _row("judge", judge, "length_slope", "", none, 0.0, CONFOUNDED)
        return
    rest = within[:, :2] - arms @ np.linalg.lstsq(arms, within[:, :2], rcond=None)[0]
    sums = cluster_sums(np.column_stack([rest[:, 0] * rest[:, 1], rest[:, 1] ** 2]), cluster)
    interval = of_sums(
        lambda sums: _ratio(sums[:, 0], sums[:, 1]), sums, len(items), resamples, seed
    )
    yield _row("judge", judge, "length_slope", "", interval, 0.0, LENGTH)


def _between(
    metric: str,
    marks: Mapping[str, Mapping[Item, float]],
    cluster_of: Mapping[str, str],
    resamples: int,
    seed: int,
) -> Iterator[Reliability]:
    """Yield the agreement of judges on one metric: of each pair, and of all on a scale."""
    judges = sorted(marks)
    if len(judges) < 2:
        return
    items = sorted({item for found in marks.values() for item in found})
    values = np.array([[marks[judge].get(item, np.nan) for judge in judges] for item in items])
    cluster = clusters_of([question for question, _, _ in items], cluster_of)
    asked = [f"{question} {repeat}" for question, _, repeat in items]
    question = np.unique(asked, return_inverse=True)[1]
    levels = SCALES.get(metric)
    rest = resamples, seed
    for a, b in combinations(range(len(judges)), 2):
        pair, name = values[:, [a, b]], f"{judges[a]} ~ {judges[b]}"
        if np.isnan(pair).any(axis=1).all():
            continue
        if levels:
            yield _agreed(name, "agreement", metric, equal_grades(pair, cluster, *rest))
            yield _agreed(name, "kappa", metric, kappa(pair, levels, cluster, *rest))
        yield _agreed(name, "kendall", metric, kendall(pair, question, cluster, *rest))
    if levels:
        yield _agreed("panel", "alpha", metric, alpha(values, levels, cluster, *rest))


def _share(
    layer: Literal["choice", "judge"],
    instrument: str,
    measure: str,
    detail: str,
    marks: Sequence[tuple[str, float]],
    cluster_of: Mapping[str, str],
    resamples: int,
    seed: int,
) -> Iterator[Reliability]:
    """Yield the share of these (question_id, 0 or 1)."""
    if marks:
        cluster = clusters_of([question for question, _ in marks], cluster_of)
        values = np.array([[mark] for _, mark in marks])
        [interval] = mean_intervals(values, cluster, 0.0, 1.0, resamples, seed)
        yield _row(layer, instrument, measure, detail, interval)


def _agreed(instrument: str, measure: str, detail: str, found: Agreement) -> Reliability:
    return _row("judge", instrument, measure, detail, found.interval, None, found.note)


def _row(
    layer: Literal["choice", "judge"],
    instrument: str,
    measure: str,
    detail: str,
    interval: Interval,
    expected: float | None = None,
    note: str = "",
) -> Reliability:
    return Reliability(
        layer=layer, instrument=instrument, measure=measure, detail=detail, value=interval.value,
        low=interval.low, high=interval.high, expected=expected, items=interval.questions,
        clusters=interval.clusters, note=note,
    )  # fmt: skip
