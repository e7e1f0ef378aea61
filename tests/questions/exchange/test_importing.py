import json
import random
import re
import shutil
from collections import Counter
from importlib import resources
from pathlib import Path

import openpyxl
import pytest
from support import HANDBOOK, ROOT, SHARED, run_cli

from ecg_llm.config import ImportedSet, Splits
from ecg_llm.contracts import UsageError
from ecg_llm.pipeline import import_path
from ecg_llm.questions.checking.verify import SET
from ecg_llm.questions.exchange.importing import read_set
from ecg_llm.questions.splitting.split import assign
from ecg_llm.records import QUESTION_REASONS, Document, Passage, Placement
from ecg_llm.retrieve.measure import sources
from ecg_llm.steps import read_table

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


@pytest.mark.parametrize(
    "answer", ["C", "c", "(C)", "C.", "C)", "The T wave", "the t  wave.", "C. The T wave"]
)
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
        (CHOICE | {"answer": 7}, "no_key"),
        (CHOICE | {"answer": "C. The P wave"}, "no_key"),
        (CHOICE | {"answer": ["A", "B"]}, "no_key"),
        (CHOICE | {"options": ["The P wave"]}, "option_count"),
        (CHOICE | {"options": [], "kind": "choice"}, "option_count"),
        (CHOICE | {"options": ["< 5", "< 5 "], "answer": "A"}, "duplicate_options"),
        (CHOICE | {"document": "missing.pdf"}, "unknown_document"),
        (CHOICE | {"document": "twice.pdf"}, "unknown_document"),
        (CHOICE | {"options": [str(i) for i in range(30)]}, "option_count"),
        (CHOICE | {"options": "The P wave; the T wave"}, "bad_row"),
        (CHOICE | {"answer_idx": "B", "answer": "The P wave"}, "bad_row"),
        (CHOICE | {"question": {"text": None}}, "bad_row"),
        (CHOICE | {"question": "x" * 200_000}, "too_long"),
        ({"question": "Which vitamin?", "answer": "A"}, "bad_row"),
        (OPEN | {"models": ["a", "b"], "answer": ["One.", "Two."]}, "bad_row"),
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


QUOTE = "The P wave is produced by atrial depolarization. The T wave is not."


@pytest.mark.parametrize("field", ["evidence", "Quote", "supporting_text"])
@pytest.mark.parametrize(
    "given",
    [
        QUOTE,
        f" {QUOTE} ".replace(" by ", "\u00a0by\n\t"),
        re.split(r"(?<=\.) ", QUOTE),
        {"text": QUOTE},
    ],
)
def test_what_an_answer_rests_on_is_kept_and_names_no_passage(tmp_path, field, given):
    row, without = read(tmp_path, OPEN | {field: given, "document": "01-normal.pdf"}, CHOICE)
    assert row.evidence == QUOTE
    assert (row.passage_id, row.doc_id, row.status) == ("", "a" * 16, "kept")
    assert without.evidence == ""


def test_evidence_needs_no_document_and_is_read_from_csv(tmp_path):
    csv = f"id;question;answer;evidence\n7;What is S1?;A sound.;{QUOTE}\n8;What is S2?;One more.;\n"
    rows = read(tmp_path, csv, name="mine.csv")
    assert [(row.evidence, row.doc_id, row.status) for row in rows] == [
        (QUOTE, "", "kept"),
        ("", "", "kept"),
    ]


def test_endless_evidence_is_told_like_an_endless_question(tmp_path):
    (row,) = read(tmp_path, OPEN | {"evidence": "so on " * 20_000})
    assert (row.status, row.reason) == ("dropped", "too_long")


