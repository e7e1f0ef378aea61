"""What a reader is told about kinds of questions."""

import json
import random
import re
from html import unescape

import pytest

from ecg_llm.records import Question, Score
from ecg_llm.report.bytype import TOO_FEW, by_type, slices
from ecg_llm.stats.panels import panels_of


def made(worse=0.0, documents=20, each=10, types=("fact", "threshold"), arms=("base", "tuned")):
    """Return choice questions, and scores; "tuned" is worse by so much on thresholds."""
    rng = random.Random(2)
    questions, scores = [], []
    for i in range(documents * each):
        question = Question(
            question_id=f"q{i}", set="written", kind="choice", question="?", split="test",
            type=types[i // documents % len(types)], group=f"g{i % documents}",
        )  # fmt: skip
        questions.append(question)
        for arm in arms:
            share = 0.7 - worse * (arm == "tuned" and question.type == "threshold")
            right = float(rng.random() < share)
            scores.append(
                Score(question_id=question.question_id, arm=arm, metric="accuracy", value=right)
            )
    return questions, scores


def test_a_kind_of_question_that_an_arm_fails_on_is_named(study):
    (group,) = by_type(study, *made(worse=0.4))
    told = " ".join(group.sentences)
    assert "lower on questions of type “threshold” than on others: tuned (−" in told
    assert "higher on questions of type “fact” than on others: tuned (+" in told
    assert "base (" not in told


def test_two_kinds_are_one_test_an_arm_and_seven_are_seven(study):
    questions, scores = made(worse=0.2)
    kept = {row.question_id: row for row in questions}
    (panel,) = panels_of(scores, dict.fromkeys(kept, ("written/test",)),
                         {name: row.group for name, row in kept.items()})  # fmt: skip
    found = slices(panel, kept, 1000, 0)
    assert len(found) == 4
    alone = {one.arm: one.gap.p for one in found if one.level == "fact"}
    lowest = min(alone.values())
    for one in found:
        # Two arms: the smaller p is doubled, not taken four times.
        factor = 2 if alone[one.arm] == lowest else 1
        assert one.p_adjusted == pytest.approx(max(factor * alone[one.arm], 2 * lowest))
    many, _ = made(types=("fact", "threshold", "comparison", "management"))
    found = slices(panel, {row.question_id: row for row in many}, 1000, 0)
    lowest = min(one.gap.p for one in found)
    assert min(one.p_adjusted for one in found) == pytest.approx(8 * lowest)


def test_nothing_is_named_where_kinds_do_not_differ(study):
    (group,) = by_type(study, *made())
    assert group.sentences == [
        "Multiple choice: too few questions to tell whether an arm does better on some kinds of "
        "questions than on others."
    ]


def test_means_of_few_questions_are_shown_without_an_interval(study):
    questions, scores = made(each=2)
    questions[:3] = [row.model_copy(update={"type": "comparison"}) for row in questions[:3]]
    (group,) = by_type(study, questions, scores)
    lines = {row[1]: row for row in group.parts[0].table.rows}
    assert lines["comparison"][2].startswith("3 (")
    assert {cell.interval for cell in lines["comparison"][3:]} == {TOO_FEW}
    assert "to" in lines["threshold"][3].interval
    data = json.loads(unescape(re.search(r"<metadata>(.*?)</metadata>", group.figures[0].svg)[1]))
    few = [row for row in data["rows"] if row[2] == "comparison"]
    assert len(few) == 2
    assert all(row[4] is None and row[8] is None for row in few)


def test_the_means_are_those_of_the_questions_of_each_kind(study):
    questions, scores = made(arms=("base",))
    (group,) = by_type(study, questions, scores)
    facts = {row.question_id for row in questions if row.type == "fact"}
    values = [row.value for row in scores if row.question_id in facts]
    (line,) = [row for row in group.parts[0].table.rows if row[1] == "fact"]
    assert float(line[3].value) == pytest.approx(100 * sum(values) / len(values), abs=0.05)
    assert line[2] == "100 (20)"


def test_questions_all_alike_and_dropped_ones_have_no_section(study):
    assert by_type(study, *made(types=("fact",))) == []
    questions, scores = made()
    gone = [row.model_copy(update={"status": "dropped"}) for row in questions]
    assert by_type(study, gone, scores) == []
    assert by_type(study, questions, []) == []


def test_one_document_gives_means_and_says_nothing(study):
    (group,) = by_type(study, *made(documents=1, each=20))
    assert "too few questions" in group.sentences[0]
    assert group.figures == []
    assert all(cell.value != "–" for row in group.parts[0].table.rows for cell in row[3:])


def test_a_kind_that_is_not_stated_stands_beside_the_others(study):
    questions, scores = made(types=("fact", ""))
    (group,) = by_type(study, questions, scores)
    assert [row[1] for row in group.parts[0].table.rows] == ["fact", "type not stated"]
