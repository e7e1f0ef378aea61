import json
from pathlib import Path

import pytest

from ecg_llm import store
from ecg_llm.commands import rate
from ecg_llm.config import Study
from ecg_llm.contracts import UsageError
from ecg_llm.records import GRADES, METRICS, Answer, Question, Rating
from ecg_llm.score.human import (
    human_scores,
    incomplete,
    question_id,
    read_ratings,
    shared_arms,
    summary,
)

SHARED = Path(__file__).parents[2].parent / "shared"
# Made up; the shape, typos and blanks are those of the published files (paper, 4.2 and 4.4).
HEAD = "Question,Answer,Model,Incorrect, Partially incorrect, Corret incomplete, Correct\n"
SHEET = HEAD + (
    "What is a P wave?,Atrial depolarization,Base,,,,x\n"
    '"What is a P wave?","Ventricles, of course","Tuned: r=8, alpha=16",x ,, ,\n'
    "What is a P wave?,Atria,RAG,,, x,\n"
    "What is a P wave?,Atria,RAG,,, x,\n"
    "What is a Q wave?,Septum,Base,,x,,\n"
    'What is a Q wave?,Septal,"Tuned: r=8, alpha=16",x,,,x\n'
    "What is a Q wave?,Septum ≥ 40 ms,RAG, ,,,\n"
)


