import json

import pytest

from ecg_llm.contracts import EMPTY, Scorer
from ecg_llm.prompt import choice_reply, rotated
from ecg_llm.records import LETTERS, METRICS, Answer, Question
from ecg_llm.score.choice import ChoiceScorer, parse
from ecg_llm.stats.estimate import estimates

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
    found = scores(answer("B"), answer("B", permutation=1))
    assert {metric for _, _, metric in found} == set(scorer.metrics)


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
    question = QUESTION.model_copy(update={"answer": ""})
    found = scores(answer("B"), question=question)
    keyed = [score for (_, _, metric), score in found.items() if metric.startswith("accuracy")]
    assert [score.status for score in keyed] == ["error"] * 4
    assert {score.note for score in keyed} == {"the question has no key"}
    assert found["arm", 0, "unread"].value == 0
    both = scores(answer("B"), answer("A", permutation=1), question=question)
    assert both["arm", 0, "accuracy_circular"].status == "error"


def test_every_answer_has_one_score_a_metric_and_the_permutations_two_together():
    answers = [answer(text, permutation=i) for i, text in enumerate(["B", "", "no idea", "A or B"])]
    found = ChoiceScorer().score([(QUESTION, each) for each in answers])
    assert len(found) == 4 * 6 + 2
    assert len({score.key for score in found}) == len(found)
    json.dumps([score.model_dump() for score in found], allow_nan=False)


def test_both_parsers_read_every_reply():
    found = scores(answer("**B**"))
    tolerant, strict = found["arm", 0, "accuracy"], found["arm", 0, "accuracy_strict"]
    assert (tolerant.value, tolerant.note) == (1, "tolerant")
    assert (strict.value, strict.status, strict.note) == (None, "unparsed", "strict")
    assert found["arm", 0, "unread"].value == 0
    assert found["arm", 0, "unread_strict"].value == 1


@pytest.mark.parametrize(
    "reply",
    [
        answer("Although the rate is high ..."),
        answer(""),
        answer("", status="error", reason=EMPTY),
        answer("B", status="refused", reason="content filter"),
        answer("The correct answer is E."),
        answer("A or B"),
    ],
)
def test_a_reply_without_a_letter_is_counted_as_unread(reply):
    found = scores(reply)
    assert found["arm", 0, "accuracy"].status == "unparsed"
    for metric in ("unread", "unread_strict"):
        assert (found["arm", 0, metric].status, found["arm", 0, metric].value) == ("scored", 1)


def test_a_failed_answer_is_neither_read_nor_unread():
    found = scores(answer("", status="error", reason="timeout"))
    for metric in ("accuracy", "accuracy_strict", "unread", "unread_strict"):
        assert (found["arm", 0, metric].status, found["arm", 0, metric].note) == (
            "error",
            "timeout",
        )


def named(*options, arm="arm", repeat=0):
    """Return an answer for each permutation that names this option of the question's own order."""
    return [
        answer(
            choice_reply(LETTERS[(LETTERS.index(option) - place) % 4]) if option else "no idea",
            arm,
            permutation=place,
            repeat=repeat,
        )
        for place, option in enumerate(options)
    ]


@pytest.mark.parametrize(
    ("options", "circular", "consistency"),
    [
        ("BBBB", 1, 1),
        ("CCCC", 0, 1),
        ("BBBA", 0, 3 / 6),
        ("BBAA", 0, 2 / 6),
        ("ABCD", 0, 0),
        ("ADCB", 0, 0),
        (["B", "B", "B", ""], 0, 3 / 6),
        (["", "", "", ""], 0, 0),
        ("BB", 1, 1),
    ],
)
def test_permutations_are_worth_what_they_agree_on(options, circular, consistency):
    found = scores(*named(*options))
    assert found["arm", 0, "accuracy_circular"].value == circular
    assert found["arm", 0, "consistency"].value == pytest.approx(consistency)
    assert found["arm", 0, "consistency"].note == f"{len(options)} permutations"


