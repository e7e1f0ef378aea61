"""Forgetting: questions from outside the corpus, scored by likelihood before and after tuning."""

import math
import random
from collections.abc import Callable, Collection, Iterator, Sequence

from ecg_llm.contracts import Likelihood, LikelihoodModel, Progress, Task
from ecg_llm.prompt import question_messages
from ecg_llm.records import LETTERS, Question, Retention

Scored = tuple[float | None, str]
"""A score and "", or None and why there is none."""
BATCH = 32
"""Questions scored together. Part of the figures: floating-point sums depend on it."""


def outside(questions: Sequence[Question]) -> list[Question]:
    """Return the kept, tested questions of imported sets that belong to no document here."""
    return [
        row
        for row in questions
        if (row.status, row.split) == ("kept", "test") and row.set != "written" and not row.doc_id
    ]


def sampled(questions: Sequence[Question], limit: int, seed: int) -> list[Question]:
    """Return a seeded sample of at most `limit` questions of each set and kind, sorted by id."""
    chosen: list[Question] = []
    for part in sorted({(row.set, row.kind) for row in questions}):
        rows = sorted((r for r in questions if (r.set, r.kind) == part), key=lambda row: row.key)
        chosen += random.Random(seed).sample(rows, min(limit, len(rows)))
    return sorted(chosen, key=lambda row: row.key)


def retention(
    adapter: str,
    before: Callable[[], LikelihoodModel],
    after: Callable[[], LikelihoodModel],
    questions: Sequence[Question],
    limit: int,
    seed: int,
    done: Collection[tuple[object, ...]] = (),
    progress: Progress = lambda done, total: None,
) -> Iterator[Retention]:
    """Yield one row for each question outside the corpus, at most `limit` of a set and kind.

    A choice question counts as right where the right option's text is the likeliest reply (largest
    sum of log-probabilities, a tie is wrong: the metric accuracy_likelihood), an open one by the
    mean log-likelihood of the reference's tokens. What cannot be scored is "not_applicable" with
    its reason. The base is asked for everything first, so that only one model need be in memory.
    Batches that are wholly in `done` are skipped; others are made whole again, with equal figures.

    Args:
        adapter: Its name.
        before: Gives the base.
        after: Gives the base with the adapter; called when the base is not used any more.
        questions: All of the study; those inside the corpus are left out.
        limit: Questions of a set and kind.
        seed: Of the sample.
        done: Keys of rows made by an earlier run.
        progress: Called with (done, total) in questions; each counts once for either model.

    Raises:
        UsageError: a model cannot be loaded.
    """
    chosen = sampled(outside(questions), limit, seed)
    # Prompts of like length share a batch of the model.
    chosen.sort(key=lambda row: (len(row.context) + len(row.question), row.question_id))
    batches = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]
    todo = [b for b in batches if any((adapter, row.question_id) not in done for row in b)]
    if not todo:
        return
    total = 2 * sum(map(len, todo))
    made = 0
    first: list[list[Scored]] = []
    model = before()
    for batch in todo:
        first.append(_scores(model, batch))
        made += len(batch)
        progress(made, total)
    model = after()
    for batch, earlier in zip(todo, first, strict=True):
        for row, old, new in zip(batch, earlier, _scores(model, batch), strict=True):
            yield _row(adapter, row, old, new)
        made += len(batch)
        progress(made, total)


def _row(adapter: str, question: Question, old: Scored, new: Scored) -> Retention:
    reason = old[1] or new[1]
    return Retention(
        adapter=adapter,
        question_id=question.question_id,
        set=question.set,
        kind=question.kind,
        before=None if reason else old[0],
        after=None if reason else new[0],
        status="not_applicable" if reason else "scored",
        reason=reason,
    )


def _scores(model: LikelihoodModel, questions: Sequence[Question]) -> list[Scored]:
    """Return the score of each question, in order."""
    found = model.likelihoods(
        [question_messages(Task(row, row.options)) for row in questions],
        [_replies(row) for row in questions],
    )
    return [_score(row, read) for row, read in zip(questions, found, strict=True)]


def _replies(question: Question) -> tuple[str, ...]:
    """Return the replies whose likelihood is read, none where nothing can be scored."""
    if question.kind == "open":
        return (question.reference,) if question.reference else ()
    keyed = question.answer in tuple(LETTERS[: len(question.options)])
    return question.options if keyed and all(question.options) else ()


def _score(question: Question, read: Sequence[Likelihood]) -> Scored:
    if not _replies(question):
        lacking = "reference" if question.kind == "open" else "key, or an option without text"
        return None, f"the question has no {lacking}"
    if not read:
        return None, "the question does not fit into the model's context"
    values = [found.logprob for found in read]
    if not all(math.isfinite(value) for value in values):
        return None, "the model gives no finite likelihood"
    if question.kind == "open":
        return values[0] / max(1, read[0].tokens), ""
    best = [letter for letter, v in zip(LETTERS, values, strict=False) if v == max(values)]
    return float(best == [question.answer]), ""
