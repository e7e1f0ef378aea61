import json
from collections import Counter
from pathlib import Path

import pytest

from ecg_llm.config import ImportedSet, Splits
from ecg_llm.contracts import UsageError
from ecg_llm.questions.importing import read_set
from ecg_llm.questions.split import assign
from ecg_llm.records import QUESTION_REASONS, Document

SHARED = Path(__file__).parents[2].parent / "shared"
DOCUMENTS = [
    Document(path="books/01-normal.pdf", doc_id="a" * 16, group="handbook", status="ok"),
    Document(path="books/twice.pdf", doc_id="b" * 16, status="ok"),
    Document(path="other/twice.pdf", doc_id="c" * 16, status="ok"),
]
CHOICE = {
    "id": "q1",
    "question": "Which wave is produced by atrial depolarization?",
    "options": ["The P wave", "The QRS complex", "The T wave", "The U wave"],
    "answer": "A",
}
OPEN = {"id": "o1", "question": "What does the P wave show?", "answer": "Atrial depolarization."}


def read(folder, *rows, name="mine.jsonl", **settings):
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_set(path, ImportedSet(path=name, **settings), DOCUMENTS, 1)


def test_choice_and_open_questions_are_told_apart_by_their_options(tmp_path):
    choice, open_ = read(tmp_path, CHOICE, OPEN)
    assert (choice.question_id, choice.set, choice.kind) == ("mine:q1", "mine", "choice")
    assert (choice.answer, choice.reference) == ("A", "The P wave")
    assert (open_.kind, open_.reference, open_.options) == ("open", "Atrial depolarization.", ())
    assert {choice.status, open_.status} == {"kept"}
    assert choice.group == "mine:q1"
    assert choice.generator == "mine.jsonl"


@pytest.mark.parametrize("answer", ["C", "c", "(C)", "C.", "The T wave", "the t  wave.", 2, "2"])
def test_the_right_option_is_found_however_it_is_named(tmp_path, answer):
    (row,) = read(tmp_path, CHOICE | {"answer": answer})
    assert (row.answer, row.status) == ("C", "kept")


@pytest.mark.parametrize(
    ("options", "answer", "expected"),
    [
        ({"A": "one", "B": "two", "C": "three"}, "B", "two"),
        ({"B": "two", "A": "one"}, "A", "one"),
        ({"A": "one", "B": "two", "C": "three", "D": "four", "E": None}, "D", "four"),
        ({"1": "one", "2": "two"}, "2", "two"),
        ({"text": ["one", "two"], "label": ["A", "B"]}, "B", "two"),
        (["3", "2", "1"], "1", "1"),
        ([{"text": "one", "is_correct": False}, {"text": "two", "is_correct": True}], None, "two"),
    ],
)
def test_options_come_in_many_shapes(tmp_path, options, answer, expected):
    (row,) = read(tmp_path, {"question": "Which number?", "options": options, "answer": answer})
    assert row.status == "kept", row.note
    assert row.options["ABCDE".index(row.answer)] == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "bad_row"),
        ("[1, 2]", "bad_row"),
        ({"id": 1, "answer": "A"}, "bad_row"),
        ({"question": "Nothing else?"}, "bad_row"),
        (CHOICE | {"answer": "E"}, "no_key"),
        (CHOICE | {"answer": None}, "no_key"),
        (CHOICE | {"answer": 4}, "no_key"),
        (CHOICE | {"answer": ["A", "B"]}, "no_key"),
        (CHOICE | {"options": ["The P wave"]}, "option_count"),
        (CHOICE | {"options": [], "kind": "choice"}, "option_count"),
        (CHOICE | {"options": ["< 5", "< 5 "], "answer": "A"}, "duplicate_options"),
        (CHOICE | {"document": "missing.pdf"}, "unknown_document"),
        (CHOICE | {"document": "twice.pdf"}, "unknown_document"),
        (CHOICE | {"options": [str(i) for i in range(30)], "answer": 3}, "option_count"),
    ],
)
def test_a_bad_row_is_dropped_with_its_line_and_never_raises(tmp_path, row, reason):
    good, bad = read(tmp_path, OPEN, row)
    assert good.status == "kept"
    assert (bad.status, bad.reason) == ("dropped", reason)
    assert bad.note.startswith("line 2")
    assert bad.reason in QUESTION_REASONS


def test_half_a_surrogate_does_not_break_the_table(tmp_path):
    (row,) = read(tmp_path, '{"question": "What is \\ud800 this?", "answer": "x\\u0000y"}')
    assert row.model_dump_json()


@pytest.mark.parametrize(
    ("named", "doc_id", "group"),
    [
        ("books/01-normal.pdf", "a" * 16, "handbook"),
        ("01-normal.pdf", "a" * 16, "handbook"),
        ("C:\\papers\\01-normal.pdf", "a" * 16, "handbook"),
        ("other/twice.pdf", "c" * 16, "c" * 16),
    ],
)
def test_a_document_is_found_by_path_or_unique_name(tmp_path, named, doc_id, group):
    (row,) = read(tmp_path, CHOICE | {"document": named})
    assert (row.doc_id, row.group, row.status) == (doc_id, group, "kept")


