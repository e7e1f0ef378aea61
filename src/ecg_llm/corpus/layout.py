"""What the type and the places of a page's text tell: its columns, and which lines are headings.

Engines guess headings from sizes alone and columns from the whole page; a bold "2.1." tells more.
Everything here is a pure function of text runs, in points from the top left corner of the page.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from functools import cache
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

Style = tuple[str, float]
"""Font name, and size to half a point."""
Box = tuple[float, float, float, float]
"""Shares of the page cut off at the top, right, bottom and left."""

TAB = 45.0
"""Points that may lie between the number of a heading and its title."""
GAP = 1.2
"""Heights of a line that may lie between two runs of the same line."""
LEADING = 1.75
"""Heights of a line between the tops of two lines of one heading, at most."""
COLUMN_LINES = 8
"""Lines on either side from which on a page has two columns."""
OCR_FONT = "GlyphLess"
"""Begins the name of tesseract's font, whose lines stand a little off."""
CELLS = 3
"""Pieces of a line from which on it may be a row of a table."""
TABLE_ROWS = 4
"""Such lines from which on a region may hold a table; justified type makes some too."""
HEADING_WORDS = 18
BOLD = re.compile(r"bold|black|heavy|medi\b|cmbx|-bd|demi", re.IGNORECASE)
SAMPLE = 20
"""Letters by which a line is found again in the Markdown."""
PROSE = 0.2
"""Share of the page's width from which on a line is prose, not a label or a cell."""
ENTRY = re.compile(r"\[(\d{1,3})\]|\(?(\d{1,3})[.)](?=\s)|(\d{1,3})(?=\s+[A-ZÄÖÜ])")
"""The number of an entry of a reference list."""
TABLE = re.compile(r"(?:^\|.*\n?){2,}", re.MULTILINE)
SIGNS = re.compile(r"[\W_]+")
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
TITLE = 1.3
"""Times the size of the body from which on a line is a title."""
INDENT = 6.0
"""Points by which the first line of a paragraph is set in, at least."""
ITEM = re.compile(r"[•–▪*]\s|\[\d{1,3}\]\s|\(?\d{1,2}[.)]\s")
YEAR = re.compile(r"\b(?:19|20)\d\d")
ALONE = frozenset(
    ["abstract", "references", "bibliography", "acknowledgements", "acknowledgments",
     "zusammenfassung", "literaturverzeichnis", "danksagung"]
)  # fmt: skip
"""Titles of matter that no cell of a table and no label of a figure is."""
LONE_NUMBER = re.compile(r"\d{1,2}(?:\.\d{1,2})*\.?")
LONGEST_NUMBER = 13


class Run(NamedTuple):
    """A stretch of text on one line in one font."""

    text: str
    x: float
    y: float
    width: float
    height: float
    font: str
    size: float


class Line(NamedTuple):
    """Runs that stand side by side on one line of a column."""

    text: str
    x: float
    y: float
    right: float
    height: float
    style: Style
    """That of most of its characters."""
    bold: bool
    plain: bool
    """All in one style, but for a number in front."""


class Region(NamedTuple):
    """A part of a page that is read on its own."""

    box: Box
    lines: tuple[Line, ...]
    """From the top; what stands side by side is one line."""
    table: bool
    """Some of its rows look like those of a table."""


class Title(NamedTuple):
    """A line, or lines, that the type shows to be a heading."""

    text: str
    style: Style
    numbered: bool


def lines_of(runs: Sequence[Run]) -> list[Line]:
    """Return the runs joined to lines, from the top of the page, left before right.

    A number and what stands up to TAB points to its right are one line ("2.1.   Methods").
    """
    rows: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: (round(run.y + run.height), run.x)):
        if not run.text.strip():
            continue
        for row in reversed(rows[-6:]):
            last = row[-1]
            gap = run.x - (last.x + last.width)
            level = abs((run.y + run.height) - (last.y + last.height)) < 0.4 * last.height
            room = TAB if _heads(row, run) else GAP * max(run.height, last.height)
            if level and -2 < gap <= room:
                row.append(run)
                break
        else:
            rows.append([run])
    lines = [_line(row) for row in rows]
    return sorted(lines, key=lambda line: (line.y, line.x))


def body_style(pages: Sequence[Sequence[Line]]) -> Style:
    """Return the style of most characters of a document."""
    counts: Counter[Style] = Counter()
    for lines in pages:
        for line in lines:
            counts[line.style] += len(line.text)
    return counts.most_common(1)[0][0] if counts else ("", 0.0)


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
        _letters(heading[2]) for line in markdown.split("\n") if (heading := HEADING.match(line))
    }
    for title in found:
        wanted = _letters(title.text)
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


