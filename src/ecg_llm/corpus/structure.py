"""Headings, reference entries and false tables of a page, mended by what its type shows.

Engines guess headings from sizes alone; a bold "2.1." on a line of its own tells more.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ecg_llm.corpus.clean import (
    ADDRESS,
    CAPTION,
    HEADING,
    NUMBERED,
    PROMOTED,
    USUAL_TITLES,
    title_kind,
)
from ecg_llm.corpus.layout import COLUMN_LINES, LEADING, SAMPLE, Line, Style, letters_of

OCR_FONT = "GlyphLess"
"""Begins the name of tesseract's font, whose lines stand a little off."""
HEADING_WORDS = 18
ENTRY = re.compile(r"\[(\d{1,3})\]|\(?(\d{1,3})[.)](?=\s)|(\d{1,3})(?=\s+[A-ZÄÖÜ])")
"""The number of an entry of a reference list."""
TABLE = re.compile(r"(?:^\|.*\n?){2,}", re.MULTILINE)
LETTER = re.compile(r"[^\W_]")
RULE = re.compile(r"[\s|:-]*")
COMMON = frozenset(
    re.findall(
        r"\w+",
        "the of and in to a is with was for that are by on as we from this be at or "
        "der die und das ist mit von den bei eine zu im auf des sich nicht als",
    )
)
"""Words that a fifth and more of all prose consists of."""
SHARE_COMMON = 0.2
WORD = re.compile(r"[^\W\d_]+")
YEAR = re.compile(r"\b(?:19|20)\d\d")
ALONE = frozenset(
    ["abstract", "references", "bibliography", "acknowledgements", "acknowledgments",
     "zusammenfassung", "literaturverzeichnis", "danksagung"]
)  # fmt: skip
"""Titles of matter that no cell of a table and no label of a figure is."""


class Title(NamedTuple):
    """A line, or lines, that the type shows to be a heading."""

    text: str
    style: Style
    numbered: bool


def titles(lines: Sequence[Line], body: Style) -> list[Title]:
    """Return the headings of a page that its type shows: numbered ones, and usual words alone.

    A heading stands in one style that is not the body's: bold, larger, slanted or capitals.
    """
    found: list[Title] = []
    taken: set[int] = set()
    for index, line in enumerate(lines):
        if ADDRESS.fullmatch(line.text):
            found.append(Title(line.text, body, False))
        numbered = NUMBERED.match(line.text)
        told = _stands_out(line, body) or _is_matter(line.text)
        if index in taken or not line.plain or not told:
            continue
        if not (numbered and line.text[numbered.end()].isupper()) and not _is_usual(line.text):
            continue
        text = line.text
        if numbered:
            for below in _continuations(lines, index):
                taken.add(below)
                text = f"{text} {lines[below].text}"
        if len(text.split()) <= HEADING_WORDS and not CAPTION.match(text):
            found.append(Title(text, line.style, bool(numbered)))
    return found


def mark_headings(markdown: str, found: Sequence[Title]) -> str:
    """Return a page's Markdown with these titles as headings of their own.

    A title that an engine ran into the paragraph before or after it, or into a table, is taken
    out of it.
    """
    have = {
        letters_of(heading[2]) for line in markdown.split("\n") if (heading := HEADING.match(line))
    }
    for title in found:
        wanted = letters_of(title.text)
        if wanted in have:
            continue
        markdown = _out_of_table(markdown, title) if title.numbered else markdown
        place = _place(markdown, wanted)
        if place is None:
            continue
        start, end = place
        before, after = markdown[:start].rstrip(" *_#"), markdown[end:].lstrip(" *_")
        marks = HEADING.match(markdown[len(before) :].lstrip("\n"))
        level = marks[1] if marks else "##"
        words = _one_line(markdown[start:end], markdown.lower())
        markdown = f"{before.rstrip()}\n\n{level} {words}\n\n{after.lstrip()}".lstrip("\n")
    return markdown


