import csv
import math
import time
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from ecg_llm.records import GRADES, Estimate, Score
from ecg_llm.stats.estimate import differences as paired
from ecg_llm.stats.estimate import estimates
from ecg_llm.stats.intervals import spread, wilson
from ecg_llm.stats.significance import holm, sign_flip, sign_test

STUDIES = 150
SHARED = Path(__file__).parents[2].parent / "shared"


def scores_of(values, metric="accuracy", **columns):
    """Scores from {arm: {question: value}}; None is an unparsed answer."""
    return [
        Score(
            question_id=question,
            arm=arm,
            metric=metric,
            value=value,
            status="unparsed" if value is None else "scored",
            **columns,
        )
        for arm, row in values.items()
        for question, value in row.items()
    ]


def run(scores, cluster_of=None, comparisons=(), resamples=2000, seed=7, subset="hand/test"):
    subsets_of = {score.question_id: (subset,) for score in scores}
    return estimates(scores, subsets_of, cluster_of or {}, comparisons, resamples, seed)


def means(rows):
    return {row.arm: row for row in rows if not row.against}


def differences(rows):
    return {(row.arm, row.against): row for row in rows if row.against}


def random_marks(arms, questions, clusters, seed=0, binary=True):
    rng = np.random.default_rng(seed)
    easy = rng.beta(3, 2, size=clusters)
    cluster_of = {f"q{i:04}": f"doc{i % clusters:03}" for i in range(questions)}
    values = {
        f"arm{a}": {
            q: float(rng.random() < easy[i % clusters]) if binary else float(rng.random())
            for i, q in enumerate(cluster_of)
        }
        for a in range(arms)
    }
    return values, cluster_of


@pytest.mark.parametrize(("right", "n"), [(0, 10), (1, 3), (16, 20), (312, 416), (40, 40)])
def test_wilson_agrees_with_statsmodels(right, n):
    assert wilson(right, n) == pytest.approx(proportion_confint(right, n, method="wilson"))


def test_a_binary_metric_with_one_question_a_document_gets_the_wilson_interval():
    marks = {"base": {f"q{i}": float(i < 16) for i in range(20)}}
    row = means(run(scores_of(marks)))["base"]
    assert row.method == "mean/wilson"
    assert (row.value, row.questions, row.clusters) == (0.8, 20, 20)
    assert (row.low, row.high) == pytest.approx((0.584, 0.919), abs=0.001)  # PAPER 1.6: 58-92 %


def unequal(questions=60, clusters=9, seed=3):
    rng = np.random.default_rng(seed)
    cluster = np.sort(np.append(np.arange(clusters), rng.geometric(0.3, questions) % clusters))
    return rng.random(len(cluster)) + 0.4 * rng.random(clusters)[cluster], cluster


def by_matrices(y, cluster, likeness):
    """CR2 and its degrees of freedom as Bell & McCaffrey write them, for a mean."""
    n = len(y)
    alike = cluster[:, None] == cluster
    residual_maker = np.eye(n) - 1 / n
    adjusted = np.zeros((n, n))
    for c in np.unique(cluster):
        own = np.ix_(cluster == c, cluster == c)
        size, vectors = np.linalg.eigh(residual_maker[own])
        adjusted[own] = vectors @ np.diag(size**-0.5) @ vectors.T
    sums = np.array([adjusted[cluster == c].sum(0) for c in np.unique(cluster)]) / n
    error = np.sqrt(((sums @ residual_maker @ y) ** 2).sum())
    covariance = np.where(alike, likeness, 0.0) + (1 - likeness) * np.eye(n)
    spread_of_sums = sums @ residual_maker @ covariance @ residual_maker @ sums.T
    return error, np.trace(spread_of_sums) ** 2 / np.trace(spread_of_sums @ spread_of_sums)


