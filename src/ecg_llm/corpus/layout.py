"""Where the text of a page stands and in what type: its lines, its columns, their order.

Everything here is a pure function of text runs, in points from the top left corner of the page.
"""

import re
from collections import Counter
from collections.abc import Container, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from ecg_llm.corpus.clean import NUMBERED, NUMERALS

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
CELLS = 3
"""Pieces of a line from which on it may be a row of a table."""
TABLE_ROWS = 4
"""Such lines from which on a region may hold a table; justified type makes some too."""
BOLD = re.compile(r"bold|black|heavy|medi\b|cmbx|-bd|demi", re.IGNORECASE)
SAMPLE = 20
"""Letters by which a line is found again in the Markdown."""
PROSE = 0.2
"""Share of the page's width from which on a line is prose, not a label or a cell."""
SIGNS = re.compile(r"[\W_]+")
MARGIN = 0.09
"""Share of a page's height above and below which its running lines stand."""
TITLE = 1.3
"""Times the size of the body from which on a line is a title."""
INDENT = 6.0
"""Points by which the first line of a paragraph is set in, at least."""
ITEM = re.compile(r"[•–▪*]\s|\[\d{1,3}\]\s|\(?\d{1,2}[.)]\s")
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


def running(
    pages: Sequence[Sequence[Line]], heights: Sequence[float], body: Style
) -> list[list[Line]]:
    """Return, for each page, its running heads and feet, page numbers among them.

    They stand in the margin, at the same height and, but for numbers, in the same words on two
    pages of two or three, and on three of more. "7.3 Chapter review" in heading type is none.
    """

    def is_heading(line: Line) -> bool:
        return bool(NUMBERED.match(line.text)) and (line.bold or line.style[1] > body[1])

    edges = [
        [
            line
            for line in lines
            if not MARGIN * height < line.y < (1 - MARGIN) * height and not is_heading(line)
        ]
        for lines, height in zip(pages, heights, strict=True)
    ]
    counts = Counter(place for lines in edges for place in {_running_place(line) for line in lines})
    least = 2 if len(pages) < 4 else 3
    return [[line for line in lines if counts[_running_place(line)] >= least] for lines in edges]


def without_lines(markdown: str, lines: Sequence[Line]) -> str:
    """Return a page's Markdown without these lines at its edges: the first and the last such words.

    Args:
        markdown: Of the page.
        lines: Running heads and feet.
    """
    for line in lines:
        words = r"\s+".join(map(re.escape, line.text.split()))
        found = list(
            re.finditer(rf"(?:^[#*_ ]+)?(?<!\w){words}(?!\w)[*_]*", markdown, re.MULTILINE)
        )
        if found:
            spot = min(found, key=lambda spot: min(spot.start(), len(markdown) - spot.end()))
            markdown = markdown[: spot.start()] + markdown[spot.end() :]
    return re.sub(r"\n{3,}", "\n\n", markdown)


def _running_place(line: Line) -> tuple[int, str]:
    return round(line.y / 4), NUMERALS.sub("#", line.text.lower())


def columns(lines: Sequence[Line], width: float, height: float) -> list[Region]:
    """Return the regions of a page of two or three columns in reading order; none for any other.

    Lines over several columns (a title, a wide table) divide the page into bands; the columns of
    a band are read one after the other.
    """
    splits = _gutters(lines, width)
    if not splits:
        return []
    regions: list[Region] = []
    for top, bottom, full in _bands(lines, splits, height):
        inside = [line for line in lines if top - 1 <= line.y < bottom - 1]
        upper, lower = max(top - 2, 0) / height, max(height - bottom, 0) / height
        if full:
            regions.append(_region((upper, 0.0, lower, 0.0), inside))
            continue
        for left, right in pairwise((0.0, *splits, width)):
            box = (upper, 1 - right / width, lower, left / width)
            regions.append(_region(box, [line for line in inside if _within(line, left, right)]))
    return [region for region in regions if region.lines]


def disorder(markdown: str, regions: Sequence[Region], width: float) -> int:
    """Return how many lines of prose are not where they belong.

    A line belongs right behind the line above it, and behind the regions before its own.
    """
    letters = letters_of(markdown)
    wrong = reached = 0
    for region in regions:
        at, furthest = -1, reached
        above: Line | None = None
        for line in region.lines:
            wanted = letters_of(line.text)
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


def letters_of(text: str) -> str:
    """Return the letters and digits of a text."""
    return SIGNS.sub("", text).lower()


def _gutters(lines: Sequence[Line], width: float) -> tuple[float, ...]:
    """Return where the gaps between two or three columns lie; none if the page has one column."""
    words = [line for line in lines if len(line.text) > 15]
    thirds = (_gap(words, width, 26, 42), _gap(words, width, 58, 74))
    for splits, least in ((thirds, PROSE / 2), ((_gap(words, width, 35, 65),), PROSE)):
        sides = [
            [
                line
                for line in words
                if _within(line, left, right) and line.right - line.x > least * width
            ]
            for left, right in pairwise((0.0, *splits, width))
        ]
        fewest = min(map(len, sides))
        crossing = sum(
            any(line.x < at - 1 < at + 1 < line.right for at in splits) for line in words
        )
        if fewest >= COLUMN_LINES and crossing <= fewest:
            return tuple(
                _between(left, right, at)
                for (left, right), at in zip(pairwise(sides), splits, strict=True)
            )
    return ()


def _gap(words: Sequence[Line], width: float, first: int, last: int) -> float:
    """Return where the fewest lines are crossed, nearest to the middle of first % and last %."""
    middle = width * (first + last) / 200

    def crossed(at: float) -> tuple[int, float]:
        return sum(line.x < at - 1 and line.right > at + 1 for line in words), abs(at - middle)

    return min((width * step / 100 for step in range(first, last + 1)), key=crossed)


def _between(left: Sequence[Line], right: Sequence[Line], at: float) -> float:
    """Return the middle of the gap between two columns."""
    low, high = max(line.right for line in left), min(line.x for line in right)
    return (low + high) / 2 if high > low else at


def _within(line: Line, left: float, right: float) -> bool:
    return line.x >= left - 1 and line.right <= right + 1


def _bands(
    lines: Sequence[Line], splits: Sequence[float], height: float
) -> list[tuple[float, float, bool]]:
    """Return (top, bottom, whether lines run over columns) from the top of the page on."""
    full = sorted(
        (line.y, line.y + line.height)
        for line in lines
        if any(line.x < split < line.right for split in splits)
    )
    merged: list[list[float]] = []
    for top, bottom in full:
        if merged and _is_thin(lines, splits, merged[-1][1], top):
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


def _is_thin(lines: Sequence[Line], splits: Sequence[float], top: float, bottom: float) -> bool:
    """Tell whether too little stands between two wide lines to be columns."""
    inside = [line for line in lines if top - 1 <= line.y < bottom - 1]
    left = sum(line.right <= splits[0] for line in inside)
    return min(left, len(inside) - left) < 2