def test_an_imported_question_is_no_leak_because_a_training_question_quotes_its_evidence(tmp_path):
    quote = "The P wave is produced by atrial depolarization in every healthy heart."
    asked = OPEN | {"document": "01-normal.pdf"}
    named, unnamed = read(
        tmp_path, asked | {"evidence": quote}, CHOICE | {"document": "01-normal.pdf"}
    )
    written = unnamed.model_copy(
        update={"question_id": "w1", "set": SET, "passage_id": "p1", "evidence": quote}
    )
    place = Placement(path="books/01-normal.pdf", doc_id="a" * 16, group="handbook", split="train",
                      why="drawn")  # fmt: skip
    trained, row = assign([written, named], [place], DOCUMENTS, {}, Splits(seen=0), 1)
    assert (trained.split, trained.status) == ("train", "kept")
    assert (row.split, row.status, row.reason) == ("test_seen", "kept", "")


@pytest.mark.parametrize("name", ["questions.jsonl", "./questions.jsonl", "x/../scores.jsonl"])
def test_a_file_that_a_table_of_the_study_would_overwrite_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="another name"):
        import_path(ImportedSet(path=name), tmp_path)
    assert import_path(ImportedSet(path="sets/questions.jsonl"), tmp_path).name == "questions.jsonl"


BUNDLED = Path(str(resources.files("ecg_llm").joinpath("demo", "questions.jsonl")))


def test_every_bundled_question_quotes_the_handbook():
    chapters = {
        file.stem: " ".join(re.findall(r"\w+", file.read_text("utf-8")))
        for file in (ROOT / "handbook").glob("[0-9]*.typ")
    }
    rows = [json.loads(line) for line in BUNDLED.read_text("utf-8").splitlines()]
    assert len(rows) == 81
    quotes = {row["id"]: " ".join(re.findall(r"\w+", row["evidence"])) for row in rows}
    assert min(len(quote.split()) for quote in quotes.values()) >= 7
    chapter = {row["id"]: chapters[row["document"].removesuffix(".pdf")] for row in rows}
    assert [name for name, quote in quotes.items() if quote not in chapter[name]] == []


@pytest.mark.slow
def test_every_bundled_question_has_its_source_among_the_passages_that_are_read(tmp_path):
    shutil.copytree(HANDBOOK, tmp_path / "literature")
    (tmp_path / "study.yaml").write_text("title: The handbook\n")
    run = run_cli("passages", "-C", str(tmp_path))
    assert run.returncode == 0, run.stderr
    documents = read_table(tmp_path / "documents.jsonl", Document)
    passages = read_table(tmp_path / "passages.jsonl", Passage)
    sections = {row.passage_id: row.section for row in passages}
    rows = read_set(BUNDLED, ImportedSet(path="handbook"), documents, 1)
    found = sources(rows, passages)
    assert [row.question_id for row in rows if not found[row.question_id]] == []
    for row in rows:
        section = row.note.removeprefix("section: ")
        assert all(section in sections[source] for source in found[row.question_id]), row


def test_the_bundled_questions_are_all_good():
    entries = [json.loads(line) for line in BUNDLED.read_text("utf-8").splitlines()]
    documents = [
        Document(path=name, doc_id=f"{i:016d}", status="ok")
        for i, name in enumerate(sorted({entry["document"] for entry in entries}))
    ]
    rows = read_set(BUNDLED, ImportedSet(path="handbook"), documents, 1)
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
    placed = assign(rows, [], [], {}, Splits(), 1)
    assert {row.split for row in placed} == {"test"}
    sources = {"medqa": 675, "medmcqa": 2122, "mmlu": 558, "pubmedqa": 519, "bioasq": 309}
    assert Counter(row.question_id.split(":")[1].split("-")[0] for row in rows) == sources
    ecg = ImportedSet(path="all_mcq.jsonl", name="strict", where={"ecg": "strict"})
    strict = read_set(folder / "all_mcq.jsonl", ecg, [], 1)
    assert {row.set for row in strict} == {"strict"}
    assert sum(row.status == "kept" for row in strict) == 54
    open_rows = read_set(folder / "open_qa_ecg.jsonl", ImportedSet(path="open_qa.jsonl"), [], 1)
    assert len(open_rows) == 108
    assert {row.kind for row in open_rows} == {"open"}
    assert sum(row.status == "kept" for row in open_rows) == 106


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(path, **settings):
    return read_set(path, ImportedSet(path=path.name, **settings), DOCUMENTS, 1)


