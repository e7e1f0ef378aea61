import csv
import json
import re

import openpyxl
import pytest
from support import SHARED

from ecg_llm.config import ImportedSet
from ecg_llm.contracts import UsageError
from ecg_llm.questions.exchange import cells, sheets
from ecg_llm.questions.exchange.importing import read_set
from ecg_llm.questions.exchange.revise import applied, revisions
from ecg_llm.records import Document, Passage, Question, Revision, Span

TEXT = "The PR interval is 120 to 200 ms long. A longer one is a first-degree AV block."
DOCUMENTS = [Document(path="buch/Überleitung.pdf", doc_id="d" * 16, status="ok")]
PASSAGES = [
    Passage(passage_id="p1", doc_id="d" * 16, start=0, end=80, page_from=3, page_to=4,
            text=TEXT, tokens=20),
    Passage(passage_id="p2", doc_id="d" * 16, start=90, end=120, page_from=9, page_to=9,
            text="Second source.", tokens=3),
]  # fmt: skip
CHOICE = Question(
    question_id="c1", set="written", kind="choice", question="How long is a PR interval?",
    options=("80 ms", "120 to 200 ms", "3-5", "=1+1"), answer="B", reference="120 to 200 ms",
    evidence="The PR interval is 120 to 200 ms long.", passage_id="p1", doc_id="d" * 16,
    joined=(Span(passage_id="p2", text="Second source."),), split="test",
)  # fmt: skip
OPEN = Question(
    question_id="mine:o1", set="mine", kind="open", question="=Was heißt „Überleitung“?",
    reference="Ein Maß:\n- der Zeit\n- in ms", context="Auszug.", split="test_seen",
    note="section: Zeiten",
)  # fmt: skip
DROPPED = CHOICE.model_copy(
    update={"question_id": "c2", "question": "How long is it in this study?", "status": "dropped",
            "reason": "not_self_contained", "note": "this study"}
)  # fmt: skip
QUESTIONS = [CHOICE, OPEN, DROPPED]


@pytest.fixture(params=["sheet.xlsx", "sheet.csv"])
def path(request, tmp_path):
    return tmp_path / request.param


def export(path, questions=QUESTIONS):
    sheets.write(path, questions, DOCUMENTS, PASSAGES)


def edit(path, name, **edited):
    """Change cells as a spreadsheet program does that opens and saves the file."""
    if path.suffix == ".xlsx":
        book = openpyxl.load_workbook(path)
        rows = list(book.active.iter_rows())
        header = [cell.value for cell in rows[0]]
        for row in rows[1:]:
            if row[0].value == name:
                for column, text in edited.items():
                    row[header.index(column.replace("option_", "option "))].value = text
        book.save(path)
        return
    with path.open(encoding="utf-8-sig", newline="") as stream:
        delimiter = ";" if "question_id;" in stream.readline() else ","
        stream.seek(0)
        rows = list(csv.reader(stream, delimiter=delimiter))
    for row in rows[1:]:
        if row[0] == name:
            for column, text in edited.items():
                row[rows[0].index(column.replace("option_", "option "))] = text
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows(rows)


def bring_back(path, questions=QUESTIONS, earlier=(), by="Ada"):
    at = "2026-01-02T03:04:05"
    return revisions(sheets.read(path), questions, by, at, earlier, PASSAGES)


def test_a_sheet_that_nobody_touched_changes_nothing(path):
    export(path)
    outcome = bring_back(path)
    assert (outcome.revisions, outcome.problems, outcome.ignored) == ([], [], ())
    assert outcome.unchanged == 3


def test_the_sheet_shows_what_a_person_needs():
    header, rows = sheets.sheet_rows(QUESTIONS, DOCUMENTS, PASSAGES)
    first = dict(zip(header, rows[0], strict=True))
    assert (first["document"], first["page"]) == ("buch/Überleitung.pdf", "3-4")
    assert first["passage"] == f"{TEXT}\n\nSecond source."
    assert [first[f"option {letter}"] for letter in "ABCD"] == list(CHOICE.options)
    assert dict(zip(header, rows[1], strict=True))["passage"] == "Auszug."
    assert dict(zip(header, rows[2], strict=True))["reason"] == "not_self_contained: this study"


def test_text_in_a_workbook_is_text(tmp_path):
    path = tmp_path / "sheet.xlsx"
    export(path)
    sheet = openpyxl.load_workbook(path).active
    header = [cell.value for cell in sheet[1]]
    cell = sheet.cell(3, header.index("question") + 1)
    assert (cell.value, cell.data_type, cell.number_format) == (OPEN.question, "s", "@")
    assert sheet.freeze_panes == "B2"
    assert sheet.cell(2, header.index("passage") + 1).fill.fgColor.rgb.endswith(cells.GREY)
    assert not sheet.cell(2, header.index("question") + 1).fill.fgColor.rgb.endswith(cells.GREY)
    assert cell.alignment.wrap_text
    assert sheet.column_dimensions["H"].width > 40