def columns(lines: Sequence[Line], width: float, height: float) -> list[Region]:
    """Return the regions of a two-column page in reading order; empty for any other page.

    Lines over both columns (a title, a wide table) divide the page into bands; the columns of a
    band are read one after the other.
    """
    split = _gutter(lines, width)
    if split is None:
        return []
    regions: list[Region] = []
    for top, bottom, full in _bands(lines, split, height):
        inside = [line for line in lines if top - 1 <= line.y < bottom - 1]
        upper, lower = max(top - 2, 0) / height, max(height - bottom, 0) / height
        left = [line for line in inside if line.right <= split]
        right = [line for line in inside if line.x >= split]
        if full:
            regions.append(_region((upper, 0.0, lower, 0.0), inside))
        else:
            regions.append(_region((upper, 1 - split / width, lower, 0.0), left))
            regions.append(_region((upper, 0.0, lower, split / width), right))
    return [region for region in regions if region.lines]


def disorder(markdown: str, regions: Sequence[Region], width: float) -> int:
    """Return how many lines of prose are not where they belong.

    A line belongs right behind the line above it, and behind the regions before its own.
    """
    letters = _letters(markdown)
    wrong = reached = 0
    for region in regions:
        at, furthest = -1, reached
        above: Line | None = None
        for line in region.lines:
            wanted = _letters(line.text)
            if len(wanted) < SAMPLE or line.right - line.x < PROSE * width:
                at = -1
                continue
            found = letters.find(wanted, at) if at >= 0 else -1
            found = letters.find(wanted) if found < 0 else found
            near = above and line.y - above.y < LEADING * line.height
            misplaced = found < reached or bool(at >= 0 and near and found != at)
            wrong += misplaced
            at = found + len(wanted) if found >= 0 else -1
            furthest = max(furthest, at)
            above = line
        reached = furthest
    return wrong


def paragraphs(lines: Sequence[Line], headings: Container[Style], body: Style) -> str:
    """Return the lines of a region without tables as Markdown paragraphs.

    A paragraph begins where a line is set in, where the type changes, where the lines before it
    leave a gap, with an item of a list, and behind a line that ends a sentence early.

    Args:
        lines: From the top of the region.
        headings: Styles of the document's headings.
        body: Style of its text.
    """
    edges = Counter(round(line.x) for line in lines)
    left = edges.most_common(1)[0][0] if edges else 0
    right = max((line.right for line in lines), default=0.0)
    blocks: list[str] = []
    above: Line | None = None

    def is_heading(line: Line) -> bool:
        large = line.style[1] >= TITLE * body[1]
        return line.plain and (large or (line.style in headings and len(lines) > 2))

    for line in lines:
        heading = is_heading(line)
        new = (
            above is None
            or heading != is_heading(above)
            or abs(line.style[1] - above.style[1]) > 1
            or line.y - above.y > LEADING * above.height
            or (INDENT < line.x - left < 4 * INDENT and above.x < line.x - INDENT / 2)
            or bool(ITEM.match(line.text))
            or (above.right < right - 4 * INDENT and above.text.endswith((".", ":", "?", "!")))
        )
        if new:
            blocks.append(f"## {line.text}" if heading else line.text)
        else:
            blocks[-1] += ("\n" if above and above.text.endswith("-") else " ") + line.text
        above = line
    return "\n\n".join(blocks)


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
    letters, offsets = _letters(markdown), _offsets(markdown)
    starts: list[int] = []
    at = 0
    for beginning in beginnings:
        number = ENTRY.match(beginning)
        wanted = _letters(beginning)[: 2 * SAMPLE]
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


def _region(box: Box, lines: Sequence[Line]) -> Region:
    """Return a region of these lines, those that stand side by side as one (wide word spaces)."""
    made: list[Line] = []
    pieces: list[int] = []
    for line in sorted(lines, key=lambda line: (round(line.y + line.height), line.x)):
        last = made[-1] if made else None
        if last and abs(line.y + line.height - last.y - last.height) < 0.3 * last.height:
            pieces[-1] += 1
            made[-1] = last._replace(
                text=f"{last.text} {line.text}",
                right=line.right,
                bold=last.bold and line.bold,
                plain=last.plain and line.plain and line.style == last.style,
            )
        else:
            made.append(line)
            pieces.append(1)
    rows = sum(count >= CELLS for count in pieces)
    return Region(box, tuple(made), rows >= TABLE_ROWS)


