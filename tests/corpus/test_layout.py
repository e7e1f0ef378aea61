"""Layout: columns, headings and references as the type and the places of the text tell them."""

from collections.abc import Sequence

from ecg_llm.corpus.layout import Line, Run, body_style, columns, disorder, lines_of
from ecg_llm.corpus.structure import (
    entries,
    join_headings,
    mark_entries,
    mark_headings,
    titles,
    unmark_headings,
    untable_prose,
)

WIDTH, HEIGHT = 600.0, 800.0
PLAIN, BOLD = "Times-Roman", "Times-Bold"
LEFT, RIGHT = 60.0, 320.0
PROSE = "The wave of lead {} is broad and notched in {} of the records of this set"


def run(
    text: str, x: float, y: float, font: str = PLAIN, size: float = 10, width: float = 0
) -> Run:
    return Run(text, x, y, width or len(text) * size * 0.45, size, font, size)


def column(x: float, count: int, first: float = 100) -> list[Run]:
    return [
        run(PROSE.format(f"{x:.0f}-{n}", "set " + 3 * chr(97 + n)), x, first + 12 * n, width=220)
        for n in range(count)
    ]


def page(*more: Run) -> list[Line]:
    return lines_of([*column(LEFT, 20), *column(RIGHT, 20), *more])


def texts(lines: Sequence[Line]) -> list[str]:
    return [line.text for line in lines]


def test_a_number_and_its_title_are_one_line_and_cells_of_a_table_are_not() -> None:
    heading = [run("2.1.", 60, 50, BOLD, 12, 20), run("Study population", 100, 50, BOLD, 12, 90)]
    cells = [run("12", 60, 80, width=10), run("NREM", 100, 80, width=30)]
    assert texts(lines_of([*heading, *cells])) == ["2.1. Study population", "12", "NREM"]


def test_columns_are_read_one_after_the_other_below_what_spans_them() -> None:
    lines = page(run("A title over both of the columns of this page", 120, 40, BOLD, 16, 380))
    regions = columns(lines, WIDTH, HEIGHT)
    assert [region.lines[0].text[:22] for region in regions] == [
        "A title over both of t", "The wave of lead 60-0 ", "The wave of lead 320-0",
    ]  # fmt: skip
    assert columns(lines_of(column(LEFT, 30)), WIDTH, HEIGHT) == []


def test_three_columns_are_read_one_after_the_other() -> None:
    narrow = [
        run(f"Column {place} line {n} of it", LEFT + 165 * place, 100 + 12 * n, width=150)
        for n in range(30)
        for place in range(3)
    ]
    regions = columns(lines_of(narrow), WIDTH, HEIGHT)
    assert [region.lines[0].text for region in regions] == [
        "Column 0 line 0 of it", "Column 1 line 0 of it", "Column 2 line 0 of it",
    ]  # fmt: skip


def test_disorder_counts_lines_that_are_not_where_they_belong() -> None:
    lines = page()
    regions = columns(lines, WIDTH, HEIGHT)
    left, right = (" ".join(texts(region.lines)) for region in regions)
    assert disorder(f"{left}\n\n{right}", regions, WIDTH) == 0
    assert disorder(f"{right}\n\n{left}", regions, WIDTH) == 20
    mixed = " ".join(
        line.text for pair in zip(regions[0].lines, regions[1].lines, strict=True) for line in pair
    )
    assert disorder(mixed, regions, WIDTH) > 30


def test_headings_are_told_by_number_and_type() -> None:
    lines = page(
        run("2.", 60, 20, BOLD, 12, 10), run("Methods", 90, 20, BOLD, 12, 50),
        run("3.1. Effects of the long", 60, 40, BOLD, 11), run("QT interval", 60, 53, BOLD, 11),
        run("2.5 mm of elevation were seen", 60, 70), run("Abstract", 60, 85, BOLD, 11),
        run("1. Preprocessing is a step", 320, 40), run("Figure 2. A wave", 320, 60, BOLD),
    )  # fmt: skip
    found = titles(lines, body_style([lines]))
    assert [title.text for title in found] == [
        "2. Methods", "3.1. Effects of the long QT interval", "Abstract",
    ]  # fmt: skip


