"""What a reader is told about seen and unseen documents, and what adapters add on them."""

import json
import re
from html import unescape

import pytest

from ecg_llm.records import Estimate
from ecg_llm.report.figures import arm_styles
from ecg_llm.report.seen import gains, means, seen


def mean(arm, split, value, half=0.03, metric="accuracy", against="", clusters=20):
    low, high = (None, None) if half is None else (value - half, value + half)
    return Estimate(
        metric=metric, subset=f"written/{split}", arm=arm, against=against, value=value, low=low,
        high=high, questions=200, clusters=clusters, method="x",
    )  # fmt: skip


def both(arm, on_seen, unseen, **more):
    return [mean(arm, "test_seen", on_seen, **more), mean(arm, "test", unseen, **more)]


BASE = both("base", 0.5, 0.5)
TUNED = both("tuned", 0.8, 0.55)


def sentences(study, rows):
    return " ".join(seen(study, rows)[0].sentences)


def test_an_arm_is_said_to_be_better_on_seen_documents_only_where_that_is_clear(study):
    told = sentences(study, [*BASE, *TUNED])
    assert "tuned scores 25.0 points higher on seen documents than on unseen ones" in told
    assert "base scores" not in told
    assert "too few questions to tell whether scores on seen and unseen documents differ for base" \
        in told  # fmt: skip


def test_where_questions_would_have_sufficed_none_is_too_few(study):
    told = sentences(study, both("base", 0.5, 0.5, half=0.01, clusters=200))
    assert "scores on seen and unseen documents are not distinguishable for base" in told


def test_questions_that_suffice_for_one_arm_may_be_too_few_for_twelve(study):
    def rows(count):
        return [
            row for i in range(count) for row in both(f"arm-{i}", 0.5, 0.5, half=0.02, clusters=200)
        ]

    assert "not distinguishable for arm-0" in sentences(study, rows(1))
    assert "too few questions to tell" in sentences(study, rows(12))


def test_a_gain_on_seen_documents_alone_is_not_said_to_carry_over(study):
    gained = [
        mean("tuned", "test_seen", 0.3, against="base"),
        mean("tuned", "test", 0.01, against="base"),
    ]
    told = sentences(study, [*BASE, *TUNED, *gained])
    assert "tuned less base is +30.0 points (+27.0 to +33.0) on seen documents" in told
    assert "+1.0 points (−2.0 to +4.0) on unseen ones" in told
    assert "no gain is shown on unseen ones" in told
    assert "carries over" not in told


def test_a_smaller_gain_on_unseen_documents_carries_over_in_part(study):
    gained = [
        mean("tuned", "test_seen", 0.3, against="base"),
        mean("tuned", "test", 0.1, against="base"),
    ]
    assert "a part of what is gained on seen documents carries over" in sentences(
        study, [*BASE, *TUNED, *gained]
    )


def test_gains_that_cannot_be_told_apart_are_not_called_equal(study):
    gained = [
        mean("tuned", "test_seen", 0.3, 0.2, against="base"),
        mean("tuned", "test", 0.1, 0.2, against="base"),
    ]
    assert (
        "whether what tuned adds to base differs between seen and unseen documents cannot be told"
        in sentences(study, [*BASE, *TUNED, *gained])
    )


def test_a_gain_is_found_from_either_side_and_only_between_arms_alike_but_for_the_adapter(study):
    rows = [
        mean("base", "test_seen", -0.3, against="tuned"),
        mean("tuned", "test", 0.01, against="base"),
        *both("tuned", 0.2, 0.2, against="base+rag"),
    ]
    (pair,) = gains(study, rows, "written", "accuracy")
    assert (pair.seen.arm, pair.seen.against) == ("tuned", "base")
    assert pair.seen.value == pytest.approx(0.3)
    assert pair.gap.value == pytest.approx(0.29)


def test_one_document_on_a_side_is_not_tested(study):
    rows = [mean("base", "test_seen", 0.9), mean("base", "test", 0.2, None, clusters=1)]
    (group,) = seen(study, rows)
    assert group.sentences == [
        "Multiple choice: without an interval on both sides, nothing is said of base."
    ]
    assert group.parts[0].table.rows[0][1] == "not tested"


def test_sets_with_one_kind_of_documents_and_arms_without_a_value_are_left_out(study):
    assert seen(study, [mean("base", "test", 0.5)]) == []
    lacking = mean("tuned", "test", 0.5).model_copy(update={"value": None})
    rows = [*BASE, mean("tuned", "test_seen", 0.5), lacking]
    assert [one.seen.arm for one in means(rows, "written", "accuracy")] == ["base"]


def test_what_is_told_of_several_metrics_is_told_once(study):
    rows = [*BASE, *both("base", 0.5, 0.5, metric="verdict")]
    (group,) = seen(study, rows)
    assert len(group.sentences) == 1
    assert group.sentences[0].startswith("Multiple choice and judges' verdict: there are too few")


def test_many_arms_are_corrected_together(study):
    rows = [row for i in range(12) for row in both(f"arm-{i}", 0.5, 0.5)]
    close = both("close", 0.545, 0.5)
    assert "close scores" in sentences(study, close)
    assert "close scores" not in sentences(study, [*rows, *close])


def test_figures_hold_their_data(study):
    styles = arm_styles(study.arms)
    (figure,) = seen(study, [*BASE, *TUNED], styles)[0].figures
    data = json.loads(unescape(re.search(r"<metadata>(.*?)</metadata>", figure.svg)[1]))
    assert data["columns"][:3] == ["arm", "documents", "mean"]
    assert ["tuned", "seen", 0.8] in [row[:3] for row in data["rows"]]
    assert figure.svg == seen(study, [*BASE, *TUNED], styles)[0].figures[0].svg
