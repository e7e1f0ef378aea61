"""JATS articles as biomedical publishers make them, and XML that means harm."""

import time
from pathlib import Path

import pytest

from ecg_llm.contracts import ReadingError
from ecg_llm.corpus.formats import read

ARTICLE = """<?xml version="1.0"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS//EN" "x.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta>
<title-group><article-title>QT &amp; <italic>death</italic><xref ref-type="fn">*</xref>
</article-title><subtitle>A study</subtitle></title-group>
<author-notes><fn fn-type="conflict"><p>None.</p></fn><fn fn-type="con"><p>All.</p></fn>
</author-notes><permissions><license xlink:href="http://creativecommons.org/licenses/by/4.0/">
<p>Free.</p></license></permissions>
<abstract><p>Short&nbsp;text.</p></abstract><trans-abstract><title>Zusammenfassung</title>
<p>Kurz.</p></trans-abstract><kwd-group><kwd>QT</kwd><kwd>ECG</kwd></kwd-group>
<funding-group><funding-statement>Paid by X.</funding-statement></funding-group>
</article-meta></front>
<body><sec><label>1.</label><title>Methods</title><p>We saw <bold>10</bold> patients<sup>2</sup>.
<fig><label>Figure 1.</label><caption><title>Flow</title><p>All of them.</p></caption></fig> Then
<italic>more</italic>.</p><table-wrap><label>Table 1</label><caption><p>Ages</p></caption>
<table><thead><tr><th rowspan="2">Sex</th><th colspan="2">n</th></tr><tr><th>old</th><th>young</th>
</tr></thead><tbody><tr><td>men<xref ref-type="table-fn" rid="f">a</xref></td><td>4</td><td>5</td>
</tr></tbody></table><table-wrap-foot><fn id="f"><label>a</label><p>At rest.</p></fn>
</table-wrap-foot></table-wrap>
<sec><title>Sample</title><list list-type="order"><list-item><p>One</p><list><list-item><p>Inner</p>
</list-item></list></list-item></list></sec>
<sec sec-type="supplementary-material"><title>Supporting information</title>
<supplementary-material><label>S1</label><caption><p>File.</p></caption></supplementary-material>
</sec></sec></body>
<back><ack><p>Thanks.</p></ack><ref-list><ref><label>1</label><mixed-citation>Hering H. 1908.
</mixed-citation></ref></ref-list></back>
<sub-article><body><p>Review.</p></body></sub-article></article>"""


def markdown(body: str | bytes) -> str:
    if isinstance(body, str):
        body = f"<article><body>{body}</body></article>".encode()
    return read(body, "jats").pages[0].markdown


def test_an_article_from_title_to_references() -> None:
    reading = read(ARTICLE.encode(), "jats")
    assert reading.title == "QT & death: A study"
    assert "creativecommons.org/licenses/by/4.0" in reading.licence
    assert [line for line in reading.pages[0].markdown.split("\n") if line] == [
        "# QT & death: A study",
        "## Abstract",
        "Short text.",
        "## Zusammenfassung",
        "Kurz.",
        "Keywords: QT; ECG",
        "## 1. Methods",
        "We saw 10 patients². Then more.",
        "Figure 1. Flow All of them.",
        "Table 1. Ages",
        "| Sex | n: old | n: young |",
        "|---|---|---|",
        "| men[a] | 4 | 5 |",
        "[a] At rest.",
        "### Sample",
        "1. One",
        "  - Inner",
        "## Funding",
        "Paid by X.",
        "## Competing interests",
        "None.",
        "## Acknowledgements",
        "Thanks.",
        "## References",
        "[1] Hering H. 1908.",
    ]


def test_body_text_without_a_heading_is_no_part_of_the_abstract() -> None:
    article = """<article><front><article-meta><abstract><p>Short.</p></abstract></article-meta>
    </front><body><p>Long.</p></body></article>"""
    assert markdown(article.encode()) == "## Abstract\n\nShort.\n\n## Main text\n\nLong."