def join_headings(markdown: str, lines: Sequence[Line]) -> str:
    """Return a page's Markdown with headings that run over lines in one piece."""
    blocks = markdown.split("\n\n")
    made: list[str] = []
    for block in blocks:
        heading, above = HEADING.fullmatch(block), HEADING.fullmatch(made[-1]) if made else None
        if heading and above and not NUMBERED.match(heading[2]) and not _is_usual(heading[2]):
            upper, lower = _line_of(lines, above[2], True), _line_of(lines, heading[2], False)
            if upper and lower and _goes_on(upper, lower):
                title = _one_line(above[2] + "\n" + heading[2], markdown)
                made[-1] = f"{above[1]} {title}"
                continue
        made.append(block)
    return "\n\n".join(made)


def unmark_headings(
    markdown: str, lines: Sequence[Line], known: Sequence[Title], body: Style, *, first: bool
) -> str:
    """Return a page's Markdown without the headings that type does not bear out.

    Where a document numbers its headings, those without a number are in the same type; words of
    figures, names and lines of a reference list are not. The title of all is on the first page.

    Args:
        markdown: Of the page.
        lines: Of the page.
        known: The document's headings.
        body: Style of its text.
        first: It is the first page.
    """
    styles = {title.style for title in known} - {body}
    largest = max((size for _, size in styles), default=0.0)
    if sum(title.numbered for title in known) < 3:
        return markdown
    made = markdown.split("\n")
    for number, text in enumerate(made):
        heading = HEADING.match(text)
        if not heading or NUMBERED.match(heading[2]) or _is_usual(heading[2]):
            continue
        line = _line_of(lines, heading[2], False)
        is_title = first and line and line.style[1] > max(largest, body[1])
        if line and line.style not in styles and not is_title:
            made[number] = heading[2]
    return "\n".join(made)


def entries(pages: Sequence[Sequence[Line]], body: Style) -> list[list[str]]:
    """Return, for each page, the beginnings of the entries of the reference lists.

    Entries are numbered one after the other, or else begin to the left of their other lines.

    Args:
        pages: Lines of each page in reading order.
        body: Style of the document's text.
    """
    lists: list[list[tuple[int, Line]]] = []
    inside = False
    for number, lines in enumerate(pages):
        for line in lines:
            kind = title_kind(line.text) if len(line.text) < 60 else None
            large = line.bold or line.style[1] >= 1.08 * body[1]
            heading = line.plain and large and _stands_out(line, body)
            if kind == "references" and line.plain:
                inside = True
                lists.append([])
            elif kind or heading or ADDRESS.match(line.text):
                inside = False
            elif inside:
                lists[-1].append((number, line))
    found: list[list[str]] = [[] for _ in pages]
    for listed in lists:
        for number, line in _numbered(listed) or _hanging(listed):
            found[number].append(line.text)
    return found


def untable_prose(markdown: str, lines: Sequence[Line]) -> str:
    """Return a page's Markdown with the tables that are prose in wide type as paragraphs.

    Most lines of such a table reach from one edge of the column to the other.

    Args:
        markdown: Of the page.
        lines: Of the page in reading order, those side by side in a column as one.
    """
    if "|" not in markdown:
        return markdown
    flush = _flush(lines)

    def unless_prose(match: re.Match[str]) -> str:
        words = WORD.findall(match[0].lower())
        if sum(word in COMMON for word in words) < SHARE_COMMON * len(words):
            return match[0]
        found = _lines_with(lines, words)
        if not found or sum(line in flush for line in found) < 0.5 * len(found):
            return match[0]
        return "\n".join(line.text for line in found) + "\n\n"

    return TABLE.sub(unless_prose, markdown)


def mark_entries(markdown: str, beginnings: Sequence[str]) -> str:
    """Return a page's Markdown with each of these entries as one paragraph."""
    if not beginnings:
        return markdown
    letters, offsets = letters_of(markdown), _offsets(markdown)
    starts: list[int] = []
    at = 0
    for beginning in beginnings:
        number = ENTRY.match(beginning)
        wanted = letters_of(beginning)[: 2 * SAMPLE]
        found = letters.find(wanted, at) if wanted else -1
        if found < 0 and number and beginning.startswith("["):  # its words stand in another order
            place = markdown.find(number[0], offsets[at] if at < len(offsets) else 0)
            found = bisect_left(offsets, place) if place >= 0 else -1
            wanted = number[1]
        if found < 0 or (not number and _in_table(markdown, offsets[found])):
            continue
        start = offsets[found]
        while start and markdown[start - 1] in "[(":
            start -= 1
        starts.append(start)
        at = found + len(wanted)
    pieces = [markdown[: starts[0]].rstrip()] if starts else [markdown]
    for index, start in enumerate(starts):
        last = index + 1 == len(starts)
        piece = markdown[start : None if last else starts[index + 1]].strip(" \n-*|")
        pieces.append(piece if last else _one_paragraph(_flat(piece)))
    if starts:
        pieces[0] = pieces[0].rstrip(" \n|")
    return "\n\n".join(piece for piece in pieces if piece)


