"""Files told apart by their bytes; text and Markdown as a person finds them; hostile files."""

import time
from contextlib import suppress
from pathlib import Path

import pytest

from ecg_llm.contracts import ReadingError
from ecg_llm.corpus.formats import describe, read, sniff


def text_of(data: str | bytes, kind: str) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return read(raw, kind).pages[0].markdown


def reason_of(data: str | bytes, kind: str) -> str:
    with pytest.raises(ReadingError) as caught:
        text_of(data, kind)
    return caught.value.reason


JATS = '<?xml version="1.0"?>\n<!-- made by hand -->\n<article><front/></article>'
DOCX = b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml..." + b"PK\x03\x04" + bytes(26) + b"word/"


@pytest.mark.parametrize(
    ("head", "kind", "words"),
    [
        (b"%PDF-1.7\n", "pdf", "a PDF"),
        (b"\n junk before it \n%PDF-1.4", "pdf", "a PDF"),
        (b"How to write %PDF- at the head of a file", "", "plain text"),
        (b"<!DOCTYPE html><title>x", "html", "an HTML page"),
        (b'\xef\xbb\xbf \n<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN">', "html", None),
        (b"<!-- saved\n from --> <!-- twice --><HTML><p>x", "html", None),
        (b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml">', "html", None),
        ("\ufeff<html><body>x".encode("utf-16-le"), "html", None),
        ("<html><body>no mark".encode("utf-16-be"), "html", None),
        (b"<head><link rel=x></head>", "html", None),
        (b'<meta charset="utf-8"><p>x', "html", None),
        (b"<div>x</div><body>y", "html", None),
        (b"HTTP/1.1 200 OK\r\n\r\n<html><p>x", "html", None),
        (JATS.encode(), "jats", "an article in XML (JATS)"),
        (b"<!DOCTYPE article PUBLIC 'a' 'b'>\n<article>", "jats", None),
        (b"<article><front><article-meta/></front></article>", "jats", None),
        (b"<?xml version='1.0'?><pmc-articleset><article>", "jats", None),
        (JATS.encode("utf-16"), "jats", None),
        (b"<?xml version='1.0'?><n:article xmlns:n='x'>", "jats", None),
        (b"<?xml version='1.0'?><settings><title>x</title></settings>", "", "XML"),
        (b"<settings><title>x</title></settings>", "", None),
        (DOCX, "docx", "a Word document"),
        (DOCX.replace(b"word/", b"xl/wo"), "", "an Excel workbook"),
        (b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/epub+zip", "", "an EPUB book"),
        (b"PK\x03\x04" + bytes(26) + b"notes.txt", "", "a ZIP archive"),
        (b"\x89PNG\r\n", "", "a PNG picture"),
        (b"\xd0\xcf\x11\xe0", "", "an old or encrypted Office document"),
        (b"{\\rtf1 x}", "", "an RTF document"),
        (bytes(128) + b"DICM", "", "a DICOM file"),
        (b"# Title\n\n<div>a heading</div>", "", "plain text"),
        ("Überleitung".encode("cp1252"), "", "plain text"),
        (b"\x00\x01\x02", "", "something else"),
        (b"", "", "an empty file"),
    ],
)  # fmt: skip
def test_what_a_file_is_shows_in_its_first_bytes(
    head: bytes, kind: str, words: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "file.pdf"
    path.write_bytes(head)
    assert (sniff(head), sniff(path)) == (kind, kind)
    assert describe(path) == describe(head)
    assert words in (None, describe(head))


def test_what_the_bytes_say_goes_before_the_name() -> None:
    assert read(b"<html><h2>Leads</h2><p>Twelve.", "text").engine == "html"
    assert read(b"<html><h2>Leads</h2><p>Twelve.", "jats").pages[0].markdown.startswith("## Leads")
    assert read(JATS.replace("<front/>", "<body><p>x</p></body>").encode(), "html").engine == "jats"


def test_kramdown_loses_its_markup_and_nothing_else() -> None:
    source = """---
title: "Heart Anatomy"
license: CC BY 4.0
---
<div data-type="note" markdown="1">
If QTc < 450 ms, see [\\[link\\]](#fig-1)**b** and the **cardiac notch**{: data-type="term"}.
</div>
![A heart](x.jpg "It is a fist."){: #fig-1 data-title="T"}

Setext
======

* Ca<sup>2+ </sup>and [text](http://example.org/a_(b)) and CO<sub>2</sub>
"""
    reading = read(source.encode(), "markdown")
    text = reading.pages[0].markdown
    assert (reading.title, reading.licence) == ("Heart Anatomy", "CC BY 4.0")
    assert "If QTc < 450 ms, see Figure **b** and the **cardiac notch**." in text
    assert "Figure: A heart It is a fist." in text
    assert "# Setext" in text
    assert "* Ca²⁺ and text and CO2" in text
    assert not any(mark in text for mark in ("{:", "<div", "](", "---"))


def test_html_inside_markdown_is_read_as_html() -> None:
    source = """<!-- a note -->
<table><tr><th colspan="2">Factors</th></tr><tr><th>Factor</th><th>Effect</th></tr>
<tr><td>Vagus</td><td>slower</td></tr></table>

<span data-type="title">Heart: rates</span> At rest, log<sub>10</sub>5 and <LOD> and a < b > c.<br>
<ul><li>one</li><li>two</li></ul><img src="x" alt="A trace">
"""
    text = text_of(source, "markdown")
    assert text.startswith(
        "Factors\n\n| Factor | Effect |\n|---|---|\n| Vagus | slower |\n\nHeart: rates\n\nAt rest, "
        "log10 5 and <LOD> and a < b > c."
    )
    assert "- one\n\n- two" in text
    assert text.endswith("Figure: A trace")


def test_markdown_footnotes_stay_and_link_targets_go() -> None:
    source = "A wave[^1] and [a link][x].\n\n[^1]: Measured at rest.\n\n[x]: http://a.org 'T'\n"
    assert text_of(source, "markdown") == "A wave[1] and a link.\n\n[1] Measured at rest."
    assert text_of("[Note]: the P wave is first.", "markdown") == "[Note]: the P wave is first."


def test_a_rule_at_the_head_of_a_file_is_no_front_matter() -> None:
    assert "The P wave" in text_of(
        "---\nThe P wave: it comes first: always\n---\nAnd on.", "markdown"
    )
    assert "Only text" in text_of("---\nOnly text\n---\nAnd on.", "markdown")
    reading = read(b"---\ntitle: 2020\ndate: 2024-13-45\nlicense: [a, b]\n---\nText", "markdown")
    assert (reading.title, reading.licence) == ("2020", "")


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b"<!DOCTYPE a [<!ENTITY a 'aa'>]><article><body><p>&a;</p></body></article>", "jats",
         "corrupt"),
        (b"<article><body>", "jats", "corrupt"),
        (b"<settings><a/></settings>", "jats", "unsupported"),
        (b"<?xml version='1.0'?><catalog><book>x</book></catalog>", "jats", "unsupported"),
        (b"\x00\x01\x02", "text", "corrupt"),
        (bytes(5000), "text", "corrupt"),
        (b"{\\rtf1 Hello}", "text", "unsupported"),
        (b"\x89PNG\r\n\x1a\n1", "markdown", "unsupported"),
        (b"", "text", "empty"),
        (b"", "docx", "empty"),
        (b"", "jats", "empty"),
        (b"  \n\t ", "markdown", "empty"),
        (b" \f \f", "text", "empty"),
        (b"<html><script>x</script></html>", "html", "empty"),
        (b"<!-- only this -->", "html", "empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(data: bytes, kind: str, reason: str) -> None:
    assert reason_of(data, kind) == reason


def test_an_unsupported_file_is_named() -> None:
    with pytest.raises(ReadingError, match="an RTF document"):
        read(b"{\\rtf1 Hello}", "text")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_plain_text_in_the_usual_encodings(encoding: str) -> None:
    german = "Die Überleitung dauert 200 ms, länger heißt AV-Block I°."
    assert text_of(german.encode(encoding), "text") == german


def test_one_damaged_byte_does_not_spoil_a_file() -> None:
    data = "Größe, Überleitung, Länge".encode() + b"\xff end"
    assert text_of(data, "text") == "Größe, Überleitung, Länge\ufffd end"
    assert text_of(b"The P wave" * 50 + b"\0", "text") == "The P wave" * 50


def test_form_feeds_divide_pages() -> None:
    assert [page.markdown for page in read(b"one\ftwo", "text").pages] == ["one", "two"]


MARKS = [
    "[", "*", "**a ", "![", "[a](", "![a](", "[[a]", "\\[", "{:", "&", "<", "<!--", "<a ", "<table",
    "<table>", "<sup>", "<math>", "# ", "a\n=", "[^a]", "[a]: ", '![a](x "', '[a](x "', "---\n",
    "<div>", '<a href="', "<span data-type=\"title\">",
]  # fmt: skip


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("kind", ["markdown", "html"])
def test_a_mark_that_never_ends_takes_no_time(mark: str, kind: str) -> None:
    started = time.process_time()
    with suppress(ReadingError):
        text_of("x " + mark * 50_000, kind)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("front", ["title: " + "[" * 9000, "a: &a [x, x]\ntitle: [*a, *a]"])
def test_front_matter_is_no_trap(front: str) -> None:
    assert "Text" in text_of(f"---\n{front}\n---\nText", "markdown")


def test_white_space_inside_a_link_takes_no_time() -> None:
    started = time.process_time()
    text_of("![a](" + " " * 50_000 + "\n[a](" + " " * 50_000, "markdown")
    assert time.process_time() - started < 1
