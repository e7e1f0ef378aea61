"""HTML pages as journals and people make them."""

import time

import pytest

from ecg_llm.contracts import ReadingError
from ecg_llm.corpus.formats import read
from ecg_llm.corpus.webpage import html_to_markdown


def markdown(page: str) -> str:
    return html_to_markdown(page)[0]


def test_headings_lists_tables_stay_and_scripts_go() -> None:
    page = """<html><head><title>The  QT
    interval</title><style>p {}</style></head><body><nav>Menu</nav><h2>Normal <em>values</em></h2>
    <p>At most 450&nbsp;ms, 10<sup>-3</sup> s &amp; more.<script>alert("x")</script></p>
    <ul><li>men<li>women</ul><table><tr><th>Sex<th>ms</tr><tr><td>men<td>450</table></body>"""
    assert html_to_markdown(page)[1] == "The QT interval"
    assert markdown(page) == (
        "## Normal values\n\nAt most 450 ms, 10⁻³ s & more.\n\n- men\n- women\n\n"
        "| Sex | ms |\n|---|---|\n| men | 450 |"
    )


def test_what_surrounds_the_article_goes_and_its_own_header_stays() -> None:
    page = """<body><header><a>Journal</a></header><div role="navigation">Go to</div>
    <div id="cookie-banner"><p>We use cookies</p></div><aside>Most read</aside>
    <main><article><header><h1>QT</h1><p>By A. Author</p></header><p>Text.</p>
    <aside>Key point.</aside><p style="display: none">hidden</p><p hidden>hidden</p>
    <h2>Methods<span class="mw-editsection">[edit]</span></h2><p>More.</p>
    <footer>Received in May.</footer></article></main>
    <footer>Terms</footer><div role="dialog">Sign in</div></body>"""
    assert markdown(page).split("\n\n") == [
        "# QT", "By A. Author", "Text.", "Key point.", "## Methods", "More.", "Received in May.",
    ]  # fmt: skip


def test_a_page_without_an_article_keeps_its_title_and_asides() -> None:
    page = "<body class=cookies><header><h1>QT</h1></header><aside>Note.</aside><p>Text.</body>"
    assert markdown(page) == "# QT\n\nNote.\n\nText."


def test_informed_consent_is_no_cookie_banner() -> None:
    assert markdown("<section id='consent'><p>Patients gave consent.</section>")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("CO<sub>2</sub>", "CO2"),
        ("HCO<sub>3</sub><sup>−</sup>", "HCO3⁻"),
        ("log<sub>10</sub>5", "log10 5"),
        ("101<sub>2</sub>", "101_2"),
        ("QT<sub>c</sub>", "QTc"),
        ("10<sup>-3</sup>", "10⁻³"),
        ("10<sup>–12</sup> M", "10⁻¹² M"),
        ("Ca<sup>2+ </sup>flows", "Ca²⁺ flows"),
        ("RR<sup>1/3</sup>", "RR^(1/3)"),
        ("RR<sup>0.33</sup>", "RR^0.33"),
        ("e<sup>-kt</sup>", "e^(-kt)"),
        ("shown<sup>1,2</sup>", "shown[1,2]"),
        ("in 1998<sup>3–5</sup>", "in 1998[3–5]"),
        ("450<sup><a href='#r12'>12</a></sup> ms", "450[12] ms"),
        ("450<a href='#r12'><sup>12</sup></a> ms", "450[12] ms"),
        ("status<sup>a</sup>", "status^a"),
        ("19<sup>th</sup> Ca<sup>®</sup>", "19th Ca®"),
        ("a <s>wrong</s> word", "a word"),
    ],
)
def test_raised_and_lowered_text_runs_together_with_nothing(source: str, text: str) -> None:
    assert markdown(f"<p>{source}</p>") == text


def test_a_tag_never_closed_costs_no_text() -> None:
    page = "<p>10<sup>3 beats<p>Second <s>part<h2>Third</h2><p>Last"
    assert markdown(page) == "10 3 beats\n\nSecond part\n\n## Third\n\nLast"
    assert markdown("<div><nav>Menu<ul><li>more</div><p>Text") == "Text"


def test_tables_keep_their_columns_aligned() -> None:
    page = """<table><caption>Table 1. Rates</caption><thead>
    <tr><th rowspan=2>Lead</th><th colspan=2>Men</th><th>Women</th></tr>
    <tr><th>n</th><th>ms</th><th>ms</th></tr></thead>
    <tr><td colspan=4>Limb leads</td></tr>
    <tr><td rowspan=2>I</td><td>1</td><td colspan=2>n.s.</td></tr>
    <tr><td>2</td><td>90</td><td>a|b</td></tr><tr><td> </td></tr></table>"""
    assert markdown(page).split("\n") == [
        "Table 1. Rates",
        "",
        "| Lead | Men: n | Men: ms | Women: ms |",
        "|---|---|---|---|",
        "| Limb leads |  |  |  |",
        "| I | 1 | n.s. | n.s. |",
        "| I | 2 | 90 | a/b |",
    ]


def test_a_cell_that_reaches_past_a_short_row_stays_in_its_column() -> None:
    page = "<table><tr><td>a<td>b<td rowspan=3>c<tr><td>d<tr><td>e<td>f<tr><td>g<td>h<td>i</table>"
    assert markdown(page).split("\n")[2:] == ["| d |  | c |", "| e | f | c |", "| g | h | i |"]


def test_a_table_that_lays_out_the_page_is_no_table() -> None:
    page = "<table><tr><td>Menu<td><h1>ECG</h1><p>Text.<table><tr><td>a<td>b</table></table>"
    assert markdown(page) == "Menu\n\n# ECG\n\nText.\n\n| a | b |\n|---|---|"


