"""What an arm is bad at, in sentences from its own scores and answers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ecg_llm.config import Study
from ecg_llm.records import Answer, Estimate, Question, Score
from ecg_llm.report.bytype import Slice, slices
from ecg_llm.report.findings import NAMED, gap, measured, named
from ecg_llm.report.results import is_percent, number
from ecg_llm.report.verdict import Criterion, Verdict
from ecg_llm.stats.panels import panels_of

FAULTS: Mapping[str, str] = {
    "accuracy": "Wrong in multiple choice",
    "verdict_correct": "Not correct by the judges' verdict",
}
"""Shares of right answers, with what is said of the rest."""
FATES: Mapping[str, str] = {"error": "failed", "refused": "refused", "truncated": "cut off"}
"""What became of answers that did not come whole, by their status."""

LowKind = tuple[Criterion, Slice]
"""A kind of question on which an arm does clearly worse than on its others."""


class Weakness(NamedTuple):
    """What one arm is bad at."""

    arm: str
    sentences: tuple[str, ...]


def weaknesses(
    arm: str,
    verdict: Verdict,
    low: Sequence[LowKind],
    estimates: Sequence[Estimate],
    questions: Sequence[Question],
    answers: Sequence[Answer],
    scores: Sequence[Score],
) -> Iterable[str]:
    """Return what an arm is bad at, what weighs most first.

    Args:
        arm: a candidate or any other arm.
        verdict: its criteria and differences.
        low: kinds of questions on which arms do clearly worse than on their others.
        estimates: of all metrics.
        questions: their types and sets.
        answers: what failed.
        scores: of all metrics.
    """
    behind = [
        (other, ahead[0])
        for other in verdict.arms
        if other != arm and (ahead := verdict.ahead(other, arm))
    ]
    if len(behind) > NAMED:
        others = named([other for other, _ in behind], NAMED)
        yield f"Clearly behind {others} in at least one layer each."
    else:
        for other, one in behind:
            outside = "" if other in verdict.candidates else " (no candidate)"
            where = verdict.where(one.criterion)
            yield f"Clearly behind {other}{outside} in {where}, by {gap(one.row, signed=False)}."
    subsets = {criterion.subset for criterion in verdict.criteria}
    means = [row for row in estimates if row.arm == arm and not row.against]
    here = [row for row in means if row.subset in subsets]
    for metric, words in FAULTS.items():
        for row in here:
            if row.metric == metric and row.value is not None and row.value < 1:
                on = f" on {row.subset}" if len(subsets) > 1 else ""
                yield f"{words}{on}: {measured(_rest(row))} of {row.questions:,} questions."
    asked = {row.question_id for row in questions if row.subset in subsets}
    own = [row for row in scores if row.arm == arm and row.question_id in asked]
    feared = {_key(row) for row in own if row.metric == "harm" and row.value is not None}
    severe = {_key(row) for row in own if row.metric == "harm" and row.value == 1}
    if severe:
        yield f"A judge fears severe harm from {len(severe):,} of {len(feared):,} answers."
    for row in here:
        if row.metric == "facts_contradicted" and row.value:
            limits = [100 * end for end in (row.low, row.high) if end is not None]
            range_of = f" ({limits[0]:.1f} to {limits[1]:.1f})" if len(limits) == 2 else ""
            yield (
                f"Contradicts {100 * row.value:.1f} %{range_of} of the key facts on {row.subset}, "
                f"{row.questions:,} questions."
            )
    for criterion, kind in low:
        if kind.arm == arm:
            metric = criterion.metric
            ends = " to ".join(number(end, metric, signed=True) for end in kind.gap[1:3])
            unit = " points" if is_percent(metric) else ""
            yield (
                f"Lower on questions of {kind.dimension} “{kind.level}” than on its others: "
                f"{number(kind.gap.value, metric, signed=True)}{unit} ({ends}) in "
                f"{verdict.where(criterion)}, {kind.mean.questions:,} questions."
            )
    abstained = [row.value for row in own if row.metric == "abstained" and row.value is not None]
    if any(abstained):
        yield (
            f"Says that the literature does not answer: {sum(map(bool, abstained)):,} of "
            f"{len(abstained):,} open answers."
        )
    given = [row for row in answers if row.arm == arm and row.question_id in asked]
    failed = Counter(row.status for row in given if row.status != "ok")
    if failed:
        parts = named([f"{count:,} {FATES[status]}" for status, count in sorted(failed.items())])
        yield f"Answers that did not come whole: {parts}, of {len(given):,}."
    unread = {_key(row) for row in own if row.metric == "accuracy" and row.status == "unparsed"}
    if unread:
        yield f"Choice replies that could not be read, and count as wrong: {len(unread):,}."


def _rest(row: Estimate) -> Estimate:
    """Return the share that is wrong, from that which is right."""
    flipped = {
        name: None if end is None else 1 - end
        for name, end in (("value", row.value), ("low", row.high), ("high", row.low))
    }
    return row.model_copy(update=flipped)


def _key(row: Score) -> tuple[str, int, int]:
    return row.question_id, row.repeat, row.permutation


def low_kinds(
    verdict: Verdict, study: Study, questions: Sequence[Question], scores: Sequence[Score]
) -> list[LowKind]:
    """Return the kinds of questions on which arms do clearly worse, by type, difficulty, language.

    They stand after the correction of the section on kinds of questions, which says the same.

    Args:
        verdict: its criteria.
        study: resamples and seed.
        questions: dropped ones are left out.
        scores: of all metrics.
    """
    kept = {row.question_id: row for row in questions if row.status == "kept"}
    found = []
    for criterion in verdict.criteria:
        own = [row for row in scores if row.metric == criterion.metric]
        asked = {name: row.group for name, row in kept.items() if row.subset == criterion.subset}
        for panel in panels_of(own, dict.fromkeys(asked, (criterion.subset,)), asked):
            kinds = slices(panel, kept, study.estimates.resamples, study.seed)
            found += [(criterion, one) for one in kinds if one.clear and (one.gap.value or 0.0) < 0]
    return found