def test_the_error_of_a_mean_is_cr2_and_its_freedom_that_of_the_matrices():
    y, cluster = unequal()
    found = spread(y[:, None], cluster)
    error, freedom = by_matrices(y, cluster, 0.0)
    assert (found.error[0], found.freedom[0]) == pytest.approx((error, freedom))
    sizes = np.bincount(cluster)
    effect = error**2 * len(y) / y.var(ddof=1)
    likeness = (effect - 1) / ((sizes**2).sum() / len(y) - 1)
    assert 0 < likeness < 1
    assert found.freedom_alike[0] == pytest.approx(by_matrices(y, cluster, likeness)[1])
    assert found.freedom_alike[0] < found.freedom[0] < sizes.size - 1


def test_in_clusters_of_one_size_the_error_is_that_of_statsmodels():
    marks, cluster_of = random_marks(1, 96, 12)
    y = np.array(list(marks["arm0"].values()))
    groups = np.array([int(cluster_of[q][3:]) for q in marks["arm0"]])
    fit = OLS(y, np.ones(len(y))).fit(cov_type="cluster", cov_kwds={"groups": groups})
    found = spread(y[:, None], groups)
    assert found.error[0] == pytest.approx(float(fit.bse[0]))
    assert found.freedom[0] == pytest.approx(11)
    assert found.freedom_alike[0] == pytest.approx(11)


def test_a_mean_of_documents_has_wilsons_interval_of_its_effective_number_of_questions():
    marks, cluster_of = random_marks(1, 96, 12)
    row = means(run(scores_of(marks), cluster_of))["arm0"]
    y = np.array(list(marks["arm0"].values()))
    groups = np.array([int(cluster_of[q][3:]) for q in marks["arm0"]])
    fit = OLS(y, np.ones(len(y))).fit(cov_type="cluster", cov_kwds={"groups": groups})
    effective = y.mean() * (1 - y.mean()) / float(fit.bse[0]) ** 2
    assert effective < 96
    alpha = 2 * stats.norm.sf(stats.t.ppf(0.975, 11))
    expected = proportion_confint(y.mean() * effective, effective, alpha=alpha, method="wilson")
    assert row.method == "mean/cluster_wilson"
    assert (row.low, row.high) == pytest.approx(expected)


def test_a_mean_beyond_0_and_1_has_the_interval_of_a_difference():
    marks, cluster_of = random_marks(1, 96, 12, binary=False)
    marks["arm0"] = {q: 100 * value for q, value in marks["arm0"].items()}
    row = means(run(scores_of(marks, "words"), cluster_of))["arm0"]
    assert row.method == "mean/cluster_bootstrap"
    assert 30 < row.low < row.value < row.high < 70


def test_a_difference_has_the_expanded_percentiles_of_the_cluster_bootstrap():
    marks, cluster_of = random_marks(2, 200, 40, binary=False)
    rows = run(scores_of(marks, "rouge1"), cluster_of, resamples=20_000)
    row = differences(rows)["arm0", "arm1"]
    d = np.array([marks["arm0"][q] - marks["arm1"][q] for q in cluster_of])
    level = 1 - 2 * stats.norm.sf(stats.t.ppf(0.975, 39) * math.sqrt(40 / 39))
    reference = stats.bootstrap(
        (d.reshape(5, 40).mean(axis=0),), np.mean, method="percentile", n_resamples=20_000,
        confidence_level=level, rng=1,
    ).confidence_interval  # fmt: skip
    assert row.method == "difference/cluster_bootstrap"
    assert (row.low, row.high) == pytest.approx(reference, abs=0.004)


def test_a_difference_over_few_documents_has_t_on_cr2():
    y, cluster = unequal()
    marks = {
        "a": {f"q{i:02}": float(value) for i, value in enumerate(y / 2)},
        "b": {f"q{i:02}": 0.5 for i in range(len(y))},
    }
    cluster_of = {f"q{i:02}": f"doc{c}" for i, c in enumerate(cluster)}
    row = differences(run(scores_of(marks, "rouge1"), cluster_of))["a", "b"]
    error, freedom = by_matrices(y / 2, cluster, 0.0)
    half = stats.t.ppf(0.975, freedom) * error
    assert row.method == "difference/cluster_t"
    assert (row.low, row.high) == pytest.approx((row.value - half, row.value + half))