def read(tmp_path, text, name="sheet.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return read_ratings(path, "hand")


def test_a_sheet_with_typos_and_stray_blanks_is_read_by_position(tmp_path):
    imported = read(tmp_path, SHEET)
    assert [(r.arm, r.label) for r in imported.ratings] == [
        ("Base", "correct"),
        ("Tuned: r=8, alpha=16", "incorrect"),
        ("RAG", "correct but incomplete"),
        ("Base", "partially incorrect"),
        ("Tuned: r=8, alpha=16", "unrated"),
        ("RAG", "unrated"),
    ]
    assert imported.ratings[1].answer == "Ventricles, of course"
    assert {r.set for r in imported.ratings} == {"hand"}


def lines(defects):
    return [str(defect) for defect in defects]


def test_every_defect_is_listed_with_its_line(tmp_path):
    imported = read(tmp_path, SHEET)
    assert imported.duplicates_dropped == 1
    assert lines(imported.duplicates) == ["hand, lines 4, 5: RAG | What is a P wave?"]
    assert imported.conflicts == []
    assert lines(imported.double_marked) == [
        "hand, line 7: Tuned: r=8, alpha=16 | What is a Q wave? (several marks: incorrect, correct)"
    ]
    assert lines(imported.missing_mark) == ["hand, line 8: RAG | What is a Q wave? (no mark)"]
    assert imported.missing_mark[0].place == "hand, line 8: RAG"
    assert imported.remarks == [
        "hand: column 6 is headed 'Corret incomplete' and was read as 'correct but incomplete'",
        "hand: blanks around 3 marks and in 2 empty cells were overlooked",
    ]


def test_the_summary_has_the_documented_shape(tmp_path):
    first, second = read(tmp_path, SHEET), read(tmp_path, HEAD + "Q?,A,Base,,,,x\n", "b.csv")
    found = summary([first, second])
    assert list(found) == [
        "arms",
        "duplicates_dropped",
        "duplicates",
        "conflicts",
        "double_marked",
        "missing_mark",
        "incomplete",
        "remarks",
        "sets",
    ]
    assert found["arms"]["Base"] == {
        "incorrect": 0,
        "partially incorrect": 1,
        "correct but incomplete": 0,
        "correct": 2,
        "unrated": 0,
    }
    assert found["sets"]["hand"] == found["arms"]
    assert found["duplicates_dropped"] == 1
    json.dumps(found)


def test_counts_are_given_for_each_set_too(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text(HEAD + "Q?,A,Base,x,,,\n")
    found = summary([read(tmp_path, SHEET), read_ratings(path, "other")])
    assert found["arms"]["Base"]["incorrect"] == found["sets"]["other"]["Base"]["incorrect"] == 1
    assert found["sets"]["hand"]["Base"]["incorrect"] == 0


def test_a_question_that_lacks_systems_is_listed_with_its_lines(tmp_path):
    text = HEAD + (
        "Q1?,A,Base,x,,,\nQ1?,A,RAG,,,,\n"  # a row without a mark is a row
        "Q2?,A,Base,x,,,\n"
        "Q3?,A,RAG,x,,,\nQ3?,A,RAG,,,,x\nq3? ,A,Base,,,,x\n"  # so is a refused one
    )
    imported = read(tmp_path, text)
    assert lines(incomplete([imported])) == [
        "hand, line 4: without RAG | Q2? (rated for 1 of 2 systems)"
    ]


def test_raters_who_share_a_set_are_complete_together(tmp_path):
    head = HEAD.strip() + ",Rater\n"
    text = head + "Q?,A,Base,x,,,,anna\nQ?,A,RAG,x,,,,ben\nQ2?,A,RAG,x,,,,ben\n"
    assert lines(incomplete([read(tmp_path, text)])) == [
        "hand, line 4: without Base | Q2? (rated for 1 of 2 systems)"
    ]


def test_contradicting_rows_are_refused_and_listed(tmp_path):
    imported = read(
        tmp_path,
        HEAD
        + "Q1?,Same,Base,x,,,\nQ1?,Same,Base,,,,x\n"
        + "Q2?,One,Base,,,,x\nQ2?,Two,Base,,,,x\n"
        + "Q3?,Fine,Base,,,,x\n",
    )
    assert [rating.question for rating in imported.ratings] == ["Q3?"]
    assert lines(imported.conflicts) == [
        "hand, lines 2, 3: Base | Q1?",
        "hand, lines 4, 5: Base | Q2?",
    ]
    assert imported.duplicates_dropped == 0


def test_raters_and_occasions_make_rows_of_their_own(tmp_path):
    head = HEAD.strip() + ",Rater,Occasion,Note\n"
    imported = read(
        tmp_path,
        head + "Q?,A,Base,x,,,,anna,0,\nQ?,A,Base,,,,x,ben,0,sure\nQ?,A,Base,,,,x,ben,1,\n",
    )
    assert [(r.rater, r.occasion, r.note) for r in imported.ratings] == [
        ("anna", 0, ""),
        ("ben", 0, "sure"),
        ("ben", 1, ""),
    ]
    assert imported.conflicts == []


@pytest.mark.parametrize(
    ("written", "occasion"),
    [("", 0), ("2", 2), ("1.0", 1), ("2,00", 2), ("02", 2), ("-1", None), ("1.5", None),
     ("second", None), ("²", None), ("9" * 5000, None)],
)  # fmt: skip
def test_occasions_as_spreadsheets_save_them(tmp_path, written, occasion):
    head = HEAD.strip() + ",Rater,Occasion\n"
    imported = read(tmp_path, head + f'Q?,A,Base,x,,,,anna,"{written}"\nQ?,A,RAG,x,,,,anna,0\n')
    assert [row.occasion for row in imported.ratings] == [occasion or 0, 0]
    told = [remark for remark in imported.remarks if "occasion" in remark]
    assert len(told) == (occasion is None)
    assert all(remark.startswith(f"hand, line 2: occasion '{written}'") for remark in told)


def test_an_occasion_that_cannot_be_read_is_told_once_with_its_lines(tmp_path):
    head = HEAD.strip() + ",Rater,Occasion\n"
    rows = "".join(f"Q{i}?,A,Base,x,,,,anna,first\n" for i in range(3))
    assert read(tmp_path, head + rows).remarks[-1] == (
        "hand, lines 2, 3, 4: occasion 'first' is no whole number from 0 on and was read as 0"
    )


@pytest.mark.parametrize(
    ("mark", "counts"),
    [("x", 1), (" X ", 1), ("1", 1), ("✓", 1), ("TRUE", 1), ("FALSE", 0), ("0", 0), ("-", 0)],
)
def test_what_a_mark_is(tmp_path, mark, counts):
    (rating,) = read(tmp_path, HEAD + f"Q?,A,Base,,,,{mark}\n").ratings
    assert rating.label == ("correct" if counts else "unrated")


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252"])
def test_sheets_as_spreadsheets_save_them(tmp_path, delimiter, encoding):
    text = HEAD.replace(",", delimiter) + delimiter.join(
        ["Größe?", "20 µV", "Base", "", "", "", "x"]
    )
    (rating,) = read(tmp_path, text.replace("\n", "\r\n"), encoding=encoding).ratings
    assert (rating.question, rating.answer, rating.label) == ("Größe?", "20 µV", "correct")


def test_line_numbers_are_those_of_the_file(tmp_path):
    imported = read(tmp_path, HEAD + 'Q1?,"two\nlines",Base,x,,,\n\nQ2?,A,Base,,,,\n')
    assert lines(imported.missing_mark) == ["hand, line 5: Base | Q2? (no mark)"]


def test_a_sheet_without_a_header_loses_no_row(tmp_path):
    assert len(read(tmp_path, "Q1?,A,Base,x,,,\nQ2?,A,Base,,,,x\n").ratings) == 2


def test_rows_without_question_or_system_are_listed(tmp_path):
    imported = read(tmp_path, HEAD + ",A,Base,x,,,\nQ?,A\n")
    assert [rating.label for rating in imported.ratings] == ["unrated", "unrated"]
    assert lines(imported.missing_mark) == [
        "hand, line 2: Base |  (no question)",
        "hand, line 3:  | Q? (no system)",
    ]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "holds no ratings"),
        (HEAD, "holds no ratings"),
        ("Question,Answer,Score\nQ?,A,3\n", "has 3 columns, not the seven"),
        (
            "Question,Answer,Model,Correct,Correct but incomplete,Partially incorrect,Incorrect\n"
            "Q?,A,Base,x,,,\n",
            "'Correct' stands where 'incorrect' should",
        ),
        (HEAD + 'Q?,"never closed,Base,x,,,\nQ2?,A,Base,x,,,\n', "is not CSV"),
        ("PK\0\0", "save the sheet as CSV"),
        ('{"set": "hand"}\n', "line 1 is not a rating: question"),
    ],
)
def test_another_file_is_refused_in_one_sentence(tmp_path, text, match):
    with pytest.raises(UsageError, match=match):
        read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.csv cannot be read"):
        read_ratings(tmp_path / "none.csv", "hand")


