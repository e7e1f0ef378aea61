"""Word documents as people write them, and archives that mean harm."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping

import pytest
from docx import Document
from docx.document import Document as Word
from docx.enum.style import WD_STYLE_TYPE
from docx.oxml import OxmlElement, parse_xml
from docx.oxml.ns import qn

from ecg_llm.contracts import ReadingError
from ecg_llm.corpus.formats import read

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
MATH = "http://schemas.openxmlformats.org/officeDocument/2006/math"


def saved(*build: Callable[[Word], object]) -> bytes:
    document = Document()
    for step in build:
        step(document)
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def changed(data: bytes, parts: Mapping[str, bytes | None]) -> bytes:
    """Return the archive with parts replaced, added or (None) left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", 8) as new:
        for name in {**dict.fromkeys(old.namelist()), **parts}:
            content = parts[name] if name in parts else old.read(name)
            if content is not None:
                new.writestr(name, content)
    return buffer.getvalue()


def markdown(data: bytes) -> str:
    return read(data, "docx").pages[0].markdown


def fails(data: bytes) -> str:
    with pytest.raises(ReadingError) as caught:
        read(data, "docx")
    return caught.value.reason


def picture() -> io.BytesIO:
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"00")),
    )
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (*parts, (b"IEND", b""))
    ]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_title_headings_lists_and_links() -> None:
    def write(document: Word) -> None:
        document.core_properties.title = "ECG reading"
        document.add_paragraph("The ECG", style="Title")
        document.add_heading("Rhythm", 1)
        document.add_paragraph("Contents ... 1", style="Normal").style = document.styles.add_style(
            "toc 1", WD_STYLE_TYPE.PARAGRAPH
        )
        document.add_heading("Sinus rhythm", 2)
        paragraph = document.add_paragraph("About 10")
        paragraph.add_run("-3").font.superscript = True
        paragraph.add_run(" mol CO")
        paragraph.add_run("2").font.subscript = True
        paragraph.add_run(" gone").font.strike = True
        document.add_paragraph("first", style="List Bullet")
        document.add_paragraph("inner", style="List Bullet 2")
        document.add_paragraph("one", style="List Number")
        document.add_picture(picture())

    reading = read(saved(write), "docx")
    assert (reading.title, reading.engine) == ("ECG reading", "docx")
    text = reading.pages[0].markdown
    assert text.startswith(
        "# The ECG\n\n# Rhythm\n\n## Sinus rhythm\n\nAbout 10⁻³ mol CO2\n\n- first"
    )
    assert "1. one" in text
    assert not any(word in text for word in ("Contents", "gone", "Figure", "data:"))


def test_styles_of_ones_own_are_headings_by_their_outline_level() -> None:
    def write(document: Word) -> None:
        own = document.styles.add_style("Kapitel 'neu'", WD_STYLE_TYPE.PARAGRAPH)
        level = OxmlElement("w:outlineLvl")
        level.set(qn("w:val"), "1")
        own.element.get_or_add_pPr().append(level)
        based = document.styles.add_style("Abschnitt", WD_STYLE_TYPE.PARAGRAPH)
        based.base_style = own
        document.add_paragraph("Befund", style="Kapitel 'neu'")
        document.add_paragraph("Rhythmus", style="Abschnitt")
        document.add_paragraph("Text.")

    assert markdown(saved(write)) == "## Befund\n\n## Rhythmus\n\nText."


def test_tables_with_merged_cells() -> None:
    def write(document: Word) -> None:
        table = document.add_table(rows=3, cols=3)
        for index, cell in enumerate(cell for row in table.rows for cell in row.cells):
            cell.text = f"c{index}"
        table.cell(0, 1).merge(table.cell(0, 2)).text = "wide"
        table.cell(1, 0).merge(table.cell(2, 0)).text = "tall"

    assert markdown(saved(write)).split("\n") == [
        "| c0 | wide | wide |",
        "|---|---|---|",
        "| tall | c4 | c5 |",
        "| tall | c7 | c8 |",
    ]


def test_footnotes_come_at_the_end() -> None:
    def write(document: Word) -> None:
        paragraph = document.add_paragraph("A wave")
        reference = OxmlElement("w:footnoteReference")
        reference.set(qn("w:id"), "2")
        paragraph.add_run()._r.append(reference)
        paragraph.add_run(" of 450")
        document.add_paragraph("Last.")

    notes = f"""<w:footnotes xmlns:w="{WORD}"><w:footnote w:id="2"><w:p><w:r><w:t>At rest.</w:t>
    </w:r></w:p></w:footnote></w:footnotes>"""
    data = changed(saved(write), {"word/footnotes.xml": notes.encode()})
    assert markdown(data) == "A wave[1] of 450\n\nLast.\n\n1. At rest."