def test_clusters_of_unequal_size_are_weighted_by_their_questions():
    marks, cluster_of = random_marks(1, 300, 35, binary=False)
    for i, question in enumerate(cluster_of):
        cluster_of[question] = f"doc{int(math.sqrt(i)) * 2:03}" if i < 240 else f"doc{i}"
    rows = run(scores_of(marks, "rouge1"), cluster_of)
    y = np.array(list(marks["arm0"].values()))
    assert means(rows)["arm0"].value == pytest.approx(y.mean())
    assert means(rows)["arm0"].low < y.mean() < means(rows)["arm0"].high


def test_one_document_gives_no_interval_rank_or_p_rather_than_a_false_one():
    marks, _ = random_marks(2, 30, 1)
    rows = run(scores_of(marks), dict.fromkeys(marks["arm0"], "only"))
    for row in rows:
        assert (row.low, row.high, row.p, row.rank) == (None, None, None, None)
        assert (row.test, row.p_sign, row.detectable) == ("", None, None)
        assert row.method.endswith("/none")
        assert row.value is not None


def test_clusters_that_all_agree_still_have_an_interval_with_width():
    marks = {"base": {f"q{i}": 1.0 for i in range(20)}}
    rows = run(scores_of(marks, "human"), {f"q{i}": f"doc{i % 10}" for i in range(20)})
    row = means(rows)["base"]
    assert row.method == "mean/cluster_bound"
    assert (row.low, row.high) == pytest.approx(proportion_confint(10, 10, method="wilson"))


def test_repeats_permutations_and_raters_are_averaged_within_a_question():
    scores = [
        Score(question_id=f"q{i}", arm="base", metric="accuracy", permutation=p, value=float(i > p))
        for i in range(4)
        for p in range(4)
    ]
    row = means(run(scores))["base"]
    assert row.questions == 4
    assert row.value == pytest.approx((0 + 1 + 2 + 3) / 16)
    assert row.method == "mean/cluster_wilson"  # shares of rotations are no counts


def test_an_unparsed_answer_counts_as_wrong_where_the_metric_says_so_and_is_counted():
    marks = {"base": {f"q{i}": 1.0 if i < 6 else None for i in range(10)}}
    accuracy = means(run(scores_of(marks)))["base"]
    assert (accuracy.value, accuracy.questions) == (0.6, 10)
    assert (accuracy.missing, accuracy.missing_as) == (4, "0")
    rated = means(run(scores_of(marks, "human")))["base"]
    assert (rated.value, rated.questions) == (1.0, 6)
    assert (rated.missing, rated.missing_as) == (4, "left out")


def test_what_a_judge_did_not_judge_is_not_charged_to_the_arm():
    marks = {"base": {f"q{i}": 1.0 if i < 6 else None for i in range(10)}}
    scores = [
        score.model_copy(update={"status": "unjudged"}) if score.question_id > "q6" else score
        for score in scores_of(marks, "verdict")
    ]
    row = means(run(scores))["base"]
    assert (row.value, row.questions) == (pytest.approx(6 / 7), 7)
    assert (row.missing, row.missing_as) == (4, "0; 3 unjudged left out")
    left_out = [score.model_copy(update={"metric": "harm"}) for score in scores]
    assert means(run(left_out))["base"].missing_as == "left out"


