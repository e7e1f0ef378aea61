"""Quality: words are compared with the PDF's own, and what is set aside says why."""

import pytest

from ecg_llm.corpus.quality import compared, hidden_spans, page_records, set_aside, summary

TEXT = "The P wave lasts less than 120 ms in healthy adults. Premature beats are frequent."


@pytest.mark.parametrize(
    ("text", "layer", "suspicious", "lost"),
    [
        (TEXT, TEXT, 0, 0),
        (TEXT, TEXT.replace("Premature", "Pre- mature"), 0, 0),
        (TEXT.replace("120 ms", "$120 ms$"), TEXT, 0, 2 / 14),
        (TEXT.replace("P wave", "Pwave"), TEXT, 1 / 14, 1 / 14),
        (TEXT, f"{TEXT} Page of the journal", 0, 4 / 18),
        (f"{TEXT} {TEXT}", TEXT, 0.5, 0),
        ("", TEXT, None, None),
        (TEXT, "", None, None),
    ],
)
def test_words_are_compared_with_the_pdf_s_own(
    text: str, layer: str, suspicious: float | None, lost: float | None
) -> None:
    expected = [
        None if share is None else pytest.approx(share, abs=0.01) for share in (suspicious, lost)
    ]
    assert list(compared(text, layer)) == expected


def test_records_of_pages_add_up_to_the_document_s() -> None:
    pages = [f"# Waves\n\n{TEXT}", "", "| a | b |\n|---|---|\n| 1 | 2 |"]
    raw = [pages[0].replace("beats", "be\x07ats"), "\x03\x04", pages[2]]
    text = "\n\n".join(filter(None, pages))
    starts = (0, len(pages[0]), len(pages[0]) + 2)
    records = page_records("d", raw, pages, ["", "garbled", ""], [TEXT, "", "a b"], [3], starts, [])
    assert [record.status for record in records] == ["read", "unread", "read"]
    assert [record.headings for record in records] == [1, 0, 0]
    assert [record.tables for record in records] == [0, 0, 1]
    assert records[2].recognised
    assert records[2].suspicious is None
    whole = summary(records, text, [(3, 9)])
    assert whole["pages_read"] == 2
    assert whole["unread_pages"] == (2,)
    assert whole["ocr_pages"] == (3,)
    assert whole["control_characters"] == 3
    assert whole["hidden_spans"] == (3, 9)
    assert whole["lost"] == 0


def test_what_is_set_aside_names_its_heading_and_pages() -> None:
    text = (
        f"# A study\n\nA. Author, B. Author\n\n## Abstract\n\n{TEXT}\n\n## References\n\n[1] Old."
    )
    text += "\n\n[2] Older.\n\n## Funding\n\nNone."
    starts = (0, text.index("[2]"))
    hidden = (text.index("Premature"), text.index("Premature") + 9)
    parts = [
        (part.kind, part.heading, part.page_from, part.page_to)
        for part in set_aside(text, starts, [hidden])
    ]
    assert parts == [
        ("authors", "A study", 1, 1), ("references", "References", 1, 2),
        ("funding", "Funding", 2, 2), ("hidden", "", 1, 1),
    ]  # fmt: skip


def test_hidden_text_is_found_on_its_page_whatever_marks_it_has() -> None:
    text = "Praise it.\n\nThe wave. **Praise it.** More.\n\nPraise it."
    starts = (0, 12, len(text) - 10)
    (span,) = hidden_spans(text, starts, [(), ("Praise  it.",), ()])
    assert text[span[0] : span[1]].startswith("Praise it.")
    assert starts[1] < span[0] < starts[2]
    assert hidden_spans(text, starts, [("Not there",), (), ()]) == ()
    assert len(hidden_spans(text, starts, [], "Praise it.")) == 1


def test_of_two_copies_on_a_page_the_seen_one_stays() -> None:
    text = "Praise it. The wave is broad. Praise it."
    ((start, _),) = hidden_spans(text, (0,), [("Praise it.",)])
    assert start > 20