def test_our_own_json_lines_come_back_with_the_same_defects(tmp_path):
    imported = read(tmp_path, SHEET)
    store.write(tmp_path / "hand.jsonl", imported.ratings)
    again = read_ratings(tmp_path / "hand.jsonl", "other name")
    assert sorted(again.ratings, key=lambda r: r.key) == sorted(
        imported.ratings, key=lambda r: r.key
    )
    assert (len(again.double_marked), len(again.missing_mark)) == (1, 1)


def rating(question="What is a P wave?", label="correct", **columns):
    defaults = {"set": "hand", "arm": "Base", "answer": "Atria"}
    return Rating(**{**defaults, **columns}, question=question, label=label)


QUESTIONS = [
    Question(question_id="q0", set="s", kind="choice", question="What is a P wave?"),
    Question(question_id="q1", set="s", kind="open", question="What is a  P wave? "),
]


def test_ratings_become_scores_of_the_studys_question_or_of_one_of_their_own():
    known, unknown, unrated = human_scores(
        [
            rating(),
            rating("What is a U wave?", "partially incorrect"),
            rating(label="unrated", note="no mark", arm="RAG"),
        ],
        QUESTIONS,
    )
    assert METRICS[known.metric].layer == "human"
    assert (known.question_id, known.arm, known.value, known.status) == ("q1", "Base", 1, "scored")
    assert unknown.question_id.startswith("rating:")
    assert unknown.question_id == question_id(rating("What is a U wave?"), QUESTIONS)
    assert unknown.value == GRADES["partially incorrect"]
    assert (unrated.value, unrated.status, unrated.note) == (None, "unparsed", "no mark")


def test_a_system_goes_by_the_arm_that_it_is():
    names = {"LLama 3.1 8B": "base", "LLama 3.1  8B": "other"}
    rated = [rating(arm="LLama 3.1 8B"), rating(arm="LLama 3.1 8B + RAG")]
    assert [row.arm for row in human_scores(rated, QUESTIONS, names)] == [
        "base",
        "LLama 3.1 8B + RAG",
    ]
    assert [row.arm for row in human_scores(rated, QUESTIONS)] == [row.arm for row in rated]


@pytest.mark.parametrize(
    "other",
    [
        {"label": "incorrect"},  # marked side by side by one rater, though the answers are alike
        {"rater": "ben", "answer": "Ventricles"},
        {"question": " what is a P  WAVE?", "answer": "Ventricles"},
        {"set": "ben", "answer": "Ventricles"},
    ],
)
@pytest.mark.parametrize("name", ["LLama 8B", "base"])
def test_two_rated_systems_are_not_averaged_into_one_arm(other, name):
    names = {"8B": "base", "LLama 8B": "base"}
    rated = [rating(arm="8B"), rating(arm="RAG"), rating(**{"arm": name, **other})]
    with pytest.raises(UsageError, match=f"makes '8B' and '{name}' one arm, base, but both"):
        human_scores(rated, QUESTIONS, names)


