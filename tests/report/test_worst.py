"""The worst answers stand beside better ones, and the questions that most arms missed are told."""

from ecg_llm import config
from ecg_llm.records import (
    GRADES,
    Answer,
    Document,
    Passage,
    Question,
    Rating,
    Retrieval,
    Score,
)
from ecg_llm.report import counts, report
from ecg_llm.report.worst import missed, rated, worst
from ecg_llm.score.human import human_scores


def open_question(name="q", **columns):
    return Question(question_id=name, set="s", kind="open", question=f"What is {name}?",
                    reference="The reference.", evidence="The span.", split="test",
                    **columns)  # fmt: skip


def choice(name="q"):
    return Question(question_id=name, set="s", kind="choice", question="Which?", answer="B",
                    options=("first", "second", "third"), split="test")  # fmt: skip


def verdict(arm, value, question="q"):
    return Score(question_id=question, arm=arm, metric="verdict", value=value, rater="j",
                 label="graded")  # fmt: skip


def letter(arm, label, permutation=0, question="q"):
    return Score(
        question_id=question, arm=arm, metric="accuracy", permutation=permutation, label=label,
        value=float(label == "B") if label else None, status="scored" if label else "unparsed",
    )  # fmt: skip


def test_a_bad_answer_stands_beside_the_best_one_to_the_same_question():
    answers = [Answer(question_id="q", arm=arm, text=f"by {arm}") for arm in "abc"]
    marks = [verdict("a", 0.0), verdict("b", 1.0), verdict("c", 0.75)]
    rows = worst("verdict", [open_question()], answers, [], marks, ["a", "b", "c"],
                 {"q": "atlas.pdf, p. 3"})  # fmt: skip
    assert [(row.answer.arm, row.better and row.better.arm) for row in rows] == [
        ("a", "b"), ("c", "b"),
    ]  # fmt: skip
    first = rows[0]
    assert (first.answer.text, first.answer.mark) == ("by a", "0.00")
    assert (first.better.text, first.better.mark) == ("by b", "1.00")
    assert (first.reference, first.evidence, first.source) == (
        "The reference.", "The span.", "atlas.pdf, p. 3",
    )  # fmt: skip


def test_where_no_arm_did_better_none_is_shown_and_the_page_says_so():
    answers = [Answer(question_id="q", arm=arm, text="same") for arm in "ab"]
    marks = [verdict("a", 0.25), verdict("b", 0.25)]
    rows = worst("verdict", [open_question()], answers, [], marks, ["a", "b"])
    assert [row.better for row in rows] == [None, None]
    alone = worst("verdict", [open_question()], answers[:1], [], marks[:1], ["a"])
    assert [row.better for row in alone] == [None]


def test_page_of_imported_evidence_comes_from_the_passages_that_hold_it():
    read = Document(path="a.pdf", doc_id="d", status="ok")
    passage = Passage(passage_id="p", doc_id="d", start=0, end=1, page_from=4, page_to=5,
                      text="x", tokens=1)  # fmt: skip
    found = Retrieval(question_id="q", sources=("p",))
    asked = [open_question(doc_id="d"), open_question("r", doc_id="d"), open_question("t")]
    assert counts.sources([read], [passage], asked, [found]) == {
        "q": "a.pdf, p. 4–5", "r": "a.pdf",
    }  # fmt: skip
    given = passage.model_copy(update={"page_from": 0, "page_to": 0})
    assert counts.sources([read], [given], asked[:1], [found]) == {"q": "a.pdf"}


def test_questions_that_most_arms_missed_say_who_named_what():
    scores = [letter("a", "A"), letter("b", "A"), letter("c", "B"), letter("d", "")]
    scores += [letter(arm, "B", question="easy") for arm in "abcd"]
    (row,) = missed([choice(), choice("easy")], scores, ["b", "a", "c", "d"])
    assert (row.wrong, row.arms, row.unread) == (3, 4, "d")
    assert [(o.letter, o.right, o.arms) for o in row.options] == [
        ("A", False, "b, a"), ("B", True, "c"), ("C", False, ""),
    ]  # fmt: skip


def test_an_arm_asked_in_several_orders_is_wrong_if_mostly_wrong():
    scores = [letter("a", label, i) for i, label in enumerate("BBA")]
    scores += [letter("b", label, i) for i, label in enumerate("CAB")]
    assert missed([choice()], scores, ["a", "b"]) == []
    (row,) = missed([choice()], [s for s in scores if s.arm == "b"], ["b"])
    assert [o.arms for o in row.options] == ["b (1 of 3)"] * 3


def test_the_questions_missed_by_most_come_first_and_a_letter_out_of_range_is_none():
    scores = [letter(arm, "A", question="q2") for arm in "abc"]
    scores += [letter("a", "A", question="q1"), letter("b", "E", question="q1"),
               letter("c", "B", question="q1")]  # fmt: skip
    rows = missed([choice("q1"), choice("q2")], scores, list("abc"))
    assert [row.wrong for row in rows] == [3, 2]
    assert rows[1].unread == "b"


def test_the_worst_of_ratings_alone_are_shown_as_the_experts_saw_them():
    ratings = [
        Rating(set="cases", question="Which rhythm?", arm=arm, rater=rater, answer=f"by {arm}",
               label=label, note="off" if label == "incorrect" else "")
        for rater in ("x", "y")
        for arm, label in (("one", "incorrect"), ("two", "correct"), ("three", "unrated"))
    ]  # fmt: skip
    scores = human_scores(ratings, [])
    asked, given = rated(ratings, [])
    (row,) = worst("human", asked, given, (), scores, [])
    assert (row.subset, row.question) == ("cases/rated", "Which rhythm?")
    assert (row.answer.text, row.better.text) == ("by one", "by two")
    assert [(o.rater, o.grade, o.reason) for o in row.objections] == [
        ("x", "incorrect", "off"), ("y", "incorrect", "off"),
    ]  # fmt: skip
    assert scores[0].value == GRADES["incorrect"]


def test_a_rated_question_of_the_study_keeps_its_own_row():
    rating = Rating(set="r", question=open_question().question, arm="a", answer="x",
                    label="correct")  # fmt: skip
    asked, given = rated([rating], [open_question()], {"a": "arm"})
    assert asked == []
    assert [(row.question_id, row.arm) for row in given] == [("q", "arm")]


def test_the_page_shows_both_kinds_side_by_side(html):
    assert "wrong by" in html
    assert html.count('class="versus"') >= 2
    page = report.build(config.Study(), {}, {})
    assert 'class="versus"' not in page
    assert "wrong by" not in page
