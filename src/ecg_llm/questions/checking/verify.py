"""Drafts to questions: every question is kept, or dropped with the reason of the failed check."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from ecg_llm.config import Questions
from ecg_llm.contracts import Embedder
from ecg_llm.questions.checking import grounding
from ecg_llm.questions.checking.keys import balanced
from ecg_llm.questions.checking.twins import NearIndex, Vectors, texts_of
from ecg_llm.questions.checking.wording import not_medical, not_self_contained, refers_to_options
from ecg_llm.questions.words import plain_text, quoted_span
from ecg_llm.questions.writing.generate import UnparsedReply, Written, parse
from ecg_llm.records import (
    Difficulty,
    Draft,
    Passage,
    Question,
    QuestionKind,
    QuestionType,
    Span,
    digest,
)
from ecg_llm.words import language_of

SET = "written"
OPTIONS = 4
UNSEEN = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Signs that control a terminal or the direction of writing."""
QUESTION_WORDS = (3, 120)
"""Fewest and most words of a question."""
ANSWER_WORDS = (1, 150)
OPTION_WORDS = (1, 60)


class Problem(NamedTuple):
    """Why a question is dropped."""

    reason: str
    note: str = ""


def questions(
    drafts: Sequence[Draft],
    passages: Sequence[Passage],
    settings: Questions,
    seed: int,
    embedder: Embedder | None = None,
) -> list[Question]:
    """Return one row for every question in the drafts, kept or dropped, in the drafts' order.

    A draft without a readable reply gives one row. Evidence is replaced by
    the passage's own characters. With an embedder, grounding and duplicates are judged by vectors
    as well as by words. Right options are dealt to the letters in turn over the whole set of kept
    questions, so that no letter is more frequent than another by more than one.
    """
    known = {passage.passage_id: passage for passage in passages}
    rows: dict[str, Question] = {}
    seen: dict[str, Sequence[Passage]] = {}
    for draft in sorted(drafts, key=lambda draft: draft.key):
        window = [known[name] for name in draft.passage_ids if name in known]
        for number, row in enumerate(_rows(draft, window, settings)):
            if row.question_id in rows:
                problem = Problem("duplicate", f"same as {row.question_id}")
                row_id = digest(row.question_id, draft.draft_id, number)
                row = dropped(row, problem).model_copy(update={"question_id": row_id})
            rows[row.question_id] = row
            seen[row.question_id] = window
    checked = list(rows.values())
    vectors = None
    if embedder is not None:
        checked = _grounded(checked, seen, embedder, settings.checks.similarity)
        kept = (row for row in checked if row.status == "kept")
        vectors = Vectors.of(embedder, (text for row in kept for text in texts_of(row)))
    return balanced(without_duplicates(checked, vectors, settings.checks.duplicate), seed)


def _grounded(
    rows: Sequence[Question],
    seen: Mapping[str, Sequence[Passage]],
    embedder: Embedder,
    similarity: float,
) -> list[Question]:
    """Return the rows with those dropped whose answer is far from the text that it was made of."""
    kept = [row for row in rows if row.status == "kept"] if similarity else []
    far = grounding.distant(kept, seen, embedder, similarity)
    return [
        dropped(row, Problem("not_grounded", f"cosine to the text {far[row.question_id]:.2f}"))
        if row.question_id in far
        else row
        for row in rows
    ]


def dropped(row: Question, problem: Problem) -> Question:
    """Return this question as a dropped one."""
    return row.model_copy(
        update={"status": "dropped", "reason": problem.reason, "note": problem.note}
    )


def _rows(draft: Draft, window: Sequence[Passage], settings: Questions) -> Iterator[Question]:
    """Yield the questions of one draft, options in the writer's order, the right one first."""
    if draft.status != "ok":
        note = f"{draft.status}: {draft.reason}".rstrip(": ")
        yield _unparsed(draft, window, 0, note, "no_reply")
        return
    try:
        items = parse(draft.reply)
    except UnparsedReply as error:
        yield _unparsed(draft, window, 0, "; ".join(filter(None, (str(error), draft.reason))))
        return
    for number, item in enumerate(items):
        if isinstance(item, str):
            yield _unparsed(draft, window, number, item)
        else:
            row = _checked(draft, window, item, settings)
            if draft.plan and number >= len(draft.plan):
                asked = f"{len(draft.plan)} were asked for, {len(items)} came"
                row = dropped(row, Problem("surplus", asked))
            yield row


def _unparsed(
    draft: Draft, window: Sequence[Passage], number: int, note: str, reason: str = "unparsed"
) -> Question:
    return Question(
        question_id=digest(SET, "unparsed", draft.draft_id, number),
        set=SET,
        kind=draft.kind,
        question="",
        doc_id=window[0].doc_id if window else "",
        status="dropped",
        reason=reason,
        note=note,
        generator=draft.model,
    )


