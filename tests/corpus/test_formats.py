"""Markdown, HTML, JATS and plain text as a person finds them."""

import pytest

from ecg_llm.contracts import ReadingError
from ecg_llm.corpus.formats import read


def text_of(data: str | bytes, kind: str) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return read(raw, kind).pages[0].markdown


def test_html_keeps_headings_lists_tables_and_drops_scripts() -> None:
    page = """<html><head><title>The  QT
    interval</title><style>p {}</style></head><body><nav>Menu</nav><h2>Normal <em>values</em></h2>
    <p>At most 450&nbsp;ms, 10<sup>-3</sup> s &amp; more.<script>alert("x")</script></p>
    <ul><li>men<li>women</ul><table><tr><th>Sex<th>ms</tr><tr><td>men<td>450</table></body>"""
    reading = read(page.encode(), "html")
    assert reading.title == "The QT interval"
    lines = reading.pages[0].markdown.split("\n")
    assert lines[0] == "## Normal values"
    assert "At most 450 ms, 10⁻³ s & more." in lines
    assert "- men" in lines
    assert "| Sex | ms |" in lines
    assert "| men | 450 |" in lines
    assert not any(word in "".join(lines) for word in ("Menu", "alert", "p {"))


def test_kramdown_loses_its_markup_and_nothing_else() -> None:
    source = """---
title: "Heart Anatomy"
license: CC BY 4.0
---
<div data-type="note" markdown="1">
If QTc < 450 ms, see [\\[link\\]](#fig-1) and the **cardiac notch**{: data-type="term"}.
</div>
![A heart](x.jpg "It is a fist."){: #fig-1 data-title="T"}

Setext
======

* Ca<sup>2+</sup> and [text](http://example.org)
"""
    reading = read(source.encode(), "markdown")
    text = reading.pages[0].markdown
    assert (reading.title, reading.licence) == ("Heart Anatomy", "CC BY 4.0")
    assert "If QTc < 450 ms, see Figure and the **cardiac notch**." in text
    assert "Figure: A heart It is a fist." in text
    assert "# Setext" in text
    assert "* Ca²⁺ and text" in text
    assert not any(mark in text for mark in ("{:", "<div", "](", "---"))


ARTICLE = """<?xml version="1.0"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS//EN" "x.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta>
<title-group><article-title>QT &amp; <italic>death</italic></article-title></title-group>
<permissions><license xlink:href="http://creativecommons.org/licenses/by/4.0/"><p>Free.</p></license>
</permissions><abstract><p>Short&nbsp;text.</p></abstract></article-meta></front>
<body><sec><title>Methods</title><p>We saw <bold>10</bold> patients<sup>2</sup>.
<fig><label>Figure 1.</label><caption><title>Flow</title><p>All of them.</p></caption></fig> Then
more.</p><table-wrap><label>Table 1</label><caption><p>Ages</p></caption>
<table><tr><th>Sex</th><th>n</th></tr><tr><td>men</td><td>4</td></tr></table></table-wrap>
<sec><title>Sample</title><list><list-item><p>One</p></list-item></list></sec></sec></body>
<back><ack><p>Thanks.</p></ack><ref-list><ref><label>1</label><mixed-citation>Hering H. 1908.
</mixed-citation></ref></ref-list></back></article>"""


def test_jats_to_markdown() -> None:
    reading = read(ARTICLE.encode(), "jats")
    assert reading.title == "QT & death"
    assert "creativecommons.org/licenses/by/4.0" in reading.licence
    assert [line for line in reading.pages[0].markdown.split("\n") if line] == [
        "# QT & death",
        "## Abstract",
        "Short text.",
        "## Methods",
        "We saw 10 patients². Then more.",
        "Figure 1. Flow All of them.",
        "Table 1. Ages",
        "| Sex | n |",
        "|---|---|",
        "| men | 4 |",
        "### Sample",
        "- One",
        "## Acknowledgements",
        "Thanks.",
        "## References",
        "[1] Hering H. 1908.",
    ]


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b'<!DOCTYPE a [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><article/>', "jats", "corrupt"),
        (b"<article><body>", "jats", "corrupt"),
        (b"<settings><a/></settings>", "jats", "unsupported"),
        (b"\x00\x01\x02", "text", "corrupt"),
        (b"  \n ", "markdown", "empty"),
        (b"<html><script>x</script></html>", "html", "empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(data: bytes, kind: str, reason: str) -> None:
    with pytest.raises(ReadingError) as caught:
        read(data, kind)
    assert caught.value.reason == reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_plain_text_in_the_usual_encodings(encoding: str) -> None:
    assert text_of("Überleitung 200 ms".encode(encoding), "text") == "Überleitung 200 ms"


def test_form_feeds_divide_pages() -> None:
    assert [page.markdown for page in read(b"one\ftwo", "text").pages] == ["one", "two"]
