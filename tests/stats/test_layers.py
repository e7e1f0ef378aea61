import time

import numpy as np
import pytest
from scipy import stats

from ecg_llm.records import GRADES, MEASURES, Score
from ecg_llm.stats.agreement import alpha, equal_grades, icc, kappa, kendall
from ecg_llm.stats.layers import MAIN, agreement

LEVELS = tuple(sorted(GRADES.values()))
SUBSET = "s/test"


def scores_of(metric, values, rater="", prefix="open", **columns):
    """Scores of {arm: values by question}; None is an answer that no judge graded."""
    return [
        Score(
            question_id=f"{prefix} {number:03}", arm=arm, metric=metric, rater=rater,
            value=None if value is None else float(value),
            status="unjudged" if value is None else "scored", **columns,
        )
        for arm, row in values.items()
        for number, value in enumerate(row)
    ]  # fmt: skip


def rows_of(scores, per_document=1, resamples=1000, seed=5):
    questions = {score.question_id for score in scores}
    cluster_of = {q: f"{int(q.split()[1]) // per_document:03}" for q in questions}
    rows = agreement(scores, dict.fromkeys(questions, (SUBSET,)), cluster_of, resamples, seed)
    assert len({row.key for row in rows}) == len(rows)
    assert {row.measure for row in rows} <= set(MEASURES)
    return {(row.level, row.a, row.b, row.measure): row for row in rows}


def planted(skills, questions=60, noise=1.0, seed=0, shared=0.0):
    """Values {arm: by question} of arms with these skills; `shared` is noise of the question."""
    rng = np.random.default_rng(seed)
    of_question = rng.normal(size=questions) * shared
    return {arm: of_question + s + rng.normal(size=questions) * noise for arm, s in skills.items()}


def in_order(step):
    return {f"arm {i}": i * step for i in range(6)}


def backwards(step):
    return {f"arm {i}": -i * step for i in range(6)}


def answers(values):
    return np.array(list(values.values())).T.ravel()


def test_means_of_arms_are_compared_as_scipy_does():
    one, other = (planted(in_order(0.1), seed=seed) for seed in (1, 2))
    other["arm 5"] = other["arm 4"]  # a tie
    found = rows_of(scores_of("verdict", one) + scores_of("rouge1", other))
    means = [[row.mean() for row in values.values()] for values in (one, other)]
    assert found["arms", "verdict", "rouge1", "kendall"].value == pytest.approx(
        stats.kendalltau(*means).statistic
    )
    assert found["arms", "verdict", "rouge1", "spearman"].value == pytest.approx(
        stats.spearmanr(*means).statistic
    )
    row = found["arms", "verdict", "rouge1", "kendall"]
    assert (row.items, row.clusters, row.note) == (6, 60, "")


