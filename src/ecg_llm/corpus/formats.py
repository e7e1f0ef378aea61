"""Markdown, HTML, JATS and plain text to Markdown, with what their metadata say."""

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser

import yaml

from ecg_llm.contracts import Page, Reading, ReadingError

SUFFIXES = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".html": "html",
    ".htm": "html",
    ".xml": "jats",
    ".nxml": "jats",
}
"""File suffix: the format that it is read as."""

SKIPPED = frozenset({"script", "style", "nav", "head", "noscript", "template", "svg", "iframe"})
BLOCKS = frozenset(
    re.findall(
        r"\w+",
        "p div section article main header footer aside figure figcaption blockquote ul ol dl dt "
        "dd table thead tbody tfoot tr caption pre hr br li h1 h2 h3 h4 h5 h6 form address",
    )
)
INLINE = frozenset(
    re.findall(
        r"\w+",
        "a abbr b bdi cite code dfn em font i ins kbd mark q s samp small span strong sub sup time "
        "tt u var wbr td th col colgroup img html body label title meta link base",
    )
)
VOID = frozenset(re.findall(r"\w+", "br hr img meta link base col wbr input area embed source"))
SUPERSCRIPTS = str.maketrans("0123456789+-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻")


def read(data: bytes, kind: str) -> Reading:
    """Return a file's text as Markdown pages (form feeds of plain text divide pages).

    Args:
        data: The file's bytes.
        kind: A value of SUFFIXES.

    Raises:
        ReadingError: binary data, XML that is damaged or is no article, or no text.
    """
    title = licence = ""
    if kind == "jats":
        text, title, licence = _jats(data)
    else:
        text = decode(data)
        if kind == "markdown":
            text, title, licence = _markdown(text)
        elif kind == "html":
            text, title = html_to_markdown(text)
    pages = text.split("\f") if kind == "text" else [text]
    if not any(page.strip() for page in pages):
        raise ReadingError("empty", "The file holds no text.")
    return Reading(tuple(Page(page) for page in pages), title, licence, kind)


