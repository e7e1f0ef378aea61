"""From the finished page to files for a paper: figures as SVG, tables as CSV, Markdown, LaTeX."""

import csv
import html as entities
import json
import re
import shutil
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from ecg_llm import store

FIGURES, TABLES, INDEX = "figures", "tables", "files.md"
SHORT, HEAD, SHORT_SECTION = 72, 44, 20
"""Characters of a file's name before its suffix, of its start where its middle is left out, and of
a heading that stands in it."""
LONG_CELL = 36
"""Characters above which a column of a LaTeX table breaks its lines."""
LONG_TABLE = 40
"""Rows above which a LaTeX table may run over pages."""
FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"

_SVG = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
_METADATA = re.compile(r"<metadata>(.*?)</metadata>", re.DOTALL)
_LIGHT = re.compile(r":root\s*{(.*?)}", re.DOTALL)
_VARIABLE = re.compile(r"var\(--([\w-]+)\)")
_NUMBER = re.compile(r"[-+−]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?(?:e−?\d+)?")
_INTERVAL = re.compile(rf"({_NUMBER.pattern}) to ({_NUMBER.pattern})")
_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "_": r"\_", "%": r"\%", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    "−": r"\ensuremath{-}", "×": r"\ensuremath{\times}", "±": r"\ensuremath{\pm}",
    "≥": r"\ensuremath{\geq}", "≤": r"\ensuremath{\leq}", "→": r"\ensuremath{\rightarrow}",
    "–": "--", "—": "---", "…": r"\ldots{}", "“": "``", "”": "''", "‘": "`", "’": "'",
    "\u00a0": "~", "\u202f": r"\,", "\u2009": r"\,", "\u200b": "",
}  # fmt: skip
_TEX |= {
    letter: rf"\ensuremath{{\{name}}}"
    for letter, name in zip(
        "\u03b1\u03b2\u03b3\u03b4\u03ba\u03bb\u03bc\u03c1\u03c3\u03c4\u03c7\u03c9\u0394\u03a9",
        ("alpha", "beta", "gamma", "delta", "kappa", "lambda", "mu", "rho", "sigma", "tau", "chi",
         "omega", "Delta", "Omega"),
        strict=True,
    )
}  # fmt: skip
_UMLAUTS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "'": "", "’": ""}
)
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~$#])")


class Cell(NamedTuple):
    """A cell of a table; `below` is what stands small under its value, most often an interval."""

    text: str
    below: str = ""
    strong: bool = False
    right: bool = False
    """Whether it is set to the right, as numbers are."""

    @property
    def whole(self) -> str:
        """Value and, in parentheses, what stands below it."""
        return f"{self.text} ({self.below})" if self.text and self.below else self.text + self.below


class Table(NamedTuple):
    """A table of the page; every row has as many cells as the head."""

    section: str
    """Heading of the section; `name`: the same, or the section's id where that is shorter."""
    name: str
    caption: str
    head: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Drawing(NamedTuple):
    """A figure of the page, as it stands there."""

    section: str
    """Heading of the section; `name`: the same, or the section's id where that is shorter."""
    name: str
    caption: str
    description: str
    svg: str


def files(html: str) -> dict[str, str]:
    """Return what stands beside the report: path below its folder -> content.

    figures/NN-….svg opens in any viewer: light colours in place of the page's variables, on white.
    figures/NN-….csv has what the figure was drawn from, where the figure says so.
    tables/NN-….csv has a value a cell and the ends of intervals in columns of their own;
    tables/NN-….md and .tex have intervals in parentheses; .tex needs booktabs and
    graphicx, and longtable above 40 rows. files.md lists all. Equal pages give equal files.

    Args:
        html: the page that `report.build` returns.
    """
    found: dict[str, str] = {}
    index = ["# Figures and tables of the report", ""]
    colours = _colours(html)
    tables, drawings = _read(html)
    index += ["## Figures", ""] if drawings else []
    for number, drawing in enumerate(drawings, start=1):
        stem = f"{FIGURES}/{_name(number, drawing.name, drawing.description)}"
        made = {".svg": standalone(drawing, colours)}
        data = _METADATA.search(drawing.svg)
        if data:
            shown = json.loads(entities.unescape(data[1]))
            made[".csv"] = _csv([shown["columns"], *shown["rows"]])
        found |= {stem + suffix: text for suffix, text in made.items()}
        index.append(_entry(drawing.section, drawing.description or drawing.caption, stem, made))
    index += ["", "## Tables", ""] if tables else []
    for number, table in enumerate(tables, start=1):
        stem = f"{TABLES}/{_name(number, table.name, table.caption)}"
        made = {".csv": as_csv(table), ".md": as_markdown(table), ".tex": as_latex(table)}
        found |= {stem + suffix: text for suffix, text in made.items()}
        index.append(_entry(table.section, table.caption, stem, made))
    found[INDEX] = "\n".join(index) + "\n"
    return found