def test_an_arm_that_no_judge_judged_has_a_row_without_a_value():
    marks = {"base": {"q1": 1.0, "q2": 0.5}, "other": {"q1": None, "q2": None}}
    scores = [
        score.model_copy(update={"status": "unjudged"}) if score.value is None else score
        for score in scores_of(marks, "verdict")
    ]
    rows = run(scores)
    row = means(rows)["other"]
    assert (row.value, row.low, row.rank, row.questions, row.missing) == (None, None, None, 0, 2)
    difference = differences(rows)["base", "other"]
    assert (difference.value, difference.p, difference.missing) == (None, None, 2)
    assert (difference.wins, difference.losses, difference.effect) == (None, None, None)


def test_a_judge_that_is_down_leaves_the_verdict_to_the_others():
    up = scores_of({"base": {"q1": 1.0, "q2": 0.5}}, "verdict", rater="first")
    down = [
        score.model_copy(update={"rater": "second", "value": None, "status": "unjudged"})
        for score in up
    ]
    row = means(run(up + down))["base"]
    assert (row.value, row.questions, row.missing) == (0.75, 2, 2)


def test_an_arm_whose_answers_all_failed_keeps_its_row():
    marks = {"base": {"q1": 1.0, "q2": 0.5}, "down": {"q1": None, "q2": None}}
    row = means(run(scores_of(marks, "human")))["down"]
    assert (row.value, row.questions, row.missing) == (None, 0, 2)


def test_scores_that_do_not_apply_and_questions_outside_the_subsets_never_count():
    scores = [
        Score(question_id="q1", arm="base", metric="accuracy", status="not_applicable"),
        Score(question_id="q2", arm="base", metric="accuracy", value=1.0),
        Score(question_id="other", arm="base", metric="accuracy", value=0.0),
    ]
    rows = estimates(scores, {"q1": ("s/test",), "q2": ("s/test",)}, {}, (), 1000, 0)
    assert [(row.value, row.questions) for row in rows] == [(1.0, 1)]


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (3, 0), (10, 0), (12, 5), (40, 41)])
def test_mcnemar_agrees_with_statsmodels(wins, losses):
    reference = statsmodels_mcnemar([[5, wins], [losses, 9]], exact=True).pvalue
    assert sign_test(wins, losses) == pytest.approx(min(1.0, reference))


def test_right_or_wrong_answers_of_separate_documents_are_compared_with_mcnemar():
    marks = {
        "a": {f"q{i}": float(i < 30) for i in range(40)},
        "b": {f"q{i}": float(i >= 12 and i < 32) for i in range(40)},
    }
    row = differences(run(scores_of(marks)))["a", "b"]
    assert row.value == pytest.approx(0.25)
    assert (row.wins, row.losses, row.test) == (12, 2, "mcnemar")
    assert row.p == row.p_sign == pytest.approx(stats.binomtest(12, 14).pvalue)
    assert row.low > 0


def test_a_difference_says_how_large_it_is_and_what_the_design_could_find():
    marks, _ = random_marks(2, 40, 40, binary=False)
    row = differences(run(scores_of(marks, "rouge1")))["arm0", "arm1"]
    d = np.array([marks["arm0"][q] - marks["arm1"][q] for q in marks["arm0"]])
    test = stats.ttest_1samp(d, 0)
    assert row.effect == pytest.approx(test.statistic / math.sqrt(40))
    assert (row.wins, row.losses) == ((d > 0).sum(), (d < 0).sum())
    assert row.p_sign == pytest.approx(stats.binomtest(row.wins, 40).pvalue)
    quantiles = stats.t.ppf(0.975, 39) + stats.t.ppf(0.8, 39)
    assert row.detectable == pytest.approx(quantiles * d.std(ddof=1) / math.sqrt(40))


def test_the_sign_test_counts_documents_not_questions():
    marks, cluster_of = random_marks(2, 120, 20, seed=5, binary=False)
    row = differences(run(scores_of(marks, "rouge1"), cluster_of))["arm0", "arm1"]
    d = np.array([marks["arm0"][q] - marks["arm1"][q] for q in cluster_of])
    wins = int((d.reshape(6, 20).sum(axis=0) > 0).sum())
    assert row.wins == (d > 0).sum()
    assert row.p_sign == pytest.approx(stats.binomtest(wins, 20).pvalue)


