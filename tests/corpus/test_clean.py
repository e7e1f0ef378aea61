"""Clean-up of page Markdown: what a reader of the text relies on."""

from collections import Counter

import pytest

from ecg_llm.corpus.clean import (
    clean_characters,
    clean_pages,
    heading_places,
    join,
    join_hyphens,
    page_at,
    sections,
    title_kind,
)


def kinds(text: str) -> dict[str, str]:
    return {section.headings[-1]: section.kind for section in sections(text) if section.headings}


def test_characters_are_put_right_and_meaning_is_kept() -> None:
    assert clean_characters("ﬁbrillation &lt; 120&nbsp;ms\x00\u200b") == "fibrillation < 120 ms"
    assert clean_characters("5 m² ½ CO₂ 10⁻³") == "5 m² ½ CO₂ 10⁻³"
    assert clean_characters("a\u0308") == "ä"
    assert clean_characters("50 \uf06dV \uf0b3 2") == "50 μV ≥ 2"


@pytest.mark.parametrize("mark", ["-", "\u00ad", "\ufffe", "\x02"])
def test_words_broken_at_line_ends_are_joined_whatever_the_engine_wrote(mark: str) -> None:
    assert clean_pages([f"The electrocar{mark}\ndiogram is normal."]) == [
        "The electrocardiogram is normal."
    ]


def test_soft_hyphen_inside_a_line_is_a_hyphen_in_print_and_nothing_elsewhere() -> None:
    assert clean_pages(["the T\u00adwave"]) == ["the T-wave"]
    assert clean_pages(["Herz\u00adrhythmus"], printed=False) == ["Herzrhythmus"]


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("the T-\nwave", "the T-wave"),
        ("a 12-\nlead ECG", "a 12-lead ECG"),
        ("der QRS-\nKomplex", "der QRS-Komplex"),
        ("Vorhof- und Kammer", "Vorhof- und Kammer"),
        ("Vorhof-\nund Kammer", "Vorhof- und Kammer"),
        ("Erregungs-\nleitung", "Erregungsleitung"),
    ],
)
def test_hyphens_that_belong_to_the_word_stay(broken: str, whole: str) -> None:
    assert join_hyphens(broken, Counter()) == whole


def test_the_document_itself_decides_about_a_compound() -> None:
    page = "A beat-to-beat change. It is a follow-\nup of the follow-up study."
    assert "a follow-up of" in clean_pages([page])[0]


def test_running_lines_go_and_recurring_text_stays() -> None:
    words = ["atrial", "nodal", "bundle", "ventricular"]
    pages = [
        f"Journal of Waves 2020; {n}\n\nThe {word} wave is seen.\n\nExercise\n\nName the {word} "
        f"wave.\n\nThe {word} wave ends.\n\n{n}"
        for n, word in enumerate(words)
    ]
    cleaned = clean_pages(pages)
    assert "Journal" not in "".join(cleaned)
    assert [page.splitlines()[-1] for page in cleaned] == [f"The {w} wave ends." for w in words]
    assert all("Exercise" in page for page in cleaned)


def test_pages_that_hold_nothing_but_running_lines_are_kept() -> None:
    assert clean_pages(["Slide 1", "Slide 2", "Slide 3"]) == ["Slide 1", "Slide 2", "Slide 3"]


def test_merged_headings_are_split_and_broken_ones_joined() -> None:
    page = (
        "## 2. Methods 2.1. Study population\n\nWe did.\n\n## Electrocar-\n\n## diography\n\nIt is."
    )
    titles = [(level, title) for _, level, title in heading_places(clean_pages([page])[0])]
    assert titles == [(2, "2. Methods"), (3, "2.1. Study population"), (2, "Electrocardiography")]


@pytest.mark.parametrize(
    "line",
    [
        "### Since the first report by Hering in 1908, this phenomenon was\n\nseen often.",
        "## Figure 3. A tracing of lead II",
        "### [12] Verrier RL, Nearing BD",
        "# 0.24",
        "## someone@example.org",
        "## The rhythm is irregular and no P wave precedes any of the complexes.",
    ],
)
def test_body_text_set_as_a_heading_is_demoted(line: str) -> None:
    assert heading_places(clean_pages([line])[0]) == []


def test_numbers_set_the_levels() -> None:
    page = "## 1. One\n\nA.\n\n## 1.1 Two\n\nB.\n\n### 2. Three\n\nC.\n\n## 3. Four\n\nD."
    levels = [level for _, level, _ in heading_places(clean_pages([page])[0])]
    assert levels == [2, 3, 2, 2]


