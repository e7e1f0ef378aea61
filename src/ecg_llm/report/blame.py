"""Retrieval or the model: rows to counts of how answers fared with their source and without."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from ecg_llm.citing import abstains
from ecg_llm.config import Arm
from ecg_llm.records import Answer, Question, QuestionKind, Retrieval, Score

RIGHT = 0.5
"""Least mean of an open answer that is right: between partially incorrect (.25) and correct but
incomplete (.75) on the experts' scale."""
OPEN = ("human", "verdict", "reference_similarity")
"""Metrics of open answers; the first that an answer has decides."""

Outcome = Literal["right", "wrong", "abstained", "unrated"]
Shown = Literal["yes", "part", "no", "unknown"]
"""Whether the prompt held the source; part: one of those that a question joins is missing;
unknown: no passage is known to be the source."""
OUTCOMES: tuple[Outcome, ...] = ("right", "wrong", "abstained", "unrated")
KNOWN: tuple[Shown, ...] = ("yes", "part", "no")


class Mark(NamedTuple):
    """How an arm's first answer to one question fared."""

    question_id: str
    arm: str
    kind: QuestionKind
    metric: str
    """What decided; empty where nothing did."""
    value: float | None
    outcome: Outcome
    shown: Shown
    """no for arms that retrieve nothing."""
    found: bool
    """Whether a source is among the passages found, though perhaps too low to be shown."""


class Blame(NamedTuple):
    """The answers of one arm to one kind of question, marked by one metric."""

    arm: str
    kind: QuestionKind
    metric: str
    counts: Mapping[tuple[Shown, Outcome], int]
    missed: int
    """Of the wrong answers without their source: those whose source was found, but not shown."""

    def total(self, shown: Shown) -> int:
        """Return the number of answers whose source was shown so."""
        return sum(n for (where, _), n in self.counts.items() if where == shown)


class Pair(NamedTuple):
    """The same question answered with retrieval and without, by one model."""

    arm: str
    against: str
    """The arm that differs in nothing but that it retrieves nothing."""
    metric: str
    question_id: str
    shown: Shown
    value: float
    value_against: float


def marks(
    arms: Mapping[str, Arm],
    questions: Sequence[Question],
    answers: Sequence[Answer],
    scores: Sequence[Score],
    retrievals: Sequence[Retrieval],
) -> list[Mark]:
    """Return how every first answer of these arms fared, in the order of the answers.

    A choice is right where the letter is; an unreadable one is wrong, a failed one unrated. An open
    answer is right by the mean of the experts, else of the judges, else of the similarity to the
    reference; without any it is unrated. One that says NO_ANSWER abstains, whatever its scores.
    """
    asked = {row.question_id: row for row in questions}
    found = {row.question_id: row for row in retrievals}
    by_answer: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in scores:
        if score.repeat == 0 and score.permutation == 0:
            by_answer[score.question_id, score.arm].append(score)
    return [
        _mark(
            asked[row.question_id], row, by_answer[row.question_id, row.arm],
            found.get(row.question_id), retrieving=arms[row.arm].retrieve,
        )
        for row in answers
        if row.arm in arms and row.question_id in asked
        and row.repeat == 0 and row.permutation == 0
    ]  # fmt: skip


def blame(arms: Mapping[str, Arm], marked: Sequence[Mark]) -> list[Blame]:
    """Return the counts of every retrieving arm, in the order of the arms, by kind and metric."""
    groups: dict[tuple[str, QuestionKind, str], list[Mark]] = defaultdict(list)
    for mark in marked:
        if arms[mark.arm].retrieve:
            groups[mark.arm, mark.kind, mark.metric].append(mark)
    order = list(arms)
    return [
        Blame(
            *key,
            Counter((mark.shown, mark.outcome) for mark in here),
            sum((m.shown, m.outcome, m.found) == ("no", "wrong", True) for m in here),
        )
        for key, here in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0]))
    ]


def pairs(arms: Mapping[str, Arm], marked: Sequence[Mark]) -> list[Pair]:
    """Return the questions that an arm answered with retrieval and its model without.

    Only where one metric marked both answers.
    """
    by_key = {(mark.question_id, mark.arm): mark for mark in marked}
    made = []
    for name, arm in arms.items():
        plain = arm.model_copy(update={"retrieve": False})
        partners = [other for other, one in arms.items() if arm.retrieve and one == plain]
        for other in partners:
            for mark in marked:
                twin = by_key.get((mark.question_id, other))
                if mark.arm != name or twin is None or twin.metric != mark.metric:
                    continue
                if mark.value is not None and twin.value is not None:
                    made.append(
                        Pair(
                            name, other, mark.metric, mark.question_id, mark.shown,
                            mark.value, twin.value,
                        )
                    )  # fmt: skip
    return made


def _mark(
    question: Question,
    answer: Answer,
    scores: Sequence[Score],
    found: Retrieval | None,
    *,
    retrieving: bool,
) -> Mark:
    metric, value = _value(question, scores)
    outcome: Outcome
    if question.kind == "open" and abstains(answer.text):
        outcome = "abstained"
    elif value is None:
        outcome = "unrated"
    else:
        outcome = "right" if value >= RIGHT else "wrong"
    return Mark(
        question.question_id, answer.arm, question.kind, metric, value, outcome,
        _shown(question, answer, found) if retrieving else "no",
        any(rank is not None for rank in found.ranks) if found else False,
    )  # fmt: skip


def _value(question: Question, scores: Sequence[Score]) -> tuple[str, float | None]:
    """Return the metric that decides, and what it gives."""
    if question.kind == "choice":
        for score in scores:
            if score.metric == "accuracy" and score.status in ("scored", "unparsed"):
                return score.metric, score.value or 0.0
        return "accuracy", None
    for metric in OPEN:
        given = [s.value for s in scores if s.metric == metric and s.value is not None]
        if given:
            return metric, fmean(given)
    return "", None


def _shown(question: Question, answer: Answer, found: Retrieval | None) -> Shown:
    if found is None or not found.sources:
        return "unknown"
    held = {citation.passage_id for citation in answer.passages} & set(found.sources)
    if not held:
        return "no"
    return "part" if question.joined and len(held) < len(found.sources) else "yes"