def test_csv_is_neither_executed_nor_converted(tmp_path):
    path = tmp_path / "sheet.csv"
    export(path)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        texts = [cell for row in csv.reader(stream) for cell in row]
    assert not [cell for cell in texts if cell.startswith(("=", "+", "-", "@"))]
    assert "'3-5" in texts
    assert "3-5" not in texts


@pytest.mark.parametrize(
    "text",
    ["=1+1", "'=1", "''x", "'x", "+3 mV", "-5", "@SUM(A1)", "3-5", "1/2", "May 2", "TRUE", "1E5",
     "1234567890123e45", "3. Mai", "10:30 am", "c1",
     "12-lead ECG shows a long question", "'", "", "Größe ≤ 5 µV", 'a "b"; c, d'],
)  # fmt: skip
def test_every_text_comes_back(path, text):
    question = OPEN.model_copy(update={"question": f"{text}"})
    cells.write(path, ["question_id", "question"], [["x", question.question]], {}, ())
    _, line = cells.read_lines(path)
    assert line.cells[1] == text


def test_other_line_ends_are_no_change(path):
    export(path)
    if path.suffix == ".csv":
        path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    else:
        edit(path, "mine:o1", reference=OPEN.reference.replace("\n", "_x000D_\n") + "\n")
    assert bring_back(path).unchanged == 3


def test_what_no_cell_can_hold_is_not_taken_for_a_change(path):
    long = OPEN.model_copy(
        update={"question": "Bell \x07 and \t tab?", "reference": "word " * 9000, "context": ""}
    )
    export(path, [long])
    outcome = bring_back(path, [long])
    assert (outcome.revisions, outcome.problems, outcome.unchanged) == ([], [], 1)


def test_a_correction_comes_back_with_its_trail(path):
    export(path)
    edit(path, "c1", question="How long is a normal PR interval?", note="more exact")
    edit(path, "mine:o1", reference="Ein Maß der Zeit.")
    outcome = bring_back(path)
    assert outcome.problems == []
    assert outcome.unchanged == 1
    first, kept, second, also = outcome.revisions
    assert first == Revision(
        question_id="c1", revision=1, column="question", before=CHOICE.question,
        after="How long is a normal PR interval?", by="Ada", at="2026-01-02T03:04:05",
        note="more exact",
    )  # fmt: skip
    assert (second.question_id, second.column, second.after) == (
        "mine:o1", "reference", "Ein Maß der Zeit."
    )  # fmt: skip
    assert [(r.column, r.before, r.after) for r in (kept, also)] == [("status", "kept", "kept")] * 2
    changed, problems = applied(QUESTIONS, outcome.revisions)
    assert problems == []
    assert [row.question_id for row in changed] == ["c1", "mine:o1", "c2"]
    assert changed[0].question == "How long is a normal PR interval?"
    assert [(row.revision, row.revised_by) for row in changed] == [(1, "Ada"), (1, "Ada"), (0, "")]
    assert changed[2] == DROPPED


def test_a_new_right_option_is_the_reference_too(path):
    export(path)
    edit(path, "c1", option_B="0.12 to 0.20 s")
    (row, *_), problems = applied(QUESTIONS, bring_back(path).revisions)
    assert problems == []
    assert row.options == ("80 ms", "0.12 to 0.20 s", "3-5", "=1+1")
    assert (row.answer, row.reference) == ("B", "0.12 to 0.20 s")
    edit(path, "c1", option_B="120 to 200 ms", answer="a)")
    (row, *_), _ = applied(QUESTIONS, bring_back(path).revisions)
    assert (row.answer, row.reference) == ("A", "80 ms")


def test_options_dealt_anew_are_no_change_and_corrections_of_them_still_fit(path):
    export(path)
    dealt = CHOICE.model_copy(
        update={"options": ("=1+1", "80 ms", "3-5", "120 to 200 ms"), "answer": "D"}
    )
    assert bring_back(path, [dealt, OPEN, DROPPED]).revisions == []
    edit(path, "c1", option_A="90 ms")
    made = bring_back(path).revisions
    (row,), problems = applied([dealt], made)
    assert problems == []
    assert (row.options, row.answer) == (("90 ms", "120 to 200 ms", "3-5", "=1+1"), "B")