def test_signs_of_documents_that_do_not_differ_are_not_drawn():
    marks, cluster_of = random_marks(1, 60, 20)
    marks["other"] = dict(marks["arm0"])
    for question in ("q0000", "q0021", "q0042"):
        marks["arm0"][question], marks["other"][question] = 1.0, 0.0
    row = differences(run(scores_of(marks), cluster_of))["arm0", "other"]
    assert (row.test, row.wins, row.losses) == ("sign_flip", 3, 0)
    assert row.p == row.p_sign == 2 / 8


def test_few_clusters_are_flipped_exhaustively():
    marks, cluster_of = random_marks(2, 40, 8)
    row = differences(run(scores_of(marks), cluster_of))["arm0", "arm1"]
    d = np.array([marks["arm0"][q] - marks["arm1"][q] for q in cluster_of])
    sums = d.reshape(5, 8).sum(axis=0)
    flips = [abs(np.dot(signs, sums)) for signs in product((1, -1), repeat=8)]
    assert row.p == pytest.approx(np.mean(np.array(flips) >= abs(sums.sum()) - 1e-12))


@pytest.mark.parametrize("parts", [1, 3, 4, 24])
def test_marks_and_grades_are_flipped_exactly_whatever_the_seed(parts):
    rng = np.random.default_rng(parts)
    sums = rng.integers(-2 * parts, 2 * parts + 1, size=(15, 2)) / parts
    signs = np.array(list(product((1, -1), repeat=15)))
    exact = (np.abs(signs @ sums) >= np.abs(sums.sum(axis=0)) - 1e-9).mean(axis=0)
    assert sign_flip(sums, 1000, 1) == pytest.approx(exact.tolist(), abs=1e-12)
    assert sign_flip(sums, 1000, 2) == sign_flip(sums, 1000, 1)


def test_exact_signs_stay_above_zero_and_off_a_grid_they_are_random():
    assert 0 < sign_flip(np.ones((1200, 1)), 1000, 1)[0] < 1e-200
    odd = np.random.default_rng(1).normal(size=(20, 1))
    assert sign_flip(odd, 1000, 1) != sign_flip(odd, 1000, 2)


def test_many_clusters_are_flipped_at_random_and_agree_with_scipy():
    marks, cluster_of = random_marks(2, 120, 40, seed=5, binary=False)
    row = differences(run(scores_of(marks, "bleu"), cluster_of, resamples=20_000))["arm0", "arm1"]
    d = np.array([marks["arm0"][q] - marks["arm1"][q] for q in cluster_of])
    sums = d.reshape(3, 40).sum(axis=0)
    reference = stats.permutation_test(
        (sums, np.zeros(40)), lambda x, y, axis: (x - y).sum(axis=axis), vectorized=True,
        permutation_type="samples", n_resamples=20_000, rng=3,
    ).pvalue  # fmt: skip
    assert row.p == pytest.approx(reference, abs=0.015)
    assert row.method == "difference/cluster_bootstrap"


def test_holm_agrees_with_statsmodels_and_leaves_missing_values_alone():
    p_values = [0.01, 0.04, 0.03, 0.005, 0.6, 0.03]
    reference = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(list(reference))
    assert holm([None, 0.04, 0.03]) == [None, 0.06, 0.06]


def test_holm_runs_within_the_declared_comparisons_only():
    marks, cluster_of = random_marks(5, 60, 10, seed=2)
    scores = scores_of(marks)
    every = differences(run(scores, cluster_of))
    declared = differences(run(scores, cluster_of, [("arm1", "arm0"), ("arm2", "arm0")]))
    assert len(every) == 10
    assert list(declared) == [("arm1", "arm0"), ("arm2", "arm0")]
    assert declared["arm1", "arm0"].value == -every["arm0", "arm1"].value
    for pair, row in declared.items():
        assert row.p == pytest.approx(every[pair[::-1]].p)
    expected = holm([row.p for row in declared.values()])
    assert [row.p_adjusted for row in declared.values()] == expected


