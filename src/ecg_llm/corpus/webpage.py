"""HTML pages to Markdown: what a reader came for, without menus, banners and scripts."""

import re
from itertools import islice, pairwise

from lxml import etree

from ecg_llm.corpus.markup import MARKED, inline, line, table

DROPPED = frozenset(
    ["head", "title", "input", "option", "datalist", "object", "embed", "audio", "video"]
)
ROLES = frozenset(
    ["navigation", "search", "menu", "menubar", "dialog", "alertdialog", "contentinfo"]
)
BLOCKS = frozenset(
    re.findall(
        r"\S+",
        "p div section article main header footer aside figure figcaption blockquote ul ol li dl "
        "dt dd table caption thead tbody tfoot tr td th hr h1 h2 h3 h4 h5 h6 form fieldset legend "
        "address details summary center hgroup body",
    )
)
LAYOUT = ("table", "h1", "h2", "h3", "h4", "h5", "h6", "article", "main", "section")
"""Elements that tables of data do not hold: with one of them, the table only lays out the page."""
FURNITURE = re.compile(
    r"(?:^|[\s_-])(?:cookies?|onetrust|usercentrics|editsection|noprint|sr-only|visually-hidden|"
    r"screen-reader-text)(?:$|[\s_-])",
    re.IGNORECASE,
)
"""Names of elements that belong to the page's workings."""
SMALL = 300
"""Elements that a cookie banner may have; what has more is the page."""
INVISIBLE = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
BREAK = "\v"
"""Stands for <br> until the block is written."""
TIGHT = {("item", "item"), ("term", "definition"), ("definition", "definition")}
"""Kinds of blocks between which there is no empty line."""
FLAT = re.compile(
    r"</?(?:div|section|article|main|ul|ol|dl|table|tbody|tr|td|blockquote)\b[^<>]*>", re.IGNORECASE
)
MARKS = re.compile(r"</?(?:font|span|b|i|u|em|strong|small|big|center|a)\b[^<>]*>", re.IGNORECASE)


def html_to_markdown(text: str) -> tuple[str, str, str]:
    """Return (Markdown, title, licence) of an HTML page or of a piece of one."""
    root = _tree(text)
    if root is None:
        return "", "", ""
    return _Writer(root).markdown(), _title(root), _licence(root)


def _tree(text: str) -> etree._Element | None:
    """Return the page's tree, flattened if thousands of its tags are open at once."""
    for source in (text, MARKS.sub("", FLAT.sub("<p>", text))):
        parser = etree.HTMLParser(
            encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True
        )
        root = etree.fromstring(source.replace("\0", "").encode("utf-8", "replace"), parser)
        if not parser.error_log.filter_from_fatals():
            break
    return root