WAVES = ["P wave", "Q wave", "T wave", "U wave"]


def mcqa(number, cop, **fields):
    """A row in the shape of MedMCQA."""
    return {
        "id": f"m{number}", "question": f"Which wave has number {number}?", "opa": WAVES[0],
        "opb": WAVES[1], "opc": WAVES[2], "opd": WAVES[3], "cop": cop, "choice_type": "single",
        "exp": "It says so.", "subject_name": "Physiology", "topic_name": None,
    } | fields  # fmt: skip


@pytest.mark.parametrize(("places", "first"), [((1, 4, 2), 1), ((0, 3, 1), 0)])
def test_places_are_counted_as_the_whole_file_shows(tmp_path, places, first):
    rows = read(tmp_path, *(mcqa(i, place) for i, place in enumerate(places)), name="dev.json")
    assert ["ABCD".index(row.answer) + first for row in rows] == list(places)
    assert rows[0].reference == "It says so."
    hugging_face = [
        {"question": f"Question {i}?", "subject": "anatomy", "choices": WAVES, "answer": place}
        for i, place in enumerate(places)
    ]
    rows = read(tmp_path, *hugging_face)
    assert ["ABCD".index(row.answer) + first for row in rows] == list(places)


@pytest.mark.parametrize("places", [(1, 2, 3), (0, 4, 1), (2,)])
def test_places_that_do_not_show_where_they_count_from_are_asked_about(tmp_path, places):
    rows = [mcqa(i, place) for i, place in enumerate(places)]
    with pytest.raises(UsageError, match="key_from"):
        read(tmp_path, *rows)
    for first in (0, 1):
        found = read(tmp_path, *rows, key_from=first)
        expected = ["ABCD"[p - first] if 0 <= p - first < 4 else "" for p in places]
        assert [row.answer for row in found] == expected
        assert [row.reason for row in found] == ["" if key else "no_key" for key in expected]


def test_a_set_without_keys_has_no_keys(tmp_path):
    rows = read(tmp_path, mcqa(1, -1), mcqa(2, -1))
    assert {row.reason for row in rows} == {"no_key"}


def test_one_odd_number_does_not_stop_a_file_keyed_by_letters(tmp_path):
    other = CHOICE | {"id": "q2", "question": "Which is last?", "answer": 2}
    rows = read(tmp_path, CHOICE, other)
    assert [(row.answer, row.reason) for row in rows] == [("A", ""), ("", "no_key")]


def test_options_that_are_numbers_are_told_from_places(tmp_path):
    chambers = {"question": "How many chambers has the heart?", "options": ["1", "2", "3", "4"]}
    rate = {"question": "Which rate is normal?", "options": [40, 70, 130], "answer": 70}
    by_text, normal = read(tmp_path, chambers | {"answer": "4"}, rate)
    assert (by_text.answer, normal.answer) == ("D", "B")
    first = {"question": "Which comes first?", "options": WAVES, "answer": 0}
    by_place, _ = read(tmp_path, chambers | {"answer": 3}, first)
    assert by_place.answer == "D"
    groups = {"question": "Which blood group?", "options": ["O", "B", "A", "AB"], "answer": "A"}
    named = CHOICE | {"answer": "The P wave"}
    (by_letter,) = read(tmp_path, groups)
    doubtful, _ = read(tmp_path, groups, named)
    assert (by_letter.answer, doubtful.reason) == ("A", "no_key")
    medqa = {
        "question": "Which blood group?", "answer": "A", "answer_idx": "C", "meta_info": "step1",
        "options": {"A": "O", "B": "B", "C": "A", "D": "AB"},
    }  # fmt: skip
    assert read(tmp_path, medqa)[0].answer == "C"


@pytest.mark.parametrize(
    ("answer", "options", "right"),
    [
        (True, None, "True"),
        (False, ["True", "False"], "False"),
        (True, ["No", "Yes"], "Yes"),
        ("TRUE", None, "True"),
    ],
)
def test_truth_values_are_choices(tmp_path, answer, options, right):
    (row,) = read(tmp_path, {"question": "Is it so?", "options": options, "answer": answer})
    assert row.options["ABC".index(row.answer)] == right