def _line(row: Sequence[Run]) -> Line:
    styles = [_style(run) for run in row]
    first, lengths = row[0], [len(run.text) for run in row]
    counts: dict[Style, int] = {}
    for style, length in zip(styles, lengths, strict=True):
        counts[style] = counts.get(style, 0) + length
    bold = sum(length for run, length in zip(row, lengths, strict=True) if _is_bold(run.font))
    rest = styles[1:] if len(row) > 1 and _is_number(row[:1]) else styles
    return Line(
        " ".join(run.text.strip() for run in row),
        first.x,
        min(run.y for run in row),
        max(run.x + run.width for run in row),
        max(run.height for run in row),
        max(counts, key=lambda style: counts[style]),
        bold * 2 > sum(lengths),
        len(set(rest)) == 1,
    )


def _style(run: Run) -> Style:
    return run.font, round(run.size * 2) / 2


def _is_number(row: Sequence[Run]) -> bool:
    text = row[0].text.strip()
    return len(row) == 1 and len(text) < LONGEST_NUMBER and bool(LONE_NUMBER.fullmatch(text))


def _heads(row: Sequence[Run], run: Run) -> bool:
    """Tell whether a number alone and the run to its right are a heading, not cells of a table."""
    if not _is_number(row) or not run.text.strip()[:1].isupper() or _style(row[0]) != _style(run):
        return False
    return row[0].text.strip().endswith(".") or _is_bold(run.font)


@cache
def _is_bold(font: str) -> bool:
    return bool(BOLD.search(font))


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
    wanted = _letters(title.text)
    lines = markdown.split("\n")
    for at, line in enumerate(lines):
        if line.startswith("|") and _letters(line) == wanted:
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
    wanted = _letters(title)
    fitting = []
    for line in lines:
        own = _letters(line.text)
        if own and (wanted.endswith(own) if last else wanted.startswith(own)):
            fitting.append((len(own), line.style[1], line))
    return max(fitting, key=lambda found: found[:2])[2] if fitting else None


def _letters(text: str) -> str:
    """Return the letters and digits of a text."""
    return SIGNS.sub("", text).lower()


def _offsets(text: str) -> list[int]:
    """Return the offset of each letter and digit of a text."""
    return [match.start() for match in LETTER.finditer(text)]


def _place(markdown: str, wanted: str) -> tuple[int, int] | None:
    """Return where these letters stand in the Markdown, at the start of a line if anywhere so."""
    letters = _letters(markdown)
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


def _gutter(lines: Sequence[Line], width: float) -> float | None:
    """Return where the gap between two columns lies, or None if the page has one column."""
    words = [line for line in lines if len(line.text) > 15]
    best: tuple[int, float] | None = None
    for step in range(35, 66):
        at = width * step / 100
        crossing = sum(line.x < at - 1 and line.right > at + 1 for line in words)
        if best is None or (crossing, abs(at - width / 2)) < (best[0], abs(best[1] - width / 2)):
            best = (crossing, at)
    if best is None:
        return None
    crossing, at = best
    left = [line for line in words if line.right <= at + 1 and line.right - line.x > 0.2 * width]
    right = [line for line in words if line.x >= at - 1 and line.right - line.x > 0.2 * width]
    sides = min(len(left), len(right))
    if sides < COLUMN_LINES or crossing > sides:
        return None
    low = max((line.right for line in left), default=at)
    high = min((line.x for line in right), default=at)
    return (low + high) / 2 if high > low else at


def _bands(lines: Sequence[Line], split: float, height: float) -> list[tuple[float, float, bool]]:
    """Return (top, bottom, whether lines run over both columns) from the top of the page on."""
    full = sorted((line.y, line.y + line.height) for line in lines if line.x < split < line.right)
    merged: list[list[float]] = []
    for top, bottom in full:
        if merged and _is_thin(lines, split, merged[-1][1], top):
            merged[-1][1] = max(merged[-1][1], bottom)
        else:
            merged.append([top, bottom])
    bands: list[tuple[float, float, bool]] = []
    at = 0.0
    for top, bottom in merged:
        if top > at:
            bands.append((at, top, False))
        bands.append((top, bottom, True))
        at = bottom
    return [*bands, (at, height, False)] if at < height else bands


def _is_thin(lines: Sequence[Line], split: float, top: float, bottom: float) -> bool:
    """Tell whether too little stands between two wide lines to be two columns."""
    inside = [line for line in lines if top - 1 <= line.y < bottom - 1]
    left = sum(line.right <= split for line in inside)
    return min(left, len(inside) - left) < 2


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
