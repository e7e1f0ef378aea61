"""JATS articles and BITS books, the XML of biomedical publishers, to Markdown."""

import html
import re
from collections.abc import Iterator

from lxml import etree

from ecg_llm.contracts import ReadingError
from ecg_llm.corpus.formulas import local
from ecg_llm.corpus.markup import line, split, table

ROOTS = "self::article or self::book[book-meta] or self::book-part-wrapper"
SECTIONS = {
    "sec": "",
    "app": "",
    "ack": "Acknowledgements",
    "ref-list": "References",
    "fn-group": "",
    "glossary": "Glossary",
    "boxed-text": "",
    "notes": "",
    "book-part": "",
}
"""Elements that have a title, and the title if none is given."""
HOLDERS = frozenset(
    re.findall(
        r"\S+",
        "body back book-body named-book-part-body book-back floats-group floats-wrap app-group "
        "disp-quote statement verse-group disp-formula-group fig-group table-wrap-group "
        "def-list-group boxed-content",
    )
)
"""Elements that hold blocks and have no title of their own."""
APART = frozenset(
    re.findall(
        r"\S+",
        "fig fig-group table-wrap table-wrap-group list def-list boxed-text disp-quote preformat "
        "verse-group statement",
    )
)
"""Elements that may stand in a paragraph, and are written after it."""
LEFT_OUT = frozenset(
    re.findall(
        r"\S+",
        "front front-stub book-meta book-part-meta collection-meta journal-meta sec-meta title "
        "subtitle label object-id supplementary-material sub-article response bio permissions "
        "graphic media processing-meta kwd-group subj-group",
    )
)
VANCOUVER = {
    "volume": " {}",
    "issue": "({})",
    "fpage": ":{}",
    "elocation-id": ":{}",
    "lpage": "–{}",
    "pub-id": ". doi:{}",
    "month": " {}",
    "day": " {}",
    "name": ", {}",
    "string-name": ", {}",
    "etal": ", {}",
}
"""How a part of a reference follows the part before; others follow after a full stop."""
NAMED = re.compile(rb"&(?!(?:amp|lt|gt|quot|apos);)([A-Za-z][A-Za-z0-9]{1,31};)")


def jats_to_markdown(data: bytes) -> tuple[str, str, str]:
    """Return (Markdown, title, licence) of an article, of several in one file, or of a book.

    Peer reviews, translations and supplements that the file holds besides are left out.

    Raises:
        ReadingError: corrupt (damaged, or with entities of its own), or unsupported (no article).
    """
    root = _tree(data)
    articles = root.xpath(f"//*[{ROOTS}][not(ancestor::*[{ROOTS}])]")
    if not articles:
        raise ReadingError("unsupported", f"XML of kind <{root.tag}> is no article (JATS).")
    texts = ["\n\n".join(filter(None, _article(article))) for article in articles]
    return "\n\n".join(texts), _title(articles[0]), _licence(articles[0])


def _tree(data: bytes) -> etree._Element:
    """Return the tree, its tags without namespaces; nothing outside the file is read."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = re.sub(r"^\s*<\?xml[^>]*\?>", "", data.decode("utf-16", "replace"))
        data = text.encode("utf-8", "replace")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(NAMED.sub(_character, data.strip()), parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        what = str(error).split(",")[0]
        raise ReadingError("corrupt", f"The XML is damaged: {what}.") from error
    if next(root.iter(etree.Entity), None) is not None:
        raise ReadingError("corrupt", "XML that declares entities of its own is not read.")
    for node in root.iter("*"):
        node.tag = local(node)
    return root


def _character(match: re.Match[bytes]) -> bytes:
    """Return the character that HTML gives this name; the file's DTD is not at hand."""
    characters = html.entities.html5.get(match[1].decode("ascii"), "")
    return "".join(f"&#{ord(one)};" for one in characters).encode("ascii") or match[0]


def _meta(article: etree._Element) -> etree._Element:
    names = ("./front/article-meta", "./front-stub", "./book-meta", "./book-part/book-part-meta")
    found = (article.find(name) for name in names)
    return next((meta for meta in found if meta is not None), etree.Element("none"))


def _title(article: etree._Element) -> str:
    meta = _meta(article)
    names = (".//title-group/article-title", ".//title-group/title", ".//book-title")
    title = next((node for name in names if (node := meta.find(name)) is not None), None)
    if title is None:
        return ""
    subtitle = line(title.getparent().find("subtitle"))
    return line(title).rstrip(" *") + (f": {subtitle}" if subtitle else "")


def _licence(article: etree._Element) -> str:
    """Return the addresses and the words of the licence."""
    given = _meta(article).find("permissions")
    if given is None:
        given = article.find(".//license")
    if given is None:
        return ""
    addresses = [
        str(value)
        for node in given.iter()
        for name, value in node.attrib.items()
        if str(name).endswith("href")
    ]
    return " ".join(dict.fromkeys([*addresses, *filter(None, (line(node) for node in given))]))


def _article(article: etree._Element) -> Iterator[str]:
    """Yield the blocks of an article: title, abstracts, keywords, body, statements, back matter."""
    meta = _meta(article)
    title = _title(article)
    yield f"# {title}" if title else ""
    for abstract in meta.iter("abstract", "trans-abstract"):
        yield from _section(abstract, line(abstract.find("title")) or "Abstract", 1)
    for group in meta.iter("kwd-group"):
        words = [line(word) for word in group if local(word) not in ("title", "label")]
        yield f"{line(group.find('title')).rstrip(':') or 'Keywords'}: {'; '.join(words)}"
    body = article.find("body")
    if body is not None and len(body) and body[0].tag == "p" and meta.find("abstract") is not None:
        yield "## Main text"  # else it would belong to the abstract
    back = [node for node in article if node.tag in ("back", "book-back")]
    for node in article:
        if node not in back:
            yield from _block(node, 1)
    yield from _statements(meta, " ".join(map(line, back)))
    for node in back:
        yield from _block(node, 1)