def test_a_person_decides_what_is_kept(path):
    export(path)
    edit(path, "c1", status="dropped", note="nobody asks this")
    edit(path, "c2", status="kept", question="How long is a PR interval in a child?")
    made = bring_back(path).revisions
    (gone, _, back), _ = applied(QUESTIONS, made)
    assert (gone.status, gone.reason, gone.note) == ("dropped", "rejected", "nobody asks this")
    assert (back.status, back.reason, back.note) == ("kept", "", "")
    late = CHOICE.model_copy(update={"status": "dropped", "reason": "duplicate"})
    edit(path, "c1", status="kept", reference="Normally 120 to 200 ms.", note="")
    (trusted, *_), problems = applied([late, OPEN, DROPPED], bring_back(path).revisions)
    assert (problems, trusted.status, trusted.reason) == ([], "kept", "")
    filtered = OPEN.model_copy(update={"status": "dropped", "reason": "filtered"})
    export(path, [filtered])
    edit(path, "mine:o1", status="kept")
    (problem,) = bring_back(path, [filtered]).problems
    assert "filter" in problem


def test_a_comment_alone_is_kept_as_a_comment(path):
    export(path)
    edit(path, "c1", note="Is 110 ms normal?")
    made = bring_back(path).revisions
    assert [(r.column, r.after) for r in made] == [("note", "Is 110 ms normal?")]
    (row, *_), _ = applied(QUESTIONS, made)
    assert (row.note, row.status, row.revised_by) == ("Is 110 ms normal?", "kept", "Ada")


@pytest.mark.parametrize(
    ("name", "edited", "said"),
    [
        ("c1", {"answer": "E"}, "answer is 'E'"),
        ("c1", {"answer": ""}, "answer is ''"),
        ("c1", {"option_A": "120 to 200  ms."}, "two options say the same"),
        ("c1", {"option_A": ""}, "move them up"),
        ("c1", {"option_D": ""}, "have 4"),
        ("c1", {"question": " \n"}, "question is empty"),
        ("c1", {"evidence": "The QT interval is 400 ms long."}, "not in the passage"),
        ("c1", {"evidence": ""}, "not in the passage"),
        ("c1", {"status": "maybe"}, "kept or dropped"),
        ("c1", {"revision": "new"}, "revision is no number"),
        ("c1", {"revision": "4"}, "knows revision 4"),
        ("mine:o1", {"reference": ""}, "reference answer is empty"),
        ("mine:o1", {"option_A": "yes"}, "has no options"),
        ("mine:o1", {"evidence": "three new words"}, "no passage"),
        ("c1", {"question_id": "c9"}, "no such question"),
        ("c1", {"question_id": ""}, "questions.imports"),
        ("c1", {"question_id": "c2"}, "stands in lines"),
    ],
)
def test_a_row_that_cannot_be_is_refused_whole(path, name, edited, said):
    export(path)
    edit(path, name, note="?", **({"reference": "A change that is right."} | edited))
    outcome = bring_back(path)
    assert outcome.revisions == []
    assert said in outcome.problems[0]
    assert re.match(r"line \d+, ", outcome.problems[0])


def test_evidence_is_kept_in_the_passages_own_characters(path):
    export(path)
    edit(path, "c1", evidence="a longer one is a first-degree av block")
    (row, *_), _ = applied(QUESTIONS, bring_back(path).revisions)
    assert row.evidence in TEXT
    assert row.evidence.startswith("A longer")


def test_evidence_that_came_with_an_import_goes_through_a_sheet_unharmed(path):
    known = OPEN.model_copy(update={"evidence": "Die PQ-Zeit misst die Überleitung in ms."})
    export(path, [known])
    assert bring_back(path, [known]).unchanged == 1
    edit(path, OPEN.question_id, reference="Ein Maß in ms")
    outcome = bring_back(path, [known])
    (row,), problems = applied([known], outcome.revisions)
    assert (problems, outcome.problems) == ([], [])
    assert (row.evidence, row.reference, row.status) == (known.evidence, "Ein Maß in ms", "kept")


def test_two_people_never_overwrite_each_other(path):
    export(path)
    edit(path, "c1", question="How long is the PR interval of a child?")
    hers = bring_back(path).revisions
    again = bring_back(path, earlier=hers)
    assert (again.revisions, again.problems) == ([], [])
    export(path)
    edit(path, "c1", question="How long does PR take?")
    edit(path, "mine:o1", reference="Kurz.")
    for questions in (QUESTIONS, applied(QUESTIONS, hers)[0]):
        his = bring_back(path, questions, hers, by="Bo")
        (problem,) = his.problems
        assert {row.question_id for row in his.revisions} == {"mine:o1"}
        for text in ("Ada", "PR interval of a child", "How long does PR take?"):
            assert text in problem
    export(path, applied(QUESTIONS, hers)[0])
    edit(path, "c1", question="How long is it in a child?")
    later = bring_back(path, earlier=hers, by="Bo")
    assert {row.revision for row in later.revisions} == {2}
    (row, *_), problems = applied(QUESTIONS, [*later.revisions, *hers])
    assert (problems, row.revision, row.revised_by) == ([], 2, "Bo")
    assert row.question == "How long is it in a child?"


