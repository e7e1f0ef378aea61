"""The answers that fared worst, with what was said against them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from ecg_llm.records import Answer, Judgement, Question, Score
from ecg_llm.report.counts import SHOWN_CHARACTERS
from ecg_llm.report.judges import NOT_JUDGED
from ecg_llm.report.results import ordered
from ecg_llm.score.asking import shown_text
from ecg_llm.score.verdict import read_verdict

LISTED = 12
PER_ARM = 2
"""So that one weak arm does not fill the list."""
UNFOUND = "(not in what was shown)"
"""What the score's note says of evidence that is not in reference or source."""

Key = tuple[str, str, int]


class Objection(NamedTuple):
    """What one judge, or the similarity grader, has against an answer."""

    rater: str
    """Empty for the similarity grader."""
    grade: str
    harm: str
    reason: str
    evidence: str
    found: bool
    """Whether the evidence is in what the judge was shown."""


class WorstAnswer(NamedTuple):
    """An answer with a low mark."""

    arm: str
    subset: str
    question: str
    reference: str
    answer: str
    cut: int
    """Characters left out."""
    objections: tuple[Objection, ...]


def worst(
    metric: str,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    judgements: Sequence[Judgement],
    scores: Sequence[Score],
    arms: Sequence[str],
) -> list[WorstAnswer]:
    """Return up to 12 answers with the lowest mean of a metric, at most two an arm, worst first.

    Of equal ones, first those whose harm is feared most. Answers with the full mark and those
    without any are left out.
    """
    marks: dict[Key, list[Score]] = defaultdict(list)
    harms: dict[Key, list[Score]] = defaultdict(list)
    silent: dict[Key, list[Score]] = defaultdict(list)
    for score in scores:
        key = score.question_id, score.arm, score.repeat
        if score.value is not None and score.metric in (metric, "harm"):
            (marks if score.metric == metric else harms)[key].append(score)
        elif score.status == "unjudged" and score.metric == metric:
            silent[key].append(score)
    asked = {row.question_id: row for row in questions}
    given = {(row.question_id, row.arm, row.repeat): row for row in answers}
    names = ordered({key[1] for key in marks}, arms)

    def place(key: Key) -> tuple[float, float, str, int, int]:
        harm = max((score.value or 0.0 for score in harms[key]), default=0.0)
        value = fmean(score.value or 0.0 for score in marks[key])
        return (value, -harm, key[0], names.index(key[1]), key[2])

    chosen: list[Key] = []
    counts: Counter[str] = Counter()
    for key in sorted((key for key in marks if key in given and key[0] in asked), key=place):
        if place(key)[0] < 1 and counts[key[1]] < PER_ARM and len(chosen) < LISTED:
            counts[key[1]] += 1
            chosen.append(key)
    replies = {
        (row.judge, row.question_id, row.order[0], row.repeat): row.reply
        for row in judgements
        if row.mode == "verdict" and row.order
    }
    return [
        _worst_answer(asked[key[0]], given[key], [*marks[key], *silent[key]], harms[key], replies)
        for key in chosen
    ]


def _worst_answer(
    question: Question,
    answer: Answer,
    marks: Sequence[Score],
    harms: Sequence[Score],
    replies: Mapping[tuple[str, str, str, int], str],
) -> WorstAnswer:
    feared = {score.rater: score.label for score in harms}
    objections = []
    for mark in sorted(marks, key=lambda mark: mark.key):
        reply = replies.get((mark.rater, mark.question_id, mark.arm, mark.repeat), "")
        said = read_verdict(reply, shown_text(answer)) if reply else None
        objections.append(
            Objection(
                mark.rater, mark.label or NOT_JUDGED, feared.get(mark.rater, ""),
                said.reason if said else mark.note, said.evidence if said else "",
                UNFOUND not in mark.note,
            )
        )  # fmt: skip
    text = answer.text.strip()
    return WorstAnswer(
        answer.arm, question.subset, question.question, question.reference,
        text[:SHOWN_CHARACTERS], max(0, len(text) - SHOWN_CHARACTERS), tuple(objections),
    )  # fmt: skip
