"""The sheet in which people correct questions: made of questions, and read when it comes back."""

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from ecg_llm.contracts import UsageError
from ecg_llm.questions.exchange import cells
from ecg_llm.questions.exchange.cells import CUT, Cell
from ecg_llm.records import LETTERS, Document, Passage, Question

LOCKED = (
    "question_id", "revision", "set", "kind", "split", "document", "page", "passage", "reason",
)  # fmt: skip
"""Columns that are there to be read."""
TEXTS = ("question", "reference", "evidence")
OPTION = "option "
WIDTHS = {
    "question_id": 14, "revision": 8, "set": 10, "kind": 7, "split": 9, "document": 20, "page": 6,
    "passage": 60, "question": 45, "answer": 7, "reference": 45, "evidence": 45, "status": 9,
    "reason": 20, "note": 30,
} | {f"{OPTION}{letter}": 25 for letter in LETTERS}  # fmt: skip


class SheetRow(NamedTuple):
    """One row of a sheet that came back: its line, its cells by lower-case column."""

    line: int
    cells: Mapping[str, str]
    problem: str = ""


def sheet_rows(
    questions: Sequence[Question], documents: Sequence[Document], passages: Sequence[Passage]
) -> tuple[list[str], list[list[Cell]]]:
    """Return the header and the rows of a sheet in which people correct these questions.

    "passage" is what the question rests on, else the context that belongs to it; "reason" says
    also what was noted; "note" is empty, for a comment.
    """
    paths = {document.doc_id: document.path for document in documents}
    sources = {passage.passage_id: passage for passage in passages}
    counts = [max(len(row.options), 4) for row in questions if row.kind == "choice"]
    columns = [f"{OPTION}{letter}" for letter in LETTERS[: max(counts, default=0)]]
    header = [
        *LOCKED[:-1], "question", *columns, "answer", "reference", "evidence", "status", "reason",
        "note",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for row in questions:
        source = sources.get(row.passage_id)
        texts = [source.text] if source else [row.context] if row.context else []
        texts += [
            sources[span.passage_id].text for span in row.joined if span.passage_id in sources
        ]
        rows.append([
            row.question_id, row.revision, row.set, row.kind, row.split,
            paths.get(row.doc_id, ""), _pages(source), "\n\n".join(texts), row.question,
            *_option_cells(row.options, len(columns)), row.answer, row.reference,
            row.evidence, row.status, ": ".join(filter(None, (row.reason, row.note))), "",
        ])  # fmt: skip
    return header, rows


def _option_cells(options: Sequence[str], count: int) -> list[str]:
    if len(options) > count:  # more options than letters: dropped, and not to be corrected here
        return [*options[: count - 1], CUT.strip()]
    return [*options, *[""] * (count - len(options))]


def _pages(passage: Passage | None) -> Cell:
    if passage is None:
        return ""
    single = passage.page_from == passage.page_to
    return passage.page_from if single else f"{passage.page_from}-{passage.page_to}"


def write(
    path: Path,
    questions: Sequence[Question],
    documents: Sequence[Document],
    passages: Sequence[Passage],
) -> None:
    """Write the sheet of these questions as .xlsx or .csv, by the path's suffix.

    Raises:
        UsageError: another suffix, or the file cannot be written.
    """
    cells.write(path, *sheet_rows(questions, documents, passages), WIDTHS, LOCKED)


def read(path: Path) -> list[SheetRow]:
    """Return the rows of a sheet that came back as .xlsx or .csv, whatever the order of columns.

    Raises:
        UsageError: it cannot be read, or it lacks the columns that say which questions it corrects.
    """
    lines = cells.read_lines(path, ("question_id",))
    header = [cell.lower() for cell in lines[0].cells] if lines else []
    for name in ("question_id", "revision"):
        if header.count(name) != 1:
            raise UsageError(
                f"{path} has no column {name!r}, or two; correct a sheet made with "
                "`ecg-llm questions export`."
            )
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise UsageError(f"{path} has two columns named {twice[0]!r}; remove one.")
    return [
        SheetRow(
            line.number,
            {name: cell for name, cell in zip_longest(header, line.cells, fillvalue="") if name},
            "it has cells beyond the last column" if any(line.cells[len(header) :]) else "",
        )
        for line in lines[1:]
    ]


def told(row: SheetRow, question: Question) -> dict[str, str] | str:
    """Return what a row says, by column of the question, or why it cannot be understood."""
    whole = {name: cell for name, cell in row.cells.items() if not cell.endswith(CUT.strip())}
    said = {column: whole[column] for column in TEXTS if column in whole}
    if "status" in whole:
        said["status"] = whole["status"].lower()
    letters = [letter for letter in LETTERS if f"{OPTION}{letter.lower()}" in row.cells]
    options = [row.cells[f"{OPTION}{letter.lower()}"] for letter in letters]
    while options and not options[-1]:
        options.pop()
    if question.kind == "open":
        if options or row.cells.get("answer"):
            return "an open question has no options; its answer stands in the column reference"
        return said
    if letters or row.cells.get("answer"):
        if "".join(letters) != LETTERS[: max(len(letters), len(question.options), 2)]:
            return "a column of its options is missing; keep all of them"
        if not all(options):
            return "an option is empty and a later one is not; move them up"
        if not any(option.endswith(CUT.strip()) for option in options):
            said["options"] = json.dumps(options, ensure_ascii=False)
    if "answer" in whole:
        said["answer"] = whole["answer"].strip("().: ").upper()
    return said