def test_text_behind_a_list_in_a_paragraph_keeps_its_order() -> None:
    body = "<p>One <list><list-item><p>item</p></list-item></list>two <bold>three</bold> four.</p>"
    assert markdown(body) == "One two three four.\n\n- item"


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("<mixed-citation><name><surname>Bazett</surname><given-names>HC</given-names></name>, "
         "(<year>1920</year>) <article-title>On time</article-title>. <source>Heart</source>"
         "<volume>7</volume>: <fpage>353</fpage>.<pub-id pub-id-type='pmid'>99</pub-id>"
         "<pub-id pub-id-type='doi'>10.1/x</pub-id></mixed-citation>",
         "Bazett HC, (1920) On time. Heart 7: 353. doi:10.1/x"),
        ("<element-citation><person-group><name><surname>Bazett</surname><given-names>HC"
         "</given-names></name><name><surname>Lewis</surname><given-names>T</given-names></name>"
         "<etal>et al.</etal></person-group><article-title>On time?</article-title>"
         "<source>Heart</source><year>1920</year><volume>7</volume><issue>2</issue>"
         "<fpage>353</fpage><lpage>370</lpage><pub-id pub-id-type='pmid'>9</pub-id>"
         "</element-citation>",
         "Bazett HC, Lewis T, et al. On time? Heart. 1920;7(2):353–370"),
        ("<citation-alternatives><element-citation><source>A</source></element-citation>"
         "<mixed-citation>A, a.</mixed-citation></citation-alternatives>", "A"),
    ],
)  # fmt: skip
def test_references_are_a_paragraph_each(reference: str, text: str) -> None:
    data = f"<article><back><ref-list><ref>{reference}</ref></ref-list></back></article>"
    assert markdown(data.encode()) == f"## References\n\n{text}"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<disp-formula><label>(1)</label><alternatives><graphic/><mml:math><mml:mi>x</mml:mi>"
         "</mml:math><tex-math>\\documentclass{minimal}\\begin{document}$$x^2$$\\end{document}"
         "</tex-math></alternatives></disp-formula>", "(1) $x^2$"),
        ("<p>is <inline-formula><mml:math><mml:mfrac><mml:mn>1</mml:mn><mml:mn>2</mml:mn>"
         "</mml:mfrac></mml:math></inline-formula> s</p>", "is 1/2 s"),
    ],
)  # fmt: skip
def test_formulas_are_told_once(source: str, text: str) -> None:
    data = (
        f'<article xmlns:mml="http://www.w3.org/1998/Math/MathML"><body>{source}</body></article>'
    )
    assert markdown(data.encode()) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("shown<xref ref-type='bibr'>12</xref>.", "shown[12]."),
        ("shown [<xref ref-type='bibr'>12</xref>].", "shown [12]."),
        ("in 450<sup><xref ref-type='bibr'>1</xref>,<xref ref-type='bibr'>2</xref></sup>",
         "in 450[1,2]"),
        ("as in <xref ref-type='fig'>Fig. 1</xref>", "as in Fig. 1"),
        ("<sup>a</sup>At rest.", "[a] At rest."),
    ],
)  # fmt: skip
def test_marks_of_references_do_not_run_into_words(source: str, text: str) -> None:
    assert markdown(f"<p>{source}</p>") == text


def test_other_blocks() -> None:
    body = """<sec><title>T</title><def-list><def-item><term>AV</term><def><p>node</p></def>
    </def-item></def-list><boxed-text><caption><title>Box 1</title></caption><p>Key.</p>
    </boxed-text><disp-quote><p>Said.</p></disp-quote><preformat>a
  b</preformat><!-- no --><?pi no?></sec>"""
    assert markdown(body) == (
        "## T\n\nAV\n: node\n\n### Box 1\n\nKey.\n\nSaid.\n\n```\na\n  b\n```"
    )


