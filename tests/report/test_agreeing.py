"""What a reader is told about the agreement of the layers."""

import json
import re
from html import unescape
from itertools import combinations

import pytest
import scipy.stats

from ecg_llm.records import Agreement, Estimate
from ecg_llm.report import report
from ecg_llm.report.agreeing import agreeing, chance

ARMS = ("base", "tuned", "base+rag", "tuned+rag", "frontier-api", "extractive")
RISING = dict(zip(ARMS, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), strict=True))


def tau(a, b, value, low=None, high=None, level="arms", items=6, measure="kendall", **more):
    return Agreement(
        level=level, subset="written/test", a=a, b=b, measure=measure, value=value, low=low,
        high=high, items=items, clusters=10, **more,
    )  # fmt: skip


def means(**by_metric):
    return [
        Estimate(metric=metric, subset="written/test", arm=arm, method="mean/x", value=value)
        for metric, values in by_metric.items()
        for arm, value in values.items()
    ]


def told(rows, estimates=(), judges=()):
    (group,) = agreeing(rows, estimates, judges)
    return " ".join(group.sentences)


def test_how_often_orders_agree_by_chance_is_what_scipy_says_of_all_orders():
    other = dict(zip(ARMS, (0.2, 0.1, 0.3, 0.5, 0.4, 0.6), strict=True))
    exact = scipy.stats.kendalltau(list(RISING.values()), list(other.values()), method="exact")
    assert chance(RISING, other) == pytest.approx(exact.pvalue)
    many = {f"arm-{i}": float(i) for i in range(13)}
    turned = {arm: -value for arm, value in many.items()}
    assert chance(many, turned) < 1e-4


def test_ties_make_agreement_by_chance_likely():
    one_ahead = dict.fromkeys(ARMS, 0.0) | {"extractive": 1.0}
    assert chance(one_ahead, one_ahead) == pytest.approx(1 / 6)
    assert chance(one_ahead, dict.fromkeys(ARMS, 0.5)) == 1.0


def test_two_layers_agree_only_if_neither_questions_nor_chance_explain_it():
    row = tau("accuracy", "verdict", 1.0, 0.6, 1.0)
    same = means(accuracy=RISING, verdict=RISING)
    assert (
        "Arms are put in much the same order by multiple choice and judges' verdict "
        "(tau 1.00, 0.60 to 1.00)." in told([row], same)
    )
    one_ahead = dict.fromkeys(ARMS, 0.0) | {"extractive": 1.0}
    tied = told([row], means(accuracy=one_ahead, verdict=one_ahead))
    assert "By chance alone, orders of arms often agree as much as multiple choice" in tied
    assert "same order" not in tied


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (0.6, 0.2, 0.9, "partly the same order"),
        (-0.9, -1.0, -0.4, "rather opposite orders"),
        (0.2, 0.05, 0.25, "a little in common"),
        (-0.2, -0.6, 0.3, "No common order of arms is shown by judges' verdict and ROUGE-L"),
        (0.8, None, None, "Without an interval, nothing is said of the order of arms"),
    ],
)
def test_words_follow_the_interval(value, low, high, words):
    rows = means(verdict=RISING, rougeL=RISING)
    assert words in told([tau("verdict", "rougeL", value, low, high)], rows)


def test_three_arms_are_too_few_to_say_anything():
    three = {arm: RISING[arm] for arm in ARMS[:3]}
    row = tau("accuracy", "verdict", 1.0, 1.0, 1.0, items=3)
    assert told([row], means(accuracy=three, verdict=three)) == (
        "Too few arms to tell whether layers agree: 3 arms allow only 4 values of tau, and of "
        "unrelated orders one in 6 is the same by chance. No expert rated these answers: how far "
        "the judges can be trusted is not known."
    )


def test_without_a_value_the_reason_is_given():
    row = tau("accuracy", "rougeL", None, items=1, note="fewer than 3 arms")
    (group,) = agreeing([row], [])
    assert group.sentences == [
        "No two layers can be compared by the order of the arms: fewer than 3 arms."
    ]
    assert group.figures == []
    assert group.parts[0].table.note == "Multiple choice and ROUGE-L: fewer than 3 arms."


def test_judges_stand_beside_the_experts_themselves():
    rows = [
        tau("panel-1", "experts", 0.5, 0.4, 0.6, "grades", 80, "alpha"),
        tau("panel-1", "experts", 0.6, 0.5, 0.7, "grades", 80, "icc"),
        tau("experts", "experts", 0.7, 0.6, 0.8, "grades", 80, "alpha"),
        tau("ann", "bob", 0.72, 0.6, 0.8, "grades", 80, "kappa"),
    ]
    (group,) = agreeing(rows, [], ["panel-1"])
    words = " ".join(group.sentences)
    assert "“panel-1” and experts 0.50 (95 % interval 0.40 to 0.60, 80 answers)" in words
    assert "experts among themselves 0.70 (95 % interval 0.60 to 0.80, 80 answers)" in words
    assert "Clearly less than that: “panel-1” with the experts." in words
    assert [row[0] for row in group.parts[0].table.rows] == [
        "“panel-1” and experts", "Experts among themselves", "“ann” and “bob”",
    ]  # fmt: skip
    assert len(group.figures) == 1


def test_one_expert_cannot_show_how_far_experts_agree():
    rows = [tau("panel-1", "experts", 0.7, 0.5, 0.9, "grades", 80, "alpha")]
    words = told(rows, judges=["panel-1"])
    assert "No answers have two experts" in words
    assert "Clearly less" not in words


def test_grades_without_a_coefficient_are_not_taken_for_none():
    note = "no item with two grades"
    rows = [
        tau("panel-1", "experts", None, level="grades", items=0, measure="alpha", note=note),
        tau("verdict", "human", None, level="answers", items=0, note="no shared answers"),
    ]
    assert told(rows, judges=["panel-1"]) == (
        "How far grades agree is not known: no item with two grades."
    )


def test_sentences_take_one_metric_of_wording_and_the_matrix_all():
    names = ("verdict", "rouge1", "rougeL", "bleu")
    rows = [tau(a, b, 0.4, 0.1, 0.7, "answers", 300) for a, b in combinations(names, 2)]
    (group,) = agreeing(rows, [])
    words = " ".join(group.sentences)
    assert "ROUGE-L" in words
    assert "BLEU" not in words
    assert "ROUGE-1" not in words
    svg = group.figures[0].svg
    data = json.loads(unescape(re.search(r"<metadata>(.*?)</metadata>", svg)[1]))
    assert {(row[0], row[1]) for row in data["rows"]} == set(combinations(names, 2))


def test_the_report_has_the_section_and_escapes_what_raters_are_called(study):
    evil = "<script>alert(1)</script>"
    rows = [tau(evil, "experts", 0.5, 0.4, 0.6, "grades", 80, "alpha")]
    html = report.build(study, {"agreement": rows}, {})
    assert "Do the layers agree?" in html
    assert "&lt;script&gt;" in html
    assert evil not in html
    assert "Do the layers agree?" not in report.build(study, {}, {})
