import pytest

from ecg_llm.sentences import plain, sentences, statements


@pytest.mark.parametrize(
    "text",
    [
        "The ECG is normal.|See Fig. 3 for lead V1.|It lasts 0.12 s in adults.",
        "Dr. A. Smith et al. found this.|Others, e.g. Jones vs. Miller, did not.",
        "Er nahm z. B. Flecainid ein.|Die PQ-Zeit betrug ca. 200 ms.|Das gilt u. a. hier.",
        "Am 3. Oktober kam er.|Ein AV-Block 2. Grades lag vor.",
        "Beim AV-Block III. Grades fehlt sie.|Er folgt dem AV-Block II. Grades.|Das gilt.",
        "Was it VT?|Yes!|The QRS was 160 ms (cf. Table 2).|pH was 7.2.",
        "The axis was seen in lead I.|The T wave in lead II was flat.",
        "This was described in 2008.|The next study followed.",
        "Waves were absent [12].|Dose was 5 mg i.v. at 8 a.m. on day 2.",
        'He said "it stopped."|Then it beat again.',
        "The QT was 480 ms.|Beta blockers help.|It rose 2 mm.|V1 had a raised ST.|PR fell.",
        "It is negative in lead I.|Unlike aVR, it is small.|The type is B.|Both are common.",
        "ST elevation of approx. 2 mm was seen.|No. 5 had none.",
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str) -> None:
    joined = text.replace("|", " ")
    assert [joined[start:end] for start, end in sentences(joined)] == text.split("|")


def test_blocks_end_sentences_and_line_ends_do_not() -> None:
    text = "# A heading\nOne line\ngoes on.\n\n- first\n- second\n\n| a | b |\n|---|---|\nLast"
    assert [text[start:end] for start, end in sentences(text)] == [
        "# A heading",
        "One line\ngoes on.",
        "- first",
        "- second",
        "| a | b |",
        "|---|---|",
        "Last",
    ]


def test_a_line_of_dots_takes_no_endless_time() -> None:
    text = "." * 200_000 + "x. The end."
    assert sentences(text)[-1][1] == len(text)


def said(text: str) -> list[str]:
    return [plain(text[start:end]) for start, end in statements(text)]


def test_a_sentence_that_opens_a_list_holds_it() -> None:
    text = (
        "The criteria of sinus rhythm are:\n\n- upright P waves in lead II;\n- one P wave before "
        "every QRS complex.\nSinus bradycardia is slower than that. It is often benign.\n\n- Alone"
    )
    assert said(text) == [
        "The criteria of sinus rhythm are: upright P waves in lead II; one P wave before every "
        "QRS complex.",
        "Sinus bradycardia is slower than that.",
        "It is often benign.",
        "Alone",
    ]


def test_items_that_are_sentences_are_told_as_one() -> None:
    text = "Two signs:\n\n1. The P wave is wide.\n2. The P wave - in lead II - is notched."
    assert said(text) == ["Two signs: The P wave is wide; The P wave - in lead II - is notched."]


def test_headings_and_rows_are_no_statements_and_end_a_list() -> None:
    text = (
        "# A heading of several words. Really\n\nAs Fig. 3 shows, e.g. The wave of Smith et al. "
        "lasts 0.12 s in adults.\nIt can be\nlonger than that:\n\n| a | table | row |\n\n- item"
    )
    assert said(text) == [
        "As Fig. 3 shows, e.g. The wave of Smith et al. lasts 0.12 s in adults.",
        "It can be longer than that:",
        "item",
    ]
    assert said("") == []
