import numpy as np
import pytest
from pandas import DataFrame
from scipy import stats
from sklearn.metrics import cohen_kappa_score
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from ecg_llm.records import GRADES
from ecg_llm.stats.agreement import alpha, equal_grades, icc, kappa, kendall

LEVELS = tuple(sorted(GRADES.values()))
GIVEN = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Four observers and twelve units (Krippendorff 2011, part D)."""


def table(text):
    lines = [line.split() for line in text.strip().splitlines()]
    return np.array([[np.nan if mark == "." else float(mark) for mark in row] for row in lines]).T


def raters(seed, documents=50, per_document=4, noise=0.6, of_document=0.5):
    """Grades of two raters who see the same quality, each with noise of their own."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(documents), per_document)
    quality = rng.normal(size=documents)[cluster] * of_document + rng.normal(size=len(cluster))
    seen = quality[:, None] + rng.normal(size=(len(cluster), 2)) * noise
    return np.array(LEVELS)[np.digitize(seen, (-1, 0, 1))], cluster


@pytest.mark.parametrize(
    ("metric", "value"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_the_published_example(metric, value):
    found = alpha(table(GIVEN), (1, 2, 3, 4, 5), np.arange(12), 1000, 0, metric)
    assert found.interval.value == pytest.approx(value, abs=0.0005)
    assert found.interval.questions == 11  # the last unit has one grade only
    assert found.interval.low < value < found.interval.high


def test_alpha_does_not_depend_on_the_order_of_raters_or_items():
    grades, cluster = raters(1)
    values = [
        alpha(some, LEVELS, np.arange(len(some)), 1000, 0).interval.value
        for some in (grades, grades[:, ::-1], grades[::-1])
    ]
    assert values[1:] == pytest.approx(values[:1] * 2)
    assert cluster.max() == 49


def test_kappa_is_that_of_scikit_learn():
    grades, cluster = raters(2)
    steps = np.searchsorted(LEVELS, grades)
    expected = cohen_kappa_score(*steps.T, weights="quadratic", labels=range(4))
    found = kappa(grades, LEVELS, cluster, 2000, 0).interval
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.method == "cluster_bootstrap"
    assert found.low < expected < found.high
    assert (found.questions, found.clusters) == (200, 50)


def test_a_grade_that_nobody_gives_stays_on_the_scale():
    grades = np.array([[0, 0], [0, 1], [1, 1], [1, 0.75]] * 5, dtype=float)
    steps = np.searchsorted(LEVELS, grades)
    expected = cohen_kappa_score(*steps.T, weights="quadratic", labels=range(4))
    found = kappa(grades, LEVELS, np.arange(20), 1000, 0)
    assert found.interval.value == pytest.approx(expected)


def test_few_documents_are_left_out_one_by_one():
    grades, cluster = raters(3, documents=9)
    steps = np.searchsorted(LEVELS, grades)

    def by_hand(some):
        return cohen_kappa_score(*steps[some].T, weights="quadratic", labels=range(4))

    without = np.array([by_hand(cluster != left_out) for left_out in range(9)])
    error = np.sqrt(8 / 9 * ((without - without.mean()) ** 2).sum())
    found = kappa(grades, LEVELS, cluster, 1000, 0).interval
    assert found.method == "cluster_jackknife"
    assert found.low == pytest.approx(by_hand(cluster >= 0) - stats.t.ppf(0.975, 8) * error)


def test_many_documents_are_drawn_with_replacement():
    grades, cluster = raters(4)
    steps = np.searchsorted(LEVELS, grades)
    rng = np.random.default_rng(5)
    values = []
    for _ in range(400):
        items = np.concatenate(
            [np.flatnonzero(cluster == drawn) for drawn in rng.integers(0, 50, 50)]
        )
        values.append(cohen_kappa_score(*steps[items].T, weights="quadratic", labels=range(4)))
    found = kappa(grades, LEVELS, cluster, 4000, 0).interval
    width = found.high - found.low
    assert found.low == pytest.approx(np.percentile(values, 2.5), abs=0.15 * width)
    assert found.high == pytest.approx(np.percentile(values, 97.5), abs=0.15 * width)


def test_equal_grades_count_only_items_that_both_graded():
    grades = np.array([[1, 1], [1, 0], [0, 0], [np.nan, 1], [1, np.nan]])
    found = equal_grades(grades, np.arange(5), 1000, 0).interval
    assert found.value == pytest.approx(2 / 3)
    assert (found.questions, found.clusters) == (3, 3)


def test_kendall_of_one_question_is_that_of_scipy():
    values = np.array([[3, 1], [2, 2], [2, 3], [1, 4], [0, 4]], dtype=float)
    found = kendall(values, np.zeros(5, dtype=int), np.zeros(5, dtype=int), 1000, 0)
    assert found.interval.value == pytest.approx(stats.kendalltau(*values.T).statistic)
    assert found.interval.low is None  # one document


def test_kendall_compares_within_questions_only():
    rng = np.random.default_rng(0)
    question = rng.permutation(np.repeat(np.arange(40), 3))
    level = rng.normal(size=40)[question] * 10  # questions differ for both raters alike
    values = level[:, None] + rng.normal(size=(120, 2))
    assert stats.kendalltau(*values.T).statistic > 0.8
    found = kendall(values, question, question, 2000, 0).interval
    assert found.low < 0 < found.high
    assert found.questions == 40


def test_icc_of_the_published_example():
    """Shrout & Fleiss 1979, tables 2 and 4: six targets, four judges, ICC(2,1) = .29."""
    marks = np.array([
        [9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7],
    ], dtype=float)  # fmt: skip
    assert icc(marks, np.arange(6), 1000, 0).interval.value == pytest.approx(0.29, abs=0.005)


def test_icc_is_that_of_an_analysis_of_variance():
    rng = np.random.default_rng(1)
    marks = rng.normal(size=40)[:, None] + rng.normal(size=3) + rng.normal(size=(40, 3))
    item, rater = np.indices(marks.shape)
    data = DataFrame({"mark": marks.ravel(), "item": item.ravel(), "rater": rater.ravel()})
    rows, columns, rest = anova_lm(ols("mark ~ C(item) + C(rater)", data).fit())["mean_sq"]
    expected = (rows - rest) / (rows + 2 * rest + 3 * (columns - rest) / 40)
    found = icc(np.append(marks, [[1, np.nan, 2]], axis=0), np.arange(41), 2000, 0).interval
    assert found.value == pytest.approx(expected)
    assert found.questions == 40


@pytest.mark.parametrize("documents", [3, 40])
def test_without_variation_nothing_is_defined(documents):
    grades, cluster = np.ones((documents, 2)), np.arange(documents)
    question = cluster // 2
    for found in (
        kappa(grades, LEVELS, cluster, 1000, 0),
        alpha(grades, LEVELS, cluster, 1000, 0),
        kendall(grades, question, question, 1000, 0),
        icc(grades, cluster, 1000, 0),
    ):
        assert found.interval[:3] == (None, None, None)
        assert found.note.startswith("undefined")


@pytest.mark.parametrize("documents", [3, 40])
def test_raters_who_never_differ_agree_in_full_without_an_interval(documents):
    grades = np.array(LEVELS)[np.arange(documents * 4) % 4]
    grades, cluster = np.column_stack([grades, grades]), np.arange(documents * 4) // 4
    for found in (kappa(grades, LEVELS, cluster, 1000, 0), alpha(grades, LEVELS, cluster, 1000, 0)):
        assert found.interval[:3] == (pytest.approx(1), None, None)
        assert found.note
    share = equal_grades(grades, cluster, 1000, 0).interval
    assert share.value == 1 > share.low > 0


def test_raters_without_a_common_item():
    grades = np.array([[1, np.nan], [np.nan, 1]])
    for found in (
        equal_grades(grades, np.arange(2), 1000, 0),
        kappa(grades, LEVELS, np.arange(2), 1000, 0),
        alpha(grades, LEVELS, np.arange(2), 1000, 0),
        kendall(grades, np.arange(2), np.arange(2), 1000, 0),
        icc(grades, np.arange(2), 1000, 0),
    ):
        assert found.interval.value is None
        assert found.interval.questions == 0
        assert found.note


@pytest.mark.slow
@pytest.mark.parametrize("documents", [10, 29, 60])
def test_intervals_hold_the_truth_about_as_often_as_they_say(documents):
    many, of_many = raters(999, documents=20_000)
    measures = (kappa, alpha)
    truth = [measure(many, LEVELS, of_many, 1000, 0).interval.value for measure in measures]
    held = []
    for seed in range(500):
        grades, cluster = raters(seed, documents=documents)
        found = [measure(grades, LEVELS, cluster, 1000, seed).interval for measure in measures]
        held.append([f.low <= value <= f.high for f, value in zip(found, truth, strict=True)])
    assert (np.mean(held, axis=0) > 0.91).all()
    assert (np.mean(held, axis=0) < 0.985).all()