def write(html: str, folder: Path) -> None:
    """Write the page as index.html, and what stands beside it in place of what stood there."""
    for old in (FIGURES, TABLES):
        shutil.rmtree(folder / old, ignore_errors=True)
    for name, text in files(html).items():
        store.write_text(folder / name, text)
    store.write_text(folder / "index.html", html)


def standalone(drawing: Drawing, colours: Mapping[str, str]) -> str:
    """Return a figure of the page as an SVG file: `colours` are the page's variables by name."""
    svg = _METADATA.sub("", drawing.svg)
    svg = _VARIABLE.sub(lambda found: colours.get(found[1], "#000000"), svg)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = svg.replace("<svg", f'<svg {spaces} font-family="{FONTS}"', 1)
    start = svg.index(">") + 1
    paper = f'<rect width="100%" height="100%" fill="{colours.get("paper", "#ffffff")}"/>'
    title = f"<title>{entities.escape(drawing.description, quote=False)}</title>"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{svg[:start]}{title}{paper}{svg[start:]}\n'


def as_csv(table: Table) -> str:
    """Return a table for programs: plain minus signs, no grouping of digits, interval ends apart.

    A column whose cells have an interval below their value is followed by "… low" and "… high",
    one with something else below by a column called so in the head, or "… note".
    """
    columns: list[list[str]] = []
    for place, head in enumerate(table.head):
        cells = [row[place] for row in table.rows]
        columns.append([head.text, *(_plain(cell.text) for cell in cells)])
        below = [cell.below for cell in cells if cell.below]
        if below and all(_INTERVAL.fullmatch(words) for words in below):
            ends = [_INTERVAL.fullmatch(cell.below) for cell in cells]
            for name, group in (("low", 1), ("high", 5)):
                columns.append(
                    [f"{head.text} {name}", *(_plain(end[group]) if end else "" for end in ends)]
                )
        elif below or head.below:
            name = f"{head.text} {head.below or 'note'}"
            columns.append([name, *(_plain(cell.below) for cell in cells)])
    return _csv(list(zip(*columns, strict=True)))


def as_markdown(table: Table) -> str:
    """Return a table in the Markdown of GitHub and pandoc, under its caption."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rules = ["---:" if right else "---" for right in _right(table)]
    rows = [line([_in_markdown(cell) for cell in row]) for row in table.rows]
    head = line([_in_markdown(cell) for cell in table.head])
    caption = _in_markdown(Cell(_titled(table.section, table.caption)))
    return "\n".join([f"**{caption}**", "", head, line(rules), *rows]) + "\n"


def as_latex(table: Table) -> str:
    r"""Return a table in LaTeX with the rules of booktabs, to \input in a paper, as wide as fits.

    What is not in the Latin alphabet is left as it is: LuaLaTeX or XeLaTeX set it.
    """
    widths = [
        max(len(row[place].whole) for row in (table.head, *table.rows))
        for place in range(len(table.head))
    ]
    long = [width for width in widths if width > LONG_CELL]
    form = "".join(
        rf"p{{{0.8 / (len(long) + 0.5):.2f}\linewidth}}" if width > LONG_CELL else "lr"[right]
        for width, right in zip(widths, _right(table), strict=True)
    )
    head = " & ".join(_in_latex(cell) for cell in table.head) + r" \\"
    rows = [" & ".join(_in_latex(cell) for cell in row) + r" \\" for row in table.rows]
    caption = rf"\caption{{{_tex(_titled(table.section, table.caption))}}}"
    body = [r"\toprule", head, r"\midrule", *rows, r"\bottomrule"]
    if len(rows) > LONG_TABLE:
        body.insert(3, r"\endhead")  # what stands above it is repeated on each page
        lines = [
            r"% \usepackage{booktabs,longtable}", r"{\footnotesize",
            rf"\begin{{longtable}}{{{form}}}", caption + r" \\", *body, r"\end{longtable}}",
        ]  # fmt: skip
    else:
        lines = [
            r"% \usepackage{booktabs,graphicx}", r"\begin{table}", r"\centering", r"\small",
            caption, r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{form}}}", *body, r"\end{tabular}}", r"\end{table}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _colours(html: str) -> dict[str, str]:
    """Return the page's variables in light colours."""
    light = _LIGHT.search(html)
    return dict(re.findall(r"--([\w-]+):\s*([^;]+);", light[1])) if light else {}


