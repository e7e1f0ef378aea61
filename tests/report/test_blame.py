import pytest

from ecg_llm.config import Arm
from ecg_llm.contracts import NO_ANSWER
from ecg_llm.records import Answer, Citation, Question, Retrieval, Score, Span
from ecg_llm.report.blame import blame, marks, pairs

ARMS = {
    "base": Arm(model="m"),
    "base+rag": Arm(model="m", retrieve=True),
    "tuned+rag": Arm(model="m", adapter="a", retrieve=True),
}


def question(name="q", kind="choice", **columns):
    return Question(
        question_id=name, set="s", kind=kind, question="Which?", options=("a", "b"), answer="A",
        split="test", **columns,
    )  # fmt: skip


def answer(name="q", arm="base+rag", shown=("p",), **columns):
    cited = tuple(Citation(passage_id=one, score=1.0) for one in shown)
    return Answer(question_id=name, arm=arm, passages=cited, **columns)


def score(value, name="q", arm="base+rag", metric="accuracy", status="scored", **columns):
    return Score(
        question_id=name, arm=arm, metric=metric, value=value, status=status, **columns
    )  # fmt: skip


def retrieval(sources=("p",), ranks=(1,), name="q"):
    return Retrieval(question_id=name, sources=sources, ranks=ranks)


def mark(answer=answer(), scores=(), found=retrieval(), asked=None):  # noqa: B008 - rows are frozen
    return marks(ARMS, [asked or question()], [answer], scores, [found] if found else [])[0]


@pytest.mark.parametrize(
    ("scores", "outcome"),
    [
        ([score(1.0)], "right"),
        ([score(0.0)], "wrong"),
        ([score(None, status="unparsed")], "wrong"),
        ([score(None, status="error")], "unrated"),
        ([], "unrated"),
        ([score(1.0, metric="accuracy_likelihood"), score(0.0)], "wrong"),
    ],
)
def test_a_choice_is_right_by_its_letter(scores, outcome):
    assert mark(scores=scores).outcome == outcome


@pytest.mark.parametrize(
    ("scores", "metric", "outcome"),
    [
        ([score(0.25, metric="reference_similarity")], "reference_similarity", "wrong"),
        (
            [score(0.0, metric="reference_similarity"), score(0.75, metric="verdict", rater="j")],
            "verdict", "right",
        ),
        (
            [score(1.0, metric="verdict"), score(0.0, metric="human", rater="a"),
             score(0.25, metric="human", rater="b")],
            "human", "wrong",
        ),
        (
            [score(None, metric="verdict", status="unparsed"),
             score(1.0, metric="reference_similarity")],
            "reference_similarity", "right",
        ),
        ([score(0.9, metric="rougeL")], "", "unrated"),
    ],
)  # fmt: skip
def test_an_open_answer_is_right_by_experts_else_judges_else_similarity(scores, metric, outcome):
    made = mark(scores=scores, asked=question(kind="open"))
    assert (made.metric, made.outcome) == (metric, outcome)


@pytest.mark.parametrize("text", [f"{NO_ANSWER} [1]", f"I am sorry. {NO_ANSWER.upper()}"])
def test_an_open_answer_that_abstains_is_neither_right_nor_wrong(text):
    asked = question(kind="open")
    for value in (0.0, 1.0):
        made = mark(answer(text=text), [score(value, metric="verdict")], asked=asked)
        assert made.outcome == "abstained"
    assert mark(answer(text="No."), [score(0.0, metric="verdict")], asked=asked).outcome == "wrong"


def test_a_letter_decides_even_if_the_answer_abstains_as_well():
    said = answer(text=f"{NO_ANSWER} The correct answer is A.")
    assert mark(said, [score(1.0)]).outcome == "right"
    assert mark(said, [score(0.0)]).outcome == "wrong"


def test_the_source_is_shown_if_the_prompt_held_a_passage_with_it():
    assert mark(found=retrieval(("x", "p"))).shown == "yes"
    unshown = mark(found=retrieval(("x",), (7,)))
    assert (unshown.shown, unshown.found) == ("no", True)
    assert mark(found=retrieval(("x",), (None,))).found is False
    assert mark(found=retrieval((), ())).shown == mark(found=None).shown == "unknown"
    assert mark(answer(arm="base")).shown == "no"


def test_a_question_that_joins_passages_needs_them_all():
    joining = question(joined=(Span(passage_id="x", text="t"),))
    both = retrieval(("p", "x"), (1, None))
    assert mark(found=both, asked=joining).shown == "part"
    assert mark(answer(shown=("x", "p")), found=both, asked=joining).shown == "yes"
    assert mark(answer(shown=("z",)), found=both, asked=joining).shown == "no"


def test_only_first_answers_of_the_arms_of_the_study_count():
    rows = [answer(), answer(repeat=1), answer(permutation=1), answer(arm="a rater's name"),
            answer("gone")]  # fmt: skip
    scores = [score(1.0), score(0.0, repeat=1), score(0.0, permutation=1)]
    (made,) = marks(ARMS, [question()], rows, scores, [])
    assert (made.arm, made.outcome) == ("base+rag", "right")


def test_blame_counts_every_answer_once_and_what_was_found_too_low():
    names = [f"q{i}" for i in range(6)]
    given = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    shown = ["p", "p", "z", "z", "z", "z"]
    ranks = (1, 1, 9, None, 9)
    known = [retrieval(name=name, ranks=(rank,)) for name, rank in zip(names, ranks, strict=False)]
    marked = marks(
        ARMS,
        [question(name) for name in names],
        [answer(name, arm, (one,)) for arm in ("tuned+rag", "base+rag", "base")
         for name, one in zip(names, shown, strict=True)],
        [score(value, name, "base+rag") for name, value in zip(names, given, strict=True)],
        known,
    )  # fmt: skip
    base, tuned = blame(ARMS, marked)
    assert (base.arm, tuned.arm) == ("base+rag", "tuned+rag")
    assert base.counts == {
        ("yes", "right"): 1, ("yes", "wrong"): 1, ("no", "wrong"): 2, ("no", "right"): 1,
        ("unknown", "wrong"): 1,
    }  # fmt: skip
    assert base.missed == 1
    assert [base.total(where) for where in ("yes", "part", "no", "unknown")] == [2, 0, 3, 1]
    assert sum(tuned.counts.values()) == 6
    assert {outcome for _, outcome in tuned.counts} == {"unrated"}


def test_an_arm_is_paired_with_the_one_that_only_lacks_retrieval():
    names = ("q0", "q1", "q2")
    marked = marks(
        ARMS,
        [question(name, kind="open") for name in names],
        [answer(name, arm) for arm in ARMS for name in names],
        [
            *(score(1.0, name, "base+rag", "verdict") for name in names),
            *(score(1.0, name, "tuned+rag", "verdict") for name in names),
            score(0.25, "q0", "base", "verdict"),
            score(0.25, "q1", "base", "reference_similarity"),
        ],
        [retrieval(name=name) for name in names],
    )  # fmt: skip
    assert pairs(ARMS, marked) == [
        ("base+rag", "base", "verdict", "q0", "yes", 1.0, 0.25),
    ]
