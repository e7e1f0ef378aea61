"""Files that are no PDFs: told apart by their first bytes, and read as Markdown pages."""

import codecs
import re
from pathlib import Path

from ecg_llm.contracts import Page, Reading, ReadingError
from ecg_llm.corpus.docx import docx_to_markdown
from ecg_llm.corpus.jats import jats_to_markdown
from ecg_llm.corpus.markdown import plain_markdown
from ecg_llm.corpus.webpage import BLOCKS, html_to_markdown

SUFFIXES = {
    ".docx": "docx",
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".xml": "jats",
    ".nxml": "jats",
}
"""File suffix: the format that it is read as."""
HEAD = 65_536
"""Bytes by which a file is told; fewer do for most."""
NAMES = {
    "pdf": "a PDF",
    "docx": "a Word document",
    "html": "an HTML page",
    "jats": "an article in XML (JATS)",
}
MARKS = (
    (b"%PDF-", "a PDF"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"\xd0\xcf\x11\xe0", "an old or encrypted Office document"),
    (b"{\\rtf", "an RTF document"),
    (b"%!PS", "a PostScript file"),
    (b"AT&TFORM", "a DjVu document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
)
"""How files begin that hold no text, and what they are."""
ARCHIVES = (
    (b"word/", "a Word document"),
    (b"xl/", "an Excel workbook"),
    (b"ppt/", "a PowerPoint presentation"),
    (b"mimetypeapplication/epub", "an EPUB book"),
    (b"mimetypeapplication/vnd.oasis.opendocument", "an OpenDocument file"),
)
"""How the name of a ZIP archive's file begins, and what the archive is."""
PROLOG = re.compile(r"(?:\s|\ufeff|<!--.*?-->|<\?.*?\?>)*", re.DOTALL)
DOCTYPE = re.compile(r"<!doctype\s+([\w:.-]+)[^>\[]*(?:\[[^\]]*\]\s*)?>?", re.IGNORECASE)
TAGS = BLOCKS | frozenset(["head", "meta", "title", "link", "script", "style", "font", "b", "a"])
PAGE = re.compile(r"<(?:html|head|body|meta|title)[\s>/]", re.IGNORECASE)
ARTICLE = re.compile(r"<(?:\w+:)?(?:article|pmc-articleset|book-meta|book-part-wrapper)[\s>]")
CHARSET = re.compile(rb"(?:charset|encoding)\s{0,9}=\s{0,9}[\"']?([\w-]{1,40})", re.IGNORECASE)


def read(data: bytes, kind: str) -> Reading:
    """Return a file's text as Markdown pages (form feeds of plain text divide pages).

    Args:
        data: The file's bytes.
        kind: A value of SUFFIXES; what the bytes say to be HTML, JATS or DOCX is read as that.

    Raises:
        ReadingError: empty, corrupt, encrypted, too_large, or unsupported (naming what it is).
    """
    if not data.strip():
        raise ReadingError("empty", "The file holds no text.")
    found = sniff(data)
    kind = found if found in ("html", "jats", "docx") else kind
    if kind == "docx" and not data.startswith((b"PK", b"\xd0\xcf")):
        raise ReadingError("unsupported", f"The file is {describe(data)}: save it as DOCX or PDF.")
    title = licence = ""
    try:
        if kind == "docx":
            text, title = docx_to_markdown(data)
        elif kind == "jats":
            text, title, licence = jats_to_markdown(data)
        elif kind == "html":
            text, title, licence = html_to_markdown(decode(data, declared=True))
        elif kind == "markdown":
            text, title, licence = plain_markdown(decode(data))
        else:
            text = decode(data)
    except RecursionError as error:
        raise ReadingError("corrupt", "Its elements are nested too deeply.") from error
    pages = text.split("\f") if kind == "text" else [text]
    if not any(page.strip() for page in pages):
        raise ReadingError("empty", "The file holds no text.")
    return Reading(tuple(Page(page) for page in pages), title, licence, kind)


def sniff(file: bytes | Path) -> str:
    """Return what a file really is by how it begins: "pdf", "html", "jats", "docx", or "".

    Args:
        file: Its path, or its first bytes: HEAD of them, or all.

    Raises:
        OSError: the file cannot be opened.
    """
    head = _head(file)
    if head.startswith(b"PK\x03\x04"):
        return "docx" if _archive(head) == NAMES["docx"] else ""
    text = _decoded(head)
    prolog = PROLOG.match(text)
    start = text[prolog.end() if prolog else 0 :]
    if start.startswith("<"):
        doctype = DOCTYPE.match(start)
        root = re.match(r"\s*<(?:\w+:)?([\w.-]+)", start[doctype.end() if doctype else 0 :])
        if "html" in (doctype[1].lower() if doctype else "", root[1].lower() if root else ""):
            return "html"
        declared = "<?xml" in text[: prolog.end() if prolog else 0] or doctype is not None
        if ARTICLE.search(start) and (
            declared or re.search(r"<(?:front|article-meta|body)\b", start)
        ):
            return "jats"
        if root and root[1].lower() in TAGS and PAGE.search(start) and not declared:
            return "html"
    if re.search(rb"%PDF-\d", head[:1024]):
        return "pdf"
    return "html" if re.search(r"(?im)^\s{0,99}<(?:!doctype html|html[\s>])", text[:1024]) else ""


def describe(file: bytes | Path) -> str:
    """Return the words for what a file is: "a PNG picture", "an HTML page", "plain text".

    Args:
        file: Its path, or its first bytes.

    Raises:
        OSError: the file cannot be opened.
    """
    head = _head(file)
    if not head:
        return "an empty file"
    found = sniff(head)
    if found or _marked(head):
        return NAMES[found] if found else _marked(head)
    if _decoded(head).lstrip("\ufeff \t\r\n").startswith("<?xml"):
        return "XML"
    try:
        decode(head)
    except ReadingError:
        return "something else"
    return "plain text"


def decode(data: bytes, *, declared: bool = False) -> str:
    """Return the text of bytes in UTF-8, UTF-16, the encoding that they name, or Windows-1252.

    Args:
        data: The bytes.
        declared: HTML: it may name its encoding.

    Raises:
        ReadingError: unsupported (another kind of file), or corrupt (no text).
    """
    name = _marked(data[:HEAD])
    if name:
        raise ReadingError("unsupported", f"The file is {name}: save it as DOCX or PDF.")
    wide = _wide(data)
    if wide:
        return data.decode(wide, "replace").removeprefix("\ufeff")
    if data.count(0, 0, 8192) * 100 > min(len(data), 8192):
        raise ReadingError("corrupt", "The file holds binary data, not text.")
    return _narrow(data, declared).replace("\0", "")


def _narrow(data: bytes, declared: bool) -> str:
    """Return the text of bytes in an encoding whose letters of ASCII are single bytes."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", "replace")
    if sum(map(str.isalpha, re.findall(r"[^\x00-\x7f\ufffd]", text))) > text.count("\ufffd"):
        return text  # UTF-8 with some bytes damaged
    charset = CHARSET.search(data[:HEAD]) if declared else None
    return data.decode(_codec(charset[1].decode("ascii") if charset else ""), "replace")


def _codec(name: str) -> str:
    """Return a codec for an encoding that HTML names, as browsers do: Latin-1 is Windows-1252."""
    legacy = re.match(r"(?i)iso-?8859|windows-|cp125|koi8|gb|big5|shift|euc|mac|x-mac", name)
    if legacy and not re.fullmatch(r"(?i)iso-?8859-?1", name):
        try:
            return codecs.lookup(name).name
        except LookupError:
            pass
    return "cp1252"


def _wide(data: bytes) -> str:
    """Return the UTF-16 codec of the data, or "" if they are not UTF-16."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    even, odd = data[0:2048:2], data[1:2048:2]
    for name, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if len(data) > 3 and zeros.count(0) > 0.7 * len(zeros) and not others.count(0):
            return name
    return ""


def _head(file: bytes | Path) -> bytes:
    if isinstance(file, bytes):
        return file[:HEAD]
    with file.open("rb") as opened:
        return opened.read(HEAD)


def _decoded(head: bytes) -> str:
    wide = _wide(head)
    return head.decode(wide, "ignore") if wide else head.decode("latin-1").removeprefix("ï»¿")


def _marked(head: bytes) -> str:
    """Return what a file is by its mark, or "" if it has none and may be text."""
    if head.startswith(b"PK\x03\x04"):
        return _archive(head)
    if head[128:132] == b"DICM":
        return "a DICOM file"
    return next((name for mark, name in MARKS if head.startswith(mark)), "")


def _archive(head: bytes) -> str:
    names = [
        head[match.end() :][:64] for match in re.finditer(rb"PK\x03\x04.{26}", head, re.DOTALL)
    ]
    found = (words for mark, words in ARCHIVES if any(name.startswith(mark) for name in names))
    return next(found, "a ZIP archive")
