"""What went in and what came of it: counts that add up to the tables, and sample questions."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from ecg_llm.records import (
    DOCUMENT_REASONS,
    LETTERS,
    METRICS,
    QUESTION_REASONS,
    Answer,
    Document,
    Draft,
    Judgement,
    Passage,
    Question,
    Retrieval,
    Score,
)
from ecg_llm.report.results import Cell, ordered

SAMPLES = 10
SHOWN_CHARACTERS = 1200
"""Of an answer; the rest is in answers.jsonl."""
OPEN_METRICS = {
    "verdict": "verdict", "reference_similarity": "similarity", "rouge1": "ROUGE-1",
}  # fmt: skip
"""Metrics of open answers, the first there is being shown, with their short names."""


class CountTable(NamedTuple):
    """A table of counts; the first `words` columns hold words, the others numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | int | Cell, ...], ...]
    words: int = 1
    note: str = ""


class Part(NamedTuple):
    """A table, folded away under these words if there are any; equal ones in a row fold as one."""

    table: CountTable
    fold: str = ""


def folded(tables: Sequence[CountTable], fold: str, note: str) -> list[Part]:
    """Return tables folded away together, with a note below the last."""
    last = len(tables) - 1
    return [
        Part(table._replace(note=note) if place == last else table, fold)
        for place, table in enumerate(tables)
    ]


class Unread(NamedTuple):
    """A file that was not read, or not in full."""

    path: str
    status: str
    reason: str
    note: str


class SampleAnswer(NamedTuple):
    """What one arm replied to a sample question."""

    arm: str
    text: str
    cut: int
    """Characters left out."""
    status: str
    mark: str
    right: bool | None
    sources: tuple[str, ...]


class Sample(NamedTuple):
    """A question with every arm's answer."""

    question: Question
    options: tuple[tuple[str, str, bool], ...]
    source: str
    answers: tuple[SampleAnswer, ...]


def count_tables(
    documents: Sequence[Document],
    passages: Sequence[Passage],
    drafts: Sequence[Draft],
    questions: Sequence[Question],
    answers: Sequence[Answer],
    judgements: Sequence[Judgement],
    scores: Sequence[Score],
) -> list[CountTable]:
    """Return the counts of every table by what decides a row's fate; empty tables are left out."""
    by_reason = ((row.status, _meaning(row.reason)) for row in documents)
    kinds = ((f"{row.kind}{', hidden' if row.hidden else ''}",) for row in passages)
    dropped = (
        (QUESTION_REASONS.get(row.reason, row.reason),) for row in questions if row.status != "kept"
    )
    made = [
        CountTable("Documents", ("Status", "Reason", "Files"), _counted(by_reason), 2),
        CountTable("Passages", ("Kind", "Passages"), _counted(kinds)),
        _crossed("Drafts", "Kind", ((row.kind, row.status) for row in drafts)),
        _crossed(
            "Questions", "Set, split and kind",
            ((f"{row.subset}, {row.kind}", row.status) for row in questions),
        ),
        CountTable("Questions dropped", ("Why", "Questions"), _counted(dropped)),
        _crossed("Answers", "Arm", ((row.arm, row.status) for row in answers)),
        _crossed("Judgements", "Judge", ((row.judge, row.status) for row in judgements)),
        _crossed(
            "Scores", "Metric",
            ((METRICS[s.metric].label if s.metric in METRICS else s.metric, s.status)
             for s in scores),
        ),
    ]  # fmt: skip
    return [table for table in made if table.rows]


def unread(documents: Sequence[Document]) -> list[Unread]:
    """Return the files that were not read, or not in full, with the reason."""
    return [
        Unread(row.path, row.status, _meaning(row.reason), row.note or _remedy(row.reason))
        for row in sorted(documents, key=lambda row: (row.status != "unreadable", row.path))
        if row.status != "ok"
    ]


def _meaning(reason: str) -> str:
    return DOCUMENT_REASONS[reason].meaning if reason in DOCUMENT_REASONS else reason


def _remedy(reason: str) -> str:
    return DOCUMENT_REASONS[reason].remedy if reason in DOCUMENT_REASONS else ""


def sources(
    documents: Sequence[Document],
    passages: Sequence[Passage],
    questions: Sequence[Question],
    retrieval: Sequence[Retrieval] = (),
) -> dict[str, str]:
    """Return document and page that each question rests on, by question_id, where known.

    `retrieval` knows the passages that hold the evidence of imported questions, too.
    """
    path_of = _paths(documents)
    place_of = {row.passage_id: _place(row, path_of) for row in passages}
    held = {row.question_id: row.sources[0] for row in retrieval if row.sources}
    found = {
        row.question_id: place_of.get(row.passage_id or held.get(row.question_id, ""))
        or path_of.get(row.doc_id, "")
        for row in questions
    }
    return {question: place for question, place in found.items() if place}


def _paths(documents: Sequence[Document]) -> dict[str, str]:
    return {row.doc_id: row.path for row in documents if row.status in ("ok", "partial")}


