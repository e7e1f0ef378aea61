"""How far the text of each page can be trusted, and what of a document is set aside and why."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from ecg_llm.corpus.clean import CONTROL, clean_characters, heading_places, page_at, sections
from ecg_llm.records import PageQuality, SetAside

CONTENT = ("body", "abstract", "caption", "table")
"""Kinds of sections that are content."""
TABLE = re.compile(r"^\|(?:\s*:?-+:?\s*\|)+", re.MULTILINE)
MARKUP = re.compile(r"\$[^$\n]*\$|```\w*|\\[a-z]+")
ODD = re.compile("[\x02\u00ad\ufffe\ufb00-\ufb06\uf000-\uf0ff]")
DASHES = str.maketrans("‐‑‒–—−", "------")
WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]{2,}")
"""Words of two letters and more, and numbers."""

Span = tuple[int, int]


def page_records(
    doc_id: str,
    raw: Sequence[str],
    pages: Sequence[str],
    unread: Sequence[str],
    layer: Sequence[str],
    recognised: Sequence[int],
    starts: Sequence[int],
    hidden: Sequence[Span],
) -> tuple[PageQuality, ...]:
    """Return a record of every page of a document.

    Args:
        doc_id: The document.
        raw: Markdown as the engine gave it.
        pages: Markdown after the clean-up.
        unread: Why each page is unread, empty if it is read.
        layer: The PDF's own text of each page; empty for other formats.
        recognised: Numbers of the pages that come from OCR.
        starts: Offset of each page in the text.
        hidden: Spans of the text that nobody sees.
    """
    records = []
    for number, (given, text, why) in enumerate(zip(raw, pages, unread, strict=True), start=1):
        own = layer[number - 1] if number <= len(layer) else ""
        suspicious, lost = compared(text, own) if number not in recognised else (None, None)
        ends = starts[number] if number < len(starts) else None
        records.append(
            PageQuality(
                doc_id=doc_id,
                page=number,
                status="unread" if why else "read",
                reason=why,
                recognised=number in recognised,
                characters=len(text),
                words=len(WORD.findall(text)),
                control_characters=len(CONTROL.findall(given)) if CONTROL.search(given) else 0,
                headings=len(heading_places(text)),
                tables=len(TABLE.findall(text)),
                hidden=sum(
                    end - start
                    for start, end in hidden
                    if starts[number - 1] <= start and (ends is None or start < ends)
                ),
                suspicious=suspicious,
                lost=lost,
            )
        )
    return tuple(records)


def compared(text: str, layer: str) -> tuple[float | None, float | None]:
    """Return (share of a text's words that its layer lacks, share of the layer's that it lacks).

    Hyphens and markup do not count; None where there is no text layer to compare with.
    """
    own, got = _words(_readable(layer)), _words(text)
    if not own or not got:
        return None, None
    here, there = Counter(got), Counter(own)
    common = sum(min(count, there[word]) for word, count in here.items() if word in there)
    return round(1 - common / len(got), 4), round(1 - common / len(own), 4)


def summary(
    records: Sequence[PageQuality], text: str, hidden: Sequence[Span]
) -> dict[str, int | float | str | tuple[int, ...]]:
    """Return a document's quality from its pages'."""
    read = [record for record in records if record.status == "read"]
    found: dict[str, int | float | str | tuple[int, ...]] = {
        "pages_expected": len(records),
        "pages_read": len(read),
        "unread_pages": tuple(record.page for record in records if record.status == "unread"),
        "ocr_pages": tuple(record.page for record in records if record.recognised),
        "characters": len(text),
        "characters_per_page": round(len(text) / max(len(read), 1), 1),
        "control_characters": sum(record.control_characters for record in records),
        "headings": sum(record.headings for record in records),
        "tables": sum(record.tables for record in records),
    }
    for name in ("suspicious", "lost"):
        rated = [(getattr(record, name), record.words) for record in read]
        words = sum(count for rate, count in rated if rate is not None)
        if words:
            total = sum(rate * count for rate, count in rated if rate is not None)
            found[name] = round(total / words, 4)
    if hidden:
        found["hidden_spans"] = tuple(place for span in hidden for place in span)
    return found


def set_aside(text: str, starts: Sequence[int], hidden: Sequence[Span]) -> tuple[SetAside, ...]:
    """Return the stretches of a text that are no content, one for each heading or hidden text."""
    found: list[SetAside] = []
    last = ("", "")
    for section in sections(without(text, hidden)):
        told = (section.kind, section.headings[-1] if section.headings else "")
        if section.kind in CONTENT:
            last = ("", "")
            continue
        where = (page_at(starts, section.start), page_at(starts, max(section.end - 1, 0)))
        size = section.end - section.start
        if found and (last == told or last[0] == told[0]):
            merged = found[-1]
            found[-1] = merged.model_copy(
                update={"page_to": where[1], "characters": merged.characters + size}
            )
        else:
            found.append(
                SetAside(kind=section.kind, heading=told[1], page_from=where[0],
                         page_to=where[1], characters=size)
            )  # fmt: skip
        last = told
    for start, end in hidden:
        page = page_at(starts, start)
        found.append(SetAside(kind="hidden", page_from=page, page_to=page, characters=end - start))
    return tuple(found)


def hidden_spans(
    text: str, starts: Sequence[int], hidden: Sequence[Sequence[str]], anywhere: str = ""
) -> tuple[Span, ...]:
    """Return where hidden texts stand in a document's text, merged and in order.

    Args:
        text: The document's text.
        starts: Offset of each page in it.
        hidden: Hidden texts of each page.
        anywhere: Hidden texts of which the page is not known, one a line.
    """
    spans: list[Span] = []
    for number, texts in enumerate(hidden):
        begin = starts[number] if number < len(starts) else len(text)
        end = starts[number + 1] if number + 1 < len(starts) else len(text)
        spans.extend(_found(text, texts, begin, end))
    spans.extend(_found(text, anywhere.splitlines(), 0, len(text)))
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return tuple(merged)


def without(text: str, hidden: Sequence[Span]) -> str:
    """Return a text with blanks in place of what nobody sees: every offset stays."""
    for start, end in hidden:
        text = text[:start] + re.sub(r"\S", " ", text[start:end]) + text[end:]
    return text


def _found(text: str, hidden: Sequence[str], begin: int, end: int) -> Iterator[Span]:
    """Yield where texts stand in text[begin:end], whatever marks and spaces stand in between.

    A text that is hidden once and seen once is marked once: the last time, as it is drawn.
    """
    if not any(hidden):
        return
    places = [index for index in range(begin, end) if text[index].isalnum()]
    letters = "".join(text[index] for index in places).lower()
    for wanted, times in Counter(map(_letters, hidden)).items():
        spans = []
        at = letters.find(wanted) if wanted else -1
        while at >= 0:
            spans.append((places[at], places[at + len(wanted) - 1] + 1))
            at = letters.find(wanted, at + len(wanted))
        for start, stop in spans[-times:]:
            while stop < end and not text[stop].isalnum() and not text[stop].isspace():
                stop += 1
            marks = re.search(r"^[#*_ ]*\Z", text[begin:start].rsplit("\n", 1)[-1])
            start -= len(marks[0]) if marks else 0  # a hidden heading goes with its marks
            yield start, stop


def _readable(layer: str) -> str:
    """Return a text layer with ligatures and PDFium's marks of broken words put right."""
    layer = layer.replace("\r\n", "\n")
    return clean_characters(layer) if ODD.search(layer) else layer


def _letters(words: str) -> str:
    return "".join(character for character in words if character.isalnum()).lower()


def _words(text: str) -> list[str]:
    """Return the words of a text; hyphens and formulas do not count."""
    if "$" in text or "`" in text or "\\" in text:
        text = MARKUP.sub("", text)
    if not text.isascii():
        text = text.translate(DASHES)
    return WORD.findall(text.replace("-\n", "").replace("- ", "").replace("-", "").lower())