def _stands_out(line: Line, body: Style) -> bool:
    words = NUMBERED.sub("", line.text)
    return (
        line.style[1] >= 1.08 * body[1]
        or (line.style[0] != body[0] and line.style[1] >= 0.95 * body[1])
        or (words.isupper() and len(words) > 3)
    )


def _is_usual(text: str) -> bool:
    bare = NUMBERED.sub("", text).strip(" .:").lower()
    return bare in USUAL_TITLES or title_kind(bare) is not None


def _is_matter(text: str) -> bool:
    """Tell whether a line alone is the title of an abstract, references and the like."""
    bare = NUMBERED.sub("", text).strip(" .:")
    if not bare[:1].isupper() or title_kind(bare) not in PROMOTED:
        return False
    return bare != text or bare.lower() in ALONE


def _continuations(lines: Sequence[Line], index: int) -> Iterator[int]:
    """Yield the lines right below a heading's first line that go on with it."""
    line = lines[index]
    for below in range(index + 1, min(index + 8, len(lines))):
        other = lines[below]
        if other.y - line.y > LEADING * line.height:
            return
        beside = other.right < line.x or other.x > max(line.right, line.x + 250)
        if beside or other.y - line.y < 0.5 * line.height:
            continue
        if other.style != line.style or not other.plain or NUMBERED.match(other.text):
            return
        yield below
        line = other


def _out_of_table(markdown: str, title: Title) -> str:
    """Return the Markdown with a title that an engine took for a row of a table out of it."""
    wanted = letters_of(title.text)
    lines = markdown.split("\n")
    for at, line in enumerate(lines):
        if line.startswith("|") and letters_of(line) == wanted:
            below = lines[at + 1 :]
            if below and "-" in below[0] and RULE.fullmatch(below[0]):
                rule = below.pop(0)
                if below and below[0].startswith("|"):
                    below.insert(1, rule)
            return "\n".join([*lines[:at], "", title.text, "", *below])
    return markdown


def _one_line(title: str, page: str) -> str:
    """Return a title that ran over lines as one; a hyphen stays if the page writes it elsewhere."""

    def joined(match: re.Match[str]) -> str:
        compound = f"{match[1]}-{match[2]}"
        return compound if compound.lower() in page else match[1] + match[2]

    bare = title.replace("*", "")
    bare = re.sub(r"([^\W\d_]+)-\s*\n[\s#]*([a-zäöüß]+)", joined, bare)
    return " ".join(re.sub(r"\n+[#\s]*", " ", bare).split())


def _goes_on(upper: Line, lower: Line) -> bool:
    """Tell whether a line goes on with the heading of the line above it."""
    return upper.style == lower.style and 0 < lower.y - upper.y < LEADING * lower.height


def _line_of(lines: Sequence[Line], title: str, last: bool) -> Line | None:
    """Return the first, or the last, of the lines that a title stands on."""
    wanted = letters_of(title)
    fitting = []
    for line in lines:
        own = letters_of(line.text)
        if own and (wanted.endswith(own) if last else wanted.startswith(own)):
            fitting.append((len(own), line.style[1], line))
    return max(fitting, key=lambda found: found[:2])[2] if fitting else None


def _offsets(text: str) -> list[int]:
    """Return the offset of each letter and digit of a text."""
    return [match.start() for match in LETTER.finditer(text)]


