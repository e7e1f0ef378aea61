"""Elements of HTML and JATS to Markdown: lines of text, and tables."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from lxml import etree

from ecg_llm.corpus.formulas import formula, local, power, tex

HIDDEN = frozenset(
    re.findall(
        r"\S+",
        "script style noscript template svg iframe nav dialog button select textarea "
        "alt-text long-desc object-id permissions supplementary-material "
        "inline-supplementary-material",
    )
)
"""Elements whose text no reader sees, or that is no text of the article."""
SEPARATE = frozenset(
    re.findall(
        r"\S+",
        "p div section article header footer aside figure figcaption caption blockquote pre "
        "ul ol li dl dt dd table tr td th br hr h1 h2 h3 h4 h5 h6 address details summary form "
        "title label break list list-item def-list def-item term def fn disp-quote disp-formula "
        "kwd sec attrib",
    )
)
"""Elements whose text stands apart from what is before and behind them."""
CITED = frozenset(
    re.findall(
        r"\S+",
        "surname given-names prefix suffix name string-name collab etal person-group year month "
        "article-title chapter-title source volume issue fpage lpage elocation-id edition "
        "publisher-name publisher-loc conf-name date-in-citation comment",
    )
)
"""Elements of a reference: of two that touch, a stylesheet would set the second apart."""
MARKED = frozenset(["sup", "sub", "del", "s", "strike"])
"""Elements that hold a few words."""
FILL = 1_000_000
"""Characters that cells may add to a table by spanning rows and columns."""
ACROSS = 1000
"""Columns that a cell may span, as in browsers."""

_Spanning = dict[int, tuple[int, str]]
"""Column: rows that its cell still reaches down, and its text."""


class Line(NamedTuple):
    """An element's text on one line, and the elements that were set apart from it."""

    text: str
    apart: tuple[etree._Element, ...]


def line(element: etree._Element | None) -> str:
    """Return an element's text on one line, empty for None."""
    if element is None:
        return ""
    return split(element, ()).text if len(element) else " ".join((element.text or "").split())


def split(element: etree._Element, apart: Collection[str]) -> Line:
    """Return an element's text without the elements of these tags, and these elements."""
    pieces: list[str] = []
    found: list[etree._Element] = []
    walker = etree.iterwalk(element, events=("start", "end"))
    for event, node in walker:
        if event == "end":
            if node is not element:
                pieces.extend([" " * (node.tag in SEPARATE), node.tail or ""])
        elif node is not element and node.tag in apart:
            found.append(node)
            pieces.append(" ")
            walker.skip_subtree()
        else:
            words = None if node is element else inline(node)
            pieces.append(
                (" " * _stands_apart(node) + (node.text or "")) if words is None else words
            )
            if words is not None:
                walker.skip_subtree()
    return Line(" ".join("".join(pieces).split()), tuple(found))


def inline(node: etree._Element) -> str | None:
    """Return what to write for an element that is not written as its text, or None."""
    tag = local(node)
    if tag in HIDDEN:
        return ""
    if tag in MARKED and next(node.iterdescendants(*SEPARATE), None) is not None:
        return None  # the tag was never closed
    if tag in ("del", "s", "strike"):
        return ""
    if tag == "sup":
        return _spaced(node, raised(node))
    if tag == "sub":
        return _spaced(node, _beside(node, line(node), "_"))
    if tag == "xref":
        return _reference(node)
    if tag == "pub-id":
        return _identifier(node)
    if tag == "math":
        return _beside(node, formula(node), " ")
    if tag == "tex-math":
        return _beside(node, tex(node.text or ""), " ")
    if tag.endswith("alternatives"):
        return _best(node)
    if tag == "a" and (node.text or "").strip() in ("↑", "↩", "↩︎"):  # back from a footnote
        return ""
    return None


def raised(node: etree._Element) -> str:
    """Return a raised text so that it runs together with nothing: "10⁻³", "[1,2]", "RR^(1/3)"."""
    text = line(node)
    bare = text.strip("[]() ")
    linked = (
        local(node.getparent()) in ("a", "xref") or next(node.iter("a", "xref"), None) is not None
    )
    if (linked and re.fullmatch(r"[\w,\s–-]+", bare)) or re.fullmatch(
        r"[1-9]\d*(?:\s?[,–-]\s?[1-9]\d*)+", bare
    ):
        return f"[{bare}]"
    if re.fullmatch(r"[a-z]", bare) and not _before(node) and node.getprevious() is None:
        return f"[{bare}] "  # the mark of a footnote before its text
    return power("", text)


