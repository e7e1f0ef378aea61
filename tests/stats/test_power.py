import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from ecg_llm.contracts import UsageError
from ecg_llm.records import Score
from ecg_llm.stats.estimate import differences
from ecg_llm.stats.power import ALPHA, design_of, detectable, needed, planned, smallest
from ecg_llm.stats.resampling import cluster_sums
from ecg_llm.stats.significance import sign_flip, sign_test


def scores_of(values, metric="accuracy"):
    return [
        Score(question_id=f"q{i:04}", arm=arm, metric=metric, value=float(value))
        for arm, row in values.items()
        for i, value in enumerate(row)
    ]


def compared(values, cluster=None, comparisons=(), metric="accuracy"):
    scores = scores_of(values, metric)
    subsets_of = {score.question_id: ("s/test",) for score in scores}
    groups = [] if cluster is None else cluster
    cluster_of = {f"q{i:04}": f"doc{c}" for i, c in enumerate(groups)}
    return differences(scores, subsets_of, cluster_of, comparisons, 1000, 0)


def plan(values, difference, cluster=None, comparisons=(), metric="accuracy"):
    return planned(compared(values, cluster, comparisons, metric), difference)


def marks(questions, only_a, only_b):
    """Marks of two arms: right alone on so many questions, together on a third of the rest."""
    a, b = np.zeros(questions), np.zeros(questions)
    a[:only_a] = 1
    b[only_a : only_a + only_b] = 1
    both = slice(only_a + only_b, (questions + only_a + only_b) // 2)
    a[both] = b[both] = 1
    return {"a": a, "b": b}


@pytest.mark.parametrize(
    ("discordance", "gap", "expected"), [(0.15, 0.03, 1300), (0.20, 0.05, 620)]
)
def test_the_questions_needed_are_those_of_the_formula_for_proportions(discordance, gap, expected):
    a = round(2000 * (discordance + gap) / 2)
    (row,) = plan(marks(2000, a, round(2000 * discordance) - a), gap)
    formula = 7.849 * (discordance - gap**2) / gap**2
    assert row.needed_questions == pytest.approx(formula, abs=4)  # t instead of z costs two
    assert row.needed_questions == pytest.approx(expected, rel=0.01)
    assert row.needed_clusters == row.needed_questions
    assert row.design_effect == pytest.approx(1)


def test_questions_of_one_document_that_are_alike_cost_the_design_effect():
    rng = np.random.default_rng(1)
    cluster = np.repeat(np.arange(400), 20)
    own = math.sqrt(0.05) * rng.standard_normal(400)[cluster]
    d = 0.1 * (own + math.sqrt(0.95) * rng.standard_normal(8000))
    values = {"a": 0.5 + d, "b": np.full(8000, 0.5)}
    (row,) = plan(values, 0.01, cluster, metric="rouge1")
    assert row.design_effect == pytest.approx(1.95, abs=0.2)  # 1 + 19 x 0.05
    (apart,) = plan(values, 0.01, metric="rouge1")
    ratio = row.needed_questions / apart.needed_questions
    assert ratio == pytest.approx(row.design_effect, rel=0.05)
    assert row.needed_questions == 20 * row.needed_clusters


@pytest.mark.parametrize("effect", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_documents_needed_agree_with_the_paired_t_test_of_statsmodels(effect, alpha):
    exact = TTestPower().solve_power(effect_size=effect, alpha=alpha, power=0.8)
    d = stats.norm.ppf((np.arange(200) + 0.5) / 200)
    (row,) = compared({"a": d / d.std(ddof=1), "b": np.zeros(200)}, metric="words")
    found = needed(row, effect, round(0.05 / alpha))
    assert abs(found.clusters - math.ceil(exact)) <= 1
    assert found.questions == found.clusters


@pytest.mark.parametrize("n", [12, 40, 400])
def test_the_detectable_difference_agrees_with_the_paired_t_test_of_statsmodels(n):
    exact = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert detectable(1 / math.sqrt(n), n - 1) == pytest.approx(exact, rel=0.02)


def documents(count, size=40):
    """One arm right nearly always, one on half of the questions, in every document alike."""
    cluster = np.repeat(np.arange(count), size)
    place = np.tile(np.arange(size), count)
    return {"good": place < 38, "bad": place < 18 + cluster % 2}, cluster


def test_documents_too_few_for_the_test_can_show_nothing_however_large():
    (row,) = compared(*documents(5))
    assert (row.p, row.detectable, row.detectable_adjusted) == (2 / 2**5, None, None)
    assert needed(row, 0.3).clusters == 6  # 2 / 2^6 is the first below 5 %
    (row,) = compared(*documents(6))
    assert row.p < ALPHA
    assert 0 < row.detectable < 0.2
    assert needed(row, 0.3, comparisons=10).clusters == 9


def test_right_or_wrong_answers_need_questions_that_only_one_arm_solves():
    (row,) = compared(
        {"a": np.arange(100) < 52, "b": (np.arange(100) < 50) | (np.arange(100) > 97)}
    )
    assert (row.wins, row.losses, row.test) == (2, 2, "mcnemar")
    k = np.arange(101)
    found = np.array([sign_test(wins, 0) < ALPHA for wins in k.tolist()])
    power = stats.binom.pmf(k, 100, row.detectable) @ found  # all that differ, one way
    assert power == pytest.approx(0.8)


def test_fewer_questions_than_the_test_needs_to_differ_find_nothing():
    (row,) = compared({"a": [1, 1, 0, 0, 1], "b": [0, 1, 1, 0, 1]})
    assert (row.detectable, row.detectable_adjusted) == (None, None)


def test_many_comparisons_are_told_what_they_can_find_after_correction():
    rng = np.random.default_rng(5)
    values = {f"arm{j}": rng.random(400) < 0.6 for j in range(4)}
    for row in compared(values):
        ratio = (stats.norm.ppf(1 - 0.025 / 6) + stats.norm.ppf(0.8)) / 2.8016
        assert row.detectable_adjusted / row.detectable == pytest.approx(ratio, rel=0.01)
    (row,) = compared(values, comparisons=[("arm0", "arm1")])
    assert row.detectable_adjusted == row.detectable


def uneven(documents, seed):
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(documents), rng.integers(2, 24, documents))
    chance = rng.beta(6, 3, documents)[cluster]
    return {arm: rng.random(len(cluster)) < chance for arm in "ab"}, cluster


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [8, 15, 40])
def test_what_is_detectable_is_what_as_many_documents_are_needed_for(count, seed):
    (row,) = compared(*uneven(count, seed))
    assert needed(row, row.detectable).clusters == count
    assert needed(row, row.detectable).questions == row.questions
    assert needed(row, row.detectable / 1.2).clusters > count