def _checked(
    draft: Draft, window: Sequence[Passage], item: Written, settings: Questions
) -> Question:
    question, answer = _tidy(item.question), _tidy(item.answer)
    choice = draft.kind == "choice"
    options = (answer, *map(_tidy, item.distractors)) if choice else ()
    spans, missing = _spans(item.spans, window)
    evidence = spans[0].text if spans else " ".join(item.spans[:1])
    passage_id = "" if missing or not spans else spans[0].passage_id
    row = Question(
        question_id=digest(SET, draft.kind, question, options, passage_id or draft.passage_ids),
        set=SET,
        kind=draft.kind,
        type=_type(item.type),
        difficulty=_difficulty(item.difficulty),
        question=question,
        options=options,
        answer="A" if choice else "",
        reference=answer,
        evidence=evidence,
        passage_id=passage_id,
        joined=tuple(spans[1:]),
        doc_id=window[0].doc_id if window else "",
        language=language_of(f"{question} {answer}") or _language_wanted(window, settings) or "en",
        generator=draft.model,
    )
    problem = _problem(row, window, settings, missing)
    return dropped(row, problem) if problem else row


def _spans(quotes: Sequence[str], window: Sequence[Passage]) -> tuple[list[Span], str]:
    """Return the quotes found in the window, in its own characters, and the first not found."""
    spans, missing = [], ""
    for quote in quotes:
        found = ((quoted_span(quote, passage.text), passage) for passage in window)
        text, passage = next((pair for pair in found if pair[0]), ("", None))
        if passage is None:
            missing = missing or quote or "(empty)"
        else:
            spans.append(Span(passage_id=passage.passage_id, text=text))
    return spans, missing


def _type(name: str) -> QuestionType | Literal[""]:
    return next((known for known in get_args(QuestionType) if known == name.strip().lower()), "")


def _difficulty(name: str) -> Difficulty | Literal[""]:
    return next((known for known in get_args(Difficulty) if known == name.strip().lower()), "")


def _tidy(text: str) -> str:
    return " ".join(UNSEEN.sub("", text).split())


def _problem(
    row: Question, window: Sequence[Passage], settings: Questions, missing: str
) -> Problem | None:
    """Return the first check that a question fails; `missing` is a quote that no passage holds."""
    if row.kind == "choice" and (problem := option_problem(row.options, OPTIONS)):
        return problem
    if problem := _length_problem(row):
        return problem
    if found := not_self_contained(row.question, (row.reference, *row.options)):
        return Problem("not_self_contained", found)
    if found := not_medical(row.question):
        return Problem("not_medical", found)
    wanted, is_in = _language_wanted(window, settings), language_of(row.question)
    if wanted and is_in and is_in != wanted:
        return Problem("wrong_language", f"{is_in}, not {wanted}")
    if not row.passage_id:
        return Problem("no_evidence", missing[:100])
    if found := grounding.lexical_problem(row, window):
        return Problem("not_grounded", found)
    return None


def option_problem(options: Sequence[str], count: int | None = None) -> Problem | None:
    """Return what is wrong with the options of a question; `count` is how many it must have."""
    if len(options) < 2 or (count is not None and len(options) != count):
        return Problem("option_count", f"{len(options)} options")
    plain = Counter(plain_text(option) for option in options)
    if len(plain) < len(options):
        return Problem("duplicate_options", plain.most_common(1)[0][0])
    if count is not None:
        for option in options:
            if refers_to_options(option):
                return Problem("all_of_the_above", option)
    return None


def _length_problem(row: Question) -> Problem | None:
    limits = [("question", row.question, QUESTION_WORDS)]
    if row.kind == "choice":
        limits += [("an option", option, OPTION_WORDS) for option in row.options]
    else:
        limits.append(("the answer", row.reference, ANSWER_WORDS))
    for name, text, (fewest, most) in limits:
        count = len(text.split())
        if count < fewest:
            return Problem("too_short", f"{name} has {count} words")
        if count > most:
            return Problem("too_long", f"{name} has {count} words")
    return None


def _language_wanted(window: Sequence[Passage], settings: Questions) -> str:
    if settings.language != "text":
        return settings.language
    return language_of(" ".join(passage.text for passage in window))


def without_duplicates(
    rows: Sequence[Question], vectors: Vectors | None = None, cosine: float = 1.0
) -> list[Question]:
    """Return the rows with every later kept one dropped that says what an earlier one says.

    Questions are compared with those of their own kind: an open question and a choice question
    about one fact are both of use.
    """
    indexes = {kind: NearIndex(vectors, cosine) for kind in get_args(QuestionKind)}
    checked = []
    for row in rows:
        if row.status == "kept":
            if twin := indexes[row.kind].find(row):
                row = dropped(row, Problem("duplicate", f"same as {twin}"))
            else:
                indexes[row.kind].add(row)
        checked.append(row)
    return checked


def without_imports(
    written: Sequence[Question],
    imported: Sequence[Question],
    vectors: Vectors | None = None,
    cosine: float = 1.0,
) -> list[Question]:
    """Return the written rows with those dropped that say what a kept imported question says.

    The imported question stays: a test set made elsewhere is worth more than one question here.
    Kinds are compared across, since an open question trains for a choice question on its fact.
    """
    index = NearIndex(vectors, cosine)
    for row in imported:
        if row.status == "kept":
            index.add(row)
    return [
        dropped(row, Problem("repeats_import", f"same as {twin}"))
        if row.status == "kept" and (twin := index.find(row))
        else row
        for row in written
    ]
