"""The decision card: each rule, and that no study whatever makes it overstate."""

import random
import re
from itertools import combinations
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_llm import config
from ecg_llm.records import (
    Answer,
    Estimate,
    Question,
    QuestionType,
    Score,
    Standing,
)
from ecg_llm.report import report
from ecg_llm.report.bytype import by_type
from ecg_llm.report.decision import NANO, SEEN_ONLY, decide
from ecg_llm.report.verdict import judged
from ecg_llm.report.weaknesses import low_kinds
from ecg_llm.stats.estimate import estimates
from ecg_llm.stats.power import needed
from ecg_llm.stats.ranking import POOLED

METRICS = ("accuracy", "verdict", "human")
TYPES = get_args(QuestionType)


def made(arms="ab", candidates=(), comparisons=(), kind="api", **decision):
    model = {"kind": "nano"} if kind == "nano" else {
        "kind": "api", "base_url": "http://x/v1", "model": "m",
    }  # fmt: skip
    return config.parse(
        {
            "models": {"m": model},
            "arms": {arm: {"model": "m"} for arm in arms},
            "decision": {"candidates": list(candidates), **decision},
            "estimates": {"comparisons": [list(pair) for pair in comparisons], "resamples": 1000},
        }
    )


def mean(arm, value, metric="accuracy", subset="s/test", clusters=40):
    ends = {"low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1)} if clusters > 1 else {}
    return Estimate(
        metric=metric, subset=subset, arm=arm, method="mean/t", value=value, questions=120,
        clusters=clusters, **ends,
    )  # fmt: skip


def gap(a, b, value, p, metric="accuracy", subset="s/test", detectable=0.03):
    """Return a difference whose questions vary much; `detectable` is by itself."""
    error = detectable and detectable / 2.874
    return Estimate(
        metric=metric, subset=subset, arm=a, against=b, method="difference/t", value=value,
        low=value - 0.05, high=value + 0.05, p=p, p_adjusted=p, detectable=detectable,
        detectable_adjusted=detectable, test="sign_flip", error=error, freedom=error and 39,
        effect=value / 10 if value else None, questions=120, clusters=40,
    )  # fmt: skip


def rows_of(values, p=0.5, metric="accuracy", subset="s/test", detectable=0.03):
    """Return means and all differences of arms, every difference with this p."""
    rows = [mean(arm, value, metric, subset) for arm, value in values.items()]
    return rows + [
        gap(a, b, values[a] - values[b], p, metric, subset, detectable)
        for a, b in combinations(values, 2)
    ]


def text_of(card):
    weak = [sentence for one in card.weak for sentence in one.sentences]
    return "\n".join([card.headline, *card.warnings, *card.why, *card.sure, *weak, *card.change])


def test_an_arm_that_is_clearly_better_than_all_others_is_the_one_to_deploy():
    card = decide(made("abc"), rows_of({"a": 0.9, "b": 0.6, "c": 0.3}, p=0.001))
    assert (card.kind, card.headline) == ("deploy", "Deploy a")
    assert card.why[0] == (
        "It is clearly better than b in multiple choice by 30.0 points (25.0 to 35.0); than c in "
        "multiple choice by 60.0 points (55.0 to 65.0)."
    )
    assert "On no criterion is another candidate clearly better than it." in card.why
    assert [row[:2] for row in card.standing.rows] == [
        ("a", "left"), ("b", "ruled out by a"), ("c", "ruled out by a and b"),
    ]  # fmt: skip


def test_differences_that_do_not_stand_name_no_winner_and_no_reason_but_the_cost():
    server = {"kind": "api", "base_url": "http://x/v1", "model": "m"}
    study = config.parse(
        {
            "models": {"dear": {**server, "price_in": 9}, "cheap": {**server, "price_in": 1}},
            "arms": {"a": {"model": "dear"}, "b": {"model": "cheap"}},
        }
    )
    questions = [Question(question_id="q", set="s", kind="open", question="?", split="test")]
    answers = [Answer(question_id="q", arm=arm, tokens_in=1000) for arm in "ab"]
    rows = rows_of({"a": 0.9, "b": 0.6}, p=0.2)
    card = decide(study, rows, questions=questions, answers=answers)
    assert (card.kind, card.headline) == ("equal", "a and b are not distinguishable")
    assert card.why[1] == (
        "b costs least of them (1.0 for 1,000 answers, against 9.0). It is the sensible choice for "
        "that reason alone."
    )
    assert [one.arm for one in card.weak] == ["b"]
    assert "clearly better" not in text_of(card)
    assert "so none is named" in decide(study, rows).why[1]
    # Over two criteria p .03 does not stand, but it is a reason against the cheapest.
    hint = rows_of({"a": 0.9, "b": 0.6}, p=0.03) + rows_of({"a": 0.5, "b": 0.5}, 0.9, "verdict")
    card = decide(study, hint, questions=questions, answers=answers)
    assert "a is above b in multiple choice (p 0.030)" in card.why[1]
    assert "sensible" not in text_of(card)
    # The same differences, but the questions could not have shown one that matters.
    few = rows_of({"a": 0.9, "b": 0.6}, p=0.2, detectable=0.2)
    card = decide(study, few, questions=questions, answers=answers)
    assert (card.kind, card.headline) == ("few", "Too few questions to tell a and b apart")
    assert "120 questions from 40 documents can show none below 20 points" in card.why[0]
    need = needed(few[-1], 0.05)
    told = re.search(r"about ([\d,]+) questions from ([\d,]+) documents\.", card.why[0])
    questions, documents = (int(number.replace(",", "")) for number in told.groups())
    assert need.questions <= questions <= 1.1 * need.questions
    assert need.clusters <= documents <= 1.1 * need.clusters
    assert card.why[1].startswith("Until then no choice follows from these numbers; b costs least")


def test_winners_in_different_layers_are_a_trade_off_named_by_layer():
    rows = rows_of({"a": 0.9, "b": 0.6}, p=0.001)
    rows += rows_of({"a": 0.4, "b": 0.7}, p=0.001, metric="verdict")
    card = decide(made(), rows)
    assert (card.kind, card.headline) == ("trade_off", "A trade-off between a and b")
    assert card.why[:2] == (
        "a is clearly better than b in multiple choice by 30.0 points (25.0 to 35.0).",
        "b is clearly better than a in the judges' verdict by 0.300 (0.250 to 0.350).",
    )
    assert any("Clearly behind b in the judges' verdict" in s for s in card.weak[0].sentences)


def test_a_difference_must_stand_over_all_criteria_at_once():
    rows = rows_of({"a": 0.9, "b": 0.6}, p=0.03)
    assert decide(made(), rows).kind == "deploy"
    rows += rows_of({"a": 0.5, "b": 0.5}, p=0.9, metric="verdict")
    card = decide(made(), rows)
    assert card.kind == "equal"
    assert any(
        "a is above b in multiple choice (p 0.030), but not after correction for 2 criteria" in s
        for s in card.change
    )


def test_wording_never_decides_and_similarity_only_where_nobody_read_the_answers():
    assert decide(made(), rows_of({"a": 0.9, "b": 0.1}, p=0.001, metric="rougeL")) is None
    similar = rows_of({"a": 0.9, "b": 0.1}, p=0.001, metric="reference_similarity")
    card = decide(made(), similar)
    assert card.kind == "deploy"
    assert any("read by no judge and no expert" in sentence for sentence in card.change)
    card = decide(made(), similar + rows_of({"a": 0.5, "b": 0.5}, p=0.9, metric="verdict"))
    assert card.kind == "equal"


def test_documents_used_in_training_decide_only_where_there_are_no_others():
    seen = rows_of({"a": 0.9, "b": 0.2}, p=0.001, subset="s/test_seen")
    card = decide(made(), seen)
    assert (card.kind, card.warnings) == ("deploy", (SEEN_ONLY,))
    card = decide(made(), seen + rows_of({"a": 0.5, "b": 0.5}, p=0.9))
    assert (card.kind, card.warnings) == ("equal", ())
    assert any("On documents used in training a is clearly better than b" in s for s in card.change)


def test_a_set_that_is_a_tag_is_not_counted_twice():
    questions = [
        Question(question_id="q", set="s", kind="choice", question="?", split="test", tags=("t",))
    ]
    rows = rows_of({"a": 0.9, "b": 0.6}, p=0.03)
    rows += rows_of({"a": 0.9, "b": 0.6}, p=0.03, subset="t/test")
    assert judged(made(), rows, questions).kind == "deploy"
    assert judged(made(), rows).kind == "equal"


def test_a_better_arm_that_is_no_candidate_is_named_but_not_chosen():
    rows = rows_of({"a": 0.7, "b": 0.4, "claude": 0.95}, p=0.001)
    card = decide(made(("a", "b", "claude"), candidates="ab"), rows)
    assert card.headline == "Deploy a"
    assert any("claude is clearly better than a" in s and "no candidate" in s for s in card.change)
    assert card.standing.rows[-1][:2] == ("claude", "no candidate")


def test_pairs_that_were_not_compared_are_never_called_tied():
    rows = [*rows_of({"a": 0.9, "b": 0.6}, p=0.001), mean("c", 0.1)]
    card = decide(made("abc", comparisons=[("a", "b")]), rows)
    assert (card.kind, card.arms) == ("untested", ("a", "c"))
    assert "Not tested, so that nothing can be said: a and c." in card.why
    assert not re.search("distinguishable|tied", text_of(card))


def test_where_a_pair_was_not_declared_all_pairs_are_corrected_together():
    rng = random.Random(1)
    questions, scores = [], []
    for i in range(90):
        name = f"q{i}"
        questions.append(
            Question(question_id=name, set="s", kind="choice", question="?", split="test",
                     group=f"g{i}")
        )  # fmt: skip
        scores += [
            Score(question_id=name, arm=arm, metric="accuracy", value=float(rng.random() < p))
            for arm, p in (("a", 0.95), ("b", 0.5), ("c", 0.45))
        ]
    study = made("abc", comparisons=[("a", "b")])
    rows = estimates(
        scores, {q.question_id: q.subsets for q in questions}, {}, study.estimates.comparisons,
        1000, 0,
    )  # fmt: skip
    assert decide(study, rows).kind == "untested"
    card = decide(study, rows, questions=questions, scores=scores)
    assert (card.kind, card.headline) == ("deploy", "Deploy a")
    (declared,) = [row for row in rows if row.against]
    corrected = judged(study, rows, questions, scores).gaps("a", "b")[0].row
    assert corrected.p == declared.p
    assert corrected.p_adjusted > 1.9 * declared.p_adjusted
    every = made("abc", comparisons=combinations("abc", 2))
    rows = estimates(
        scores, {q.question_id: q.subsets for q in questions}, {}, every.estimates.comparisons,
        1000, 0,
    )  # fmt: skip
    found = judged(every, rows, questions, scores)
    assert [one.row.p_adjusted for one in found.gaps("a", "b")] == [
        row.p_adjusted for row in rows if (row.arm, row.against) == ("a", "b")
    ]


def test_a_circle_rules_out_nobody():
    values = {"a": 0.6, "b": 0.5, "c": 0.4}
    rows = [mean(arm, value) for arm, value in values.items()]
    rows += [gap("a", "b", 0.1, 0.001), gap("b", "c", 0.1, 0.001), gap("c", "a", 0.1, 0.001)]
    card = decide(made("abc"), rows)
    assert (card.kind, card.arms) == ("trade_off", ("a", "b", "c"))


def test_one_arm_one_document_no_result_and_an_unmeasured_candidate():
    assert decide(made(), []) is None
    assert decide(config.Study(), []) is None
    card = decide(made("a"), [mean("a", 0.7)])
    assert (card.kind, card.headline) == ("alone", "a is the only candidate")
    alone = [mean("a", 0.9, clusters=1), mean("b", 0.1, clusters=1)]
    card = decide(made(), alone)
    assert card.headline == "One document cannot tell a and b apart"
    assert "one document" in card.warnings[0]
    card = decide(made(candidates="b"), [mean("a", 0.9)])
    assert (card.headline, card.arms) == ("No candidate has results", ())
    assert "Without results that could decide: b." in card.warnings


def test_what_one_document_says_takes_nothing_from_what_can_be_tested():
    rows = rows_of({"a": 0.9, "b": 0.5}, 0.04)
    alone = [mean(arm, 0.5, "verdict", clusters=1) for arm in "ab"]
    assert decide(made(), [*rows, *alone]).headline == "Deploy a"
    tested = rows_of({"a": 0.5, "b": 0.5}, 0.9, "verdict")
    assert decide(made(), [*rows, *tested]).headline != "Deploy a"


def test_systems_that_were_only_rated_are_spoken_of_as_such_and_without_costs():
    names = ("Llama 3.1 8B + RAG", "Claude 3.7")
    rows = rows_of(dict(zip(names, (0.9, 0.5), strict=True)), 0.001, "human", "forty/rated")
    card = decide(config.Study(), rows)
    assert (card.headline, card.systems) == ("Llama 3.1 8B + RAG comes out best", True)
    assert card.cost is None
    assert not any("Multiple choice" in s or "judge" in s for s in card.change)


def test_questions_that_are_each_their_own_document_are_counted_once():
    ranks = {"choice": None, "text": None, "judge": None, "human": 1.0}
    names = ("Llama 3.1 8B", "Claude 3.7")
    rows = rows_of(dict(zip(names, (0.9, 0.5), strict=True)), 0.5, "human", "forty/rated", 0.2)
    rows = [row.model_copy(update={"clusters": row.questions}) for row in rows]
    standings = [
        Standing(subset="forty/rated", arm=arm, ranks=ranks, median=1, place=1, p_first=0.5)
        for arm in names
    ]
    card = decide(config.Study(), rows, standings)
    text = text_of(card)
    assert "document" not in text
    assert "but 120 questions can show none below 20 points" in card.why[0]
    assert re.search(r"With questions like these it takes about [\d,]+ questions\.$", card.why[0])
    assert "The experts' ratings (120 questions): Llama 3.1 8B 0.900" in card.sure[0]
    assert "draws of other questions: " in card.sure[-1]
    alone = [mean(arm, 0.5, "human", "x/rated", 1) for arm in names]
    alone = [row.model_copy(update={"questions": 1}) for row in alone]
    assert decide(config.Study(), alone).warnings[0] == "Every figure here rests on one question."


def test_a_nano_study_is_no_advice():
    card = decide(made(kind="nano"), rows_of({"a": 0.9, "b": 0.2}, p=0.001))
    assert card.headline == "The rule would choose a"
    assert card.warnings == (NANO,)


def test_what_an_arm_is_bad_at():
    questions = [
        Question(question_id=f"q{i}", set="s", kind="choice", question="?", split="test",
                 group=f"g{i}", type="threshold" if i < 20 else "fact")
        for i in range(60)
    ]  # fmt: skip
    scores = [
        Score(question_id=f"q{i}", arm="a", metric="accuracy", value=float(i % 10 == 0 or i >= 20))
        for i in range(60)
    ]
    scores += [
        Score(question_id=f"q{i}", arm="a", metric="harm", value=float(i < 3), rater=judge)
        for i in range(10)
        for judge in ("one", "two")
    ]
    answers = [
        Answer(question_id=f"q{i}", arm="a", status="error" if i < 4 else "ok") for i in range(60)
    ]
    rows = estimates(scores, {q.question_id: q.subsets for q in questions}, {}, (), 1000, 0)
    card = decide(made("a"), rows, (), questions, answers, (), scores)
    (weak,) = card.weak
    told = "\n".join(weak.sentences)
    assert "Wrong in multiple choice: 30.0 % (" in told
    low = (
        r"Lower on questions of type “threshold” than on its others: −90\.0 points .* 20 questions"
    )
    assert re.search(low, told)
    assert "“fact”" not in told
    assert "A judge fears severe harm from 3 of 10 answers." in told
    assert "Answers that did not come whole: 4 failed, of 60." in told


def test_the_chance_of_coming_first_and_other_weights_of_the_layers_are_told():
    ranks = {
        "a": {"choice": 1.0, "text": 2.0, "judge": 1.0},
        "b": {"choice": 2.0, "text": 1.0, "judge": 2.0},
    }
    standings = [
        Standing(subset="s/test", arm=arm, ranks=ranks[arm], median=1.5, place=1, p_first=p)
        for arm, p in (("a", 0.64), ("b", 0.36))
    ]
    card = decide(made(), rows_of({"a": 0.9, "b": 0.6}), standings)
    assert card.sure[-1].endswith("draws of other documents: a 64 % and b 36 %.")
    (weights,) = [sentence for sentence in card.change if "weightings" in sentence]
    assert weights == (
        "Other weights of multiple choice, wording and the judges: in so many of 66 weightings an "
        "arm has the best mean rank: a 73 % and b 27 %; b alone has it once wording weighs 60 % or "
        "more."
    )


def test_the_chance_of_coming_first_is_told_only_of_the_subsets_that_decide():
    def ranked(*subsets):
        return [
            Standing(subset=subset, arm=arm, ranks={"choice": 1.0}, median=1, place=1, p_first=p)
            for subset in (*subsets, POOLED)
            for arm, p in (("a", 0.9), ("b", 0.1))
        ]

    def told(standings, questions=()):
        rows = rows_of({"a": 0.9, "b": 0.6}, 0.001) + rows_of({"a": 0.9, "b": 0.6}, 0.001,
                                                              subset="u/test")  # fmt: skip
        return any("overall ranking" in s for s in decide(made(), rows, standings, questions).sure)

    assert told(ranked("s/test", "u/test"))
    assert told(ranked("s/test", "u/test", "s/test_seen"))
    # Pooled with a subset on which nothing decides.
    assert not told(ranked("s/test", "u/test", "worded/test"))
    tagged = [
        Question(question_id=name, set=name, kind="choice", question="?", split="test", tags=("t",))
        for name in "su"
    ]
    assert told(ranked("s/test", "u/test", "t/test"), tagged)
    assert not told(ranked("s/test", "u/test", "t/test"))


@pytest.mark.parametrize("candidates", ["ab", "a", ""])
@pytest.mark.parametrize(
    ("arms", "columns"),
    [
        ("", {"ranks": {}}),
        ("abc", {"ranks": {}}),
        ("abc", {"ranks": {"choice": 1.0, "judge": None}}),
        ("c", {"ranks": {"choice": 1.0, "judge": 2.0}, "p_first": 0.0}),
    ],
    ids=["no rows", "rows without ranks", "one layer", "another arm, never first"],
)
def test_a_ranking_that_says_nothing_adds_nothing_to_the_card(candidates, arms, columns):
    rows = rows_of({"a": 0.9, "b": 0.6, "c": 0.2}, p=0.001)
    standings = [Standing(subset="s/test", arm=arm, median=1, place=1, **columns) for arm in arms]
    study = made("abc", candidates)
    assert decide(study, rows, standings) == decide(study, rows)


ARM_NAMES = ("ada", "bob", "cyd", "dan")


@st.composite
def studies(draw):
    """Draw the rows of a study whose differences may contradict each other as they like."""
    names = ARM_NAMES[: draw(st.integers(1, 4))]
    subsets = draw(st.lists(st.sampled_from(("s/test", "t/test", "s/test_seen")), min_size=1,
                            unique=True))  # fmt: skip
    share = st.floats(0, 1, allow_nan=False)
    rows = []
    for metric in draw(st.lists(st.sampled_from(METRICS), min_size=1, unique=True)):
        for subset in subsets:
            there = [name for name in names if draw(st.integers(0, 4))]
            rows += [mean(name, draw(share), metric, subset) for name in there]
            for a, b in combinations(there, 2):
                if draw(st.integers(0, 3)):
                    p = draw(st.one_of(st.none(), st.sampled_from((0.001, 0.02, 0.049, 0.06, 1.0))))
                    small = draw(st.sampled_from((None, 0.01, 0.2)))
                    rows.append(gap(a, b, draw(st.floats(-0.9, 0.9)), p, metric, subset, small))
    candidates = draw(st.lists(st.sampled_from(names), unique=True))
    return made(names, candidates), rows


@settings(max_examples=100, deadline=None)
@given(studies())
def test_no_study_makes_the_card_overstate(drawn):
    study, rows = drawn
    card = decide(study, rows)
    if card is None:
        return
    unseen = SEEN_ONLY not in card.warnings
    here = [row for row in rows if unseen == row.subset.endswith("/test")]
    differences = {
        (a, b): [row for row in rows if row.against and {row.arm, row.against} == {a, b}]
        for a in ARM_NAMES
        for b in ARM_NAMES
    }

    def better(a, b):
        return any(
            row.p_adjusted is not None and row.p_adjusted < 0.05
            and (row.value > 0) == (row.arm == a) and row.value != 0
            for row in differences[a, b]
        )  # fmt: skip

    text = text_of(card)
    for a, b in re.findall(r"(\w+) is clearly better than (\w+)", text):
        assert a == "It" or better(a, b)
    for b in re.findall(r"clearly better than (\w+) in", text):
        assert any(better(a, b) for a in ARM_NAMES if a != b)
    candidates = study.decision.candidates or tuple(study.arms)
    measured = {row.arm for row in here if not row.against} & set(candidates)
    assert set(card.arms) <= measured
    if card.kind == "deploy":
        (arm,) = card.arms
        assert card.headline == f"Deploy {arm}"
        for other in measured - {arm}:
            assert any(better(one, other) for one in measured - {other})
    else:
        assert "Deploy" not in text
    if not any(row.p_adjusted is not None and row.p_adjusted < 0.05 for row in here):
        assert card.kind not in ("deploy", "trade_off")
        assert "clearly better" not in "\n".join([card.headline, *card.why, *card.sure])
    tested = [row for row in here if row.against and row.p_adjusted is not None]
    if not tested:
        assert "distinguishable" not in text


@pytest.mark.slow
def test_declared_comparisons_do_not_make_more_false_winners():
    rng = random.Random(9)
    study = made("abcd", comparisons=["ab"])
    false = 0
    for _ in range(200):
        questions, scores = [], []
        for i in range(120):
            questions.append(
                Question(question_id=f"q{i}", set="s", kind="open", question="?", split="test",
                         group=f"g{i % 40}")
            )  # fmt: skip
            base = rng.gauss(0.5, 0.1)
            scores += [
                Score(question_id=f"q{i}", arm=arm, metric="verdict", rater="j",
                      value=min(1.0, max(0.0, rng.gauss(base, 0.25))))
                for arm in "abcd"
            ]  # fmt: skip
        rows = estimates(
            scores, {q.question_id: q.subsets for q in questions},
            {q.question_id: q.group for q in questions}, study.estimates.comparisons, 1000, 0,
        )  # fmt: skip
        found = judged(study, rows, questions, scores)
        false += any(map(found.is_clear, found.differences.values()))
    assert false <= 0.05 * 200 + 2 * (0.05 * 0.95 * 200) ** 0.5


@pytest.mark.slow
def test_equal_arms_are_told_apart_in_no_more_than_one_of_twenty_studies():
    rng = random.Random(7)
    false = 0
    for _ in range(200):
        scores = [
            Score(question_id=f"{metric}{i}", arm=arm, metric=metric, value=int(rng.random() < 0.6))
            for metric in METRICS
            for i in range(40)
            for arm in "ab"
        ]
        rows = estimates(scores, {s.question_id: ("s/test",) for s in scores}, {}, (), 1000, 0)
        false += decide(made(), rows).kind in ("deploy", "trade_off")
    assert false <= 0.05 * 200 + 2 * (0.05 * 0.95 * 200) ** 0.5


def test_too_few_resamples_for_so_many_pairs_are_said():
    names = [f"arm{i}" for i in range(12)]
    rows = rows_of(dict.fromkeys(names, 0.5), p=0.9)
    rows = [row.model_copy(update={"test": "sign_flip"}) if row.against else row for row in rows]
    card = decide(made(names), rows)
    assert card.warnings == (
        "1,000 resamples (estimates.resamples) are too few to show any difference over 66 pairs, "
        "however large, in multiple choice.",
    )
    assert decide(made(names[:3]), [row for row in rows if row.arm in names[:3]]).warnings == ()


def few_documents(documents, arms, difference=0.4):
    """Return a card on arms of which each is far better than the next in every document."""
    rng = random.Random(3)
    questions = [
        Question(question_id=f"q{i}", set="s", kind="choice", question="?", split="test",
                 group=f"g{i % documents}")
        for i in range(40 * documents)
    ]  # fmt: skip
    scores = [
        Score(question_id=q.question_id, arm=arm, metric="accuracy",
              value=float(rng.random() < 0.95 - difference * place))
        for q in questions
        for place, arm in enumerate(arms)
    ]  # fmt: skip
    study = made(arms)
    rows = estimates(
        scores, {q.question_id: q.subsets for q in questions},
        {q.question_id: q.group for q in questions}, (), 1000, 0,
    )  # fmt: skip
    return decide(study, rows, questions=questions, scores=scores)


def test_too_few_documents_for_any_difference_to_stand_are_too_few_to_tell():
    card = few_documents(5, "ab")
    assert card.headline == "Too few questions to tell a and b apart"
    assert card.warnings == (
        "5 documents in multiple choice cannot show any difference, however large.",
    )
    assert "200 questions from 5 documents can show none, however large," in card.why[0]
    assert "too few questions to tell from b" in card.sure[0]
    few = few_documents(3, "ab").why[0]
    assert few.endswith("How many it takes cannot be told from so few documents.")
    # Ten can show one difference, but not one of 28.
    assert few_documents(10, "ab").kind == "deploy"
    card = few_documents(10, "abcdefgh", 0.1)
    assert card.warnings == (
        "10 documents in multiple choice cannot show any difference over 28 pairs, however large.",
    )
    assert "distinguishable" not in text_of(card)


def test_all_signs_are_tried_of_few_documents_however_few_resamples():
    rows = [
        row.model_copy(update={"clusters": 12}) for row in rows_of(dict.fromkeys("abcde", 0.5), 0.9)
    ]
    study = made("abcde")
    few = study.model_copy(
        update={"estimates": study.estimates.model_copy(update={"resamples": 100})}
    )
    assert decide(few, rows).warnings == ()
    more = [row.model_copy(update={"clusters": 40}) for row in rows]
    assert decide(few, more).warnings[0].startswith("100 resamples (estimates.resamples) are too")


def test_arms_are_not_distinguishable_only_if_every_criterion_could_have_told_them_apart():
    rows = rows_of({"a": 0.7, "b": 0.69}, 0.6)
    assert decide(made(), rows).kind == "equal"
    rows += rows_of({"a": 0.7, "b": 0.5}, 0.3, "verdict", detectable=0.4)
    card = decide(made(), rows)
    assert card.kind == "few"
    assert "in the judges' verdict, corrected for 2 comparisons. With" in card.why[0]


def test_what_the_design_can_show_is_that_of_the_test_which_decides():
    # Of two arms 4 points could be found, of eight not as little as 5.
    assert decide(made(), rows_of({"a": 0.7, "b": 0.69}, 0.6, detectable=0.04)).kind == "equal"
    eight = {arm: 0.7 - place / 100 for place, arm in enumerate("abcdefgh")}
    assert decide(made("abcdefgh"), rows_of(eight, 0.6, detectable=0.04)).kind == "few"


def test_a_difference_that_stands_only_in_the_table_is_told_as_one():
    rows = [
        row.model_copy(update={"p_adjusted": 0.02}) if row.against else row
        for row in rows_of({"a": 0.9, "b": 0.6}, 0.02)
    ]
    rows += rows_of({"a": 0.5, "b": 0.5}, 0.9, "human")
    hint = "a is above b in multiple choice (p 0.020)"
    assert not any(hint in s for s in decide(made(), rows).change)
    rows[2] = rows[2].model_copy(update={"p_adjusted": 0.03})
    assert any(hint.replace("20", "30") in s for s in decide(made(), rows).change)


def test_the_card_and_the_section_on_kinds_of_questions_name_the_same_kinds():
    rng = random.Random(5)
    named = []
    for _ in range(12):
        questions = [
            Question(question_id=f"q{i}", set="s", kind="choice", question="?", split="test",
                     group=f"g{i % 40}", type=TYPES[i % len(TYPES)])
            for i in range(160)
        ]  # fmt: skip
        scores = [
            Score(question_id=q.question_id, arm=arm, metric="accuracy",
                  value=float(rng.random() < 0.7))
            for q in questions
            for arm in "ab"
        ]  # fmt: skip
        rows = estimates(
            scores, {q.question_id: q.subsets for q in questions},
            {q.question_id: q.group for q in questions}, (), 1000, 0,
        )  # fmt: skip
        study = made()
        found = low_kinds(judged(study, rows, questions, scores), study, questions, scores)
        (group,) = by_type(study, questions, scores)
        named.append(len(found))
        assert any("lower on questions" in s for s in group.sentences) == bool(found)
    # Nothing differs: at most one study in twenty may name a kind.
    assert sum(map(bool, named)) <= 2


def test_the_card_is_the_first_section_of_the_report(html, study):
    assert html.index('id="decision"') < html.index('id="summary"')
    assert 'id="decision"' not in report.build(study, {}, {})