def test_mmlu_has_no_header(tmp_path):
    path = write(
        tmp_path,
        "anatomy_test.csv",
        'Which is largest?,Aorta,"Vein, small",Capillary,Arteriole,A\r\n'
        'Which is "thin"?,Aorta,Vein,Capillary,Arteriole,C\r\n\r\n'
        "Which has no key?,Aorta,Vein,Capillary,Arteriole,\r\n",
    )
    rows = load(path)
    assert [(row.answer, row.reason) for row in rows] == [("A", ""), ("C", ""), ("", "no_key")]
    assert rows[0].options[1] == "Vein, small"
    assert rows[2].note.startswith("line 4")


def test_pubmedqa_is_a_choice_among_three_with_its_abstract(tmp_path):
    original = {
        "101": {
            "QUESTION": "Does pacing help?", "CONTEXTS": ["We paced 40.", "It helped 30."],
            "LABELS": ["METHODS", "RESULTS"], "YEAR": None, "final_decision": "yes",
            "LONG_ANSWER": "Pacing helped most.",
        },
        "102": {"QUESTION": "Does it harm?", "CONTEXTS": ["We saw none."], "final_decision": None,
                "LONG_ANSWER": "It harmed nobody."},
    }  # fmt: skip
    keyed, unlabelled = load(write(tmp_path, "ori_pqal.json", json.dumps(original, indent=1)))
    assert keyed.question_id == "ori_pqal:101"
    assert (keyed.options, keyed.answer) == (("yes", "no", "maybe"), "A")
    assert keyed.context == "We paced 40.\nIt helped 30."
    assert keyed.reference == unlabelled.reference.replace("It harmed nobody.", keyed.reference)
    assert (unlabelled.kind, unlabelled.status) == ("open", "kept")
    copy = {
        "pubid": 103, "question": "Does pacing help?", "long_answer": "Perhaps it does.",
        "context": {"contexts": ["We paced 4."], "labels": ["METHODS"], "meshes": ["Humans"]},
        "final_decision": "maybe",
    }  # fmt: skip
    (row,) = read(tmp_path, copy)
    assert (row.question_id, row.answer, row.context) == ("mine:103", "C", "We paced 4.")


def test_the_papers_files(tmp_path):
    pairs = [{"question": "What is a P wave?", "answer": "Atrial.", "context": "12-40"}]
    (row,) = read(tmp_path, json.dumps(pairs), name="qa_pairs_x.json")
    assert (row.context, row.note, row.status) == ("", "lines 12-40", "kept")
    named = {"question": "What is a T wave?", "answer": "Ventricular.", "context": "0-9",
             "filename": "01-normal_pages_1-300_cleaned.md"}  # fmt: skip
    assert read(tmp_path, named)[0].doc_id == "a" * 16
    options = [{"text": wave, "is_correct": wave == "T wave"} for wave in WAVES]
    mcq = {"question": "Which is last but one?", "options": options, "context": "3-5"}
    twice = mcq | {"options": [option | {"is_correct": "true"} for option in options]}
    right, unclear = read(tmp_path, mcq, twice)
    assert (right.answer, right.note, unclear.reason) == ("C", "lines 3-5", "no_key")


@pytest.mark.parametrize(
    ("question", "stem"),
    [
        ("Which wave is first? A) P wave B) Q wave C) T wave D) U wave", "Which wave is first?"),
        (
            "Which wave shows left atrial (LA) overload of type (A) and hepatitis (type A) too? "
            "A) P wave B) Q wave C) T wave D) U wave",
            "Which wave shows left atrial (LA) overload of type (A) and hepatitis (type A) too?",
        ),
        ("Lead A. is off. Which wave? A) P wave B) Q wave C) T wave D) U wave",
         "Lead A. is off. Which wave?"),
        ("Which?\nA. P wave\nB. Q wave\nC. T wave\nD. U wave", "Which?"),
    ],
)  # fmt: skip
def test_options_are_taken_out_of_the_question(tmp_path, question, stem):
    (row,) = read(tmp_path, {"question": question, "answer": "C"})
    assert (row.question, row.options, row.answer) == (stem, tuple(WAVES), "C")