class _Writer:
    """Writes the elements of a page as blocks, in their order."""

    def __init__(self, root: etree._Element) -> None:
        self._root = root
        self._has_article = next(root.iter("article", "main"), None) is not None
        self._articles = 0
        self._blocks: list[tuple[str, str]] = [("", "")]
        self._pieces: list[str] = []
        self._kind = ""
        self._prefix = ""
        self._lists: list[int] = []

    def markdown(self) -> str:
        """Return the page; elements are walked, not nested calls, as pages may be deep."""
        whole = None
        walker = etree.iterwalk(self._root, events=("start", "end"))
        for event, node in walker:
            if event == "end":
                if node is not whole:
                    self._close(node.tag)
                self._pieces.append(node.tail or "")
            elif self._is_written(node):
                whole = node
                walker.skip_subtree()
            else:
                self._open(node)
                self._pieces.append(node.text or "")
        self._flush()
        kinds = pairwise(kind for kind, _ in self._blocks)
        gaps = ("\n" if pair in TIGHT else "\n\n" for pair in kinds)
        texts = (text for _, text in self._blocks[1:])
        return "".join(gap + text for gap, text in zip(gaps, texts, strict=True)).strip()

    def _is_written(self, node: etree._Element) -> bool:
        """Write an element that is written, or dropped, as a whole; else return False."""
        tag = node.tag
        if self._is_dropped(node):
            words: str | None = ""
        elif tag == "br":
            words = BREAK
        elif tag == "img":
            words = ""
            description = " ".join(node.get("alt", "").split())
            if description.count(" ") > 1:  # fewer words are a logo's or "Figure 1"
                self._add(f"Figure: {description}")
        elif tag == "pre":
            words = ""
            self._add("```\n" + "".join(node.itertext()).strip("\n") + "\n```")
        elif tag == "table" and not _is_layout(node):
            words = ""
            self._add(table(node))
        else:
            words = inline(node)
        self._pieces.append(words or "")
        return words is not None

    def _is_dropped(self, node: etree._Element) -> bool:
        tag = node.tag
        if tag in ("html", "body"):  # some hide it until a script has run
            return False
        given = dict(node.items())
        role = given.get("role")
        if (
            tag in DROPPED
            or role in ROLES
            or "hidden" in given
            or given.get("aria-hidden") == "true"
            or INVISIBLE.search(given.get("style", ""))
        ):
            return True
        if not self._articles:
            if tag == "footer" or (tag == "aside" and self._has_article) or role == "complementary":
                return True
            if tag == "header" or role == "banner":
                return next(node.iter("h1"), None) is None
        names = f"{given.get('id', '')} {given.get('class', '')}"
        return bool(FURNITURE.search(names)) and len(list(islice(node.iter(), SMALL))) < SMALL

    def _open(self, node: etree._Element) -> None:
        tag = node.tag
        if tag not in BLOCKS:
            self._pieces.append(" " * (tag in MARKED))  # never closed, or it would not be opened
            return
        self._flush()
        if tag in ("article", "main"):
            self._articles += 1
        elif tag in ("ul", "ol"):
            start = node.get("start", "1")
            self._lists.append(int(start) if tag == "ol" and re.fullmatch(r"\d{1,6}", start) else 0)
        elif tag == "li":
            number = self._lists[-1] if self._lists else 0
            if number:
                self._lists[-1] += 1
            indent = "  " * (len(self._lists) - 1)
            self._prefix, self._kind = f"{indent}{number}. " if number else f"{indent}- ", "item"
        elif tag in ("dt", "dd"):
            self._prefix, self._kind = (": ", "definition") if tag == "dd" else ("", "term")
        elif len(tag) == 2 and tag[1] in "123456":
            self._prefix, self._kind = "#" * int(tag[1]) + " ", "heading"

    def _close(self, tag: str) -> None:
        if tag not in BLOCKS:
            return
        self._flush()
        if tag in ("article", "main"):
            self._articles -= 1
        elif tag in ("ul", "ol"):
            self._lists.pop()
        elif tag not in ("li", "dt", "dd") and self._kind != "heading":
            return
        self._rest()

    def _flush(self) -> None:
        """Write the text so far as a block."""
        lines = [" ".join(part.split()) for part in "".join(self._pieces).split(BREAK)]
        self._pieces.clear()
        text = (" " if self._kind == "heading" else "\n").join(lines).strip()
        if text:
            self._blocks.append((self._kind, self._prefix + re.sub(r"\n{3,}", "\n\n", text)))
            if self._kind != "heading":
                self._rest()

    def _add(self, block: str) -> None:
        self._flush()
        if block:
            self._blocks.append(("", block))

    def _rest(self) -> None:
        """Go on with plain text, inside a list under the item's."""
        self._prefix, self._kind = "  " * len(self._lists), ""


def _is_layout(element: etree._Element) -> bool:
    """Tell a table that only lays out the page from one of data."""
    return (
        element.get("role") in ("presentation", "none")
        or next(element.iterdescendants(*LAYOUT), None) is not None
        or all(len(row) <= 1 for row in element.iter("tr"))
    )


def _title(root: etree._Element) -> str:
    """Return the title: as journals give it to search engines, or the first heading."""
    names = {"citation_title": "", "dc.title": ""}
    for meta in root.iter("meta"):
        name = meta.get("name", "").lower()
        if not names.get(name, "-"):
            names[name] = " ".join(meta.get("content", "").split())
    given = [words for words in names.values() if words]
    return next(iter(given), "") or line(root.find(".//h1")) or line(root.find(".//title"))


def _licence(root: etree._Element) -> str:
    """Return the addresses and words in which the page names its licence."""
    found = [
        f"{node.get('href', '')} {line(node)}"
        for node in root.iter("a", "link")
        if "license" in node.get("rel", "").lower().split()
    ]
    found += [
        node.get("content", "")
        for node in root.iter("meta")
        if node.get("name", "").lower() in ("dc.rights", "dcterms.rights", "dcterms.license")
    ]
    return " ".join(" ".join(found).split())
