"""Rows of a table for a person, and the way back from a score to the page of a PDF."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ecg_llm import config, prompt, steps
from ecg_llm.contracts import UsageError
from ecg_llm.records import (
    TABLES,
    Answer,
    Document,
    Judgement,
    Passage,
    Question,
    Row,
    Score,
    SetAside,
)
from ecg_llm.registry import suggestion

COLUMNS = {
    "documents": ("path", "status", "reason", "pages", "language", "title", "set_aside", "note"),
    "pages": ("doc_id", "page", "status", "reason", "recognised", "words", "suspicious", "lost",
              "tables", "hidden"),
    "passages": ("passage_id", "doc_id", "page_from", "section", "kind", "tokens", "text"),
    "splits": ("doc_id", "path", "group", "split", "why", "tokens"),
    "drafts": ("draft_id", "kind", "status", "reason", "attempts", "model", "reply"),
    "checks": ("question_id", "check", "permutation", "status", "reply"),
    "questions": ("question_id", "set", "kind", "type", "split", "status", "reason", "question"),
    "contamination": ("question_id", "subset", "kind", "against", "value", "twin", "shared"),
    "variants": ("question_id", "number", "length", "status", "reason", "question", "reference"),
    "training": ("adapter", "phase", "step", "loss", "eval_loss", "eval_choice", "tokens", "kept"),
    "retention": ("adapter", "set", "kind", "question_id", "before", "after", "status"),
    "retrieval": ("question_id", "sources", "ranks"),
    "index_sweep": ("variant", "passages", "questions", "shown", "hit_1", "hit_5", "mrr",
                    "ndcg_10", "index_seconds", "search_ms"),
    "answers": ("question_id", "arm", "permutation", "status", "text"),
    "latencies": ("question_id", "arm", "repeat", "permutation", "seconds", "search_seconds",
                  "together"),
    "given": ("passage_id", "doc_id", "title", "section", "page", "text"),
    "facts": ("question_id", "facts", "status", "reason"),
    "judgements": ("judge", "question_id", "mode", "order", "status", "reason", "reply"),
    "scores": ("question_id", "arm", "metric", "value", "label", "status"),
    "reliability": ("instrument", "measure", "detail", "value", "low", "high", "expected", "note"),
    "estimates": ("metric", "subset", "arm", "against", "value", "low", "high", "p_adjusted"),
}  # fmt: skip
"""Columns that a table shows on a terminal; --json shows all."""
JUDGED = {
    "verdict": "verdict",
    "verdict_correct": "verdict",
    "harm": "verdict",
    "ranking": "ranking",
    "fact_recall": "facts",
    "facts_contradicted": "facts",
}
"""Metrics that are read from judgements, with the mode of these."""


def settings(folder: Path) -> str:
    """Return the whole of the study's settings, defaults filled in, as YAML."""
    study = config.load(folder)
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def find(folder: Path, table: str, row_id: str, where: Sequence[str]) -> list[Row]:
    """Return the rows of a table whose key holds `row_id` and whose columns have these values.

    A column that is a list has a value if it holds it.

    Raises:
        UsageError: no such table or column, or the table is not made yet.
    """
    if table not in COLUMNS:
        raise UsageError(f"There is no table {table!r}{suggestion(table, list(COLUMNS))}")
    path = folder / f"{table}.jsonl"
    if not path.exists():
        raise UsageError(f"{path} is not made yet; make it with: ecg-llm run -C {folder}")
    kind = TABLES[table]
    wanted = []
    for pair in where:
        column, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--where takes column=value, not {pair!r}.")
        if column not in kind.model_fields:
            raise UsageError(
                f"{table} has no column {column!r}{suggestion(column, list(kind.model_fields))}"
            )
        wanted.append((column, value))
    return [
        row
        for row in steps.read_table(path, kind)
        if (not row_id or any(row_id in str(part) for part in row.key))
        and all(_is(getattr(row, column), value) for column, value in wanted)
    ]


def _is(cell: object, wanted: str) -> bool:
    """Return whether a cell reads so, or holds what reads so."""
    if isinstance(cell, bool):
        return str(cell).lower() == wanted.lower()
    return wanted in map(str, cell) if isinstance(cell, tuple) else str(cell) == wanted


def columns(table: str, rows: Sequence[Row]) -> tuple[Sequence[str], list[list[object]]]:
    """Return the columns and cells that a terminal shows, long texts cut."""
    return COLUMNS[table], [
        [_short(getattr(row, column)) for column in COLUMNS[table]] for row in rows
    ]


def card(row: Row) -> str:
    """Return all of one row, a line a column."""
    values = row.model_dump(mode="json")
    if isinstance(row, Document) and row.set_aside:
        values["set_aside"] = ("\n" + " " * 18).join(map(aside, row.set_aside))
    return "\n".join(f"{name:>16}  {value}" for name, value in values.items()) + "\n"


def aside(part: SetAside) -> str:
    """Return what was set aside of a document, where, and why, in words."""
    why = f"heading {part.heading!r}" if part.heading else "its place before the abstract"
    if part.kind == "hidden":
        why = "nobody sees it on the page"
    return f"{part.kind}, {_pages(part)}, {part.characters:,} characters: {why}"


def _pages(part: SetAside) -> str:
    end = f"-{part.page_to}" if part.page_to != part.page_from else ""
    return f"p. {part.page_from}{end}"


