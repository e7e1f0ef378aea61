"""How well the literature was read: figures of the corpus, its documents, the worst pages."""

import base64
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from ecg_llm.records import PAGE_REASONS, Document, PageQuality

WORST = 8
"""Pages shown as pictures."""
EACH = 2
"""Of which one document has at most."""
NOTICED = 0.03
"""Badness below which a page is not shown."""
LISTED = 200
"""Documents listed; the rest is in documents.jsonl."""
OCR_DOUBT = 0.05
"""Badness of a page that comes from OCR, since nothing tells how right it is."""
UNREAD = {
    "garbled": 3.0,
    "ocr_failed": 3.0,
    "scanned": 2.5,
    "lost": 2.0,
    "drawing": 1.5,
    "blank": 0.0,
}

Place = tuple[str, int]
"""doc_id and page."""


class DocumentLine(NamedTuple):
    """One document and how it was read."""

    path: str
    pages: str
    characters: str
    suspicious: str
    lost: str
    control: int
    recognised: int
    headings: int
    tables: int
    aside: str


class WorstPage(NamedTuple):
    """A page that a person should look at."""

    place: Place
    path: str
    page: int
    why: str
    picture: str = ""
    """Data address of a PNG; empty if there is none."""


class Literature(NamedTuple):
    """What the report says about the literature."""

    figures: list[tuple[str, str]]
    documents: list[DocumentLine]
    more: int
    worst: list[WorstPage]


def literature(
    documents: Sequence[Document],
    pages: Sequence[PageQuality],
    pictures: Mapping[Place, bytes],
) -> Literature | None:
    """Return how well the literature was read; None where there is none.

    Args:
        documents: The table.
        pages: The table.
        pictures: (doc_id, page): PNG, for the pages that `worst` names.
    """
    seen = [row for row in documents if row.pages]
    if not seen:
        return None
    lines = sorted(map(_line, seen), key=lambda line: line.path)
    return Literature(
        _figures(documents, pages),
        lines[:LISTED],
        max(len(lines) - LISTED, 0),
        [page._replace(picture=_address(pictures.get(page.place, b"")))
         for page in worst(documents, pages)],
    )  # fmt: skip


def worst(documents: Sequence[Document], pages: Sequence[PageQuality]) -> list[WorstPage]:
    """Return the pages whose text can be trusted least, worst first, few of each document."""
    path_of = {row.doc_id: row.path for row in documents if row.status != "duplicate"}
    ranked = sorted(
        (page for page in pages if page.doc_id in path_of and badness(page) >= NOTICED),
        key=lambda page: (-badness(page), path_of[page.doc_id], page.page),
    )
    taken: Counter[str] = Counter()
    found: list[WorstPage] = []
    for page in ranked:
        if taken[page.doc_id] < EACH and len(found) < WORST:
            taken[page.doc_id] += 1
            place = (page.doc_id, page.page)
            found.append(WorstPage(place, path_of[page.doc_id], page.page, _why(page)))
    return found


def badness(page: PageQuality) -> float:
    """Return how little a page's text can be trusted: 0 is best, 1 and more is unread."""
    if page.status == "unread":
        return UNREAD[page.reason]
    odd = (page.suspicious or 0.0) + 0.5 * (page.lost or 0.0)
    return odd + page.control_characters / max(page.characters, 1) + OCR_DOUBT * page.recognised


def _figures(documents: Sequence[Document], pages: Sequence[PageQuality]) -> list[tuple[str, str]]:
    read = [page for page in pages if page.status == "read"]
    statuses = Counter(row.status for row in documents)
    rated = [page for page in read if page.suspicious is not None]
    words = max(sum(page.words for page in rated), 1)
    odd = sum((page.suspicious or 0) * page.words for page in rated) / words
    lost = sum((page.lost or 0) * page.words for page in rated) / words
    aside: Counter[str] = Counter()
    for row in documents:
        if row.status in ("ok", "partial"):
            for part in row.set_aside:
                aside[part.kind] += part.characters
    total = max(sum(page.characters for page in read), 1)
    by_status = ", ".join(f"{count:,} {status}" for status, count in sorted(statuses.items()))
    kinds = ", ".join(f"{kind} {count / total:.1%}" for kind, count in aside.most_common())
    headings, tables = sum(p.headings for p in read), sum(p.tables for p in read)
    return [
        ("Files", f"{len(documents):,}: {by_status}"),
        ("Pages read", f"{len(read):,} of {len(pages):,}"),
        ("of these by OCR", f"{sum(page.recognised for page in read):,}"),
        ("Characters a page, median", f"{median([p.characters for p in read] or [0]):,.0f}"),
        ("Words not in the PDFs' own text", f"{odd:.2%}"),
        ("Words of the PDFs' own text left out", f"{lost:.2%}"),
        ("Control characters taken out", f"{sum(p.control_characters for p in pages):,}"),
        ("Headings, tables", f"{headings:,}, {tables:,}"),
        ("Set aside, of all characters", kinds or "nothing"),
    ]


def _line(row: Document) -> DocumentLine:
    quality = row.quality

    def share(name: str) -> str:
        value = quality.get(name)
        return f"{value:.1%}" if isinstance(value, float) else "–"

    def count(name: str) -> int:
        value = quality.get(name, 0)
        return value if isinstance(value, int) else 0

    recognised = quality.get("ocr_pages", ())
    kinds: dict[str, int] = defaultdict(int)
    for part in row.set_aside:
        kinds[part.kind] += part.characters
    total = max(count("characters"), 1)
    return DocumentLine(
        row.path,
        f"{count('pages_read')} of {row.pages}",
        f"{quality.get('characters_per_page', 0):,.0f}",
        share("suspicious"),
        share("lost"),
        count("control_characters"),
        len(recognised) if isinstance(recognised, tuple) else 0,
        count("headings"),
        count("tables"),
        ", ".join(f"{kind} {size / total:.0%}" for kind, size in kinds.items()),
    )


def _why(page: PageQuality) -> str:
    if page.status == "unread":
        return PAGE_REASONS[page.reason].meaning
    said = ["read by OCR"] if page.recognised else []
    if page.suspicious:
        said.append(f"{page.suspicious:.0%} of its words are not in the PDF's own text")
    if page.lost:
        said.append(f"{page.lost:.0%} of the PDF's own text is left out")
    if page.control_characters:
        said.append(f"{page.control_characters:,} control characters taken out")
    return "; ".join(said)


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}" if png else ""
