import pytest

from ecg_llm.records import Estimate
from ecg_llm.report.findings import ONE_DOCUMENT, findings

MARGIN = 0.05


def mean(arm, value, metric="accuracy", subset="s/test", half=0.1, **columns):
    ends = {} if half is None else {"low": max(0, value - half), "high": value + half}
    return Estimate(
        metric=metric, subset=subset, arm=arm, method="mean/t", value=value, questions=40,
        clusters=10, **ends, **columns,
    )  # fmt: skip


def gap(a, b, value, p, detectable=0.03, **columns):
    return Estimate(
        metric="accuracy", subset="s/test", arm=a, against=b, method="difference/t", value=value,
        low=value - 0.05, high=value + 0.05, p=p, p_adjusted=p, detectable_adjusted=detectable,
        questions=40, clusters=10, **columns,
    )  # fmt: skip


def said(rows, declared=()):
    (finding,) = findings(rows, declared, MARGIN)
    (point,) = finding.points
    return point.lead, " ".join(point.sentences)


def test_each_other_arm_gets_the_word_that_its_difference_bears_out():
    rows = [mean(arm, v) for arm, v in zip("abcd", (0.8, 0.7, 0.6, 0.3), strict=True)]
    rows += [gap("a", "b", 0.1, 0.3), gap("c", "a", -0.2, 0.06, 0.2), gap("d", "a", -0.5, 0.01)]
    lead, text = said(rows)
    assert lead == "a"
    assert "It is ahead of d by 50.0 points (45.0 to 55.0)." in text
    assert "It is not distinguishable from b." in text
    assert "Too few questions to tell it from c." in text


def test_a_leader_by_its_mean_that_is_behind_on_shared_questions_is_told_so():
    rows = [mean("a", 0.8), mean("b", 0.7).model_copy(update={"questions": 100})]
    lead, text = said([*rows, gap("a", "b", -0.1, 0.01, 0.2)])
    assert lead == "a"
    assert text == (
        "On the questions that both have, it is behind b by 10.0 points (5.0 to 15.0). Arms have "
        "values on different numbers of questions, 40 to 100; a difference is of those that both "
        "have."
    )


def test_what_holds_for_all_others_is_said_once():
    pair = [mean("a", 0.8), mean("b", 0.7)]
    assert said([*pair, gap("a", "b", 0.1, 0.3)])[1] == "No other arm is distinguishable from it."
    few = said([*pair, gap("a", "b", 0.1, 0.3, 0.2)])[1]
    assert few == "Too few questions to tell it from any other arm."


def test_pairs_that_were_not_compared_are_tied_or_below_by_rank_and_never_ahead():
    rows = [mean("a", 0.8, rank=1, rank_adjusted=1), mean("b", 0.7, rank=2, rank_adjusted=1),
            mean("c", 0.2, rank=3, rank_adjusted=2)]  # fmt: skip
    text = said(rows)[1]
    assert text == "Ranked below: c. Tied by rank: b."
    assert "ahead" not in text


def test_arms_with_the_same_value_share_the_lead():
    rows = [mean("a", 0.8), mean("b", 0.8), mean("c", 0.2), gap("a", "c", 0.6, 0.01)]
    assert said(rows) == ("a and b", "a is ahead of c by 60.0 points (55.0 to 65.0).")


@pytest.mark.parametrize(
    ("p", "detectable", "ending"),
    [(0.01, 0.2, "."), (0.3, 0.03, ", not distinguishable."), (0.3, 0.2, ", too few to tell."),
     (None, None, ", not tested.")],
)  # fmt: skip
def test_a_declared_pair_without_the_leader_is_told(p, detectable, ending):
    rows = [mean("a", 0.8), mean("b", 0.7), mean("c", 0.6)]
    rows += [gap("b", "c", 0.1, p, detectable)]
    assert f"b against c: +10.0 points (+5.0 to +15.0){ending}" in said(rows, [("b", "c")])[1]


def test_many_arms_are_named_in_part_and_counted():
    rows = [mean(f"arm{i}", 0.9 - i / 100) for i in range(13)]
    rows += [gap("arm0", f"arm{i}", i / 100, 0.9, 0.2) for i in range(1, 12)]
    rows += [gap("arm0", "arm12", 0.12, 0.9)]
    assert "from arm1, arm2, arm3, arm4 and 7 others." in said(rows)[1]


def test_wording_and_similarity_are_told_only_where_nobody_read_the_answers():
    rows = [mean("a", 0.5, metric) for metric in ("rougeL", "reference_similarity", "verdict")]
    titles = [
        [point.title for point in findings(rows[:count], (), MARGIN)[0].points]
        for count in (1, 2, 3)
    ]
    assert titles == [["Wording"], ["Similarity to the reference (no judge)"], ["LLM judge"]]


def test_documents_used_in_training_come_last_and_one_document_is_said_once():
    rows = [mean("a", 0.5, subset=subset, half=None) for subset in ("a/test_seen", "b/test")]
    found = findings(rows, (), MARGIN)
    assert [one.subset for one in found] == ["b/test", "a/test_seen"]
    assert found[0].sentences == (ONE_DOCUMENT,)
    assert findings([], (), MARGIN) == []
