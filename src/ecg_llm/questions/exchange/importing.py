"""Question files of other makers (JSON lines, JSON, CSV, XLSX) to questions."""

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, get_args

from ecg_llm.config import ImportedSet
from ecg_llm.contracts import UsageError
from ecg_llm.questions.checking.verify import Problem, dropped, option_problem
from ecg_llm.questions.exchange.entries import Entry, read_entries
from ecg_llm.questions.exchange.keying import keying, right_option
from ecg_llm.questions.exchange.shapes import Parts, parts, text_of
from ecg_llm.questions.words import plain_text
from ecg_llm.records import LETTERS, Difficulty, Document, Question, QuestionType, digest
from ecg_llm.words import language_of

LONGEST = 100_000
"""Characters of a question with its context, reference, evidence and options."""
CONVERTED = re.compile(r"(?:_cleaned|_pages_\d+-\d+)+$")
"""What the paper's pipeline puts after a document's name."""


class _Asked(NamedTuple):
    entry: Entry
    parts: Parts
    key: int | None


def read_set(
    path: Path, imported: ImportedSet, documents: Sequence[Document], seed: int
) -> list[Question]:
    """Return one row for every entry of a question file, in file order, kept or dropped.

    An entry with options is a choice question; its answer is a letter, the option's text, or its
    place (see keying.keying). Otherwise the answer text is the reference. A document is named by
    its path, or by a file name, with or without suffix, that only one document has; its group
    becomes the question's, and a question without a document is a group of its own. Evidence is
    kept as given, and no passage is looked for. `limit` keeps a sample drawn with the seed.

    Raises:
        UsageError: no such file, not UTF-8, not JSON, CSV or XLSX, keys by number that do not show
            from where they count, or a field of `where` that no entry has.
    """
    name = imported.name or Path(imported.path).stem
    entries = read_entries(path)
    _check_where(path, imported, entries)
    every = [parts(entry.fields) for entry in entries]
    keys = keying(every, imported.key_from, path.name)
    places = _document_places(documents)
    rows: dict[str, Question] = {}
    seen: dict[str, Question] = {}
    for entry, said in zip(entries, every, strict=True):
        asked = _Asked(entry, said, right_option(said, keys))
        row = _question(asked, name, path.name, places)
        if not entry.problem and not _wanted(entry.fields, imported.where):
            row = dropped(row, Problem("filtered", "questions.imports.where"))
        while row.question_id in rows:
            # Ids that are not unique are the file's fault, not the question's.
            row = row.model_copy(update={"question_id": f"{row.question_id}#line{entry.number}"})
        if row.status == "kept":
            first = seen.setdefault(_content(row), row)
            if first is not row:
                row = dropped(row, Problem("duplicate", f"{entry.place}: {_same(first, row)}"))
        rows[row.question_id] = row
    return _limited(list(rows.values()), imported.limit, seed)