def test_names_that_raters_gave_are_compared_pairwise_when_no_declared_pair_applies():
    marks, cluster_of = random_marks(3, 40, 40, binary=False)
    rows = run(scores_of(marks, "human"), cluster_of, [("base", "tuned")])
    assert len(differences(rows)) == 3


def test_a_metric_that_a_declared_arm_lacks_is_not_compared_in_undeclared_ways():
    marks, cluster_of = random_marks(3, 40, 40, binary=False)
    rows = run(scores_of(marks, "human"), cluster_of, [("arm0", "tuned"), ("base", "tuned")])
    assert differences(rows) == {}
    assert len(means(rows)) == 3


def test_a_pair_is_tested_once_however_often_it_is_declared():
    marks, cluster_of = random_marks(2, 60, 12)
    twice = [("arm0", "arm1"), ("arm1", "arm0"), ("arm0", "arm1"), ("arm0", "arm0")]
    (row,) = differences(run(scores_of(marks), cluster_of, twice)).values()
    assert (row.arm, row.against) == ("arm0", "arm1")
    assert row.p_adjusted == row.p


@pytest.mark.parametrize("share", [0, 10])
def test_differences_alone_are_those_of_the_estimates(share):
    marks, cluster_of = random_marks(3, 60, 12)
    for question in list(marks["arm2"])[:share]:
        del marks["arm2"][question]
    scores = scores_of(marks)
    subsets_of = dict.fromkeys(cluster_of, ("hand/test",))
    for comparisons in ((), (("arm2", "arm0"),)):
        asked = subsets_of, cluster_of, comparisons, 1000, 7
        every = [row for row in estimates(scores, *asked) if row.against]
        assert paired(scores, *asked) == every


def test_arms_that_never_differ_have_no_bounds_where_the_scale_is_unknown():
    perplexity = {f"q{i}": 30.0 + i for i in range(10)}
    rows = run(scores_of({"a": perplexity, "b": perplexity}, "perplexity"))
    (row,) = differences(rows).values()
    assert (row.value, row.low, row.high) == (0, None, None)
    share = {f"q{i}": i / 10 for i in range(10)}
    (row,) = differences(run(scores_of({"a": share, "b": share}, "share"))).values()
    assert -1 < row.low < 0 < row.high < 1


def test_a_difference_is_paired_on_the_questions_both_arms_have():
    marks, cluster_of = random_marks(2, 40, 40, binary=False)
    del marks["arm1"]["q0000"]
    row = differences(run(scores_of(marks, "human"), cluster_of))["arm0", "arm1"]
    shared = [q for q in cluster_of if q != "q0000"]
    expected = np.mean([marks["arm0"][q] - marks["arm1"][q] for q in shared])
    assert (row.value, row.questions) == (pytest.approx(expected), 39)


def test_ranks_count_only_arms_that_are_significantly_better_and_leave_ties():
    rng = np.random.default_rng(4)
    ability = {"good1": 0.9, "good2": 0.9, "poor": 0.3}
    marks = {
        arm: {f"q{i}": float(rng.random() < p) for i in range(150)} for arm, p in ability.items()
    }
    found = means(run(scores_of(marks), {f"q{i}": f"doc{i % 50}" for i in range(150)}))
    assert {arm: row.rank for arm, row in found.items()} == {"good1": 1, "good2": 1, "poor": 3}
    assert found["poor"].rank_adjusted == 3
    assert (found["poor"].rank_low, found["poor"].rank_high) == (3, 3)
    assert (found["good1"].rank_low, found["good1"].rank_high) == (1, 2)
    assert sum(row.p_best for row in found.values()) == pytest.approx(1)
    assert found["poor"].p_best == 0