def test_further_fields_are_kept(tmp_path):
    (row,) = read(
        tmp_path,
        CHOICE | {"explanation": "Because.", "contexts": ["One.", "Two."], "license": "MIT",
                  "section": "Waves", "language": "en"},
    )  # fmt: skip
    assert (row.reference, row.context, row.licence) == ("Because.", "One.\nTwo.", "MIT")
    assert row.note == "section: Waves"
    (german,) = read(tmp_path, {"question": "Was ist die P-Welle?", "answer": "Die Erregung."})
    assert german.language == "de"


def test_filters_and_limits_leave_rows_behind(tmp_path):
    rows = [
        {"id": i, "question": f"Question {i}?", "answer": "x", "topic": "ab"[i % 2]}
        for i in range(40)
    ]
    found = read(tmp_path, *rows, where={"topic": "a"}, limit=5)
    assert len(found) == 40
    assert Counter((row.status, row.reason) for row in found) == {
        ("kept", ""): 5,
        ("dropped", "filtered"): 35,
    }
    assert found == read(tmp_path, *rows, where={"topic": "a"}, limit=5)
    both = read(tmp_path, *rows, where={"topic": ("a", "b")})
    assert all(row.status == "kept" for row in both)
    with pytest.raises(UsageError, match="tpic"):
        read(tmp_path, *rows, where={"tpic": "a"})


def test_equal_questions_are_dropped_and_equal_ids_are_told_apart(tmp_path):
    other = OPEN | {"question": "What does the T wave show?"}
    rows = read(tmp_path, OPEN, OPEN | {"id": "o2"}, other)
    assert [(row.question_id, row.reason) for row in rows] == [
        ("mine:o1", ""),
        ("mine:o2", "duplicate"),
        ("mine:o1#line3", ""),
    ]


def test_rows_without_an_id_get_one_that_does_not_depend_on_their_line(tmp_path):
    bare = {"question": OPEN["question"], "answer": OPEN["answer"]}
    (first,) = read(tmp_path, bare)
    assert read(tmp_path, CHOICE, bare)[1].question_id == first.question_id


def test_csv_and_json_read_as_json_lines_do(tmp_path):
    csv = "id;question;option_a;option_b;option_c;answer\n7;Which, one?;x;y;;b\n"
    (row,) = read(tmp_path, csv, name="mine.csv")
    assert (row.options, row.answer, row.question_id) == (("x", "y"), "B", "mine:7")
    (row,) = read(tmp_path, "\ufeffquestion,answer\nWhat is S1?,A sound.\n", name="mine.csv")
    assert (row.kind, row.reference) == ("open", "A sound.")
    for name in ("mine.json", "list.txt"):
        (row,) = read(tmp_path, json.dumps([CHOICE]), name=name)
        assert row.answer == "A"
    (row,) = read(tmp_path, json.dumps({"version": 1, "questions": [CHOICE]}), name="mine.json")
    assert row.answer == "A"


def test_an_empty_file_is_an_empty_set(tmp_path):
    assert read(tmp_path, "") == []
    assert read(tmp_path, "", name="mine.csv") == []


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.jsonl"):
        read_set(tmp_path / "none.jsonl", ImportedSet(path="none.jsonl"), DOCUMENTS, 1)
    (tmp_path / "latin.csv").write_bytes("frage\nWas hei\xdft".encode("latin-1"))
    with pytest.raises(UsageError, match="UTF-8"):
        read_set(tmp_path / "latin.csv", ImportedSet(path="latin.csv"), DOCUMENTS, 1)
    with pytest.raises(UsageError, match="not valid JSON"):
        read(tmp_path, "[{", name="mine.json")


def test_the_bundled_questions_are_all_good():
    from importlib import resources

    path = Path(str(resources.files("ecg_llm").joinpath("demo", "questions.jsonl")))
    entries = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    documents = [
        Document(path=name, doc_id=f"{i:016d}", status="ok")
        for i, name in enumerate(sorted({entry["document"] for entry in entries}))
    ]
    rows = read_set(path, ImportedSet(path="handbook"), documents, 1)
    assert {row.set for row in rows} == {"handbook"}
    assert [row.note for row in rows if row.status == "dropped"] == []
    assert all(row.doc_id for row in rows)


@pytest.mark.slow
def test_the_shared_question_sets_are_read_whole():
    folder = SHARED / "questions"
    if not folder.is_dir():
        pytest.skip("needs ../shared, which this machine does not have")
    rows = read_set(folder / "all_mcq.jsonl", ImportedSet(path="all_mcq.jsonl"), [], 1)
    assert len(rows) == 4183
    dropped = Counter(row.reason for row in rows if row.status == "dropped")
    assert set(dropped) == {"duplicate", "duplicate_options"}
    assert sum(dropped.values()) < 50
    assert {len(row.options) for row in rows} >= {2, 3, 4}
    assert any(row.context for row in rows)
    placed = assign(rows, [], Splits(), {}, 1)
    assert {row.split for row in placed} == {"test"}
    ecg = ImportedSet(path="all_mcq.jsonl", where={"ecg": ("strict", "broad")})
    kept = [r for r in read_set(folder / "all_mcq.jsonl", ecg, [], 1) if r.status == "kept"]
    assert 50 < len(kept) < 1000
    open_rows = read_set(folder / "open_qa_ecg.jsonl", ImportedSet(path="open_qa.jsonl"), [], 1)
    assert len(open_rows) == 108
    assert {row.kind for row in open_rows} == {"open"}
    assert sum(row.status == "kept" for row in open_rows) == 106
