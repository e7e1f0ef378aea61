"""Ready passages from a file of JSON lines: to documents and passages without a cut."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from ecg_llm.contracts import TokenCounter, UsageError
from ecg_llm.corpus.ingest import language
from ecg_llm.records import Document, GivenPassage, Passage

ENGINE = "given"
"""What stands in the place of the PDF engine."""
APART = "\n\n"
"""Between the passages of one document, so that each has offsets of its own."""


def read(path: Path) -> list[GivenPassage]:
    """Return the passages of a file, one JSON object a line with passage_id and text.

    doc_id, title, section, page and language are taken over where given; other keys are not. A line
    that is there twice counts once.

    Raises:
        UsageError: the file cannot be read, a line is no passage, or one id has two texts; names
            the line.
    """
    found: dict[str, GivenPassage] = {}
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # U+2028 may stand in a text
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); check --from.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _row(line, f"{path}, line {number}")
        if found.setdefault(row.passage_id, row) != row:
            raise UsageError(
                f"{path}, line {number}: another passage is named {row.passage_id!r} too; give "
                f"each an id of its own."
            )
    if not found:
        raise UsageError(f"{path} holds no passages; it needs a JSON object a line.")
    return list(found.values())


def documents(rows: Sequence[GivenPassage]) -> list[Document]:
    """Return the documents that these passages are of; a passage of none is its own."""
    made = []
    for doc_id, members in _by_document(rows).items():
        text = APART.join(row.text for row in members)
        first = members[0]
        empty = not text.strip()
        made.append(
            Document(
                path=doc_id,
                doc_id=doc_id,
                title=first.title,
                language=first.language or language(text),
                group=doc_id,
                engine=ENGINE,
                status="unreadable" if empty else "ok",
                reason="empty" if empty else "",
            )
        )
    return made


def passages(rows: Sequence[GivenPassage], count: TokenCounter) -> list[Passage]:
    """Return the passages that hold text, with offsets in the text that all of a document make."""
    made = []
    tokens = dict(zip(rows, count([row.text for row in rows]), strict=True))
    for doc_id, members in _by_document(rows).items():
        start = 0
        for row in members:
            end = start + len(row.text)
            if row.text.strip():
                made.append(
                    Passage(
                        passage_id=row.passage_id,
                        doc_id=doc_id,
                        start=start,
                        end=end,
                        page_from=row.page,
                        page_to=row.page,
                        section=row.section,
                        text=row.text,
                        tokens=tokens[row],
                    )
                )
            start = end + len(APART)
    return made


def _by_document(rows: Sequence[GivenPassage]) -> Mapping[str, list[GivenPassage]]:
    found: dict[str, list[GivenPassage]] = {}
    for row in rows:
        found.setdefault(row.doc_id or row.passage_id, []).append(row)
    return found


def _row(line: str, where: str) -> GivenPassage:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise UsageError(
            f"{where} is no JSON ({why}); the file needs one object a line, as "
            '{"passage_id": "1", "text": "..."}.'
        ) from None
    if not isinstance(value, dict):
        raise UsageError(f"{where} is no JSON object; give passage_id and text.")
    kept = {key: value[key] for key in GivenPassage.model_fields if value.get(key) is not None}
    for key, found in kept.items():
        if key in ("passage_id", "doc_id") and type(found) is int:
            kept[key] = str(found)
        elif isinstance(found, str):
            kept[key] = found.encode("utf-8", "replace").decode("utf-8")  # lone surrogates
    try:
        return GivenPassage.model_validate(kept)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise UsageError(f"{where}: {place}: {problem['msg']}; correct it.") from None