def samples(
    order: Sequence[str],
    documents: Sequence[Document],
    passages: Sequence[Passage],
    questions: Sequence[Question],
    answers: Sequence[Answer],
    scores: Sequence[Score],
    sources: Mapping[str, str],
) -> list[Sample]:
    """Return ten answered questions, spread over subsets and kinds, with every arm's answer.

    `sources` are document and page by question_id, as `sources` returns them.
    """
    first = [row for row in answers if row.repeat == 0 and row.permutation == 0]
    answered: dict[str, dict[str, Answer]] = defaultdict(dict)
    for answer in first:
        answered[answer.question_id][answer.arm] = answer
    chosen = _spread([row for row in questions if row.question_id in answered])
    wanted = {row.question_id for row in chosen}
    marks: dict[tuple[str, str, str], list[Score]] = defaultdict(list)
    for score in scores:
        if score.question_id in wanted and score.repeat == 0 and score.permutation == 0:
            marks[score.question_id, score.arm, score.metric].append(score)
    path_of = _paths(documents)
    place_of = {row.passage_id: _place(row, path_of) for row in passages}
    made = []
    for question in chosen:
        arms = answered[question.question_id]
        options = tuple(
            (letter, option, letter == question.answer)
            for letter, option in zip(LETTERS, question.options, strict=False)
        )
        shown = tuple(
            _sample_answer(question, arms[name], marks, place_of)
            for name in ordered(set(arms), order)
        )
        made.append(Sample(question, options, sources.get(question.question_id, ""), shown))
    return made


def _counted(names_of_rows: Iterable[tuple[str, ...]]) -> tuple[tuple[str | int, ...], ...]:
    """Return the rows of a count, the most frequent first, with their total."""
    counts = Counter(names_of_rows)
    rows: list[tuple[str | int, ...]] = []
    for names, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        rows.append((*names, n))
    if len(rows) > 1:
        blank = [""] * (len(rows[0]) - 2)
        rows.append(("All", *blank, sum(counts.values())))
    return tuple(rows)


def _crossed(title: str, name: str, pairs: Iterable[tuple[str, str]]) -> CountTable:
    """Return a table of counts by name and status, with totals."""
    counts = Counter(pairs)
    statuses = sorted(
        {status for _, status in counts}, key=lambda s: (s not in ("ok", "kept", "scored"), s)
    )
    names = sorted({row for row, _ in counts})
    rows: list[tuple[str | int, ...]] = []
    for row in names:
        cells = [counts[row, status] for status in statuses]
        rows.append((row, *cells, sum(cells)))
    if len(rows) > 1:
        totals = [sum(counts[row, status] for row in names) for status in statuses]
        rows.append(("All", *totals, sum(totals)))
    header = (name, *(status.replace("_", " ") for status in statuses), "all")
    return CountTable(title, header, tuple(rows))


def _spread(questions: Sequence[Question]) -> list[Question]:
    """Return up to ten questions, taken in turn from each subset and kind."""
    groups: dict[tuple[str, str], list[Question]] = defaultdict(list)
    for question in sorted(questions, key=lambda row: row.question_id):
        groups[question.subset, question.kind].append(question)
    queues = [groups[name] for name in sorted(groups)]
    turns = [queue[i] for i in range(SAMPLES) for queue in queues if i < len(queue)]
    return turns[:SAMPLES]


def _place(passage: Passage, path_of: Mapping[str, str]) -> str:
    """Return a passage's document and pages; a ready passage may name no page."""
    document = path_of.get(passage.doc_id, passage.doc_id)
    if not passage.page_from:
        return document
    pages = f"p. {passage.page_from}"
    if passage.page_to != passage.page_from:
        pages += f"–{passage.page_to}"
    return f"{document}, {pages}"


def _sample_answer(
    question: Question,
    answer: Answer,
    marks: Mapping[tuple[str, str, str], Sequence[Score]],
    place_of: Mapping[str, str],
) -> SampleAnswer:
    metrics = ("accuracy",) if question.kind == "choice" else tuple(OPEN_METRICS)
    found = (marks.get((answer.question_id, answer.arm, metric), ()) for metric in metrics)
    given = next((scores for scores in found if scores), ())
    values = [score.value for score in given if score.value is not None]
    mark, right = "", None
    if given and not values:
        mark = given[0].status.replace("_", " ")
        right = False if given[0].status in ("unparsed", "error") else None
    elif given and question.kind == "choice":
        right = values == [1.0]
        mark = f"{given[0].label} {'right' if right else 'wrong'}".strip()
    elif given:
        mark = f"{OPEN_METRICS[given[0].metric]} {fmean(values):.2f}"
    text = answer.text.strip()
    return SampleAnswer(
        answer.arm, text[:SHOWN_CHARACTERS], max(0, len(text) - SHOWN_CHARACTERS),
        "" if answer.status == "ok" else f"{answer.status}: {answer.reason}".rstrip(": "),
        mark, right,
        tuple(dict.fromkeys(place_of.get(c.passage_id, c.passage_id) for c in answer.passages)),
    )  # fmt: skip