def test_an_arm_that_always_says_a_is_a_quarter_right_and_never_consistent():
    found = scores(*[answer("A", permutation=i) for i in range(4)])
    assert sum(found["arm", i, "accuracy"].value for i in range(4)) == 1
    assert found["arm", 0, "accuracy_circular"].value == 0
    assert found["arm", 0, "consistency"].value == 0


def test_one_permutation_says_nothing_of_permutations():
    assert not {"accuracy_circular", "consistency"} & {m for _, _, m in scores(answer("B"))}


def test_each_repeat_and_arm_has_its_own_permutations():
    items = [*named(*"BBBB"), *named(*"AAAA", repeat=1), *named(*"BBBB", arm="other")]
    found = ChoiceScorer().score([(QUESTION, each) for each in items])
    circular = {(s.arm, s.repeat): s.value for s in found if s.metric == "accuracy_circular"}
    assert circular == {("arm", 0): 1, ("arm", 1): 0, ("other", 0): 1}


def test_a_failed_permutation_makes_the_question_missing_not_shorter():
    good = named(*"BBBB")
    bad = [
        *named(*"BBB", arm="down"),
        answer("", "down", permutation=3, status="error", reason="x"),
    ]
    found = ChoiceScorer().score([(QUESTION, each) for each in [*good, *bad]])
    assert {s.status for s in found if s.arm == "down" and s.metric == "consistency"} == {"error"}
    rows = estimates(found, {"q1": ("hand/test",)}, {}, [], 200, 1)
    means = {(row.metric, row.arm): row for row in rows if not row.against}
    for metric in ("accuracy_circular", "consistency"):
        down = means[metric, "down"]
        assert (down.value, down.questions, down.missing) == (0, 1, 1)
        assert means[metric, "arm"].value == 1


def test_an_outage_does_not_raise_the_accuracy():
    """Paper, 3.4 no. 5: failed and empty answers left the denominator, so 1 of 1 was right."""
    questions = [QUESTION.model_copy(update={"question_id": f"q{i}"}) for i in range(4)]
    said = ["B", "", "", "I cannot say."]
    failed = [{}, {"status": "error", "reason": "server down"}, {}, {}]
    items = [
        (question, Answer(question_id=question.question_id, arm="api", text=text, **columns))
        for question, text, columns in zip(questions, said, failed, strict=True)
    ]
    subsets = {question.question_id: ("hand/test",) for question in questions}
    rows = estimates(ChoiceScorer().score(items), subsets, {}, [], 200, 1)
    means = {row.metric: row for row in rows if not row.against}
    accuracy = means["accuracy"]
    assert (accuracy.value, accuracy.questions, accuracy.missing) == (0.25, 4, 3)
    assert means["unread"].value == pytest.approx(2 / 3)


def published(reply):
    """Read as the published code did: paper, 3.4 no. 6."""
    for start in ("The correct answer is ", "answer is "):
        if start in reply:
            return reply.partition(start)[2].strip()[:1]
    first = (reply.partition(":")[2] or reply).strip()[:1]
    return first if first in ("A", "B", "C", "D") else None


@pytest.mark.parametrize(
    ("reply", "was", "letter"),
    [
        ("The correct answer is **B**.", "*", "B"),
        ("The correct answer is (B).", "(", "B"),
        ("**B**", None, "B"),
        ("Although the rate is high, no rhythm can be told.", "A", None),
        ("Because there are no P waves.", "B", None),
        ("Note: Definitely abnormal.", "D", None),
        # no. 2: every local prediction began with the name of the role
        ("assistant\n\nB", None, "B"),
        ("assistant\n\nThe correct answer is B.", "B", "B"),
        ("assistant\n\nAtrial fibrillation", None, "B"),
    ],
)
def test_replies_that_the_published_parser_misread(reply, was, letter):
    """Paper, 3.4 no. 2 and 6."""
    assert published(reply) == was
    assert parse(reply, OPTIONS).letter == letter
