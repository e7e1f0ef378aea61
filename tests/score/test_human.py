import json
from pathlib import Path

import pytest

from ecg_llm import store
from ecg_llm.contracts import UsageError
from ecg_llm.records import GRADES, METRICS, Question, Rating
from ecg_llm.score.human import human_scores, question_id, read_ratings, summary

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


def test_every_defect_is_listed_with_its_line(tmp_path):
    imported = read(tmp_path, SHEET)
    assert imported.duplicates_dropped == 1
    assert imported.duplicates == ["hand, lines 4, 5: RAG | What is a P wave?"]
    assert imported.conflicts == []
    assert imported.double_marked == [
        "hand, line 7: Tuned: r=8, alpha=16 | What is a Q wave? (several marks: incorrect, correct)"
    ]
    assert imported.missing_mark == ["hand, line 8: RAG | What is a Q wave? (no mark)"]


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
    ]
    assert found["arms"]["Base"] == {
        "incorrect": 0,
        "partially incorrect": 1,
        "correct but incomplete": 0,
        "correct": 2,
        "unrated": 0,
    }
    assert found["duplicates_dropped"] == 1
    json.dumps(found)


def test_contradicting_rows_are_refused_and_listed(tmp_path):
    imported = read(
        tmp_path,
        HEAD
        + "Q1?,Same,Base,x,,,\nQ1?,Same,Base,,,,x\n"
        + "Q2?,One,Base,,,,x\nQ2?,Two,Base,,,,x\n"
        + "Q3?,Fine,Base,,,,x\n",
    )
    assert [rating.question for rating in imported.ratings] == ["Q3?"]
    assert imported.conflicts == ["hand, lines 2, 3: Base | Q1?", "hand, lines 4, 5: Base | Q2?"]
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
    assert imported.missing_mark == ["hand, line 5: Base | Q2? (no mark)"]


def test_a_sheet_without_a_header_loses_no_row(tmp_path):
    assert len(read(tmp_path, "Q1?,A,Base,x,,,\nQ2?,A,Base,,,,x\n").ratings) == 2


def test_rows_without_question_or_system_are_listed(tmp_path):
    imported = read(tmp_path, HEAD + ",A,Base,x,,,\nQ?,A\n")
    assert [rating.label for rating in imported.ratings] == ["unrated", "unrated"]
    assert imported.missing_mark == [
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
    assert ten.missing_mark[0].startswith("10_questions, line 28: Finetuned 8B: r=256, alpha=256 ")
    assert len(forty.ratings) == 470
    assert (forty.duplicates_dropped, len(forty.duplicates)) == (39, 39)
    assert all("LLama 3.1 8B + RAG" in line for line in forty.duplicates)
    assert (forty.conflicts, forty.missing_mark) == ([], [])
    assert [line.partition(": ")[0] for line in forty.double_marked] == [
        "40_questions, line 352",
        "40_questions, line 379",
    ]