def test_answers_are_compared_as_scipy_does():
    one = planted(in_order(0.3), seed=1, shared=1)
    other = {arm: row + np.random.default_rng(3).normal(size=60) for arm, row in one.items()}
    graded = {arm: np.array(LEVELS)[np.digitize(row, (-1, 0, 1))] for arm, row in other.items()}
    found = rows_of(scores_of("rouge1", one) + scores_of("verdict", graded), per_document=4)
    pair = answers(graded), answers(one)
    tau = found["answers", "verdict", "rouge1", "kendall"]
    rho = found["answers", "verdict", "rouge1", "spearman"]
    assert tau.value == pytest.approx(stats.kendalltau(*pair).statistic)
    assert rho.value == pytest.approx(stats.spearmanr(*pair).statistic)
    assert (tau.items, tau.clusters) == (360, 15)
    question = np.repeat(np.arange(60), 6)
    within = kendall(np.column_stack(pair), question, question // 4, 1000, 0).interval
    found_within = found["answers", "verdict", "rouge1", "kendall_within"]
    assert found_within.value == pytest.approx(within.value)
    assert found_within.low == pytest.approx(within.low, abs=0.04)
    assert found_within.high == pytest.approx(within.high, abs=0.04)


@pytest.mark.parametrize("measure", ["kendall", "spearman"])
def test_limits_over_answers_are_those_of_leaving_out_each_document(measure):
    one = planted(in_order(0.3), questions=120, seed=1, shared=1)
    other = {arm: row + np.random.default_rng(3).normal(size=120) for arm, row in one.items()}
    row = rows_of(scores_of("rouge1", one) + scores_of("bleu", other), per_document=3)[
        "answers", "rouge1", "bleu", measure
    ]
    statistic = {"kendall": stats.kendalltau, "spearman": stats.spearmanr}[measure]
    document = np.repeat(np.arange(120) // 3, 6)
    x, y = answers(one), answers(other)
    without = np.array([statistic(x[document != c], y[document != c])[0] for c in range(40)])
    error = np.sqrt(39 / 40 * ((without - without.mean()) ** 2).sum()) / (1 - row.value**2)
    half = stats.t.ppf(0.975, 39) * error
    wanted = np.tanh(np.arctanh(row.value) + np.array([-half, half]))
    assert (row.low, row.high) == pytest.approx(tuple(wanted), abs=0.01)


def test_layers_that_agree_are_told_from_layers_that_do_not():
    scores = [
        *scores_of("accuracy", {arm: row > 0 for arm, row in planted(in_order(0.6)).items()},
                   prefix="choice"),
        *scores_of("verdict", planted(in_order(0.5), seed=1)),
        *scores_of("rouge1", planted(backwards(0.5), seed=2)),
    ]  # fmt: skip
    found = rows_of(scores)
    alike = found["arms", "accuracy", "verdict", "kendall"]
    apart = found["arms", "accuracy", "rouge1", "kendall"]
    assert alike.low > 0.5
    assert apart.high < -0.5
    assert alike.clusters == 60  # documents that choice and open questions share
    assert ("answers", "accuracy", "verdict", "kendall") not in found
    assert found["answers", "verdict", "rouge1", "kendall_within"].high < 0


def test_difficulty_of_questions_makes_answers_agree_that_are_told_apart_by_nothing():
    alike = dict.fromkeys("abcdef", 0.0)
    one, other = (planted(alike, seed=s) for s in (1, 2))
    level = np.random.default_rng(0).normal(size=60) * 5
    scores = [*scores_of("verdict", {arm: row + level for arm, row in one.items()}),
              *scores_of("bleu", {arm: row + level for arm, row in other.items()})]  # fmt: skip
    found = rows_of(scores)
    assert found["answers", "verdict", "bleu", "kendall"].low > 0.5
    within = found["answers", "verdict", "bleu", "kendall_within"]
    assert within.low < 0 < within.high


def test_arms_that_only_one_metric_has_do_not_count():
    full = planted(in_order(0.4))
    some = {arm: row for arm, row in planted(in_order(0.4), seed=1).items() if arm > "arm 1"}
    found = rows_of(scores_of("verdict", full) + scores_of("bleu", some))
    row = found["arms", "verdict", "bleu", "spearman"]
    means = [[values[arm].mean() for arm in some] for values in (full, some)]
    assert row.items == 4
    assert row.value == pytest.approx(stats.spearmanr(*means).statistic)
    assert found["answers", "verdict", "bleu", "kendall"].items == 240


def test_missing_answers_count_as_the_metric_says():
    values = {"a": [1, 0, 1], "b": [0, 0, 1], "c": [1, 1, 1]}
    failed = [
        score.model_copy(update={"value": None, "status": "error"})
        if score.question_id == "open 000" else score
        for score in scores_of("verdict", values)
    ]  # fmt: skip
    counted = {arm: [0, *row[1:]] for arm, row in values.items()}
    other = scores_of("bleu", {"a": [3, 1, 2], "b": [1, 1, 2], "c": [2, 2, 3]})
    assert rows_of(failed + other) == rows_of(scores_of("verdict", counted) + other)
    unjudged = scores_of("verdict", {arm: [None, *row[1:]] for arm, row in values.items()})
    assert rows_of(unjudged + other)["answers", "verdict", "bleu", "kendall"].items == 6


def test_notes_say_why_there_is_no_value():
    two = {"a": [1, 0, 1], "b": [0, 1, 1]}
    found = rows_of(scores_of("verdict", two) + scores_of("bleu", two))
    assert found["arms", "verdict", "bleu", "kendall"].note == "fewer than 3 arms"
    flat = {arm: [1, 1, 1] for arm in "abc"}
    found = rows_of(scores_of("verdict", flat) + scores_of("bleu", {**two, "c": [0, 0, 0]}))
    for level in ("arms", "answers"):
        row = found[level, "verdict", "bleu", "kendall"]
        assert (row.value, row.low) == (None, None)
        assert row.note == "one of the two is the same for all"
    late = [s.model_copy(update={"question_id": "open 900"}) for s in scores_of("bleu", two)][:1]
    row = rows_of(scores_of("verdict", two) + late)["answers", "verdict", "bleu", "kendall"]
    assert (row.value, row.items, row.note) == (None, 0, "no shared answers")


def test_one_document_gives_values_without_limits():
    scores = scores_of("verdict", planted(in_order(1)))
    scores += scores_of("bleu", planted(in_order(1), seed=1))
    scores += scores_of("verdict", {"judged": [1, 0, 1, 0.75]}, rater="j")
    scores += scores_of("human", {"judged": [1, 0, 0.25, 0.75]}, rater="dr")
    found = rows_of(scores, per_document=60)
    found = {key: row for key, row in found.items() if "human" not in key}
    assert ("grades", "j", "experts", "kappa") in found
    for row in found.values():
        assert row.value is not None
        assert (row.low, row.high, row.clusters) == (None, None, 1)
        assert row.note == "one document, so no limits"


def test_an_arm_that_answered_for_one_document_leaves_the_order_without_limits():
    one, other = (planted(in_order(1), seed=seed) for seed in (1, 2))
    other["arm 3"] = other["arm 3"][:4]
    found = rows_of(scores_of("verdict", one) + scores_of("bleu", other), per_document=4)
    row = found["arms", "verdict", "bleu", "kendall"]
    assert row.value is not None
    assert (row.low, row.items) == (None, 6)
    assert row.note == "some arm has answers of one document only, so no limits"


def test_one_arm_has_answers_to_compare_but_no_order():
    scores = scores_of("verdict", planted({"a": 0})) + scores_of("bleu", planted({"a": 0}, seed=1))
    found = rows_of(scores)
    assert found["arms", "verdict", "bleu", "kendall"].value is None
    assert found["answers", "verdict", "bleu", "kendall"].items == 60
    assert found["answers", "verdict", "bleu", "kendall_within"].note == "one arm only"


def test_metrics_that_say_the_same_agree_in_full():
    values = planted(in_order(0.5))
    found = rows_of(scores_of("verdict", values) + scores_of("bleu", values))
    row = found["answers", "verdict", "bleu", "kendall"]
    assert (row.value, row.low) == (pytest.approx(1), None)
    assert row.note
    arms = found["arms", "verdict", "bleu", "kendall"]
    assert (arms.value, arms.low, arms.note) == (1, 1, "the same in every draw of documents")


def test_lengths_and_precision_are_no_layer_and_a_metric_alone_has_no_partner():
    values = planted(in_order(1))
    assert rows_of(scores_of("words", values) + scores_of("rouge1_recall", values)) == {}
    assert rows_of(scores_of("verdict", values)) == {}


def graded(quality, noise, seed):
    seen = quality + np.random.default_rng(seed).normal(size=len(quality)) * noise
    return np.array(LEVELS)[np.digitize(seen, (-1, 0, 1))]


def test_a_judge_and_one_expert_are_compared_grade_by_grade():
    quality = np.random.default_rng(0).normal(size=80)
    expert, judge = graded(quality, 0.3, 1), graded(quality, 0.6, 2)
    scores = scores_of("human", {"a": expert}, rater="dr") + scores_of("verdict", {"a": judge}, "j")
    found = rows_of(scores, per_document=2)
    pair, cluster = np.column_stack([judge, expert]), np.arange(80) // 2
    for measure, wanted in {
        "agreement": equal_grades(pair, cluster, 1000, 5),
        "kappa": kappa(pair, LEVELS, cluster, 1000, 5),
        "alpha": alpha(pair, LEVELS, cluster, 1000, 5),
        "icc": icc(pair, cluster, 1000, 5),
    }.items():
        row = found["grades", "j", "experts", measure]
        assert (row.value, row.low, row.high) == pytest.approx(wanted.interval[:3])
        assert (row.items, row.clusters) == (80, 40)
    rho = found["grades", "j", "experts", "spearman"].value
    assert rho == pytest.approx(stats.spearmanr(judge, expert).statistic)
    assert {key[1] for key in found if key[0] == "grades"} == {"j"}  # one expert has no colleague


def test_several_experts_stand_against_each_other_and_together_against_the_judge():
    quality = np.random.default_rng(0).normal(size=90)
    experts = {f"dr {n}": graded(quality, 0.4, n) for n in range(3)}
    judge = graded(quality, 0.4, 9)
    scores = scores_of("verdict", {"a": judge}, rater="j")
    for name, grades in experts.items():
        scores += scores_of("human", {"a": grades}, rater=name)
    found = rows_of(scores)
    marks = np.column_stack(list(experts.values()))
    cluster = np.arange(90)
    middle = np.column_stack([judge, np.median(marks, axis=1)])
    row = found["grades", "j", "experts", "kappa"]
    assert row.value == pytest.approx(kappa(middle, LEVELS, cluster, 1000, 5).interval.value)
    mean = np.column_stack([judge, marks.mean(axis=1)])
    row = found["grades", "j", "experts", "icc"]
    assert row.value == pytest.approx(icc(mean, cluster, 1000, 5).interval.value)
    every = np.column_stack([judge, marks])
    row = found["grades", "j", "experts", "alpha"]
    assert row.value == pytest.approx(alpha(every, LEVELS, cluster, 1000, 5).interval.value)
    row = found["grades", "experts", "experts", "icc"]
    assert row.value == pytest.approx(icc(marks, cluster, 1000, 5).interval.value)
    pairs = {key[1:3] for key in found if key[0] == "grades" and key[1].startswith("dr")}
    assert pairs == {("dr 0", "dr 1"), ("dr 0", "dr 2"), ("dr 1", "dr 2")}


def test_two_experts_in_dispute_count_as_the_lower_of_their_grades():
    scores = scores_of("human", {"a": [1, 0.25, 0]}, rater="dr 1")
    scores += scores_of("human", {"a": [0, 0.75, 0]}, rater="dr 2")
    scores += scores_of("verdict", {"a": [0, 0.25, 0]}, rater="j")
    assert rows_of(scores)["grades", "j", "experts", "agreement"].value == 1


def test_a_second_look_and_marks_off_the_scale_do_not_count_as_grades():
    scores = scores_of("human", {"a": [1, 0, 0.75]}, rater="dr")
    again = scores_of("human", {"a": [0, 1, 0]}, rater="dr", occasion=1)
    odd = scores_of("human", {"b": [7, -1, 0.5]}, rater="dr")
    judged = scores_of("verdict", {"a": [1, 0, 0.75], "b": [1, 1, 1]}, rater="j")
    row = rows_of(again + scores + odd + judged)["grades", "j", "experts", "agreement"]
    assert (row.value, row.items) == (1, 3)


def test_a_judge_of_other_answers_than_the_experts_has_nothing_to_be_compared_on():
    scores = scores_of("human", {"a": [1, 0]}, rater="dr")
    scores += scores_of("verdict", {"b": [1, 0]}, rater="j")
    row = rows_of(scores)["grades", "j", "experts", "kappa"]
    assert (row.value, row.items, row.note) == (None, 0, "no item with two grades")


def test_each_subset_is_compared_for_itself_and_the_order_of_scores_does_not_matter():
    scores = scores_of("verdict", planted(in_order(0.3)))
    scores += scores_of("bleu", planted(in_order(0.3), seed=1))
    questions = {score.question_id for score in scores}
    subsets_of = {q: ("s/even" if int(q[-1]) % 2 == 0 else "s/odd", "s/all") for q in questions}
    rows = agreement(scores, subsets_of, {}, 1000, 0)
    assert [row.subset for row in rows] == sorted(row.subset for row in rows)
    assert {row.items for row in rows if row.level == "answers"} == {180, 360}
    assert agreement(scores[::-1], subsets_of, {}, 1000, 0) == rows


@pytest.mark.slow
@pytest.mark.parametrize("documents", [10, 30])
@pytest.mark.parametrize("measure", ["kendall", "spearman", "kendall_within"])
def test_limits_over_answers_hold_the_truth(measure, documents):
    def study(count, seed):
        rng = np.random.default_rng(seed)
        level = np.repeat(rng.normal(size=count) * 0.5, 3) + rng.normal(size=count * 3) * 0.5
        both = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=(4, count * 3))
        return [dict(zip("abcd", both[..., k] + level, strict=True)) for k in range(2)]

    def found(count, seed):
        one, other = study(count, seed)
        rows = rows_of(scores_of("rouge1", one) + scores_of("bleu", other), 3, resamples=10)
        return rows["answers", "rouge1", "bleu", measure]

    truth = found(300, 10_000).value
    held = [row.low <= truth <= row.high for row in (found(documents, s) for s in range(150))]
    assert 0.88 < np.mean(held) <= 0.99


@pytest.mark.slow
def test_limits_over_arms_hold_the_order_of_the_true_means():
    one = {f"arm {i}": i * 0.2 for i in range(6)}
    other = one | {"arm 0": 0.4, "arm 2": 0.0}
    truth = stats.kendalltau(list(one.values()), list(other.values())).statistic
    held = []
    for seed in range(150):
        scores = scores_of("verdict", planted(one, 30, seed=seed))
        scores += scores_of("bleu", planted(other, 30, seed=1000 + seed))
        row = rows_of(scores, resamples=500)["arms", "verdict", "bleu", "kendall"]
        held.append(row.low <= truth + 1e-9 and truth - 1e-9 <= row.high)
    assert np.mean(held) > 0.92


@pytest.mark.slow
def test_thirteen_arms_and_a_thousand_questions_take_seconds():
    skills = {f"arm {i:02}": i / 20 for i in range(13)}
    scores = [
        score
        for seed, metric in enumerate(("verdict", "human", "rouge1", "bertscore"))
        for score in scores_of(metric, planted(skills, 1000, seed=seed))
    ]
    assert set(MAIN) >= {score.metric for score in scores}
    start = time.process_time()
    rows_of(scores, resamples=10_000)
    assert time.process_time() - start < 10