def test_documents_that_are_alike_by_chance_promise_no_more_than_separate_questions():
    values, cluster = documents(10)
    (row,) = compared(values, cluster)
    assert row.error == pytest.approx(row.value / row.effect / math.sqrt(row.questions))
    (told,) = plan(values, 0.05, cluster)
    assert told.design_effect == pytest.approx(1)


def test_correction_for_more_comparisons_costs_questions():
    rng = np.random.default_rng(2)
    values = {f"arm{j}": rng.random(300) < 0.6 for j in range(4)}
    rows = plan(values, 0.05)
    assert len(rows) == 6
    for row in rows:
        assert row.comparisons == 6
        assert row.needed_questions_adjusted > row.needed_questions
    (declared,) = plan(values, 0.05, comparisons=[("arm1", "arm0")])
    assert (declared.a, declared.b, declared.comparisons) == ("arm1", "arm0", 1)
    assert declared.needed_questions_adjusted == declared.needed_questions


def test_half_the_difference_needs_four_times_the_questions_and_what_is_there_finds_what_it_can():
    rng = np.random.default_rng(3)
    values = {"a": rng.random(200), "b": rng.random(200)}
    (coarse,), (fine,) = (plan(values, d, metric="rouge1") for d in (0.04, 0.02))
    assert fine.needed_questions == pytest.approx(4 * coarse.needed_questions, rel=0.03)
    (own,) = plan(values, coarse.detectable, metric="rouge1")
    assert own.needed_questions == pytest.approx(200, abs=3)


