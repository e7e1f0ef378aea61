"""The answers that fared worst beside better ones, and the questions that most arms missed."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

from ecg_llm.records import LETTERS, Answer, Judgement, Question, Rating, Score
from ecg_llm.report.counts import SHOWN_CHARACTERS
from ecg_llm.report.judges import NOT_JUDGED
from ecg_llm.report.results import ordered
from ecg_llm.score import human
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


class Given(NamedTuple):
    """An answer with its mark."""

    arm: str
    text: str
    cut: int
    """Characters left out."""
    mark: str


class WorstAnswer(NamedTuple):
    """An answer with a low mark, and the best one that another arm gave to the same question."""

    subset: str
    question: str
    reference: str
    evidence: str
    source: str
    """Document and page of the evidence; empty where not known."""
    answer: Given
    better: Given | None
    """None where no other arm has a higher mark."""
    objections: tuple[Objection, ...]


class Choice(NamedTuple):
    """An option of a question, and who named it."""

    letter: str
    text: str
    right: bool
    arms: str


class Missed(NamedTuple):
    """A choice question that most arms got wrong."""

    subset: str
    question: str
    evidence: str
    source: str
    wrong: int
    """Arms that did not name the right option in most of their answers."""
    arms: int
    options: tuple[Choice, ...]
    unread: str
    """Arms whose replies hold no letter."""


def worst(
    metric: str,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    judgements: Sequence[Judgement],
    scores: Sequence[Score],
    arms: Sequence[str],
    sources: Mapping[str, str] = MappingProxyType({}),
) -> list[WorstAnswer]:
    """Return up to 12 answers with the lowest mean of a metric, at most two an arm, worst first.

    Of equal ones, first those whose harm is feared most. Answers with the full mark and those
    without any are left out. `sources` has document and page by question_id.
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

    known = sorted((key for key in marks if key in given and key[0] in asked), key=place)
    chosen: list[Key] = []
    counts: Counter[str] = Counter()
    for key in known:
        if place(key)[0] < 1 and counts[key[1]] < PER_ARM and len(chosen) < LISTED:
            counts[key[1]] += 1
            chosen.append(key)
    best: dict[tuple[str, str], Key] = {}
    for key in reversed(known):
        best.setdefault((key[0], key[1]), key)
    replies = {
        (row.judge, row.question_id, row.order[0], row.repeat): row.reply
        for row in judgements
        if row.mode == "verdict" and row.order
    }

    def shown(key: Key) -> Given:
        text = given[key].text.strip()
        mark = f"{place(key)[0]:.2f}"
        return Given(key[1], text[:SHOWN_CHARACTERS], max(0, len(text) - SHOWN_CHARACTERS), mark)

    made = []
    for key in chosen:
        question = asked[key[0]]
        rivals = [best[key[0], name] for name in names if name != key[1] and (key[0], name) in best]
        top = max(rivals, key=lambda rival: place(rival)[0], default=key)
        better = shown(top) if place(top)[0] > place(key)[0] else None
        against = _objections(given[key], [*marks[key], *silent[key]], harms[key], replies)
        made.append(
            WorstAnswer(
                _subset(question), question.question, question.reference, question.evidence,
                sources.get(key[0], ""), shown(key), better, against,
            )
        )  # fmt: skip
    return made


def missed(
    questions: Sequence[Question],
    scores: Sequence[Score],
    arms: Sequence[str],
    sources: Mapping[str, str] = MappingProxyType({}),
) -> list[Missed]:
    """Return up to 12 choice questions that most arms got wrong, those missed by most first.

    An arm got a question wrong if it named the right option in less than half of its answers to
    it; a failed answer names none.
    """
    asked = {row.question_id: row for row in questions if row.kind == "choice"}
    found: dict[str, dict[str, list[Score]]] = defaultdict(lambda: defaultdict(list))
    for score in scores:
        if score.metric == "accuracy" and score.question_id in asked:
            found[score.question_id][score.arm].append(score)

    def share(question: str, arm: str) -> float:
        return fmean(score.value or 0.0 for score in found[question][arm])

    def wrong(question: str) -> int:
        return sum(share(question, arm) < 0.5 for arm in found[question])

    most = [question for question, by_arm in found.items() if 2 * wrong(question) > len(by_arm)]
    most.sort(key=lambda q: (-wrong(q), fmean(share(q, arm) for arm in found[q]), q))
    return [_missed(asked[q], found[q], wrong(q), arms, sources.get(q, "")) for q in most[:LISTED]]


def rated(
    ratings: Sequence[Rating],
    questions: Sequence[Question],
    names: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Question], list[Answer]]:
    """Return the questions and answers that experts saw, as rows that their scores belong to.

    `names` are the arms by the raters' names of them. Questions of the study are left out.
    """
    made: dict[str, Question] = {}
    given: dict[tuple[str, str], Answer] = {}
    for rating, name in zip(ratings, human.question_ids(ratings, questions), strict=True):
        arm = names.get(rating.arm, rating.arm)
        made.setdefault(
            name,
            Question(question_id=name, set=rating.set, kind="open", question=rating.question),
        )
        answer = Answer(question_id=name, arm=arm, text=rating.answer)
        given.setdefault((name, arm), answer)
    known = {row.question_id for row in questions}
    return [row for name, row in made.items() if name not in known], list(given.values())


def _subset(question: Question) -> str:
    """Return the question's subset; questions known from ratings alone are in no split."""
    return f"{question.set}/rated" if question.split == "none" else question.subset


def _missed(
    question: Question,
    by_arm: Mapping[str, Sequence[Score]],
    wrong: int,
    arms: Sequence[str],
    source: str,
) -> Missed:
    named: dict[str, list[str]] = defaultdict(list)
    for arm in ordered(set(by_arm), arms):
        letters = Counter(score.label for score in by_arm[arm])
        for letter, times in letters.items():
            often = f" ({times} of {letters.total()})" if times < letters.total() else ""
            named[letter if letter in LETTERS[: len(question.options)] else ""].append(arm + often)
    options = tuple(
        Choice(letter, text, letter == question.answer, ", ".join(named.get(letter, ())))
        for letter, text in zip(LETTERS, question.options, strict=False)
    )
    return Missed(
        question.subset, question.question, question.evidence, source, wrong, len(by_arm), options,
        ", ".join(named.get("", ())),
    )  # fmt: skip


def _objections(
    answer: Answer,
    marks: Sequence[Score],
    harms: Sequence[Score],
    replies: Mapping[tuple[str, str, str, int], str],
) -> tuple[Objection, ...]:
    """Return what each rater made of an answer; `replies` of judges by rater and answer."""
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
    return tuple(objections)