def test_raters_may_each_have_a_name_of_their_own_for_an_arm():
    names = {"8B": "base", "LLama 8B": "base"}
    rated = [
        rating(arm="8B", rater="anna"),
        rating(arm="LLama 8B", rater="ben", label="incorrect"),  # of the same answer
        rating("What is a U wave?", arm="LLama 8B", rater="anna"),
        rating(arm="RAG"),
    ]
    scores = human_scores(rated, QUESTIONS, names)
    assert [(row.arm, row.rater, row.value) for row in scores[:2]] == [
        ("base", "anna", 1.0),
        ("base", "ben", 0.0),
    ]
    assert shared_arms(rated, names) == [
        "The marks of base stand under several names: 8B, LLama 8B"
    ]
    assert shared_arms(rated, {"RAG": "rag"}) == []


def test_who_marks_an_answer_again_does_so_on_a_later_occasion():
    rated = [rating(rater="anna"), rating(set="later", rater="anna", label="incorrect")]
    scores = human_scores(rated, QUESTIONS, {"Base": "base"})
    assert [(row.occasion, row.value) for row in scores] == [(0, 1.0), (1, 0.0)]


def test_a_question_of_the_raters_own_is_one_however_it_is_spaced():
    spaced = [rating("What is a U wave?"), rating("What is  a U WAVE? ", arm="RAG")]
    assert len({row.question_id for row in human_scores(spaced, QUESTIONS)}) == 1
    other = rating("What is a U wave?", set="another set")
    assert question_id(other, QUESTIONS) != question_id(spaced[0], QUESTIONS)


def test_no_two_ratings_share_a_score():
    ratings = [
        rating(set="one"),
        rating(set="two"),
        rating(set="one", rater="anna"),
        rating(set="two", rater="anna", label="incorrect"),
    ]
    scores = human_scores(ratings, QUESTIONS)
    assert len({score.key for score in scores}) == 4
    assert [(score.rater, score.occasion) for score in scores] == [
        ("one", 0),
        ("two", 0),
        ("anna", 0),
        ("anna", 1),
    ]


@pytest.fixture
def sheet(tmp_path):
    """A sheet as exported, its rows marked as correct, and what the study asked and answered."""
    questions = [
        Question(question_id="q0", set="s", kind="open", question="What is a P wave?"),
        Question(question_id="q1", set="s", kind="open", question="=1+1?"),
        Question(question_id="q2", set="s", kind="choice", question="A or B?"),
    ]
    texts = {"base": "≥ 40 ms", "tuned": '=HYPERLINK("x")', "base+rag": "-"}
    store.write(tmp_path / "questions.jsonl", questions)
    store.write(
        tmp_path / "answers.jsonl",
        [
            Answer(question_id=question, arm=arm, text=text, status=status)
            for question in ("q0", "q1", "q2")
            for arm, text in texts.items()
            for status in (["error"] if (question, arm) == ("q1", "tuned") else ["ok"])
        ],
    )
    written = rate.export(tmp_path, Study(), tmp_path / "sheet.csv")
    assert written.rows == 5
    head, *rows = (tmp_path / "sheet.csv").read_text("utf-8-sig").splitlines()
    marked = "\n".join([head, *(row.removesuffix(",,,,,") + ",,,,x," for row in rows)])
    (tmp_path / "sheet.csv").write_text(marked, "utf-8")
    return tmp_path / "sheet.csv", texts


def test_a_sheet_shows_no_arm_and_runs_nothing(sheet):
    path, texts = sheet
    text = path.read_text("utf-8")
    assert not any(arm in text for arm in texts)
    assert "\n=1+1" not in text and ",=HYPERLINK" not in text  # noqa: PT018
    codes = [row.arm for row in read_ratings(path, "sheet").ratings]
    assert len(set(codes)) == 5


def test_a_sheet_comes_back_under_the_arms_names_with_its_texts_unchanged(sheet):
    path, texts = sheet
    imported = rate.unblinded(read_ratings(path, "sheet"), path)
    assert {(row.question, row.arm, row.answer) for row in imported.ratings} == {
        *(("What is a P wave?", arm, text) for arm, text in texts.items()),
        *(("=1+1?", arm, texts[arm]) for arm in ("base", "base+rag")),
    }
    assert lines(incomplete([imported])) == [
        "sheet, lines 5, 6: without tuned | =1+1? (rated for 2 of 3 systems)"
    ]


def test_copies_of_a_sheet_need_no_keys_of_their_own(sheet):
    path, texts = sheet
    copy = path.with_name("anna.csv")
    copy.write_text(path.read_text("utf-8"), "utf-8")
    imported = rate.unblinded(read_ratings(copy, "anna"), copy)
    assert {row.arm for row in imported.ratings} == set(texts)
    assert {row.rater for row in human_scores(imported.ratings, [])} == {"anna"}