def decode(data: bytes) -> str:
    """Return the text of UTF-8, UTF-16 (with its mark) or else Windows-1252 bytes.

    Raises:
        ReadingError: the bytes are no text.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    if b"\0" in data[:8192]:
        raise ReadingError("corrupt", "The file holds binary data, not text.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def html_to_markdown(text: str) -> tuple[str, str]:
    """Return (Markdown, title) of an HTML page: headings, lists, table rows, paragraphs."""
    parser = _Converter(keep_lines=False)
    parser.feed(text)
    parser.close()
    return parser.markdown(), " ".join(parser.title.split())


def _markdown(text: str) -> tuple[str, str, str]:
    """Return (text, title, licence) of Markdown with front matter, attributes and HTML in it."""
    title = licence = ""
    front = re.match(r"---[ \t]*\r?\n(.*?)\r?\n(?:---|\.\.\.)[ \t]*(?:\r?\n|$)", text, re.DOTALL)
    if front:
        text = text[front.end() :]
        try:
            fields = yaml.safe_load(front[1])
        except yaml.YAMLError:
            fields = None
        if isinstance(fields, dict):
            title = str(fields.get("title") or "")
            licence = str(fields.get("license") or fields.get("licence") or "")
    text = re.sub(r"!\[([^\]]*)\]\(\s*\S*?(?:\s+\"([^\"]*)\")?\s*\)", _figure, text)
    text = re.sub(r"\[((?:\\.|[^\[\]\\])*)\]\(([^()\s]*)(?:\s+\"[^\"]*\")?\)", _link, text)
    text = re.sub(r"\[([^\[\]\n]+)\]\[\w*\]", r"\1", text)
    text = re.sub(r"^[ ]{0,3}\[[^\]\n]+\]:[ \t]+\S+.*$|^\^[ \t]*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\{[:%][^{}\n]*\}", "", text)
    text = re.sub(r"^(\S.*)\n=+[ \t]*$", r"\n# \1\n", text, flags=re.MULTILINE)
    text = re.sub(r"^(\w.*)\n-{3,}[ \t]*$", r"\n## \1\n", text, flags=re.MULTILINE)
    text = re.sub(r"^(#{1,6}[ \t].*)$", r"\n\1\n", text, flags=re.MULTILINE)
    parser = _Converter(keep_lines=True)
    parser.feed(text)
    parser.close()
    return parser.markdown(), title, licence


def _figure(match: re.Match[str]) -> str:
    words = " ".join(part for part in (match[1], match[2]) if part)
    return f"\n\nFigure: {html.unescape(words)}\n\n" if words else ""


def _link(match: re.Match[str]) -> str:
    words = re.sub(r"\\(.)", r"\1", match[1])
    if words == "[link]":  # OpenStax: the reader sees the number of what is linked
        target = match[2].lower()
        return "Figure" if "fig" in target else "Table" if "tbl" in target else ""
    return words


class _Converter(HTMLParser):
    """HTML to Markdown; with `keep_lines`, text between the tags is Markdown already."""

    def __init__(self, *, keep_lines: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self._keep_lines = keep_lines
        self._out: list[str] = []
        self._skipping: list[str] = []
        self._row: list[str] | None = None
        self._cell: list[str] | None = None
        self._rows = 0
        self._raised = False
        self._in_title = False

    def markdown(self) -> str:
        """Return what was converted so far."""
        text = "".join(self._out)
        if not self._keep_lines:
            text = re.sub(r"[ \t]*\n[ \t]*", "\n", text)
        return re.sub(r"\n{3,}", "\n\n", text).strip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a block, a cell or a stretch to skip."""
        if tag == "title" and not self.title:
            self._in_title = True
        if self._skipping or tag in SKIPPED:
            if tag not in VOID:
                self._skipping.append(tag)
            return
        if tag in ("td", "th"):
            self._end_cell()
            self._cell = []
        elif tag == "tr":
            self._end_row()
            self._row = []
        elif tag == "table":
            self._rows = 0
            self._write("\n\n")
        elif tag == "sup":
            self._raised = True
        elif tag == "br":
            self._write(" " if self._cell is not None else "\n")
        elif re.fullmatch("h[1-6]", tag):
            self._write("\n\n" + "#" * int(tag[1]) + " ")
        elif tag == "li":
            self._write("\n- ")
        elif tag == "img":
            words = dict(attrs).get("alt")
            self._write(f"\n\nFigure: {words}\n\n" if words else "")
        elif tag in BLOCKS:
            self._write("\n\n")
        elif tag not in INLINE and self._keep_lines:
            self._write(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        """End a block, a cell or a stretch to skip."""
        if tag == "title":
            self._in_title = False
        if self._skipping:
            if tag in self._skipping:
                while self._skipping.pop() != tag:
                    pass
            return
        if tag in ("td", "th"):
            self._end_cell()
        elif tag == "tr":
            self._end_row()
        elif tag == "table":
            self._end_row()
            self._write("\n\n")
        elif tag == "sup":
            self._raised = False
        elif tag in BLOCKS and tag not in VOID:
            self._write("\n\n" if tag not in ("li", "ul", "ol") else "\n")

    def handle_data(self, data: str) -> None:
        """Write text."""
        if self._in_title:
            self.title += data
        if self._skipping:
            return
        if not self._keep_lines:
            data = re.sub(r"\s+", " ", data)
            if data == " " and (not self._out or self._out[-1].endswith(("\n", " "))):
                return
        if self._raised:
            data = superscript(data)
        self._write(data)

    def _write(self, text: str) -> None:
        if self._cell is not None:
            self._cell.append(text)
        elif text and not (self._row is not None and not text.strip()):
            self._out.append(text)

    def _end_cell(self) -> None:
        if self._cell is not None and self._row is not None:
            self._row.append(" ".join("".join(self._cell).split()).replace("|", "/"))
        self._cell = None

    def _end_row(self) -> None:
        self._end_cell()
        if self._row:
            self._out.append("\n" * (self._rows == 0) + table_row(self._row, self._rows == 0))
            self._rows += 1
        self._row = None


def superscript(text: str) -> str:
    """Return the digits and signs of a raised text as superscripts, other text as it is."""
    return text.translate(SUPERSCRIPTS) if re.fullmatch(r"[0-9+−-]{1,4}", text.strip()) else text


def table_row(cells: list[str], first: bool) -> str:
    """Return the cells as a row of a Markdown table; the first row brings the rule below it."""
    row = "| " + " | ".join(cells) + " |\n"
    return row + "|" + "---|" * len(cells) + "\n" if first else row


def _jats(data: bytes) -> tuple[str, str, str]:
    """Return (text, title, licence) of a JATS article, or of XHTML."""
    if b"<!ENTITY" in data:
        raise ReadingError("corrupt", "XML that declares entities of its own is not read.")
    parser = ET.XMLParser()
    parser.entity.update({name.rstrip(";"): text for name, text in html.entities.html5.items()})
    try:
        root = ET.fromstring(data, parser)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise ReadingError("corrupt", f"The XML is damaged: {error}.") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else "!"
    if root.tag == "html":
        text, title = html_to_markdown(decode(data))
        return text, title, ""
    article = next((e for e in root.iter() if e.tag in ("article", "book", "book-part")), None)
    if article is None:
        raise ReadingError("unsupported", f"XML of kind <{root.tag}> is no article (JATS).")
    title = next(
        (_words(e) for e in article.iter() if e.tag in ("article-title", "book-title")), ""
    )
    licence = article.find(".//license")
    words = ""
    if licence is not None:
        words = " ".join([*(str(value) for value in licence.attrib.values()), _words(licence)])
    parts = [f"# {title}"] if title else []
    for element in article.iterfind("./front//abstract"):
        parts.extend(["## " + (_words(element.find("title")) or "Abstract"), *_blocks(element, 2)])
    for place in ("./body", "./book-body", "./back"):
        for element in article.iterfind(place):
            parts.extend(_blocks(element, 1))
    return "\n\n".join(part for part in parts if part.strip()), title, words


def _blocks(element: ET.Element, level: int) -> Iterator[str]:
    """Yield the blocks of a JATS element as Markdown."""
    for child in element:
        tag = child.tag
        if tag in ("sec", "app", "ack", "ref-list", "fn-group", "glossary", "boxed-text"):
            name = _words(child.find("title")) or {"ack": "Acknowledgements"}.get(tag, "")
            name = name or ("References" if tag == "ref-list" else "")
            if name:
                yield "#" * min(level + 1, 6) + " " + name
            yield from _blocks(child, level + 1)
        elif tag == "p":
            yield from _paragraph(child, level)
        elif tag in ("fig", "table-wrap"):
            yield _caption(child)
            yield from (_table(table) for table in child.iter("table"))
            yield from (_words(foot) for foot in child.iterfind("table-wrap-foot"))
        elif tag == "list":
            yield "\n".join(f"- {_words(item)}" for item in child.iterfind("list-item"))
        elif tag == "ref":
            label = _words(child.find("label"))
            citation = " ".join(_words(part) for part in child if part.tag != "label")
            yield f"[{label.strip('[].')}] {citation}" if label else citation
        elif tag in ("fn", "disp-quote", "app-group", "fig-group", "statement", "def-list"):
            yield from _blocks(child, level)
        elif tag not in ("title", "label", "sec-meta", "object-id", "!"):
            yield _words(child)


def _paragraph(element: ET.Element, level: int) -> Iterator[str]:
    """Yield a paragraph's text, and then the figures, tables and lists set inside it."""
    inner = [child for child in element if child.tag in ("fig", "table-wrap", "list", "fig-group")]
    if not inner:
        yield _words(element)
        return
    holder = ET.Element("holder")
    holder.extend(inner)
    tails = " ".join(child.tail or "" for child in inner)
    for child in inner:
        child.tail = None
        element.remove(child)
    yield " ".join(f"{_words(element)} {tails}".split())
    yield from _blocks(holder, level)


def _caption(element: ET.Element) -> str:
    label = _words(element.find("label")).rstrip(".:")
    caption = element.find("caption")
    words = " ".join(_words(part) for part in caption) if caption is not None else ""
    return f"{label}. {words}" if label else words


def _table(element: ET.Element) -> str:
    rows = [[_words(cell).replace("|", "/") for cell in row] for row in element.iter("tr")]
    return "".join(table_row(row, index == 0) for index, row in enumerate(rows) if row)


def _words(element: ET.Element | None) -> str:
    """Return an element's text on one line, raised digits as superscripts."""
    if element is None:
        return ""
    return " ".join("".join(_pieces(element)).split())


def _pieces(element: ET.Element) -> Iterator[str]:
    if element.tag == "!":
        return
    text = element.text or ""
    yield superscript(text) if element.tag == "sup" and not len(element) else text
    for child in element:
        if child.tag in ("p", "title", "surname", "year", "list-item", "break", "given-names"):
            yield " "
        yield from _pieces(child)
        yield child.tail or ""
