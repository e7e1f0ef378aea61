"""Figures and tables of the page as files: all of them, legible by the programs they are for."""

import csv
import io
import re
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from ecg_llm.report import exports
from ecg_llm.report.figures import Data, blank, svg

EVIL = r"""<b> & "x" | 50 % of $a_1$ ~ {\TeX} #1 ^ `code` [1] *no* ≥ κ −3 ± 1 × “ä” – …"""


def page_of(*tables, head="", figure=""):
    """Return a page with a section and these tables."""
    style = "<style>:root { --ink: #111; --paper: #fefefe; } "
    dark = "@media (prefers-color-scheme: dark) { :root { --ink: #eee; } }</style>"
    return (
        f"<!doctype html><html><head>{style}{dark}</head><body><h2 id='s'>{head}</h2>"
        f"{figure}{''.join(tables)}</body></html>"
    )


def table_of(rows, head=("Arm", "Value"), caption="t"):
    lines = "".join(
        f"<tr>{''.join(f'<td class=n>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in head)
    return f"<table><caption>{caption}</caption><tr>{heads}</tr>{lines}</table>"


def read(text):
    return list(csv.reader(io.StringIO(text)))


@pytest.fixture(scope="module")
def made(html):
    return exports.files(html)


def names(made, folder, suffix):
    return [name for name in made if name.startswith(folder) and name.endswith(suffix)]


def test_every_figure_and_table_of_the_page_becomes_files(html, made):
    figures, tables = html.count("<svg"), html.count("<table")
    assert figures > 10
    assert tables > 30
    assert len(names(made, "figures/", ".svg")) == figures
    assert len(names(made, "figures/", ".csv")) == html.count("<metadata>") == figures
    for suffix in (".csv", ".md", ".tex"):
        assert len(names(made, "tables/", suffix)) == tables
    for number, name in enumerate(names(made, "figures/", ".svg"), start=1):
        assert name.startswith(f"figures/{number:02}-")
    assert set(re.findall(r"\]\(([^)]*)\)", made["files.md"])) == set(made) - {"files.md"}


def test_equal_pages_give_equal_files(html, made):
    assert exports.files(html) == made


def test_a_figure_opens_without_the_page(made):
    for name in names(made, "figures/", ".svg"):
        root = etree.fromstring(made[name].encode())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root[0].text
        assert "Arial" in root.get("font-family")
        assert not re.search(r"var\(|metadata|<script", made[name])
        for node in root.iter():
            for attribute, value in node.attrib.items():
                if attribute.endswith("href"):
                    assert value.startswith("#")


def test_a_figure_has_the_light_colours_and_its_data_beside_it():
    figure = blank()
    figure.subplots().plot([0, 1], [0, 1], color="#111111")
    rows = [["base & <b>", 0.25, None], ["=1+1", -0.5, 2]]
    drawn = svg(figure, "Means on s/test: each arm", Data(("arm", "mean", "low"), rows))
    made = exports.files(page_of(head="Multiple choice", figure=f"<figure>{drawn}</figure>"))
    stem = "figures/01-multiple-choice-means-on-s-test"
    assert set(made) == {f"{stem}.svg", f"{stem}.csv", "files.md"}
    assert "#111" in made[f"{stem}.svg"]
    assert 'fill="#fefefe"' in made[f"{stem}.svg"]
    assert read(made[f"{stem}.csv"]) == [
        ["arm", "mean", "low"], ["base & <b>", "0.25", ""], ["'=1+1", "-0.5", "2"],
    ]  # fmt: skip


def test_the_results_are_numbers_to_a_program(made, tables):
    row = next(
        e for e in tables["estimates"]
        if (e.metric, e.subset, e.arm, e.against) == ("accuracy", "handbook/test", "base", "")
    )  # fmt: skip
    (name,) = [n for n in names(made, "tables/", ".csv") if "multiple-choice-handbook-test." in n]
    lines = csv.DictReader(io.StringIO(made[name]))
    shown = next(line for line in lines if line["Arm"] == "base")
    for column, value in (("", row.value), (" low", row.low), (" high", row.high)):
        assert float(shown[f"Letter written, %{column}"]) == pytest.approx(100 * value, abs=0.05)
    assert shown["Rank"] == str(row.rank)


def test_intervals_stand_in_parentheses_where_people_read(made):
    (name,) = [n for n in names(made, "tables/", ".md") if "multiple-choice-handbook-test." in n]
    assert re.search(r"\| \d\d\.\d \(\d\d\.\d to \d\d\.\d\) \|", made[name])
    assert re.search(r"\| \*\*\d\d\.\d\*\* \(", made[name])
    tex = made[name.replace(".md", ".tex")]
    assert re.search(r"& \d\d\.\d \(\d\d\.\d to \d\d\.\d\) &", tex)
    assert r"\caption{Multiple choice, handbook/test}" in tex


def test_minus_signs_grouped_digits_and_dashes_are_plain_in_csv():
    cells = [("a", "−0.5<span class='interval'>−1.0 to +0.2</span>"), ("b", "1,234.5"), ("c", "–")]
    made = exports.files(page_of(table_of(cells)))
    assert read(made["tables/01-t.csv"]) == [
        ["Arm", "Value", "Value low", "Value high"], ["a", "-0.5", "-1.0", "0.2"],
        ["b", "1234.5", "", ""], ["c", "", "", ""],
    ]  # fmt: skip


def test_words_below_a_value_are_a_note_and_not_an_interval():
    made = exports.files(page_of(table_of([("a", "9<span class='interval'>2 not scored</span>")])))
    assert read(made["tables/01-t.csv"])[1] == ["a", "9", "2 not scored"]
    assert "| a | 9 (2 not scored) |" in made["tables/01-t.md"]


def test_two_values_of_a_cell_are_two_columns():
    head = ("Arm", "Rank<span class='interval'>corrected</span>")
    made = exports.files(page_of(table_of([("a", "1<span class='interval'>2</span>")], head)))
    assert read(made["tables/01-t.csv"]) == [["Arm", "Rank", "Rank corrected"], ["a", "1", "2"]]
    assert "| Arm | Rank (corrected) |" in made["tables/01-t.md"]
    assert "| a | 1 (2) |" in made["tables/01-t.md"]


def test_every_line_of_a_table_has_as_many_cells_as_its_head():
    wide = "<table><tr><th colspan='2'>Both</th><th>C</th></tr><tr><td>1</td></tr></table>"
    made = exports.files(page_of(wide, table_of([])))
    assert read(made["tables/01.csv"]) == [["Both", "", "C"], ["1", "", ""]]
    assert made["tables/01.md"].count("|") == 3 * 4
    assert read(made["tables/02-t.csv"]) == [["Arm", "Value"]]


def test_a_page_without_tables_and_figures_has_no_files_but_the_index():
    assert set(exports.files(page_of())) == {"files.md"}


def test_a_spreadsheet_sees_no_formula():
    cells = ["=cmd()", "+1 or so", "-x", "@x", "-5", "+0.2"]
    made = exports.files(page_of(table_of([("a", cell) for cell in cells])))
    shown = [row[1] for row in read(made["tables/01-t.csv"])[1:]]
    assert shown == ["'=cmd()", "'+1 or so", "'-x", "'@x", "-5", "0.2"]


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")


@settings(max_examples=50)
@given(st.lists(st.text(max_size=99), min_size=2, max_size=3))
def test_names_are_safe_and_unique_whatever_the_captions_say(captions):
    made = exports.files(page_of(*(table_of([], caption=escaped(c)) for c in captions)))
    assert len(made) == 3 * len(captions) + 1
    for name in made:
        if name != "files.md":
            assert re.fullmatch(r"tables/\d\d(-[a-z0-9]+)*\.(csv|md|tex)", name)
            assert len(name) < 100
    assert len({name.lower() for name in made}) == len(made)


def test_long_names_keep_what_tells_them_apart():
    captions = [f"Differences in {'a very long name of ' * 4}metric, set/{s}" for s in ("a", "b")]
    made = exports.files(page_of(*(table_of([], caption=c) for c in captions)))
    captions.append("x" * 400)
    made |= exports.files(page_of(table_of([], caption=captions[-1])))
    (first, second, alone) = names(made, "tables/", ".csv")
    assert first.endswith("-metric-set-a.csv")
    assert second.endswith("-metric-set-b.csv")
    assert alone == "tables/01.csv"


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=40))
def test_a_cell_never_breaks_its_markdown_table(text):
    made = exports.files(page_of(table_of([(escaped(text), "1")])))
    line = made["tables/01-t.md"].splitlines()[-1]
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3
    assert read(made["tables/01-t.csv"])[1][1] == "1"


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=40))
def test_a_cell_never_breaks_its_latex_table(text):
    made = exports.files(page_of(table_of([(escaped(text), "1")])))
    line = next(x for x in made["tables/01-t.tex"].splitlines() if x.endswith(r"1 \\"))
    bare = re.sub(r"\\([{}$&#_%]|[a-zA-Z]+|\\|,)", "", line)
    assert bare.count("&") == 1
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"[$#_%^\\]", bare)


def test_a_long_table_may_run_over_pages():
    made = exports.files(page_of(table_of([("a", str(i)) for i in range(50)])))
    tex = made["tables/01-t.tex"]
    assert tex.count(r"\begin{longtable}") == tex.count(r"\end{longtable}") == 1
    assert r"\begin{table}" not in tex


@pytest.mark.slow
def test_latex_sets_every_table_of_a_report(tmp_path, made):
    if not shutil.which("pdflatex"):
        pytest.skip("needs pdflatex with booktabs")
    evil = exports.files(
        page_of(table_of([(escaped(EVIL), "[1]"), ("[2]", "−1"), ("*", "τ")]), head="Evil")
    )
    texts = [made[name] for name in names(made, "tables/", ".tex")]
    texts += [evil[name] for name in names(evil, "tables/", ".tex")]
    paper = tmp_path / "paper.tex"
    lines = [
        r"\documentclass{article}", r"\usepackage[T1]{fontenc}",
        r"\usepackage{booktabs,graphicx,longtable}", r"\begin{document}",
        *(f"{text}\\clearpage" for text in texts), r"\end{document}",
    ]  # fmt: skip
    paper.write_text("\n".join(lines), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", paper.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "paper.log").read_text(errors="replace")