def test_an_arm_without_a_value_leaves_the_others_their_ranks():
    marks, cluster_of = random_marks(2, 60, 30, binary=False)
    every = means(run(scores_of(marks, "human"), cluster_of))
    found = means(
        run(scores_of({**marks, "unrated": dict.fromkeys(cluster_of)}, "human"), cluster_of)
    )
    assert found["unrated"].rank is found["unrated"].rank_questions is None
    assert {arm: found[arm] for arm in marks} == every
    assert all(row.rank is not None for row in every.values())


def test_ranks_say_on_how_many_questions_they_rest():
    marks, cluster_of = random_marks(3, 60, 30, binary=False)
    marks["arm2"] = dict(list(marks["arm2"].items())[:20])
    for arm, row in means(run(scores_of(marks, "human"), cluster_of)).items():
        assert row.rank_questions == 20
        assert row.questions == len(marks[arm])


@pytest.mark.slow
@pytest.mark.parametrize("documents", [2, 5, 20])
def test_few_documents_seldom_make_one_of_two_equal_arms_the_sure_best(documents):
    rng = np.random.default_rng(documents)
    cluster_of = {f"q{i}": f"doc{i % documents}" for i in range(10 * documents)}
    sure, ranked_second = 0, 0
    for _ in range(STUDIES):
        marks = {arm: {q: float(rng.random()) for q in cluster_of} for arm in "ab"}
        found = means(run(scores_of(marks, "human"), cluster_of, resamples=1000)).values()
        sure += any(row.p_best > 0.975 for row in found)
        ranked_second += any(row.rank_low > 1 for row in found)
        assert all(row.rank_low <= row.rank <= row.rank_high for row in found)
    assert sure / STUDIES <= 0.08
    assert ranked_second / STUDIES <= 0.05


def test_identical_arms_tie_and_share_the_chance_of_being_best():
    marks, cluster_of = random_marks(1, 60, 20)
    marks["twin"] = marks["arm0"]
    rows = run(scores_of(marks), cluster_of)
    assert {(row.rank, row.rank_adjusted, row.p_best) for row in means(rows).values()} == {
        (1, 1, 0.5)
    }
    row = differences(rows)["arm0", "twin"]
    assert (row.value, row.p, row.wins, row.losses) == (0.0, 1.0, 0, 0)
    assert (row.effect, row.detectable) == (None, None)  # nothing varies
    assert row.low < 0 < row.high  # agreement on 20 documents is no proof of equality


def test_arms_of_a_metric_without_better_or_worse_are_not_ranked():
    marks, cluster_of = random_marks(2, 60, 20, binary=False)
    rows = run(scores_of(marks, "words"), cluster_of)
    assert {row.rank for row in means(rows).values()} == {None}


def test_equal_scores_in_any_order_give_equal_estimates_and_another_seed_other_draws():
    marks, cluster_of = random_marks(3, 120, 40, binary=False)
    scores = scores_of(marks, "rougeL")
    once = run(scores, cluster_of, seed=1)
    assert run(scores[::-1], cluster_of, seed=1) == once
    other = run(scores, cluster_of, seed=2)
    assert [row.low for row in other] != [row.low for row in once]
    assert [row.value for row in other] == [row.value for row in once]


def test_keys_are_unique_and_subsets_are_kept_apart():
    marks, cluster_of = random_marks(3, 40, 10)
    scores = scores_of(marks) + scores_of(marks, "verdict")
    subsets_of = {
        q: ("hand/test" if i % 2 else "hand/test_seen",) for i, q in enumerate(cluster_of)
    }
    rows = estimates(scores, subsets_of, cluster_of, (), 1000, 0)
    assert len({row.key for row in rows}) == len(rows) == 2 * 2 * (3 + 3)
    assert all(row.questions == 20 for row in rows)