def _read(html: str) -> tuple[list[Table], list[Drawing]]:
    """Return every table and every figure of the page, in its order."""
    from lxml import html as parser

    drawn = _SVG.findall(html)
    # Of a figure the parser sees its place only: it would fold the case of SVG's names.
    page = parser.document_fromstring(_SVG.sub("<svg></svg>", html))
    tables: list[Table] = []
    drawings: list[Drawing] = []
    section, name = "", ""
    for node in page.iter("h2", "svg", "table"):
        if node.tag == "h2":
            section = _text(node)
            name = section if len(section) <= SHORT_SECTION else node.get("id", section)
        elif node.tag == "table":
            tables.append(_table(node, section, name))
        else:
            svg = drawn[len(drawings)]
            label = re.search(r'aria-label="([^"]*)"', svg)
            description = entities.unescape(label[1]) if label else ""
            caption = next((_text(n) for n in _around(node, "figure", "figcaption")), "")
            drawings.append(Drawing(section, name, caption, description, svg))
    return tables, drawings


def _table(node: Any, section: str, name: str) -> Table:
    caption = next((_text(n) for n in node.iter("caption")), "")
    for box in node.iterancestors("div"):
        # The box's name may say more than the caption, whose section's heading it then repeats.
        named = box.get("aria-label", "")
        if named:
            caption = caption if caption and caption.casefold() not in named.casefold() else named
            break
    grid = [list(_cells(row)) for row in node.iter("tr")]
    wide = max((len(row) for row in grid), default=0)
    filled = [tuple(row + [Cell("")] * (wide - len(row))) for row in grid]
    return Table(section, name, caption, filled[0] if filled else (), tuple(filled[1:]))


def _cells(row: Any) -> Iterator[Cell]:
    for node in row.iter("th", "td"):
        below = [_text(part) for part in node.find_class("interval")]
        strong = bool(node.find_class("tied")) or next(node.iter("strong"), None) is not None
        text = " ".join("".join(_outside(node, "interval")).split())
        right = bool(set(node.get("class", "").split()) & {"n", "value", "rank", "group"})
        yield Cell(text, "; ".join(filter(None, below)), strong, right)
        for _ in range(int(node.get("colspan", 1)) - 1):
            yield Cell("")


def _outside(node: Any, name: str) -> Iterator[str]:
    """Yield the texts in a node but those in elements of this class."""
    yield node.text or ""
    for child in node:
        if name not in child.get("class", "").split():
            yield from _outside(child, name)
        yield child.tail or ""


def _around(node: Any, outer: str, inner: str) -> Iterator[Any]:
    for box in node.iterancestors(outer):
        yield from box.iter(inner)


def _text(node: Any) -> str:
    return " ".join(node.text_content().split())


def _titled(section: str, caption: str) -> str:
    """Return section and caption without saying the same twice."""
    if not caption or caption.casefold().startswith(section.casefold()):
        return caption or section
    return f"{section}: {caption}" if section else caption


def _name(number: int, section: str, caption: str) -> str:
    """Return a file's name without suffix: of small letters, digits and hyphens, never too long."""
    title = _titled(section, caption.partition(": ")[0]).translate(_UMLAUTS)
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    name = "-".join([f"{number:02}", *re.findall("[a-z0-9]+", plain)])
    # The end often says the subset: of a long name the middle goes.
    if len(name) > SHORT:
        end = name[HEAD - SHORT :].partition("-")[2]
        name = "-".join(filter(None, [name[:HEAD].rpartition("-")[0], end]))
    return name


def _entry(section: str, caption: str, stem: str, made: Mapping[str, str]) -> str:
    links = ", ".join(f"[{suffix[1:]}]({stem}{suffix})" for suffix in made)
    return f"- {_in_markdown(Cell(_titled(section, caption)))} ({links})"


def _right(table: Table) -> list[bool]:
    """Return for each column whether it is set to the right: most of its cells are."""
    return [
        2 * sum(row[place].right for row in table.rows) > len(table.rows)
        for place in range(len(table.head))
    ]


def _csv(rows: Sequence[Sequence[object]]) -> str:
    """Return rows as CSV; what a spreadsheet would take for a formula starts with an apostrophe."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(_harmless(cell) for cell in row)
    return text.getvalue()


def _harmless(cell: object) -> object:
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return "" if cell is None else cell


def _plain(text: str) -> str:
    """Return a printed number as programs read it, a dash as nothing, other text as it is."""
    if text == "–":
        return ""
    number = _NUMBER.fullmatch(text)
    return text.replace(",", "").replace("−", "-").lstrip("+") if number else text


def _in_markdown(cell: Cell) -> str:
    text = _MARKDOWN.sub(r"\\\1", cell.text)
    below = _MARKDOWN.sub(r"\\\1", cell.below)
    return Cell(f"**{text}**" if cell.strong and text else text, below).whole


def _in_latex(cell: Cell) -> str:
    text = _tex(cell.text)
    made = Cell(rf"\textbf{{{text}}}" if cell.strong and text else text, _tex(cell.below)).whole
    # Behind the line before, these would be read as arguments of its end.
    return f"{{{made}}}" if made.startswith(("[", "*")) else made


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
