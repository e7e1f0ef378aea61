"""Question files (JSON, JSON lines, CSV, XLSX) to entries: fields by name, and their line."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ecg_llm.contracts import UsageError
from ecg_llm.questions.exchange.cells import Line, read_lines, read_text

QUESTION = ("question", "stem", "query", "input", "frage")
"""Names that files use for the question's text."""
SPACE = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # NaN is what pandas writes for nothing


class Entry(NamedTuple):
    """One entry of a file: its fields by lower-case name, or what is wrong with it."""

    number: int
    """Of its first line, or in a JSON list of the entry: unique in the file."""
    place: str
    """Where a person finds it."""
    fields: Mapping[str, object]
    problem: str = ""


def read_entries(path: Path) -> list[Entry]:
    """Return the entries of a file in order; its format goes by its name, else by its first sign.

    JSON is a list of objects, one object with one such list, objects by id (PubMedQA), or in spite
    of the name one object a line (MedMCQA). A CSV file without a header is one of MMLU: question,
    options, letter. Blank lines are no entries.

    Raises:
        UsageError: it cannot be read, is not JSON, or no column holds the question.
    """
    if path.suffix.lower() in (".xlsx", ".csv", ".tsv"):
        return list(_table(path))
    text = read_text(path)
    ending, start = path.suffix.lower(), text.lstrip()[:1]
    if not start:
        return []
    if ending in (".jsonl", ".ndjson") and start != "[":
        return list(_json_lines(text))
    if ending == ".json" or start in "[{":
        return list(_json(path, text))
    return list(_table(path))


def _json(path: Path, text: str) -> Iterator[Entry]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        # Several values one after the other: JSON lines under another name.
        if str(error).startswith("Extra data") and text.lstrip().startswith("{"):
            yield from _json_lines(text)
            return
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            yield from _json_lines(text)
            return
        raise UsageError(f"{path} is not valid JSON ({error}); correct it.") from None
    line, counted = 1, 0
    for number, (at, entry) in enumerate(_objects(path, text, value), start=1):
        line, counted = line + text.count("\n", counted, at), at
        yield _entry(number, f"line {line} (entry {number})", entry)


def _objects(path: Path, text: str, value: object) -> Iterator[tuple[int, object]]:
    """Yield the entries of a JSON text, each with the offset at which it starts."""
    start = _skip(text, 0)
    if isinstance(value, list):
        yield from _elements(text, start)
        return
    members = value if isinstance(value, dict) else {}
    if {str(name).strip().lower() for name in members} & set(QUESTION):
        yield start, value
        return
    if members and all(isinstance(entry, dict) for entry in members.values()):
        for at, name, entry in _members(text, start):
            assert isinstance(entry, dict)
            yield at, {"id": name, **entry}
        return
    lists = [name for name, entry in members.items() if isinstance(entry, list)]
    if len(lists) != 1:
        found = f"several lists ({', '.join(lists)}); keep one" if lists else "no list of questions"
        raise UsageError(f"{path} holds {found}.")
    for at, name, _ in _members(text, start):
        if name == lists[0]:
            yield from _elements(text, at)


def _skip(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    return match.end() if match else at


def _elements(text: str, at: int) -> Iterator[tuple[int, object]]:
    """Yield the elements of the list that starts at this offset of a valid JSON text."""
    at = _skip(text, at + 1)
    while text[at] != "]":
        value, end = DECODER.raw_decode(text, at)
        yield at, value
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at


def _members(text: str, at: int) -> Iterator[tuple[int, str, object]]:
    """Yield the members of the object that starts at this offset, with that of their values."""
    at = _skip(text, at + 1)
    while text[at] != "}":
        name, end = DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, end) + 1)
        value, end = DECODER.raw_decode(text, at)
        yield at, str(name), value
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at


def _json_lines(text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield _entry(number, f"line {number}", DECODER.decode(line))
        except (ValueError, RecursionError) as error:
            yield Entry(number, f"line {number}", {}, f"not JSON ({error})")


def _entry(number: int, place: str, entry: object) -> Entry:
    if not isinstance(entry, dict):
        return Entry(number, place, {}, "not an object with fields")
    return Entry(number, place, {str(name).strip().lower(): v for name, v in entry.items()})


def _table(path: Path) -> Iterator[Entry]:
    lines = read_lines(path, QUESTION)
    if not lines:
        return
    header, body = _header(path, lines)
    for line in body:
        place = f"line {line.number}"
        if any(line.cells[len(header) :]):
            problem = f"{len(line.cells)} cells, but the header has {len(header)}"
            yield Entry(line.number, place, {}, problem)
        else:
            fields = {name: cell for name, cell in zip(header, line.cells, strict=False) if name}
            yield Entry(line.number, place, fields)


def _header(path: Path, lines: Sequence[Line]) -> tuple[list[str], Sequence[Line]]:
    """Return the names of a table's columns, and the lines below them."""
    header = [cell.lower() for cell in lines[0].cells]
    while header and not header[-1]:
        header.pop()
    if set(header) & set(QUESTION):
        for name in header:
            if name and header.count(name) > 1:
                raise UsageError(f"{path} has two columns named {name!r}; rename one.")
        return header, lines[1:]
    letters = "abcdefghij"[: len(header) - 2]
    if len(letters) >= 2 and header[-1] in tuple(letters):
        return ["question", *letters, "answer"], lines
    raise UsageError(f"{path}: no column of the first line is named {QUESTION[0]!r}; name it so.")