def table(element: etree._Element) -> str:
    """Return a table's rows as a Markdown table, every cell under its column.

    Rows at the top that are one cell over all columns become lines above it, and several rows of
    a table head one row. Nothing comes back of a table without text.
    """
    rows = [row for row in element.iter("tr", "row") if len(row)]
    grid = [
        (local(row.getparent()) == "thead", row, cells)
        for row, cells in zip(rows, _filled(rows), strict=True)
        if any(cells)
    ]
    above = [line(caption) for caption in element.iterchildren("caption")]
    while len(grid) > 1 and len(grid[0][1]) == 1 < len(grid[0][2]):
        above.append(grid.pop(0)[2][0])
    heads = [cells for head, _, cells in grid if head]
    if 1 < len(heads) <= 3 and len(heads) < len(grid):
        width = max(map(len, heads))
        padded = [[*cells, *[""] * (width - len(cells))] for cells in heads]
        joined = [
            ": ".join(dict.fromkeys(filter(None, column))) for column in zip(*padded, strict=True)
        ]
        grid[: len(heads)] = [(True, grid[0][1], joined)]
    lines = [f"| {' | '.join(cells)} |" for _, _, cells in grid]
    if lines:
        lines.insert(1, "|" + "---|" * len(grid[0][2]))
    return "\n\n".join([*above, "\n".join(lines)]).strip()


def _filled(rows: Sequence[etree._Element]) -> Iterator[list[str]]:
    """Yield the texts of each row's cells, those that span columns or rows once for each.

    A row's only cell is a title over the columns that it spans, and is written once.
    """
    spare = FILL
    below: _Spanning = {}
    for row in rows:
        cells: list[str] = []
        above, below = below, {}
        for cell in row.iterchildren("td", "th", "entry"):
            _carry(cells, above, below)
            text = line(cell).replace("|", "/")
            size = len(text) + 3
            across = min(_number(cell, "colspan"), ACROSS, 1 + spare // size)
            spare -= (across - 1) * size
            down = min(_number(cell, "rowspan"), 1 + spare // (across * size + len(cells)))
            spare -= (down - 1) * (across * size + len(cells))
            for index in range(across):
                if down > 1:
                    below[len(cells)] = (down - 1, text)
                cells.append(text if not index or len(row) > 1 else "")
        for column in sorted(above):
            cells.extend([""] * (column - len(cells)))
            _carry(cells, above, below)
        yield cells


def _carry(cells: list[str], above: _Spanning, below: _Spanning) -> None:
    """Append the texts of cells that reach down into the columns that come next."""
    while len(cells) in above:
        left, text = above.pop(len(cells))
        if left > 1:
            below[len(cells)] = (left - 1, text)
        cells.append(text)


def _number(cell: etree._Element, name: str) -> int:
    given = cell.get(name)
    return max(int(given), 1) if given and re.fullmatch(r"[0-9]{1,5}", given) else 1


def _best(node: etree._Element) -> str:
    """Return the text of the one of several alternatives that says most: TeX, else MathML."""
    for name in ("tex-math", "{*}math"):
        for child in node.iter(name):
            words = inline(child)
            if words:
                return words
    return next((text for text in map(line, node) if text), "")


def _stands_apart(node: etree._Element) -> bool:
    before = node.getprevious()
    touching = before is not None and not before.tail and before.tag in CITED
    return node.tag in SEPARATE or node.tag in MARKED or (touching and node.tag in CITED)


def _reference(node: etree._Element) -> str | None:
    """Return the mark of a footnote or a number that touches a word in brackets, else None."""
    text = line(node)
    kind = node.get("ref-type")
    touching = kind == "bibr" and _before(node)[-1:].isalnum()
    if (touching or kind in ("fn", "table-fn")) and re.fullmatch(r"\w{1,4}", text):
        return f"[{text}]"
    return None


def _identifier(node: etree._Element) -> str:
    """Return a DOI as "doi:10..."; numbers of databases are for machines."""
    if node.get("pub-id-type", "doi") != "doi":
        return ""
    named = re.search(r"doi(?:\.org/|:)?\s*$", _before(node), re.IGNORECASE)
    return line(node) if named else f" doi:{line(node)}"


def _spaced(node: etree._Element, words: str) -> str:
    """Return the words with a space where the element's own text begins or ends with one."""
    text = "".join(node.itertext())
    return " " * text[:1].isspace() + words + " " * text[-1:].isspace()


def _before(node: etree._Element) -> str:
    """Return the text right before an element, as far as it is in the same element."""
    before, parent = node.getprevious(), node.getparent()
    text = before.tail if before is not None else parent.text if parent is not None else ""
    return text or ""


def _beside(node: etree._Element, words: str, mark: str) -> str:
    """Return the words, with `mark` or a space where a digit would touch a digit of the text."""
    if _before(node)[-1:].isdigit() and words[:1].isdigit():
        words = mark + words
    return words + " " * (words[-1:].isdigit() and (node.tail or "")[:1].isdigit())
