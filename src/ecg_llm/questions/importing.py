"""Question files of other makers (JSON lines, JSON, CSV) to questions."""

import csv
import io
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ecg_llm.config import ImportedSet
from ecg_llm.contracts import UsageError
from ecg_llm.questions.verify import Problem, dropped, option_problem
from ecg_llm.questions.words import language_of, plain_text
from ecg_llm.records import LETTERS, Document, Question, digest

FIELDS: Mapping[str, tuple[str, ...]] = {
    "id": ("question_id", "id", "qid", "uid"),
    "kind": ("kind", "type", "question_type"),
    "question": ("question", "stem", "query", "input"),
    "options": ("options", "choices"),
    "answer": ("answer", "key", "correct", "correct_answer", "correct_option", "answerkey",
               "answer_idx", "answer_key", "gold", "target", "label", "antwort"),
    "reference": ("reference", "reference_answer", "explanation", "rationale", "exp",
                  "long_answer", "ideal_answer"),
    "context": ("context", "abstract", "contexts", "snippets"),
    "document": ("document", "source_file", "file", "filename", "file_name", "path"),
    "licence": ("licence", "license"),
    "language": ("language", "lang"),
    "section": ("section",),
}  # fmt: skip
"""What a question has: names that files use for it, the first present counts."""
OPTION_COLUMN = re.compile(r"(?:(?:option|choice|answer|op)[_ -]?)?([a-j]|(?<=[_ -])\d{1,2})")
LETTER = re.compile(r"\(?([A-Za-z])[).:]?")


class Item(NamedTuple):
    """One entry of a file: its fields by lower-case name, or what is wrong with it."""

    line: int
    fields: Mapping[str, object]
    problem: str = ""


def read_set(
    path: Path, imported: ImportedSet, documents: Sequence[Document], seed: int
) -> list[Question]:
    """Return one row for every entry of a question file, in file order, kept or dropped.

    An entry with options is a choice question; its answer is a letter, the option's text, or its
    place counted from 0. Otherwise the answer text is the reference. A document is named by its
    path or by a file name that only one document has; its group becomes the question's, and a
    question without a document is a group of its own. `limit` keeps a sample drawn with the seed.

    Raises:
        UsageError: no such file, not UTF-8, not JSON or CSV, or a field of `where` that no entry
            has.
    """
    name = imported.name or Path(imported.path).stem
    items = list(_items(path))
    _check_where(path, imported, items)
    places = _document_places(documents)
    rows: dict[str, Question] = {}
    seen: dict[str, str] = {}
    for item in items:
        row = _question(item, name, path.name, places)
        if not item.problem and not _wanted(item.fields, imported.where):
            row = dropped(row, Problem("filtered", "questions.imports.where"))
        if row.question_id in rows:
            # Ids that are not unique are the file's fault, not the question's.
            row = row.model_copy(update={"question_id": f"{row.question_id}#line{item.line}"})
        if row.status == "kept":
            first = seen.setdefault(_content(row), row.question_id)
            if first != row.question_id:
                row = dropped(row, Problem("duplicate", f"same as {first}"))
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