@pytest.mark.parametrize(
    "question",
    [
        "What does lead A) show? A) P wave B) Q wave C) T wave D) U wave",
        "Is it type A) or type B) of block?",
        "Which? A) P wave B) Q wave D) U wave",
        "Which? A) P wave B) C) T wave D) U wave",
        "Which? A) P wave B) Q wave a. small b. large A. P wave B. Q wave",
        "Enlargement of the left atrium (LA) shows as?",
    ],
)
def test_a_question_in_doubt_is_never_cut(tmp_path, question):
    (row,) = read(tmp_path, {"question": question, "answer": "B"})
    assert (row.status, row.reason, row.question) == ("dropped", "bad_row", question)


def test_labels_before_the_options_are_taken_off(tmp_path):
    labelled = [f"{letter}. {wave}" for letter, wave in zip("ABCD", WAVES, strict=True)]
    (row,) = read(tmp_path, {"question": "Which?", "options": labelled, "answer": labelled[1]})
    assert (row.options, row.answer) == (tuple(WAVES), "B")
    mixed = ["A. fib", "B. fib", "C. fib", "atrial flutter"]
    (row,) = read(tmp_path, {"question": "Which?", "options": mixed, "answer": "atrial flutter"})
    assert row.options == tuple(mixed)


def test_a_gap_among_the_options_does_not_move_the_key(tmp_path):
    rows = read(tmp_path, mcqa(1, 3, opb=None), mcqa(2, 0))
    assert rows[0].options == ("P wave", "T wave", "U wave")
    assert rows[0].options["ABC".index(rows[0].answer)] == "U wave"


def test_json_tells_the_line_of_every_bad_row(tmp_path):
    text = json.dumps({"version": 1, "questions": [CHOICE, OPEN, {"id": 9}, 5]}, indent=2)
    rows = load(write(tmp_path, "mine.json", text))
    lines = text.split("\n")
    third, fourth = lines.index('      "id": 9'), lines.index("    5") + 1
    assert rows[2].note == f"line {third} (entry 3): no question text"
    assert rows[3].note.startswith(f"line {fourth} (entry 4): ")
    assert len(load(write(tmp_path, "one.json", json.dumps([CHOICE, 1, 2, {}, {}])))) == 5
    (single,) = load(write(tmp_path, "single.json", json.dumps(CHOICE)))
    assert single.answer == "A"
    two = json.dumps({"train": [CHOICE], "test": [OPEN]})
    with pytest.raises(UsageError, match="train, test"):
        load(write(tmp_path, "two.json", two))