def test_progress_ends_at_the_number_of_panels():
    marks, cluster_of = random_marks(2, 20, 10)
    seen = []
    scores = scores_of(marks) + scores_of(marks, "verdict")
    subsets_of = dict.fromkeys(cluster_of, ("s/test",))
    estimates(scores, subsets_of, cluster_of, (), 1000, 0, lambda *step: seen.append(step))
    assert seen[-1] == (2, 2)


def test_thirteen_arms_on_a_thousand_questions_take_seconds():
    marks, cluster_of = random_marks(13, 1000, 1000)
    scores = scores_of(marks)
    start = time.perf_counter()
    rows = run(scores, cluster_of, resamples=10_000)
    assert len(rows) == 13 + 78
    assert time.perf_counter() - start < 15  # about 1 s on two idle cores


def ratings(path):
    """The published ratings by column position, doubles dropped, unusable marks left out."""
    labels = ("incorrect", "partially incorrect", "correct but incomplete", "correct")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(dict.fromkeys(tuple(row) for row in csv.reader(file)))[1:]
    scores = []
    for question, _, arm, *marks in rows:
        chosen = [GRADES[label] for label, mark in zip(labels, marks, strict=True) if mark.strip()]
        if len(chosen) == 1:
            scores.append(Score(question_id=question, arm=arm, metric="human", value=chosen[0]))
    return scores


@pytest.mark.slow
def test_the_published_ratings_give_the_differences_and_ranks_of_the_reanalysis():
    path = SHARED / "ratings" / "40_questions.csv"
    if not path.exists():
        pytest.skip("needs ../shared/ratings")
    scores = ratings(path)
    claude, base8, base70 = "Claude 3.7 Sonnet", "LLama 3.1 8B", "LLama 3.1 70B"
    rag8, rag70 = "LLama 3.1 8B + RAG", "LLama 3.1 70B + RAG"
    tuned8, tuned70 = "Finetuned 8B: r=256, alpha=128", "Finetuned 70B: r=256, alpha=128"
    pairs = {
        (tuned70, base70): (-0.138, -0.250, -0.033),
        (tuned8, base8): (-0.066, -0.230, 0.092),
        (rag8, base8): (0.205, 0.058, 0.353),
        (rag70, base70): (0.090, -0.006, 0.192),
        (rag8, tuned70): (0.158, 0.026, 0.289),
        (claude, rag70): (0.000, -0.109, 0.115),
        (claude, rag8): (0.071, -0.045, 0.186),
    }
    rows = run(scores, comparisons=list(pairs), resamples=20_000)
    wider = stats.t.ppf(0.975, 37) * math.sqrt(38 / 37) / stats.norm.ppf(0.975)
    for pair, (value, *plain) in pairs.items():
        row: Estimate = differences(rows)[pair]
        assert row.value == pytest.approx(value, abs=0.0006)
        expanded = [value + wider * (end - value) for end in plain]
        assert (row.low, row.high) == pytest.approx(expanded, abs=0.01), pair
    headline = (claude, rag70, rag8, base70, tuned70, base8, tuned8)
    found = means(rows)
    assert [found[arm].rank for arm in headline] == [1, 1, 1, 1, 5, 5, 5]
    assert [found[arm].questions for arm in headline] == [39, 40, 40, 39, 38, 39, 38]
    everyone = Counter(score.question_id for score in scores)
    shared = [score for score in scores if everyone[score.question_id] == 12]
    pairs_on_shared = differences(run(shared, resamples=20_000))
    assert len(shared) == 37 * 12
    assert sum(row.low > 0 or row.high < 0 for row in pairs_on_shared.values()) == 37
    assert pairs_on_shared[tuned70, base70].value == pytest.approx(-0.135, abs=0.001)
    assert pairs_on_shared[tuned70, base70].p_adjusted > 0.05