def _place(markdown: str, wanted: str) -> tuple[int, int] | None:
    """Return where these letters stand in the Markdown, at the start of a line if anywhere so."""
    letters = letters_of(markdown)
    at = letters.find(wanted)
    if at < 0 or not wanted:
        return None
    best = None
    offsets = _offsets(markdown)
    while at >= 0:
        start, end = offsets[at], offsets[at + len(wanted) - 1] + 1
        line = markdown.rfind("\n", 0, start) + 1
        before = markdown[line:start]
        whole = not markdown[start - 1 : start].isalnum() and not markdown[end : end + 1].isalnum()
        if whole and not before.lstrip().startswith("|"):
            if before.startswith("#") or not before.strip(" *_"):
                return start, _closed(markdown, end)
            if re.search(r"[\s*_]$", before):
                best = best or (start, _closed(markdown, end))
        at = letters.find(wanted, at + 1)
    return best


def _closed(markdown: str, end: int) -> int:
    """Return the end of a title with the bracket or quotation mark that closes it."""
    while markdown[end : end + 1] in (")", "]", "”", "?", "!", '"') and end < len(markdown):
        end += 1
    return end


def _numbered(listed: Sequence[tuple[int, Line]]) -> list[tuple[int, Line]]:
    """Return the lines that begin with [1], [2] ... or 1., 2. ... in order."""
    found: list[tuple[int, Line]] = []
    for number, line in listed:
        match = ENTRY.match(line.text)
        if match and int(match[1] or match[2] or match[3]) == len(found) + 1:
            found.append((number, line))
    return found if len(found) > 1 else []


def _hanging(listed: Sequence[tuple[int, Line]]) -> list[tuple[int, Line]]:
    """Return the lines that begin to the left of most others of their column."""
    columns: dict[tuple[int, int], list[Line]] = {}
    for number, line in listed:
        columns.setdefault((number, int(line.x // 150)), []).append(line)
    years = sum(bool(YEAR.search(line.text)) for _, line in listed)
    if years < 0.2 * len(listed):
        return []
    found: list[tuple[int, Line]] = []
    for (number, _), lines in columns.items():
        edge = min(line.x for line in lines)
        first = [line for line in lines if line.x < edge + 4]
        if 0.15 * len(lines) < len(first) < 0.7 * len(lines):
            found.extend((number, line) for line in first)
    return found


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def _lines_with(lines: Sequence[Line], words: Sequence[str]) -> list[Line]:
    """Return the lines, one below the other, that hold these words; none if no lines do."""
    wanted, total = set(words), len(words)
    best: list[Line] = []
    run: list[Line] = []
    for line in lines:
        own = WORD.findall(line.text.lower())
        run = [*run, line] if wanted.issuperset(own) else []
        if sum(len(other.text) for other in run) > sum(len(other.text) for other in best):
            best = run
    held = sum(len(WORD.findall(line.text)) for line in best)
    return best if 0.9 * total <= held <= 1.1 * total else []


def _flush(lines: Sequence[Line]) -> set[Line]:
    """Return the lines that reach from edge to edge of a column of prose."""
    recognised = bool(lines) and lines[0].style[0].startswith(OCR_FONT)
    grid = 12 if recognised else 3

    def edges(line: Line) -> tuple[int, int]:
        return round(line.x / grid), round(line.right / grid)

    counts = Counter(map(edges, lines))
    return {line for line in lines if counts[edges(line)] >= COLUMN_LINES}


def _in_table(markdown: str, place: int) -> bool:
    return markdown[markdown.rfind("\n", 0, place) + 1 : place + 1].startswith("|")


def _flat(text: str) -> str:
    """Return the words of an entry that an engine took for a table."""
    if not re.search(r"\|.*\|", text):
        return text
    rows = (row for row in text.split("\n") if not RULE.fullmatch(row))
    return "\n".join(" ".join(filter(None, _cells(row))) for row in rows)


def _one_paragraph(text: str) -> str:
    """Return the text's blocks joined; headings and tables stay apart."""
    blocks = [block for block in re.split(r"\n\s*\n", text) if not RULE.fullmatch(block)]
    made = blocks[0] if blocks else ""
    for block in blocks[1:]:
        if re.match(r"[#|]", block.lstrip()) or made.rsplit("\n", 1)[-1].startswith(("#", "|")):
            made = f"{made}\n\n{block}"
        elif made.endswith("-"):
            made = f"{made}\n{block.lstrip()}"
        else:
            made = f"{made} {block.lstrip()}"
    return made