def test_what_cannot_be_told_is_left_open():
    same = marks(50, 0, 0)
    (row,) = plan(same, 0.03)
    assert (row.questions, row.clusters, row.comparisons) == (50, 50, 1)
    assert (row.detectable, row.needed_questions, row.design_effect) == (None, None, None)
    assert (row.detectable_adjusted, row.needed_clusters_adjusted) == (None, None)
    (row,) = plan(marks(50, 5, 2), 0.03, cluster=[0] * 50)
    assert (row.clusters, row.detectable, row.needed_questions_adjusted) == (1, None, None)
    assert plan({"alone": [1, 0, 1]}, 0.03) == []
    assert plan({"a": [], "b": []}, 0.03) == []
    assert plan(marks(50, 5, 2), 0.03, metric="words") == []


@pytest.mark.parametrize("difference", [0.0, -0.03, math.nan, math.inf])
def test_a_difference_that_nobody_can_plan_for_is_refused(difference):
    with pytest.raises(UsageError, match="above 0"):
        plan(marks(50, 5, 2), difference)


def test_the_planned_questions_find_the_difference_in_about_80_of_100_studies():
    rng = np.random.default_rng(4)

    def study(clusters, size, studies):
        """Differences with a mean of 0.1 whose documents differ."""
        cluster = np.repeat(np.arange(clusters), size)
        own = 0.15 * rng.standard_normal((clusters, studies))[cluster]
        return 0.1 + own + 0.3 * rng.standard_normal((len(cluster), studies)), cluster

    pilot, cluster = study(300, 5, 1)
    values = {"a": 0.5 + pilot[:, 0], "b": np.full(len(pilot), 0.5)}
    (row,) = plan(values, 0.1, cluster, metric="rouge1")
    d, cluster = study(row.needed_clusters, 5, 2000)
    p_values = np.array(sign_flip(cluster_sums(d, cluster), 1000, seed=5))
    assert np.mean(p_values < 0.05) == pytest.approx(0.8, abs=0.05)
    assert row.needed_clusters > 12
    t = stats.ttest_1samp(cluster_sums(d, cluster), 0).pvalue
    assert np.mean(t < 0.05) == pytest.approx(0.8, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 10])
@pytest.mark.parametrize(("documents", "tests"), [(6, 1), (8, 1), (30, 1), (12, 10), (40, 28)])
def test_signs_find_the_detectable_difference_in_about_80_of_100_studies(documents, tests, size):
    rng = np.random.default_rng(documents)
    cluster = np.repeat(np.arange(documents), size)

    def study(gap, studies):
        own = rng.standard_normal((documents, studies))[cluster]
        return gap + 0.1 * own + 0.3 * rng.standard_normal((len(cluster), studies))

    rows = [
        compared({"a": one, "b": np.zeros(len(one))}, cluster, metric="x")[0]
        for one in study(0.0, 40).T
    ]
    gap = np.mean([smallest(design_of(row), ALPHA / tests) for row in rows])
    p_values = np.array(sign_flip(cluster_sums(study(gap, 1000), cluster), 10_000, seed=5))
    assert 0.65 <= np.mean(p_values < ALPHA / tests) <= 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("questions", "apart"), [(15, 4), (40, 8), (100, 4), (100, 30), (400, 40)])
def test_mcnemar_finds_the_detectable_difference_in_about_80_of_100_studies(questions, apart):
    (row,) = compared(marks(questions, apart // 2, apart // 2))
    either = max(apart / questions, row.detectable)
    ahead = (either + row.detectable) / 2
    outcomes = np.random.default_rng(questions).multinomial(
        questions, [ahead, either - ahead, 1 - either], 2000
    )
    found = [sign_test(wins, losses) < ALPHA for wins, losses, _ in outcomes.tolist()]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)