def test_a_chapter_that_ends_in_a_summary_keeps_its_headings() -> None:
    body = "The wave of the heart is broad and tall in most of us. " * 20
    page = f"# ECG\n\n## Contents\n\nBasics\n\n## Basics\n\n{body}\n\n## Summary\n\nIt waves."
    text = clean_pages([page])[0]
    assert [title for _, _, title in heading_places(text)] == [
        "ECG",
        "Contents",
        "Basics",
        "Summary",
    ]


def test_what_is_numbered_from_page_to_page_is_text() -> None:
    pages = [
        f"# Case {n}\n\nThe patient {n} was well.\n\nMore text of {'abcdef'[n]}.\n\n"
        f"Diagnosis {n}: left bundle branch block.\n\nPage {n}"
        for n in range(1, 6)
    ]
    made = clean_pages(pages)
    assert all(f"# Case {n}" in page for n, page in enumerate(made, start=1))
    assert all(f"Diagnosis {n}:" in page for n, page in enumerate(made, start=1))
    assert not any("Page" in page for page in made)


@pytest.mark.parametrize(
    "line",
    ["_ " * 4000 + "Date", "- " * 4000 + "cut here", "a" + " " * 60_000 + "b", "**a " * 20_000,
     "a-" * 60_000, "[" * 30_000, "# x" + "\u205f" * 60_000 + "y", "*" * 50_000],
)  # fmt: skip
def test_endless_marks_take_no_endless_time(line: str) -> None:
    """Each took minutes, or for ever: the suite's own limit would end."""
    assert clean_pages([f"The wave.\n\n{line}\n\nThe end."])[0].endswith("The end.")


def test_names_between_title_and_abstract_are_authors() -> None:
    page = "# The T wave\n\n## A Smith, B Jones\n\n## Some University\n\n## Abstract\n\nIt waves."
    found = sections(clean_pages([page])[0])
    assert [(section.kind, section.headings[-1]) for section in found] == [
        ("authors", "The T wave"),
        ("abstract", "Abstract"),
    ]


@pytest.mark.parametrize(
    "title",
    [
        "Content of the P wave",
        "Authorized pacing modes",
        "Indexed QT",
        "Literature review of LBBB",
        "Reference values of the QT interval",
        "Registerdaten zum Vorhofflimmern",
        "Summary statistics of QRS duration",
    ],
)
def test_titles_that_only_begin_like_back_matter_are_body(title: str) -> None:
    text = f"# Paper\n\nText.\n\n## {title}\n\nThis is medicine.\n"
    assert kinds(text)[title] == "body"


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("References", "references"),
        ("8 Literatur", "references"),
        ("7. REFERENCES:", "references"),
        ("Danksagung", "acknowledgements"),
        ("Funding sources", "funding"),
        ("Inhaltsverzeichnis", "contents"),
        ("Zusammenfassung", "abstract"),
        ("Author's contributions", None),
        ("Authors’ contributions", "authors"),
        ("Subject index", "index"),
        ("B. Acknowledgments", "acknowledgements"),
    ],
)
def test_whole_titles_name_the_matter(title: str, kind: str | None) -> None:
    assert title_kind(title) == kind


def test_bold_headings_count_and_a_number_sign_in_the_text_ends_nothing() -> None:
    text = "# Paper\n\nIt.\n\n**References**\n\n[1] A case #3.\n\n[2] Two.\n\n# Next\n\nIt."
    assert kinds(text) == {"Paper": "body", "References": "references", "Next": "body"}


def test_back_matter_rules_what_is_below_it_and_ends_at_numbered_sections() -> None:
    text = (
        "# References\n\n## Books\n\nOne.\n\n## 3. Results\n\nFound.\n\n"
        "# Abstract\n\n## Methods\n\nA.\n\n## Introduction\n\nB."
    )
    assert kinds(text) == {
        "References": "references",
        "Books": "references",
        "3. Results": "body",
        "Abstract": "abstract",
        "Methods": "abstract",
        "Introduction": "body",
    }


def test_tables_and_captions_are_told_and_sections_cover_the_text() -> None:
    text = (
        "# Paper\n\nBefore.\n\nTable 2: Normal values\n\n| Wave | ms |\n|---|---|\n| P | 120 |\n\n"
        "Abbildung 3. Ein EKG.\n\nTable 2 shows all.\n"
    )
    found = sections(text)
    assert [section.kind for section in found] == ["body", "caption", "table", "caption", "body"]
    assert "".join(text[section.start : section.end] for section in found) == text


def test_pages_join_without_breaking_sentences_or_words() -> None:
    text, starts = join(
        ["# One\n\nThe wave is", "broad and electrocar-", "diograms vary.", "", "## Two"]
    )
    assert text == "# One\n\nThe wave is broad and electrocardiograms vary.\n\n## Two"
    assert [page_at(starts, text.index(word)) for word in ("One", "broad", "diograms", "Two")] == [
        1,
        2,
        3,
        5,
    ]