def test_formulas_of_word_are_not_lost() -> None:
    def write(document: Word) -> None:
        paragraph = document.add_paragraph("Bazett: ")
        paragraph._p.append(
            parse_xml(
                f"""<m:oMath xmlns:m="{MATH}"><m:r><m:t>QTc=</m:t></m:r><m:f><m:fPr/><m:num><m:r>
                <m:t>QT</m:t></m:r></m:num><m:den><m:rad><m:deg/><m:e><m:r><m:t>RR</m:t></m:r></m:e>
                </m:rad></m:den></m:f><m:sSup><m:e><m:r><m:t>x</m:t></m:r></m:e><m:sup><m:r>
                <m:t>2</m:t></m:r></m:sup></m:sSup></m:oMath>"""
            )
        )
        para = "".join(f"<m:oMath><m:r><m:t>{sign}=1</m:t></m:r></m:oMath>" for sign in "ab")
        document.add_paragraph()._p.append(
            parse_xml(f'<m:oMathPara xmlns:m="{MATH}">{para}</m:oMathPara>')
        )

    assert markdown(saved(write)) == "Bazett: QTc=QT/√(RR) x²\n\na=1; b=1"


def test_deleted_text_goes_and_inserted_text_stays() -> None:
    run = '<w:r xmlns:w="{}"><w:{}>{}</w:{}></w:r>'
    deleted = (
        f'<w:del xmlns:w="{WORD}" w:id="1">{run.format(WORD, "delText", "old", "delText")}</w:del>'
    )
    inserted = f'<w:ins xmlns:w="{WORD}" w:id="2">{run.format(WORD, "t", "new", "t")}</w:ins>'

    def write(document: Word) -> None:
        paragraph = document.add_paragraph("It is ")
        paragraph._p.append(parse_xml(deleted))
        paragraph._p.append(parse_xml(inserted))

    assert markdown(saved(write)) == "It is new"


def test_a_broken_link_or_picture_costs_no_text() -> None:
    link = f"""<w:hyperlink xmlns:w="{WORD}" r:id="rId99" xmlns:r="http://schemas.openxmlformats.org/
officeDocument/2006/relationships"><w:r><w:t>linked</w:t></w:r></w:hyperlink>""".replace(
        "\n", "", 1
    )

    def write(document: Word) -> None:
        document.add_paragraph("See ")._p.append(parse_xml(link))
        document.add_picture(picture())

    names = zipfile.ZipFile(io.BytesIO(data := saved(write))).namelist()
    gone = {name: None for name in names if "media" in name}
    assert gone
    assert markdown(changed(data, gone)) == "See linked"


TEXT = saved(lambda document: document.add_paragraph("Text."))


def bomb(size: int) -> bytes:
    head = f'<w:document xmlns:w="{WORD}"><w:body>'.encode()
    return changed(TEXT, {"word/document.xml": head + b" " * size + b"</w:body></w:document>"})


def entities() -> bytes:
    laughs = '<!DOCTYPE w [<!ENTITY a0 "ha">' + "".join(
        f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)
    )
    text = "<w:p><w:r><w:t>&a9;</w:t></w:r></w:p>"
    document = f'{laughs}]><w:document xmlns:w="{WORD}"><w:body>{text}</w:body></w:document>'
    return changed(TEXT, {"word/document.xml": document.encode("utf-16")})


def nested() -> bytes:
    inside = "<w:tbl><w:tr><w:tc>" * 100 + "<w:p/>" + "</w:tc></w:tr></w:tbl>" * 100
    document = f'<w:document xmlns:w="{WORD}"><w:body>{inside}</w:body></w:document>'
    return changed(TEXT, {"word/document.xml": document.encode()})


def locked() -> bytes:
    """Set the flag of encryption at every entry of the archive."""
    data = bytearray(TEXT)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(mark, at + 1)
    return bytes(data)


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (OLE + "EncryptedPackage".encode("utf-16-le"), "encrypted"),
        (OLE + "WordDocument".encode("utf-16-le"), "unsupported"),
        (locked(), "encrypted"),
        (b"not a zip", "unsupported"),
        (b"{\\rtf1 x}", "unsupported"),
        (b"PK\x03\x04 not a zip", "corrupt"),
        (TEXT[:-200], "corrupt"),
        (TEXT[:1500], "corrupt"),
        (changed(TEXT, {"word/document.xml": None}), "unsupported"),
        (changed(TEXT, {"word/document.xml": b"<w:document"}), "corrupt"),
        (changed(TEXT, {"word/document.xml": b"<x/>"}), "corrupt"),
        (changed(TEXT, {"[Content_Types].xml": b""}), "corrupt"),
        (bomb(30_000_000), "too_large"),
        (bomb(201_000_000), "too_large"),
        (entities(), "corrupt"),
        (nested(), "corrupt"),
        (saved(lambda document: document.add_paragraph(" ")), "empty"),
        (b"", "empty"),
    ],
    ids=["encrypted", "old", "locked", "no zip", "rtf", "broken zip", "cut", "cut early", "missing",
         "bad xml", "other xml", "no types", "ratio", "size", "entities", "nested", "blank", "nil"],
)  # fmt: skip
def test_what_cannot_be_read_says_why(data: bytes, reason: str) -> None:
    assert fails(data) == reason


def test_large_pictures_are_no_bomb() -> None:
    assert markdown(changed(TEXT, {"word/media/image1.bmp": bytes(210_000_000)})) == "Text."