@pytest.mark.parametrize(
    "table",
    [
        "<tr><td colspan=1000>a<td colspan=1000 rowspan=65534>b" * 5000,
        "<tr>" + "<td rowspan=65534>a" * 5000 + "<tr><td>x" * 5000,
        "<tr>" + "<td>a" * 5000 + "<td rowspan=65534>z" + "<tr><td>x" * 20000,
        "<tr><td colspan=99999999999999>a<td rowspan=-1>b",
    ],
)
def test_spans_are_no_bomb(table: str) -> None:
    assert 2 < len(markdown(f"<table>{table}</table>")) < 5_000_000


def test_lists_nest_number_and_define() -> None:
    page = """<ol start=3><li>three<ul><li>inner <p>again</ul><li>four</ol>
    <dl><dt>P wave<dd>atria<dd>first<dt>QRS<dd>ventricles</dl><p>End<br>of it."""
    assert markdown(page) == (
        "3. three\n  - inner\n\n    again\n\n4. four\n\nP wave\n: atria\n: first\n\nQRS\n"
        ": ventricles\n\nEnd\nof it."
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<math alttext='x_1'><mi>x</mi><mn>1</mn></math>", "$x_1$"),
        ("<math alttext='x over y'><mi>x</mi></math>", "x over y"),
        ("<math><semantics><mi>x</mi><annotation encoding='application/x-tex'>\\frac{1}{2}"
         "</annotation></semantics></math>", "$\\frac{1}{2}$"),
        ("<math><mn>1</mn><mn>2</mn></math>", "1 2"),
        ("<math><mfrac><mn>1</mn><mn>2</mn></mfrac></math>", "1/2"),
        ("<math><mi>QTc</mi><mo>=</mo><mfrac><mi>QT</mi><msqrt><mi>RR</mi></msqrt></mfrac></math>",
         "QTc = QT/√(RR)"),
        ("<math><msup><mn>10</mn><mrow><mo>-</mo><mn>3</mn></mrow></msup></math>", "10⁻³"),
        ("<math><msup><mfrac><mi>a</mi><mi>b</mi></mfrac><mn>2</mn></msup></math>", "(a/b)²"),
        ("<math><msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup><mo>−</mo><mn>1</mn></math>",
         "x_i² − 1"),
        ("<math><mo>−</mo><mn>2</mn><mo>⁢</mo><mi>x</mi></math>", "−2 x"),
        ("<math><mfenced><mi>a</mi><mi>b</mi></mfenced></math>", "(a, b)"),
    ],
)  # fmt: skip
def test_formulas_are_told_on_one_line(source: str, text: str) -> None:
    assert markdown(f"<p>{source}</p>") == text


def test_a_digit_does_not_touch_a_formula() -> None:
    assert markdown("<p>n=4<math><mn>5</mn></math>6</p>") == "n=4 5 6"


def test_title_and_licence_from_metadata() -> None:
    page = """<head><title>QT | Journal</title><meta name="DC.Rights" content="CC BY 4.0">
    <meta name="Citation_Title" content="The  QT"><link rel="license" href="http://cc.org/by"></head>
    <h1>QT</h1><a rel="nofollow license" href="http://cc.org/4.0">Open</a>"""
    _, title, licence = html_to_markdown(page)
    assert title == "The QT"
    assert licence == "http://cc.org/by http://cc.org/4.0 Open CC BY 4.0"
    assert html_to_markdown("<title>QT | Journal</title><h1>QT</h1>")[1] == "QT"


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ('<meta charset="iso-8859-1">', "cp1252"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-2">', "iso8859-2"),
        ("<?xml version='1.0' encoding='windows-1250'?>", "cp1250"),
        ('<meta charset="unicode_escape">', "cp1252"),
        ('<meta charset="utf-8">', "cp1252"),
        ('<meta charset="utf-16">', "utf-8"),
        ('<meta charset="iso-8859-1">', "utf-8"),
        ('<meta charset="iso-8859-1">', "utf-16"),
    ],
)
def test_encodings_that_a_page_names(declared: str, encoding: str) -> None:
    page = f"<html><head>{declared}</head><p>Überleitung für 200 ms".encode(encoding)
    assert read(page, "html").pages[0].markdown == "Überleitung für 200 ms"


def test_pictures_of_few_words_are_not_told() -> None:
    page = "<p>a<img alt='Figure 1'><img alt='A trace of sinus rhythm'>b<pre>x\n  y</pre>"
    assert markdown(page) == "a\n\nFigure: A trace of sinus rhythm\n\nb\n\n```\nx\n  y\n```"


DEEP = ["<div>", "<b>", "<font>", "<table><tr><td>", "<ul><li>", "<section>", "<p><i>"]


@pytest.mark.parametrize("tag", DEEP)
def test_tags_nested_a_hundred_thousand_deep(tag: str) -> None:
    started = time.process_time()
    data = ("<html><body>" + tag * 100_000 + "deep text").encode()
    assert "deep text" in read(data, "html").pages[0].markdown
    assert time.process_time() - started < 5


def test_formulas_nested_too_deep_are_refused() -> None:
    with pytest.raises(ReadingError, match="nested"):
        read(b"<html><body>" + b"<math>" * 1500 + b"x", "html")


def test_a_page_of_many_megabytes_on_one_line() -> None:
    sentence = "<p>Some <b>bold</b> text.</p>"
    text = markdown("<html><body>" + sentence * 100_000)
    assert text.count("Some bold text.") == 100_000