def _statements(meta: etree._Element, back: str) -> Iterator[str]:
    """Yield funding and competing interests where the back matter does not say the same."""
    conflicts = [
        note
        for note in meta.iterfind("author-notes/fn")
        if note.get("fn-type", "").lower() in ("conflict", "coi-statement")
    ]
    funding = meta.iterfind("funding-group/funding-statement")
    for title, nodes in (("Funding", funding), ("Competing interests", conflicts)):
        texts = [text for text in map(line, nodes) if text and text not in back]
        if texts:
            yield f"## {title}"
            yield from texts


def _section(element: etree._Element, title: str, level: int) -> Iterator[str]:
    """Yield a section's blocks under its title, and no title alone."""
    below = [block for block in _blocks(element, level + bool(title)) if block]
    if not below and (element.text or "").strip():
        below = [line(element)]
    if below and title:
        yield "#" * min(level + 1, 6) + " " + title
    yield from below


def _blocks(element: etree._Element, level: int) -> Iterator[str]:
    for child in element:
        yield from _block(child, level)


def _block(element: etree._Element, level: int) -> Iterator[str]:
    """Yield the blocks of a JATS element as Markdown."""
    tag = element.tag
    if tag in LEFT_OUT:
        return
    if tag in SECTIONS:
        yield from _section(element, _heading(element), level)
    elif tag == "p":
        yield from _paragraph(element, level)
    elif tag in HOLDERS:
        yield _caption(element)
        yield from _blocks(element, level)
    elif tag == "fig":
        yield _caption(element)
    elif tag == "table-wrap":
        yield _caption(element)
        yield from map(table, element.iter("table"))
        for foot in element.iterfind("table-wrap-foot"):
            yield from _blocks(foot, level)
    elif tag == "list":
        yield "\n".join(_items(element, ""))
    elif tag == "def-list":
        yield from (_definition(item) for item in element.iterfind("def-item"))
    elif tag == "ref":
        yield _reference(element)
    elif tag == "fn":
        yield _labelled(element, " ".join(line(part) for part in element if part.tag != "label"))
    elif tag in ("preformat", "code"):
        yield "```\n" + "".join(element.itertext()).strip("\n") + "\n```"
    elif tag != "caption":
        yield line(element)


def _heading(element: etree._Element) -> str:
    label = line(element.find("label"))
    title = element.find("title")
    if title is None:
        title = element.find("caption/title")
    if title is None:
        title = element.find("book-part-meta/title-group/title")
    words = line(title) or SECTIONS[element.tag]
    return f"{label} {words}".strip() if words else ""


def _paragraph(element: etree._Element, level: int) -> Iterator[str]:
    """Yield a paragraph's text, and then the figures, tables and lists set inside it."""
    text, inner = split(element, APART)
    yield text
    for child in inner:
        yield from _block(child, level)


def _items(element: etree._Element, indent: str) -> Iterator[str]:
    """Yield the lines of a list and of those inside it."""
    ordered = element.get("list-type", "") not in ("", "bullet", "simple")
    for number, item in enumerate(element.iterfind("list-item"), start=1):
        text, inner = split(item, APART)
        labelled = item.find("label") is not None
        marker = "" if labelled and re.match(r"\(?\w{1,4}[.)]", text) else "- "
        yield f"{indent}{f'{number}. ' if ordered and not labelled else marker}{text}"
        for child in inner:
            if child.tag == "list":
                yield from _items(child, indent + "  ")
            else:
                yield from (f"{indent}  {block}" for block in _block(child, 6) if block)


def _definition(item: etree._Element) -> str:
    meanings = [f": {line(node)}" for node in item.iterfind("def")]
    return "\n".join([line(item.find("term")), *meanings])


def _caption(element: etree._Element) -> str:
    label = line(element.find("label")).rstrip(".:")
    caption = element.find("caption")
    words = " ".join(line(part) for part in caption) if caption is not None else ""
    return f"{label}. {words}" if label and words else words or label


def _labelled(element: etree._Element, text: str) -> str:
    label = line(element.find("label")).strip("[]().")
    return f"[{label}] {text}" if label and text else text


def _reference(element: etree._Element) -> str:
    """Return an entry of the reference list as one paragraph."""
    parts = (part for part in element if part.tag not in ("label", "title"))
    return _labelled(element, " ".join(filter(None, map(_citation, parts))))


def _citation(element: etree._Element) -> str:
    """Return a citation as its publisher set it, or punctuated here if it is but elements."""
    if element.tag == "citation-alternatives" and len(element):
        return _citation(element[0])
    if (element.text or "").strip() or any((part.tail or "").strip() for part in element):
        return line(element)
    text = before = ""
    for part in element:
        words = line(part)
        if part.tag == "person-group":
            words = ", ".join(filter(None, map(line, part))) or words
        if words and part.get("pub-id-type", "doi") == "doi":
            form = VANCOUVER.get(part.tag, " {}" if text.endswith((".", "?", "!")) else ". {}")
            form = ";{}" if (before, part.tag) == ("year", "volume") else form
            text += form.format(words) if text else words
            before = part.tag
    return text
