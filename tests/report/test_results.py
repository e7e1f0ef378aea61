import random
import re

import pytest

from ecg_llm import config
from ecg_llm.records import Estimate, Score
from ecg_llm.report import report
from ecg_llm.report.figures import arm_styles
from ecg_llm.report.results import ALIKE, TOO_FEW, difference_row, layers, reading
from ecg_llm.stats.estimate import estimates

ORDER = ("tuned", "base")


def mean(metric, arm, value, rank=None, subset="hand/test", **columns):
    return Estimate(
        metric=metric, subset=subset, arm=arm, method="mean/cluster_t", value=value,
        low=value - 0.1, high=value + 0.1, rank=rank, rank_adjusted=rank and 1, questions=40,
        clusters=20, **columns,
    )  # fmt: skip


def section(name, rows):
    found = layers(rows, [], ORDER, styles=arm_styles(ORDER))
    return next(layer for layer in found if layer.name == name)


def test_each_fate_of_missing_answers_is_told_with_its_metrics():
    rows = [
        mean("accuracy", "base", 0.5, missing=3, missing_as="0"),
        mean("accuracy_strict", "base", 0.5, missing=4, missing_as="0"),
        mean("accuracy_likelihood", "base", 0.5, missing=1, missing_as="left out"),
    ]
    (note,) = section("choice", rows).notes
    assert "They count as 0 in “Letter written” and “Letter as asked for”." in note
    assert "They are left out in “Likeliest option”." in note
    assert "as 1–4." in note


def test_one_fate_needs_no_metrics_and_a_judges_own_failures_are_told_apart():
    missing_as = "0; 2 unjudged left out"
    (note,) = section(
        "judge", [mean("verdict", "base", 0.5, missing=2, missing_as=missing_as)]
    ).notes
    assert note == (
        "Missing: answers that failed, or that could not be read or judged. They count as 0. "
        "Answers that a judge failed on are always left out."
    )
    assert section("judge", [mean("verdict", "base", 0.5)]).notes == ()


def test_figures_keep_the_studys_order_and_say_what_a_filled_dot_is():
    rows = [mean("accuracy", "base", 0.5, 1), mean("accuracy", "tuned", 0.4, 2)]
    elsewhere = [row.model_copy(update={"subset": "other/test"}) for row in rows]
    (table,) = section("choice", rows).tables
    assert [row.arm for row in table.rows] == ["tuned", "base"]
    assert table.figure.index(">tuned</text>") < table.figure.index(">base</text>")
    assert table.key == ("Filled: no other arm is above it by an uncorrected 95 % interval.",)
    assert section("choice", [*rows, *elsewhere]).key == table.key[0]
    assert re.findall(r'<use [^>]*style="fill: ([^;"]*)', table.figure) == [
        "var(--paper)",
        "var(--arm-2)",
    ]


def test_ranks_before_and_after_correction_stand_together_and_only_ties_for_first_are_marked():
    rows = [mean("accuracy", "base", 0.5, 1), mean("accuracy", "tuned", 0.4, 2)]
    (table,) = section("choice", rows).tables
    cells = {row.arm: row.cells[0] for row in table.rows}
    assert table.adjusted
    assert (cells["tuned"].rank, cells["tuned"].adjusted, cells["tuned"].tied_best) == (
        "2", "1", False,
    )  # fmt: skip
    assert cells["base"].tied_best
    (plain,) = section("choice", [mean("accuracy", "base", 0.5)]).tables
    assert not plain.adjusted
    assert "Filled" not in plain.caption


def test_a_metric_has_the_same_axis_on_every_subset():
    rows = [
        mean("accuracy", "base", 0.2, subset="hand/test"),
        mean("accuracy", "base", 0.8, subset="hand/test_seen"),
    ]
    ticks = [re.findall(r">(\d+ %)</text>", t.figure) for t in section("choice", rows).tables]
    assert ticks[0] == ticks[1]
    assert len(ticks[0]) > 2


def difference(**columns):
    made = {"value": 0.02, "low": -0.01, "high": 0.05, "p": 0.1, "p_adjusted": 0.3, **columns}
    return Estimate(
        metric="accuracy", subset="s/test", arm="a", against="b", method="difference/t", **made
    )


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"detectable": 0.03, "detectable_adjusted": 0.06}, TOO_FEW),
        ({"detectable": 0.03, "detectable_adjusted": 0.04}, ALIKE),
        # Not known what can be found: the interval tells what may be there.
        ({"detectable": 0.03, "low": 0.01, "high": 0.9}, TOO_FEW),
        ({"high": 0.06}, TOO_FEW),
        ({"high": 0.04}, ALIKE),
        ({"low": None, "high": None}, TOO_FEW),
        ({"detectable_adjusted": 0.06, "p_adjusted": 0.01}, "a higher"),
    ],
)
def test_a_difference_is_read_by_what_the_corrected_test_could_find(columns, words):
    row = difference(**columns)
    assert reading(row, 0.05) == words
    assert difference_row(row, [], 0.05).verdict == words


def test_a_difference_is_shown_with_what_it_can_find_before_and_after_correction():
    shown = difference_row(difference(detectable=0.031, detectable_adjusted=0.044), [])
    assert (shown.detectable, shown.detectable_adjusted) == ("3.1", "4.4")


def test_ranks_on_fewer_questions_than_arms_have_are_said_to_be():
    rows = [mean("accuracy", "base", 0.5, 1, rank_questions=30)]
    assert section("choice", rows).notes == (
        "Ranks rest on the questions that all arms have. In “Letter written” on hand/test: 30.",
    )
    assert section("choice", [mean("accuracy", "base", 0.5, 1, rank_questions=40)]).notes == ()


def test_a_study_of_ratings_alone_speaks_of_questions_not_of_documents():
    rng = random.Random(1)
    scores = [
        Score(question_id=f"q{i}", arm=arm, metric="human", rater=rater, value=rng.random())
        for i in range(30)
        for arm in ("one", "two", "three")
        for rater in "xy"
    ]
    subsets_of = {score.question_id: ("forty/rated",) for score in scores}

    def told(cluster_of):
        rows = estimates(scores, subsets_of, cluster_of, (), 1000, 0)
        page = report.build(config.Study(), {"estimates": rows}, {})
        return re.sub(r"<svg.*?</svg>|<[^>]+>", " ", page.partition("<main>")[2], flags=re.DOTALL)

    alone, grouped = told({}), told({f"q{i}": f"d{i % 15}" for i in range(30)})
    for words in (
        "flipping the signs of questions", "ahead on more questions", "each counts by itself",
        "In each resample of the questions",
    ):  # fmt: skip
        assert words in alone
        assert words not in grouped
    for words in (
        "flipping the signs of whole documents", "ahead on more documents", "(documents)",
        "Documents", "documents are resampled",
    ):  # fmt: skip
        assert words in grouped
        assert words not in alone