def _items(path: Path) -> Iterator[Item]:
    """Yield the entries of a file; the format goes by the file's name, else by its first sign."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(
            f"There is no question file {path}; correct questions.imports in study.yaml."
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text; save it as UTF-8 and run again.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error}); check the file.") from error
    ending, start = path.suffix.lower(), text.lstrip()[:1]
    if ending == ".json" or (start == "[" and ending != ".csv"):
        yield from _json_items(path, text)
    elif ending in (".jsonl", ".ndjson") or start == "{":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield _json_item(number, line)
    else:
        yield from _csv_items(path, text)


def _json_items(path: Path, text: str) -> Iterator[Item]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON ({error}); correct it.") from None
    if isinstance(value, dict):
        lists = [entry for entry in value.values() if isinstance(entry, list)]
        value = lists[0] if len(lists) == 1 else None
    if not isinstance(value, list):
        raise UsageError(f"{path} holds no list of questions; see docs for the format.")
    for number, entry in enumerate(value, start=1):
        yield _item(number, entry)


def _json_item(number: int, line: str) -> Item:
    try:
        return _item(number, json.loads(line))
    except (ValueError, RecursionError) as error:
        return Item(number, {}, f"not JSON ({error})")


def _item(number: int, entry: object) -> Item:
    if not isinstance(entry, dict):
        return Item(number, {}, "not an object with fields")
    return Item(number, {str(name).strip().lower(): value for name, value in entry.items()})


def _csv_items(path: Path, text: str) -> Iterator[Item]:
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="")
    try:
        for entry in reader:
            yield _item(reader.line_num, entry)
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: {error}; correct it there.") from None


def _check_where(path: Path, imported: ImportedSet, items: Sequence[Item]) -> None:
    for name in imported.where:
        if items and not any(name.lower() in item.fields for item in items):
            raise UsageError(f"questions.imports.where: no entry of {path} has a field {name!r}.")


def _wanted(fields: Mapping[str, object], where: Mapping[str, str | tuple[str, ...]]) -> bool:
    return all(
        _text(fields.get(name.lower())) in ((values,) if isinstance(values, str) else values)
        for name, values in where.items()
    )


def _question(item: Item, name: str, file: str, places: Mapping[str, Document | None]) -> Question:
    """Return the row of one entry."""
    get = {field: _first(item.fields, names) for field, names in FIELDS.items()}
    labels, options = _options(item.fields, get["options"])
    question, context = _text(get["question"]), _text(get["context"])
    declared = _text(get["kind"]).lower()
    choice = bool(options) or declared in ("choice", "mcq", "multiple_choice", "multiple choice")
    marked = get["answer"] if get["answer"] is not None else _marked(get["options"])
    key = _key(marked, labels, options) if choice else None
    answer = "" if choice else _text(get["answer"])
    row_id = _text(get["id"])
    if not row_id:
        known = question and not item.problem
        row_id = digest(question, options, answer, context) if known else f"line{item.line}"
    named = _text(get["document"])
    document = places.get(named) or places.get(PurePosixPath(named.replace("\\", "/")).name)
    section = _text(get["section"])
    row = Question(
        question_id=f"{name}:{row_id}",
        set=name,
        kind="choice" if choice else "open",
        question=question,
        options=options,
        answer=LETTERS[key] if key is not None else "",
        reference=_text(get["reference"]) if choice else answer or _text(get["reference"]),
        context=context,
        doc_id=document.doc_id if document else "",
        group=(document.group or document.doc_id) if document else f"{name}:{row_id}",
        language=_text(get["language"]) or language_of(f"{question} {answer}") or "en",
        licence=_text(get["licence"]),
        note=f"section: {section}" if section else "",
        generator=file,
    )
    if choice and key is not None and not row.reference:
        row = row.model_copy(update={"reference": options[key]})
    problem = _problem(item, row, key)
    if problem is None and named and document is None:
        problem = Problem("unknown_document", named)
    if problem is None:
        return row
    return dropped(row, Problem(problem.reason, f"line {item.line}: {problem.note}".rstrip(": ")))


def _problem(item: Item, row: Question, key: int | None) -> Problem | None:
    if item.problem:
        return Problem("bad_row", item.problem)
    if not row.question:
        return Problem("bad_row", "no question text")
    if row.kind == "choice":
        if len(row.options) > len(LETTERS):
            return Problem("option_count", f"{len(row.options)} options")
        if problem := option_problem(row.options):
            return problem
        return Problem("no_key", "the answer names no option") if key is None else None
    return None if row.reference else Problem("bad_row", "neither options nor an answer")


def _first(fields: Mapping[str, object], names: Sequence[str]) -> object:
    """Return the first of these fields that holds something."""
    return next((fields[name] for name in names if fields.get(name) not in (None, "", [])), None)


def _options(
    fields: Mapping[str, object], value: object
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return labels and texts of the options, empty ones left out."""
    pairs: list[tuple[str, object]] = []
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        pairs = _labelled(value["text"], value.get("label"))
    elif isinstance(value, dict):
        pairs = sorted(((str(label), text) for label, text in value.items()), key=lambda p: p[0])
    elif isinstance(value, list):
        pairs = _labelled(value, None)
    elif value is None:
        columns = {name: OPTION_COLUMN.fullmatch(name) for name in fields}
        found = sorted((match[1], name) for name, match in columns.items() if match)
        pairs = [(label, fields[name]) for label, name in found]
    full = [(label.upper(), text) for label, entry in pairs if (text := _text(_inner(entry)))]
    return tuple(label for label, _ in full), tuple(text for _, text in full)


def _labelled(texts: Sequence[object], labels: object) -> list[tuple[str, object]]:
    given = labels if isinstance(labels, list) and len(labels) == len(texts) else None
    names = [str(label) for label in given] if given else [*LETTERS, *[""] * len(texts)]
    return list(zip(names, texts, strict=False))


def _inner(entry: object) -> object:
    """Return the text of an option written as {"text": ...} (the paper's own files)."""
    return entry.get("text") if isinstance(entry, dict) else entry


def _marked(options: object) -> object:
    """Return the place of the one option that says is_correct (the paper's own files)."""
    entries = options if isinstance(options, list) else []
    right = [
        i for i, entry in enumerate(entries) if isinstance(entry, dict) and entry.get("is_correct")
    ]
    return right[0] if len(right) == 1 else None


def _key(answer: object, labels: Sequence[str], options: Sequence[str]) -> int | None:
    """Return the place of the right option, or None if the answer names none or several."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer if 0 <= answer < len(options) else None
    text = _text(answer) if isinstance(answer, str) else ""
    letter = LETTER.fullmatch(text)
    for label in (text.upper(), letter[1].upper() if letter else ""):
        if label and label in labels:
            return labels.index(label)
    plain = [plain_text(option) for option in options]
    wanted = plain_text(text)
    if wanted and plain.count(wanted) == 1:
        return plain.index(wanted)
    if text.isdecimal() and int(text) < len(options):
        return int(text)
    return None


def _text(value: object) -> str:
    """Return a field as text; the parts of a list on lines of their own."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(filter(None, map(_text, value)))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # JSON can escape half a surrogate pair, which no UTF-8 file can hold.
    return text.encode("utf-8", "replace").decode("utf-8").strip()


def _document_places(documents: Sequence[Document]) -> dict[str, Document | None]:
    """Return documents by path and by file name; None where two have the name."""
    usable = [document for document in documents if document.doc_id]
    places: dict[str, Document | None] = {}
    for document in usable:
        name = PurePosixPath(document.path).name
        known = places.get(name, document)
        same = known is not None and known.doc_id == document.doc_id
        places[name] = document if same else None
    return places | {document.path: document for document in usable}