def test_a_correction_that_no_longer_fits_is_told_and_not_applied(path):
    export(path)
    edit(path, "c1", question="How long is the PR?", answer="A")
    made = bring_back(path).revisions
    other = CHOICE.model_copy(update={"options": ("1 ms", "120 to 200 ms", "3-5", "=1+1")})
    for questions, said in (
        ([OPEN], "no longer exists"),
        ([CHOICE.model_copy(update={"question": "Why?"})], "'Why?'"),
        ([other], "1 ms"),
        ([CHOICE.model_copy(update={"revision": 1, "revised_by": "Bo"})], "Bo"),
    ):
        rows, (problem,) = applied(questions, made)
        assert rows == questions
        assert said in problem
        assert "Ada" in problem
    # Refused once, it does not stand in the way of a newer correction.
    export(path, [other])
    edit(path, "c1", question="How long is PR?")
    newer = bring_back(path, [other], earlier=made)
    assert newer.problems == []
    rows, (problem,) = applied([other], [*made, *newer.revisions])
    assert (rows[0].question, rows[0].revision) == ("How long is PR?", 2)


def test_two_of_the_same_number_are_not_both_applied():
    def by(person, text):
        return Revision(
            question_id="c1", revision=1, column="question", before=CHOICE.question, after=text,
            by=person, at=f"2026-01-0{len(person)}",
        )  # fmt: skip

    (row,), (problem,) = applied([CHOICE], [by("Bo", "One?"), by("Ada", "Two?")])
    assert row.question == "One?"
    assert "Ada" in problem
    (row,), problems = applied([CHOICE], [by("Bo", "One?"), by("Bo", "One?")])
    assert (row.question, problems) == ("One?", [])


def test_columns_that_no_question_has_are_told(path):
    export(path)
    if path.suffix == ".xlsx":
        book = openpyxl.load_workbook(path)
        book.active.cell(1, book.active.max_column + 1).value = "Reviewer"
        book.active.cell(2, book.active.max_column).value = "Ada"
        book.save(path)
    else:
        lines = path.read_text("utf-8-sig").split("\n")
        lines[0] = lines[0].rstrip("\r") + ",Reviewer"
        path.write_text("\n".join(lines), encoding="utf-8")
    outcome = bring_back(path)
    assert outcome.ignored == ("reviewer",)
    assert outcome.unchanged == 3


def test_columns_may_be_left_out_but_not_those_that_name_the_question(tmp_path):
    path = tmp_path / "sheet.csv"
    path.write_text("revision,question_id,question\n0,c1,How long?\n", encoding="utf-8")
    assert [r.column for r in bring_back(path).revisions] == ["question", "status"]
    path.write_text("question_id,revision,answer\nc1,0,A\n", encoding="utf-8")
    assert "option" in bring_back(path).problems[0]
    path.write_text("question_id,question\nc1,How long?\n", encoding="utf-8")
    with pytest.raises(UsageError, match="revision"):
        sheets.read(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="question_id"):
        sheets.read(path)
    with pytest.raises(UsageError, match=r"\.xlsx or \.csv"):
        export(tmp_path / "sheet.ods")


def test_rows_with_more_options_than_letters_can_be_exported(path):
    many = CHOICE.model_copy(
        update={"options": tuple(f"option {i}" for i in range(30)), "status": "dropped",
                "reason": "option_count", "set": "mine"}
    )  # fmt: skip
    export(path, [many])
    assert bring_back(path, [many]).unchanged == 1


@pytest.mark.slow
def test_the_shared_questions_go_out_and_come_back(path):
    source = SHARED / "questions" / "all_mcq.jsonl"
    if not source.is_file():
        pytest.skip("needs ../shared, which this machine does not have")
    questions = read_set(source, ImportedSet(path=source.name), [], 1)
    export(path, questions)
    outcome = bring_back(path, questions)
    assert (outcome.revisions, outcome.problems, outcome.unchanged) == ([], [], len(questions))
    first = next(row for row in questions if row.status == "kept")
    edit(path, first.question_id, option_A="Something else", note=json.dumps("ä"))
    outcome = bring_back(path, questions)
    assert {row.question_id for row in outcome.revisions} == {first.question_id}
    assert outcome.unchanged == len(questions) - 1


def test_flags_about_the_text_before_do_not_stay_on_a_corrected_question(path):
    flagged = CHOICE.model_copy(update={"flags": ("solved_options_only",)})
    export(path, [flagged])
    edit(path, "c1", option_A="60 ms")
    brought = revisions(sheets.read(path), [flagged], "Ada", "2026-01-01", [], PASSAGES)
    (row,), problems = applied([flagged], brought.revisions)
    assert (problems, row.options[0], row.flags) == ([], "60 ms", ())