def test_figures_that_float_and_books_and_sets_of_articles() -> None:
    floats = (
        "<article><body><p>x</p></body><floats-group><fig><label>Fig. 1</label><caption><p>y</p>"
    )
    floats += "</caption></fig></floats-group></article>"
    assert markdown(floats.encode()) == "x\n\nFig. 1. y"
    book = """<book-part-wrapper><book-meta><book-title-group><book-title>ECG</book-title>
    </book-title-group></book-meta><book-part><book-part-meta><title-group><title>Leads</title>
    </title-group></book-part-meta><body><sec><title>Limb</title><p>I, II.</p></sec></body>
    </book-part></book-part-wrapper>"""
    reading = read(book.encode(), "jats")
    assert reading.title == "ECG"
    assert reading.pages[0].markdown == "# ECG\n\n## Leads\n\n### Limb\n\nI, II."
    articles = "<pmc-articleset><article><body><p>one</p></body></article><article><body><p>two</p>"
    articles += "</body></article></pmc-articleset>"
    assert markdown(articles.encode()) == "one\n\ntwo"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_encodings_and_namespaces(encoding: str) -> None:
    data = f"""<?xml version="1.0" encoding="{encoding}"?>
    <j:article xmlns:j="http://jats.nlm.nih.gov"><j:body><j:p>Überleitung &alpha; &ge; 200 ms</j:p>
    </j:body></j:article>"""
    if encoding == "utf-8":
        data = "  \n" + data
    assert markdown(data.encode(encoding)) == "Überleitung α ≥ 200 ms"


LAUGHS = '<!DOCTYPE a [<!ENTITY a0 "ha">' + "".join(
    f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)
)


@pytest.mark.parametrize(
    "data",
    [
        LAUGHS + "]><article><body><p>&a9;</p></body></article>",
        LAUGHS + "]><article><body><p id='&a9;'>x</p></body></article>",
        '<!DOCTYPE a [<!ENTITY a "' + "a" * 50_000 + '">]><article><p>' + "&a;" * 50_000
        + "</p></article>",
        "<!DOCTYPE a [<!ENTITY x 'y'>]><article><body><p>&x;</p></body></article>",
        "<article>" + "<sec>" * 100_000 + "</sec>" * 100_000 + "</article>",
        "<article><body>" + "<sec>" * 240 + "<p>x</p>" + "</sec>" * 240 + "</body></article>",
        "<article><body><p>x\0y</p></body></article>",
        "<article><body><p>&nosuch;</p></body></article>",
        "<article><body><p>x</p>",
    ],
    ids=["laughs", "laughs in attribute", "quadratic", "entity", "deep", "deep sections", "nul",
         "unknown entity", "unclosed"],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_bombs_and_damage_are_refused_at_once(data: str, encoding: str) -> None:
    started = time.process_time()
    with pytest.raises(ReadingError) as caught:
        markdown(data.encode(encoding))
    assert caught.value.reason == "corrupt"
    assert "huge" not in caught.value.note.lower()
    assert time.process_time() - started < 2


@pytest.mark.parametrize("kind", ["entity", "dtd", "parameter", "xinclude"])
def test_files_that_xml_points_to_are_not_read(kind: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("<!ENTITY x 'password'>")
    address = secret.as_uri()
    declared = {
        "entity": f'<!DOCTYPE a [<!ENTITY x SYSTEM "{address}">]>',
        "dtd": f'<!DOCTYPE a SYSTEM "{address}">',
        "parameter": f'<!DOCTYPE a [<!ENTITY % p SYSTEM "{address}"> %p;]>',
        "xinclude": "",
    }[kind]
    include = (
        f'<i:include xmlns:i="http://www.w3.org/2001/XInclude" href="{address}" parse="text"/>'
    )
    inside = include if kind == "xinclude" else "&x;"
    data = f"{declared}<article><body><p>Text {inside}</p></body></article>"
    if kind == "xinclude":
        assert markdown(data.encode()) == "Text"
    else:
        with pytest.raises(ReadingError, match="entities") as caught:
            markdown(data.encode())
        assert "password" not in caught.value.note


def test_large_articles_take_seconds_at_most() -> None:
    started = time.process_time()
    assert markdown("<p>" + "<italic>x</italic> &nbsp;" * 50_000 + "</p>")
    assert markdown("<sec><title>t</title><p>x</p></sec>" * 20_000)
    assert time.process_time() - started < 5
