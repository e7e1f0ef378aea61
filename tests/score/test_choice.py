import json

import pytest

from ecg_llm.contracts import Scorer
from ecg_llm.prompt import choice_reply, rotated
from ecg_llm.records import LETTERS, METRICS, Answer, Question
from ecg_llm.score.choice import ChoiceScorer, positions

OPTIONS = ("Atrial flutter", "Atrial fibrillation", "Sinus tachycardia", "AV nodal re-entry")
QUESTION = Question(
    question_id="q1",
    set="hand",
    kind="choice",
    question="Which rhythm is irregular and has no P waves?",
    options=OPTIONS,
    answer="B",
)


def answer(text="", arm="arm", **columns):
    return Answer(question_id="q1", arm=arm, text=text, **columns)


def scores(*answers, question=QUESTION):
    found = ChoiceScorer().score([(question, each) for each in answers])
    return {(score.arm, score.permutation, score.metric): score for score in found}


def accuracy(*answers):
    (score,) = [s for s in scores(*answers).values() if s.metric == "accuracy"]
    return score


def test_the_scorer_keeps_the_contract_and_names_known_metrics():
    scorer = ChoiceScorer()
    assert isinstance(scorer, Scorer)
    assert all(METRICS[metric].kind == "choice" for metric in scorer.metrics)


def test_a_right_and_a_wrong_letter():
    right, wrong = accuracy(answer("**B**")), accuracy(answer("The correct answer is D."))
    assert (right.value, right.label, right.note, right.status) == (1, "B", "tolerant", "scored")
    assert (wrong.value, wrong.label, wrong.note, wrong.status) == (0, "D", "strict", "scored")


def test_no_answer_leaves_the_denominator():
    """Paper, 3.4 no. 5: an outage or an empty answer raised the accuracy."""
    statuses = {
        "unread": accuracy(answer("Although the rate is high ...")),
        "empty": accuracy(answer("")),
        "refused": accuracy(answer("B", status="refused", reason="content filter")),
        "failed": accuracy(answer("B", status="error", reason="timeout")),
        "cut": accuracy(answer("B, because", status="truncated")),
    }
    assert {name: score.status for name, score in statuses.items()} == {
        "unread": "unparsed",
        "empty": "unparsed",
        "refused": "unparsed",
        "failed": "error",
        "cut": "scored",
    }
    assert statuses["failed"].note == "timeout"
    assert statuses["refused"].note == "refused: content filter"
    assert all(score.value is None for score in statuses.values() if score.status != "scored")


@pytest.mark.parametrize("permutation", range(4))
def test_letters_are_turned_back_after_a_rotation(permutation):
    shown = rotated(OPTIONS, permutation)
    letter = LETTERS[shown.index("Atrial fibrillation")]
    by_letter = accuracy(answer(choice_reply(letter), permutation=permutation))
    by_words = accuracy(answer("Atrial fibrillation", permutation=permutation))
    assert (by_letter.value, by_letter.label, by_letter.permutation) == (1, "B", permutation)
    assert (by_words.value, by_words.label) == (1, "B")


def test_open_questions_are_not_scored():
    question = Question(question_id="q1", set="hand", kind="open", question="Why?", reference="B")
    assert ChoiceScorer().score([(question, answer("B"))]) == []


def test_the_likeliest_option_by_sum_and_by_token():
    found = scores(answer("C", option_logprobs=(-9, -4, -3, -8), option_tokens=(3, 4, 1, 4)))
    by_sum = found["arm", 0, "accuracy_likelihood"]
    by_token = found["arm", 0, "accuracy_likelihood_per_token"]
    assert (by_sum.label, by_sum.value) == ("C", 0)
    assert (by_token.label, by_token.value) == ("B", 1)


def test_likelihoods_stand_in_unrotated_order():
    found = scores(answer("", permutation=2, option_logprobs=(-9, -1, -8, -7)))
    assert found["arm", 2, "accuracy_likelihood"].label == "B"


def test_a_tie_of_likelihoods_is_no_point_for_the_first_option():
    question = QUESTION.model_copy(update={"answer": "A"})
    found = scores(
        answer(option_logprobs=(-2, -2, -3, -4), option_tokens=(1, 1, 1, 1)), question=question
    )
    tie = found["arm", 0, "accuracy_likelihood"]
    assert (tie.value, tie.label, tie.note) == (0, "", "tie of A, B")


def test_an_arm_without_likelihoods_has_none_and_a_failed_one_is_an_error():
    found = scores(
        answer("B", arm="api"),
        answer("", arm="api", permutation=1, status="error", reason="timeout"),
        answer("B", arm="local", option_logprobs=(-1, -2, -3, -4), option_tokens=(1, 1, 1, 1)),
        answer("", arm="local", permutation=1, status="error", reason="out of memory"),
    )
    assert found["api", 0, "accuracy_likelihood"].status == "not_applicable"
    assert found["api", 1, "accuracy_likelihood"].status == "not_applicable"
    assert found["local", 0, "accuracy_likelihood"].status == "scored"
    assert found["local", 1, "accuracy_likelihood"].status == "error"


def test_likelihoods_that_do_not_match_the_options_are_an_error():
    found = scores(answer("B", option_logprobs=(-1, -2)))
    assert found["arm", 0, "accuracy_likelihood"].status == "error"
    assert "4 options" in found["arm", 0, "accuracy_likelihood"].note
    assert found["arm", 0, "accuracy_likelihood_per_token"].status == "error"


def test_a_question_without_a_key_is_an_error_not_a_wrong_answer():
    found = scores(answer("B"), question=QUESTION.model_copy(update={"answer": ""}))
    assert [score.status for score in found.values()] == ["error"] * 3
    assert {score.note for score in found.values()} == {"the question has no key"}


def test_every_answer_has_one_score_a_metric():
    answers = [answer(text, permutation=i) for i, text in enumerate(["B", "", "no idea", "A or B"])]
    found = ChoiceScorer().score([(QUESTION, each) for each in answers])
    assert len(found) == 4 * 3
    assert len({score.key for score in found}) == len(found)
    json.dumps([score.model_dump() for score in found], allow_nan=False)


def test_positions_show_an_arm_that_always_says_a():
    always_a = [answer("A", arm="biased", permutation=i) for i in range(4)]
    reader = [
        answer(choice_reply(LETTERS[rotated(OPTIONS, i).index(OPTIONS[1])]), "fair", permutation=i)
        for i in range(4)
    ]
    found = ChoiceScorer().score([(QUESTION, each) for each in [*always_a, *reader]])
    assert positions(found, {"q1": QUESTION}) == {
        "biased": {"A": 1.0},
        "fair": {"A": 0.25, "B": 0.25, "C": 0.25, "D": 0.25},
    }
