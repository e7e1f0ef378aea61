"""Word documents (DOCX) to Markdown: headings, lists, tables, notes and formulas."""

import re
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from xml.parsers.expat import ExpatError

from lxml import etree

from ecg_llm.contracts import ReadingError
from ecg_llm.corpus.formulas import formula
from ecg_llm.corpus.markup import line
from ecg_llm.corpus.webpage import html_to_markdown

LARGEST = 200_000_000
"""Bytes that the parts may have when unpacked."""
RATIO = 200
"""Times that text may be packed; XML of Word reaches 50."""
HARMLESS = 20_000_000
"""Bytes below which the ratio does not matter."""
WANTED = re.compile(
    r"(?:word/)?(?:\w*(?:document|styles|numbering|footnotes|endnotes)\w*\.xml|_rels/[\w.]+\.rels)"
    r"|\[Content_Types\]\.xml|docProps/core\.xml"
)
"""Parts that are unpacked: no pictures, no macros, no embedded files."""
MATHS = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
TITLES = """
p[style-name='Title'] => h1:fresh
p[style-name^='toc '] => !
p[style-name^='TOC '] => !
"""
"""What mammoth's own map of styles lacks: the title is a heading, contents lists are no text."""


def docx_to_markdown(data: bytes) -> tuple[str, str]:
    """Return (Markdown, title) of a Word document; pictures, headers and footers are left out.

    Raises:
        ReadingError: encrypted, too_large (a ZIP bomb), unsupported (another kind of file), or
            corrupt.
    """
    import mammoth

    if data.startswith(b"\xd0\xcf\x11\xe0"):
        if "EncryptedPackage".encode("utf-16-le") in data:
            raise ReadingError("encrypted", "Save the document without a password.")
        raise ReadingError("unsupported", "An old Office document: save it as DOCX or PDF.")
    try:
        parts = _parts(data)
        source = BytesIO()
        with zipfile.ZipFile(source, "w") as archive:
            for name, root in parts.items():
                _unlink(root)
                _spell_out(root)
                archive.writestr(name, etree.tostring(root))
        result = mammoth.convert_to_html(
            source,
            style_map=_style_map(parts),
            include_embedded_style_map=False,
        )
    except (
        zipfile.BadZipFile, zlib.error, etree.XMLSyntaxError, ExpatError, NotImplementedError,
        EOFError, OSError, KeyError, ValueError, IndexError, TypeError, AttributeError,
    ) as error:  # fmt: skip
        raise ReadingError("corrupt", f"The Word document is damaged ({error}).") from error
    text, _, _ = html_to_markdown(result.value)
    core = parts.get("docProps/core.xml")
    return text, line(core.find("{*}title")) if core is not None else ""


def _parts(data: bytes) -> dict[str, etree._Element]:
    """Return the trees of the parts that are read, by name; entities stay unresolved."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        wanted = {
            info.filename: info for info in archive.infolist() if WANTED.fullmatch(info.filename)
        }
        if not any(re.search(r"document\w*\.xml$", name) for name in wanted):
            raise ReadingError("unsupported", "The archive holds no Word document.")
        if any(info.flag_bits & 1 for info in wanted.values()):
            raise ReadingError("encrypted", "Save the document without a password.")
        size = sum(info.file_size for info in wanted.values())
        packed = sum(info.compress_size for info in wanted.values())
        if size > LARGEST or (size > HARMLESS and size > RATIO * packed):
            raise ReadingError("too_large", f"Its text would take {size >> 20} MiB when unpacked.")
        parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True)
        return {name: etree.fromstring(archive.read(info), parser) for name, info in wanted.items()}


def _unlink(root: etree._Element) -> None:
    """Take pictures and the targets of links out: they may be missing, and no one reads them."""
    for node in [*root.iter("{*}blip", "{*}imagedata")]:
        node.getparent().remove(node)
    for node in root.iter("{*}hyperlink"):
        node.attrib.clear()


def _spell_out(root: etree._Element) -> None:
    """Put the text of each formula in its place; mammoth knows no formulas."""
    word = etree.QName(root).namespace
    runs: list[etree._Element] = []
    for node in [*root.iter(f"{MATHS}oMathPara", f"{MATHS}oMath")]:
        parent = node.getparent()
        if parent is None or parent.tag == f"{MATHS}oMathPara":
            continue
        parts = [node] if node.tag == f"{MATHS}oMath" else node.iterchildren(f"{MATHS}oMath")
        run = etree.Element(f"{{{word}}}r")
        text = etree.SubElement(run, f"{{{word}}}t")
        text.set("{http://www.w3.org/XML/1998/namespace}space", "preserve")
        text.text = "; " * (node.getprevious() in runs[-1:]) + "; ".join(map(formula, parts))
        run.tail = node.tail
        parent.replace(node, run)
        runs.append(run)


def _style_map(parts: Mapping[str, etree._Element]) -> str:
    """Return mammoth's map of styles: a style with an outline level is a heading of that level."""
    lines = [TITLES]
    for name, root in parts.items():
        if name.endswith("/styles.xml"):
            word = f"{{{etree.QName(root).namespace}}}"
            styles = {style.get(f"{word}styleId"): style for style in root.iter(f"{word}style")}
            for style in styles.values():
                title, level = _value(style.find(f"{word}name")), _level(style, styles, word)
                if style.get(f"{word}type") == "paragraph" and level < 9:
                    quoted = title.replace("\\", "\\\\").replace("'", "\\'")
                    lines.append(f"p[style-name='{quoted}'] => h{min(level + 1, 6)}:fresh")
    return "\n".join(lines)


def _level(style: etree._Element, styles: Mapping[str, etree._Element], word: str) -> int:
    """Return a style's outline level, its own or of the styles that it is based on; 9 is none."""
    for _ in range(10):
        level = _value(style.find(f"{word}pPr/{word}outlineLvl"))
        if re.fullmatch(r"\d", level):
            return int(level)
        base = styles.get(_value(style.find(f"{word}basedOn")))
        if base is None:
            return 9
        style = base
    return 9


def _value(node: etree._Element | None) -> str:
    return "" if node is None else next((str(value) for value in node.attrib.values()), "")