def test_titles_run_into_paragraphs_or_tables_become_headings() -> None:
    lines = page(
        run("2.2. ECG processing", 60, 20, BOLD, 12), run("3. Results", 60, 40, BOLD, 12),
        run("4. Discussion", 60, 60, BOLD, 12),
    )  # fmt: skip
    found = titles(lines, body_style([lines]))
    markdown = (
        "They were men. **2.2. ECG processing** We filtered.\n\n| 3. | Results | |\n|---|---|---|\n"
        "\n### 4. Discussion\n\nIt works."
    )
    made = mark_headings(markdown, found)
    assert [line for line in made.split("\n") if line.startswith("#")] == [
        "## 2.2. ECG processing", "## 3. Results", "### 4. Discussion",
    ]  # fmt: skip
    assert "They were men.\n" in made
    assert "|" not in made


def test_a_title_over_two_lines_is_one_heading() -> None:
    lines = page(
        run("Ensembles for the detection of", 60, 20, BOLD, 14), run("murmurs", 60, 36, BOLD, 14)
    )
    assert (
        join_headings("# Ensembles for the detection of\n\n# murmurs\n\nText.", lines)
        == "# Ensembles for the detection of murmurs\n\nText."
    )


def test_words_of_figures_are_no_headings_in_a_numbered_paper() -> None:
    lines = page(
        *(run(f"{n}. Part", 60, 10 + n, BOLD, 12) for n in range(1, 4)),
        run("Sandbox", 400, 50, "Helvetica", 9), run("Disclaimer", 400, 70, BOLD, 12),
    )  # fmt: skip
    body = body_style([lines])
    known = titles(lines, body)
    markdown = "## 1. Part\n\n### Sandbox\n\n## Disclaimer\n\nText."
    assert unmark_headings(markdown, lines, known, body, first=False) == markdown.replace(
        "### Sandbox", "Sandbox"
    )


def test_prose_in_wide_type_is_no_table_and_a_table_is() -> None:
    lines = [line._replace(right=280.0) for line in lines_of(column(LEFT, 20))]
    words = [line.text.split() for line in lines[:3]]
    prose = "".join(f"| {' '.join(w[:6])} | {' '.join(w[6:])} |\n" for w in words)
    prose = prose.replace("\n", "\n|---|---|\n", 1)
    table = "| Wave | ms |\n|---|---|\n| P | 80 |\n| QRS | 90 |\n"
    made = untable_prose(f"{prose}\n{table}", lines)
    assert table in made
    assert made.count("|") == table.count("|")
    assert lines[2].text in made


def test_entries_of_a_reference_list_stand_apart() -> None:
    listed = [
        run("References", 60, 20, BOLD, 12),
        run("[1] Wave A. The first of the waves. Heart", 60, 40),
        run("2001;2:3-4.", 80, 52), run("[2] Lead B. Second, with a long name", 60, 64),
        run("2002;12. 15.", 80, 76), run("Address for correspondence:", 60, 100),
        run("[3] is not an entry", 60, 120),
    ]  # fmt: skip
    lines = lines_of([*column(RIGHT, 20, 200), *listed])
    (found,) = entries([lines], body_style([lines]))
    assert [beginning[:10] for beginning in found] == ["[1] Wave A", "[2] Lead B"]
    markdown = (
        "## References\n\n[1] Wave A. The first of the waves. Heart\n\n2001;2:3-4. [2] Lead B. "
        "Second, with a long name 2002;12. 15."
    )
    assert mark_entries(markdown, found) == (
        "## References\n\n[1] Wave A. The first of the waves. Heart 2001;2:3-4.\n\n"
        "[2] Lead B. Second, with a long name 2002;12. 15."
    )


def test_entries_without_numbers_are_told_by_their_hanging_indent() -> None:
    listed = [run("References", 60, 20, BOLD, 12)]
    for n in range(4):
        listed += [
            run(f"Author{n} A, Other B. A study of the heart in many", 60, 40 + 36 * n),
            run("patients of the hospital and what came of it, Heart", 75, 52 + 36 * n),
            run(f"199{n};1:2-3.", 75, 64 + 36 * n),
        ]
    lines = lines_of(listed)
    (found,) = entries([lines], (PLAIN, 10.0))
    assert [beginning[:7] for beginning in found] == [f"Author{n}" for n in range(4)]


def test_a_list_of_words_after_a_chapter_s_references_is_no_reference_list() -> None:
    listed = [run("References", 60, 20, BOLD, 12), run("Glossary", 60, 40, BOLD, 12)]
    listed += [run(f"{n}. term of the heart", 60, 60 + 12 * n) for n in range(1, 9)]
    assert entries([lines_of(listed)], (PLAIN, 10.0)) == [[]]
