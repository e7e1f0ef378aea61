import html
import json
import re

import pytest

from ecg_llm.records import Estimate
from ecg_llm.report.differences import compact, families
from ecg_llm.report.figures import arm_styles
from ecg_llm.report.matrix import Square, matrix_plot
from ecg_llm.report.results import turned

ARMS = ("base", "tuned", "rag")


def difference(arm, against, value, p, p_adjusted, metric="accuracy", **columns):
    return Estimate(
        metric=metric, subset="hand/test", arm=arm, against=against,
        method="difference/cluster_t", value=value, low=value - 0.1, high=value + 0.1, p=p,
        p_adjusted=p_adjusted, questions=40, clusters=20, **columns,
    )  # fmt: skip


CLEAR = difference("tuned", "base", 0.25, 0.001, 0.003)
PALE = difference("rag", "base", 0.15, 0.03, 0.06)
OPEN = difference("tuned", "rag", 0.001, 0.6, 0.6)


def family(pairs, declared=(), margin=0.05, order=ARMS):
    return families(pairs, declared, margin, order, arm_styles(order))[0]


def texts(drawn):
    """Return what is written into the drawing -> its style."""
    found = re.findall(r'<text style="([^"]*)"[^>]*>([^<]*)</text>', drawn)
    return {html.unescape(text): style for style, text in found}


def test_both_senses_of_a_difference_are_shown_and_the_certain_one_stands_out():
    drawn = texts(family([CLEAR, PALE, OPEN]).figure)
    for text in ("+25", "−25"):
        assert "font-weight: 700" in drawn[text]
    for text in ("+15", "−15"):
        assert "font-weight" not in drawn[text]
        assert "var(--ink)" in drawn[text]
    for text in ("+0.1", "−0.1"):
        assert "var(--muted)" in drawn[text]


def opacities(drawn, colour):
    return [float(x) for x in re.findall(rf"fill: var\(--{colour}\); opacity: ([\d.]+)", drawn)]


def test_colour_goes_with_sign_and_size_and_is_absent_where_nothing_is_told_apart():
    drawn = family([CLEAR, PALE, OPEN]).figure
    assert len(opacities(drawn, "first")) == len(opacities(drawn, "second")) == 2
    strong, weak = sorted(opacities(drawn, "first"), reverse=True)
    assert strong > 2 * weak


def test_the_caption_counts_the_pairs_and_says_which_were_not_compared():
    few = OPEN.model_copy(update={"detectable_adjusted": 0.2})
    assert family([CLEAR, PALE, few]).caption == (
        "Row minus column, in points. Bold on colour: stands after correction (1). Pale: only "
        "before correction (1). Framed: too few questions to tell (1)."
    )
    same = OPEN.model_copy(update={"detectable_adjusted": 0.02})
    caption = family([CLEAR, same], [("tuned", "base"), ("tuned", "rag")]).caption
    assert "not distinguishable (1)" in caption
    assert caption.endswith("Empty: not compared.")


def test_pairs_that_were_not_compared_stay_empty():
    drawn = family([CLEAR, OPEN]).figure
    assert "+25" in texts(drawn)
    assert "+15" not in texts(drawn)
    data = json.loads(html.unescape(re.search("<metadata>(.*?)</metadata>", drawn)[1]))
    assert data["columns"][:3] == ["arm", "against", "difference"]
    assert [row[:3] for row in data["rows"]] == [["tuned", "base", 0.25], ["tuned", "rag", 0.001]]


def test_a_difference_without_a_test_claims_nothing():
    pairs = [row.model_copy(update={"p": None, "p_adjusted": None}) for row in (CLEAR, PALE, OPEN)]
    made = family(pairs)
    assert "not tested (3)" in made.caption
    assert not opacities(made.figure, "first")
    assert {row.verdict for row in made.rows} == {"not tested"}


@pytest.mark.parametrize(
    ("detectable", "margin", "verdict"),
    [
        (0.2, 0.05, "too few questions to tell"),
        (0.04, 0.05, "not distinguishable"),
        (None, 0.05, "too few questions to tell"),
        (0.2, 0.3, "not distinguishable"),
    ],
)
def test_too_few_questions_is_said_only_where_the_design_cannot_find_what_matters(
    detectable, margin, verdict
):
    row = PALE.model_copy(update={"detectable_adjusted": detectable})
    assert family([CLEAR, row, OPEN], margin=margin).rows[1].verdict == verdict
    clear = CLEAR.model_copy(update={"detectable_adjusted": 0.2})
    assert family([clear, PALE, OPEN], margin=margin).rows[0].verdict == "tuned higher"


def test_the_other_sense_turns_everything_that_has_one():
    row = difference("base", "tuned", -0.25, 0.001, 0.003, wins=3, losses=13, effect=-0.6,
                     detectable=0.2)  # fmt: skip
    assert turned(turned(row)) == row
    shown = family([row]).rows[0]
    assert (shown.a, shown.b, shown.value) == ("tuned", "base", "+25.0")
    assert (shown.better, shown.worse, shown.effect) == ("13", "3", "+0.60")
    assert shown.interval == "+15.0 to +35.0"
    kept = family([row], [("base", "tuned")]).rows[0]
    assert (kept.a, kept.value, kept.better, kept.effect) == ("base", "−25.0", "3", "−0.60")


def test_two_arms_need_no_matrix():
    made = family([CLEAR])
    assert made.figure == made.caption == ""
    assert made.distinguishable == len(made.rows) == 1


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.1249, "accuracy", "+12"), (-0.0349, "accuracy", "−3.5"), (0.0997, "accuracy", "+10"),
        (0.0, "accuracy", "0.0"), (-0.0001, "accuracy", "0.0"), (1.0, "accuracy", "+100"),
        (-0.138, "human", "−.14"), (-0.001, "human", ".00"), (1.0, "human", "+1.00"),
        (-1.24, "ranking_strength", "−1.2"),
    ],
)  # fmt: skip
def test_a_square_has_room_for_its_number(value, metric, text):
    assert compact(value, metric) == text
    assert len(text) <= 5


def drawn_of(n, name="arm {}"):
    arms = [name.format(i) for i in range(n)]
    squares = [[Square(i - j, f"{i - j}") if i != j else None for j in range(n)] for i in range(n)]
    return matrix_plot(arms, arms, squares, "all", styles=arm_styles(arms))


@pytest.mark.parametrize("n", [1, 2, 7, 13])
def test_any_number_of_arms_is_drawn_once_by_name_and_once_by_number(n):
    written = re.findall(r">([^<>]+)</text>", drawn_of(n))
    for i in range(n):
        assert written.count(f"arm {i} ({i + 1})") == 1
        assert written.count(f"({i + 1})") == 1
    assert drawn_of(n).count("<use ") == 2 * n


def test_many_long_names_widen_the_figure_instead_of_shrinking_its_numbers():
    assert '<svg class="wide"' in drawn_of(13, "a-rather-long-name-of-an-arm-{}")
    assert "wide" not in drawn_of(4)


def test_rows_and_columns_may_bear_different_names():
    squares = [[Square(0.5, ".50", "weak"), None], [None, Square(None, "–", "none")]]
    drawn = matrix_plot(["fact", "<b>"], ["base", "$x$"], squares, "types by arm")
    assert {"fact", "<b>", "base", "$x$", ".50", "–"} == set(texts(drawn))
    data = json.loads(html.unescape(re.search("<metadata>(.*?)</metadata>", drawn)[1]))
    assert data["rows"] == [["fact", "base", 0.5], ["<b>", "$x$", None]]