def test_csv_as_people_make_it(tmp_path):
    text = (
        "\ufeffid;Question;Option A;Option B;Answer;\r\n"
        '1;"Which, of\r\nthe two?";"a ""b""";c;B;\r\n'
        ";;;;;\r\n\r\n"
        "2;Too many?;a;b;A;;surplus\r\n"
        "3;What else?;a;a.;A;\r\n"
    )
    good, surplus, equal = load(write(tmp_path, "mine.csv", text))
    assert (good.question, good.options, good.answer) == (
        "Which, of\nthe two?",
        ('a "b"', "c"),
        "B",
    )
    assert (surplus.reason, surplus.note) == ("bad_row", "line 6: 7 cells, but the header has 5")
    assert (equal.reason, equal.note) == ("duplicate_options", "line 7: a")
    assert load(write(tmp_path, "sep.csv", "sep=;\n" + text.lstrip("\ufeff")))[0].answer == "B"
    listed = "question,choices,answer\nWhich?,\"['one', 'two']\",two\n"
    assert load(write(tmp_path, "listed.csv", listed))[0].options == ("one", "two")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("question,answer\nWas heißt das?,Größe\n".encode("cp1252"), "line 2, is not UTF-8"),
        ("question,answer\nWhat?,This\n".encode("utf-16"), "UTF-16"),
        ("question,answer\nWhat?,This\n".encode("utf-16-le"), "not a text file"),
        ("prompt,reply\nWhat?,This\n", "named 'question'"),
        ("question,answer,Answer\nWhat?,This,That\n", "two columns"),
        ('question,answer\n"What?,This\nHow?,So\n', "line 2: "),
        ("question,answer\nWhat?," + "x" * 200_000, "line 2: "),
    ],
)
def test_a_csv_file_that_would_be_misread_is_refused(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        load(write(tmp_path, "mine.csv", text))


def test_xlsx_reads_as_csv_does(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["id", "question", "option_a", "option_b", "answer"])
    book.active.append([1, "Which rate?", 60, 120.0, "B"])
    book.active.append([None] * 5)
    book.active.append([2, None, "x", "y", "A"])
    book.save(tmp_path / "mine.xlsx")
    good, bad = load(tmp_path / "mine.xlsx")
    assert (good.question_id, good.options, good.answer) == ("mine:1", ("60", "120"), "B")
    assert (bad.reason, bad.note) == ("bad_row", "line 4: no question text")
    book.create_sheet("more").append(["question"])
    book.save(tmp_path / "two.xlsx")
    with pytest.raises(UsageError, match="more"):
        load(tmp_path / "two.xlsx")
    with pytest.raises(UsageError, match="XLSX"):
        load(write(tmp_path, "bad.xlsx", b"not a workbook"))


def test_a_damaged_workbook_is_refused(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["question", "answer"])
    book.active["XFD900000"] = "astray"
    book.save(tmp_path / "mine.xlsx")
    with pytest.raises(UsageError, match="far from the others"):
        load(tmp_path / "mine.xlsx")
    whole = (tmp_path / "mine.xlsx").read_bytes()
    for cut in range(100, len(whole), 700):
        with pytest.raises(UsageError, match="sound XLSX"):
            load(write(tmp_path, "cut.xlsx", whole[:cut]))


def test_whatever_stands_in_a_file_every_entry_becomes_one_row(tmp_path):
    names = [
        "id", "question", "options", "choices", "answer", "answer_idx", "key", "cop", "opa", "opb",
        "exp", "context", "kind", "models", "final_decision", "difficulty", "A", "B", "filename",
    ]  # fmt: skip
    values = [
        None, "", "A", "b)", "yes", "True", True, False, 0, 1, 2, -1, 2.5, float("nan"), [], {},
        ["x", None, "z"], {"A": "x", "B": "y"}, {"text": ["x", "y"], "label": ["A", "B"]},
        [{"text": "x", "is_correct": True}, {"text": "y"}], {"text": None}, {"contexts": None},
        "12-40", "Which? A) x B) y", "\ud800", [[["x"]]], {"a": {"b": [1]}}, 10**30,
    ]  # fmt: skip
    rng = random.Random(7)
    for number in range(300):
        entries = [
            {rng.choice(names): rng.choice(values) for _ in range(rng.randrange(8))}
            | {"question": f"Is it {rng.randrange(3)}?"}
            for _ in range(rng.randrange(1, 6))
        ]
        rows = read(tmp_path, *entries, key_from=rng.choice([0, 1]))
        assert len({row.question_id for row in rows}) == len(entries), number
        for row in rows:
            assert row.model_dump_json()
            assert row.reason in QUESTION_REASONS
            if row.status == "kept":
                assert row.reference
                assert bool(row.options) == bool(row.answer) == (row.kind == "choice")


def test_no_row_is_lost_to_ids_that_collide(tmp_path):
    rows = read(
        tmp_path,
        OPEN | {"id": "a#line3"},
        OPEN | {"id": "a", "question": "Two?"},
        OPEN | {"id": "a", "question": "Three?"},
    )
    assert len({row.question_id for row in rows}) == 3


def test_equal_questions_with_other_answers_say_so(tmp_path):
    _, twin = read(tmp_path, CHOICE, CHOICE | {"id": "q2", "answer": "B"})
    assert (twin.reason, twin.note) == (
        "duplicate",
        "line 2: same as mine:q1, with another answer",
    )