def _limited(rows: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    kept = sorted(row.question_id for row in rows if row.status == "kept")
    if limit is None or len(kept) <= limit:
        return list(rows)
    drawn = set(random.Random(seed).sample(kept, limit))
    return [
        dropped(row, Problem("filtered", "questions.imports.limit"))
        if row.status == "kept" and row.question_id not in drawn
        else row
        for row in rows
    ]


def _content(row: Question) -> str:
    options = sorted(plain_text(option) for option in row.options)
    return digest(row.kind, plain_text(row.question), options, plain_text(row.context))


def _same(first: Question, row: Question) -> str:
    answers = {
        plain_text(one.options[LETTERS.index(one.answer)] if one.answer else one.reference)
        for one in (first, row)
    }
    return f"same as {first.question_id}" + (", with another answer" if len(answers) > 1 else "")


def _check_where(path: Path, imported: ImportedSet, entries: Sequence[Entry]) -> None:
    for name in imported.where:
        if entries and not any(name.lower() in entry.fields for entry in entries):
            raise UsageError(f"questions.imports.where: no entry of {path} has a field {name!r}.")


def _wanted(fields: Mapping[str, object], where: Mapping[str, str | tuple[str, ...]]) -> bool:
    return all(
        text_of(fields.get(name.lower())) in ((values,) if isinstance(values, str) else values)
        for name, values in where.items()
    )


def _question(
    asked: _Asked, name: str, file: str, places: Mapping[str, Document | None]
) -> Question:
    """Return the row of one entry."""
    entry, said, key = asked
    texts = said.texts
    options = tuple(option.text for option in said.options)
    answer = "" if said.choice else texts["answer"]
    row_id = texts["id"]
    if not row_id:
        known = texts["question"] and not entry.problem
        content = (texts["question"], options, answer, texts["context"])
        row_id = digest(*content) if known else f"line{entry.number}"
    document = _document(texts["document"], places)
    notes = (f"section: {texts['section']}" if texts["section"] else "", said.note)
    right = options[key] if key is not None else ""
    row = Question(
        question_id=f"{name}:{row_id}",
        set=name,
        kind="choice" if said.choice else "open",
        type=_one_of(texts["kind"], QuestionType),
        difficulty=_one_of(texts["difficulty"], Difficulty),
        question=texts["question"],
        options=options,
        answer=LETTERS[key] if key is not None and key < len(LETTERS) else "",
        reference=texts["reference"] or right if said.choice else answer or texts["reference"],
        context=texts["context"],
        evidence=" ".join(texts["evidence"].split()),
        doc_id=document.doc_id if document else "",
        group=(document.group or document.doc_id) if document else f"{name}:{row_id}",
        language=texts["language"] or language_of(f"{texts['question']} {answer}") or "en",
        licence=texts["licence"],
        note="; ".join(filter(None, notes)),
        generator=file,
    )
    problem = _problem(asked, row)
    if problem is None and texts["document"] and document is None:
        problem = Problem("unknown_document", texts["document"])
    if problem is None:
        return row
    return dropped(row, Problem(problem.reason, f"{entry.place}: {problem.note}".rstrip(": ")))


def _one_of(text: str, values: object) -> Any:
    return text.lower() if text.lower() in get_args(values) else ""


def _problem(asked: _Asked, row: Question) -> Problem | None:
    if shape := asked.entry.problem or asked.parts.problem:
        return Problem("bad_row", shape)
    if not row.question:
        return Problem("bad_row", "no question text")
    length = sum(map(len, (row.question, row.context, row.reference, row.evidence, *row.options)))
    if length > LONGEST:
        return Problem("too_long", f"{length:,} characters; at most {LONGEST:,}")
    if row.kind == "choice":
        if len(row.options) > len(LETTERS):
            return Problem("option_count", f"{len(row.options)} options")
        if problem := option_problem(row.options):
            return problem
        return None if asked.key is not None else Problem("no_key", "the answer names no option")
    return None if row.reference else Problem("bad_row", "neither options nor an answer")


def _document(named: str, places: Mapping[str, Document | None]) -> Document | None:
    """Return the document of this path or name, else of this name without what follows it."""
    path = PurePosixPath(named.replace("\\", "/"))
    return places.get(named) or places.get(path.name) or places.get(_stem(path))


def _stem(path: PurePosixPath) -> str:
    return CONVERTED.sub("", path.stem)


def _document_places(documents: Sequence[Document]) -> dict[str, Document | None]:
    """Return documents by path, file name and stem; None where two have the name."""
    usable = [document for document in documents if document.doc_id]
    places: dict[str, Document | None] = {}
    for document in usable:
        path = PurePosixPath(document.path)
        for name in {path.name, _stem(path)}:
            known = places.get(name, document)
            same = known is not None and known.doc_id == document.doc_id
            places[name] = document if same else None
    return places | {document.path: document for document in usable}