def test_codes_without_a_key_are_refused(sheet):
    path, _ = sheet
    path.with_name("sheet.csv.key.json").unlink()
    with pytest.raises(UsageError, match=r"are codes, and no key beside it knows them; put the"):
        rate.unblinded(read_ratings(path, "sheet"), path)


def test_names_are_no_codes(tmp_path):
    imported = read(tmp_path, HEAD + "Q?,'A,Base,x,,,\n")
    assert rate.unblinded(imported, tmp_path / "sheet.csv") == imported


# Paper, 4.1: incorrect, partially incorrect, correct but incomplete, correct, unusable, mean.
PUBLISHED = {
    "10_questions": {
        "LLama 3.1 8B + RAG": (0, 0, 0, 10, 0, 1.000),
        "LLama 3.1 70B + RAG": (0, 0, 1, 9, 0, 0.975),
        "Finetuned 70B: r=256, alpha=128": (0, 2, 1, 7, 0, 0.825),
        "Finetuned 70B: r=256, alpha=512": (0, 2, 2, 6, 0, 0.800),
        "Finetuned 70B: r=256, alpha=256": (0, 3, 2, 5, 0, 0.725),
        "Finetuned 8B: r=256, alpha=512": (0, 2, 5, 3, 0, 0.725),
        "Finetuned 8B: r=256, alpha=128": (0, 2, 6, 2, 0, 0.700),
        "Finetuned 8B: r=256, alpha=256": (2, 1, 0, 6, 1, 0.694),
    },
    "40_questions": {
        "Claude 3.7 Sonnet": (0, 4, 1, 34, 0, 0.917),
        "LLama 3.1 70B + RAG": (2, 1, 3, 34, 0, 0.912),
        "LLama 3.1 8B + RAG": (0, 6, 6, 28, 0, 0.850),
        "LLama 3.1 70B": (3, 4, 3, 29, 0, 0.827),
        "Finetuned 70B: r=256, alpha=128": (4, 9, 5, 20, 1, 0.684),
        "LLama 3.1 8B": (4, 13, 1, 21, 0, 0.641),
        "Finetuned 8B: r=256, alpha=128": (6, 13, 3, 16, 1, 0.566),
        "Finetuned 70B: r=256, alpha=512": (5, 16, 2, 16, 0, 0.551),
        "Finetuned 8B: r=64, alpha=16": (8, 13, 3, 15, 0, 0.526),
        "Finetuned 8B: r=256, alpha=256": (10, 10, 8, 11, 0, 0.500),
        "Finetuned 70B: r=256, alpha=256": (10, 12, 8, 9, 0, 0.462),
        "Finetuned 8B: r=256, alpha=512": (12, 15, 0, 12, 0, 0.404),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_ratings_give_the_published_counts(name):
    path = SHARED / "ratings" / f"{name}.csv"
    if not path.exists():
        pytest.skip("../shared/ratings is not here")
    imported = read_ratings(path, name)
    arms = summary([imported])["arms"]
    wanted = PUBLISHED[name]
    assert {arm: tuple(counts.values()) for arm, counts in arms.items()} == {
        arm: row[:5] for arm, row in wanted.items()
    }
    scores = human_scores(imported.ratings, [])
    assert len({score.key for score in scores}) == len(imported.ratings)
    for arm, row in wanted.items():
        values = [s.value for s in scores if s.arm == arm and s.status == "scored"]
        assert len(values) == sum(row[:4])
        assert sum(values) / len(values) == pytest.approx(row[5], abs=6e-4)


@pytest.mark.slow
def test_the_published_ratings_have_the_known_defects():
    if not (SHARED / "ratings").exists():
        pytest.skip("../shared/ratings is not here")
    ten, forty = (read_ratings(SHARED / "ratings" / f"{name}.csv", name) for name in PUBLISHED)
    assert len(ten.ratings) == 80
    assert (ten.duplicates_dropped, ten.conflicts, ten.double_marked) == (0, [], [])
    assert len(ten.missing_mark) == 1
    assert ten.missing_mark[0].place == "10_questions, line 28: Finetuned 8B: r=256, alpha=256"
    assert len(forty.ratings) == 470
    assert (forty.duplicates_dropped, len(forty.duplicates)) == (39, 39)
    assert {defect.arm for defect in forty.duplicates} == {"LLama 3.1 8B + RAG"}
    assert (forty.conflicts, forty.missing_mark) == ([], [])
    assert [defect.lines for defect in forty.double_marked] == [(352,), (379,)]
    (lacking,) = incomplete([ten, forty])
    assert lacking.lines == (417, 418, 419)
    assert lacking.what == "rated for 2 of 12 systems"