def traced(folder: Path, row: Row) -> dict[str, Any]:
    """Return a row with those it rests on: score, answer, question, passage, document.

    Raises:
        UsageError: nothing can be traced from a row of this table.
    """
    found: dict[str, Any] = {row.table: row.model_dump(mode="json")}
    if isinstance(row, Score):
        found |= _judged(folder, row)
        wanted = (row.question_id, row.arm, row.repeat, row.permutation)
        for answer in _rows(folder, Answer):
            if answer.key == wanted:
                return found | traced(folder, answer)
        return found | _question(folder, row.question_id)
    if isinstance(row, Answer):
        found |= _question(folder, row.question_id)
        held = {passage.passage_id: passage for passage in _rows(folder, Passage)}
        shown = [held[cited.passage_id] for cited in row.passages if cited.passage_id in held]
        found["shown"] = [_place(folder, passage) for passage in shown]
    elif isinstance(row, Judgement):
        answers = {(a.arm, a.question_id, a.repeat): a for a in _rows(folder, Answer)}
        shown = [answers.get((arm, row.question_id, row.repeat)) for arm in row.order]
        found = {
            "judgements": [found[row.table]],
            "judged": [answer.model_dump(mode="json") for answer in shown if answer],
            **_question(folder, row.question_id),
        }
    elif isinstance(row, Passage):
        found["source"] = _place(folder, row)
    elif isinstance(asked := getattr(row, "question_id", None), str):
        found |= _question(folder, asked)
    else:
        raise UsageError(
            f"Rows of {row.table} have no trace; --trace follows scores, judgements, answers, "
            "questions and passages."
        )
    return found


def story(folder: Path, row: Row) -> str:
    """Return the trace of a row as lines for a person."""
    found = traced(folder, row)
    lines = []
    if "scores" in found:
        score = found["scores"]
        value = score["value"] if score["status"] == "scored" else score["status"]
        lines.append(f"score     {score['metric']} = {value} {score['label']}")
    for judgement in found.get("judgements", ()):
        said = judgement["reply"] or judgement["reason"]
        lines.append(f"judge     {judgement['judge']} ({judgement['model']}): {said}")
    for answer in found.get("judged", ()):
        lines.append(f"answer    {answer['arm']} ({answer['model']}): {answer['text']}")
    for fact in found.get("facts", {}).get("facts", ()):
        lines.append(f"fact      {fact}")
    if "answers" in found:
        answer = found["answers"]
        lines.append(f"answer    {answer['arm']} ({answer['model']}): {answer['text']}")
        if answer["permutation"] and "questions" in found:
            shown = prompt.rotated(found["questions"]["options"], answer["permutation"])
            lines.append(f"shown as  {prompt.lettered(shown)}".replace("\n", "; "))
    if "questions" in found:
        question = found["questions"]
        key = question["answer"] or question["reference"]
        lines.append(f"question  {question['question']}  (right: {key})")
    if "evidence" in found:
        lines.append(f"evidence  {found['evidence']}")
    if "source" in found:
        lines.append(f"source    {_where(found['source'])}")
    for key, place in enumerate(found.get("shown", ()), start=1):
        lines.append(f"shown [{key}] {_where(place)}")
    return "\n".join(lines) + "\n"


def _judged(folder: Path, score: Score) -> dict[str, Any]:
    """Return the judge's replies that a score was read from."""
    mode = JUDGED.get(score.metric)
    replies = [
        row.model_dump(mode="json")
        for row in (_rows(folder, Judgement) if mode else ())
        if (row.question_id, row.mode, row.judge, row.repeat)
        == (score.question_id, mode, score.rater, score.repeat)
        and score.arm in row.order
    ]
    return {"judgements": replies} if replies else {}


def _question(folder: Path, question_id: str) -> dict[str, Any]:
    for question in _rows(folder, Question):
        if question.question_id == question_id:
            break
    else:
        return {}
    found: dict[str, Any] = {"questions": question.model_dump(mode="json")}
    if question.evidence:
        found["evidence"] = question.evidence
    for passage in _rows(folder, Passage):
        if passage.passage_id == question.passage_id:
            found["source"] = _place(folder, passage)
            return found
    for document in _rows(folder, Document):
        if question.doc_id and document.doc_id == question.doc_id:
            found["source"] = {"path": document.path}
    return found


def _place(folder: Path, passage: Passage) -> dict[str, Any]:
    paths = {row.doc_id: row.path for row in reversed(_rows(folder, Document))}
    return {
        "path": paths.get(passage.doc_id, passage.doc_id),
        "page_from": passage.page_from,
        "page_to": passage.page_to,
        "section": passage.section,
        "text": passage.text,
    }


def _where(place: dict[str, Any]) -> str:
    if "page_from" not in place:
        return str(place["path"])
    return (
        f"{place['path']}, page {place['page_from']}, {place['section']}: {_short(place['text'])}"
    )


def _rows(folder: Path, row: type[Any]) -> list[Any]:
    return steps.read_table(folder / f"{row.table}.jsonl", row)


def _short(value: object) -> object:
    if isinstance(value, tuple) and all(isinstance(part, SetAside) for part in value):
        value = "; ".join(f"{part.kind} {_pages(part)}" for part in value)
    if isinstance(value, str):
        text = " ".join(value.split())
        return text if len(text) <= 90 else text[:89] + "…"
    return value
