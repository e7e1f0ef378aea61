from itertools import combinations

import numpy as np
import pytest
from simulated import CELLS, Cell, covered, ends, marks

from ecg_llm.stats.intervals import difference_intervals, mean_intervals
from ecg_llm.stats.resampling import cluster_sums
from ecg_llm.stats.significance import holm, sign_flip, sign_test

STUDIES = 4000
RESAMPLES = 1000
ARMS = 5
ERROR = 0.05
CHANCE = 3 * (ERROR * (1 - ERROR) / 2000) ** 0.5
"""Three standard errors of an error rate of 5 % in 2,000 runs."""
QUICK = [Cell(10, 0.9, 0.2), Cell(30, 0.9, 0.2), Cell(10, 0.5, 0.0)]
"""Those that plain methods fail, and one that is easy."""


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=str(cell), marks=() if cell in QUICK else pytest.mark.slow)
        for cell in CELLS
    ],
)
def test_intervals_of_means_and_differences_hold_the_truth_in_93_to_97_of_100_studies(cell):
    (first, second), cluster = marks(cell, 2, STUDIES, seed=1)
    means = mean_intervals(first, cluster, 0.0, 1.0, RESAMPLES, seed=2)
    assert 0.93 <= covered(*ends(means), cell.proportion) <= 0.97
    differences = difference_intervals(first - second, cluster, -1.0, 1.0, RESAMPLES, seed=2)
    assert 0.93 <= covered(*ends(differences), 0.0) <= 0.97


def p_values(sums, by_count):
    """Of every column."""
    if by_count:
        counts = zip((sums > 0).sum(0).tolist(), (sums < 0).sum(0).tolist(), strict=True)
        return [sign_test(wins, losses) for wins, losses in counts]
    parts = np.array_split(sums, max(1, sums.shape[1] // 1000), axis=1)
    return [p for part in parts for p in sign_flip(part, RESAMPLES, seed=3)]


def errors(cell, studies, size=None):
    """Share of studies with a false finding: of one pair, and among all pairs after Holm."""
    of = None if size is None else np.full(cell.clusters, size)
    made, cluster = marks(cell, ARMS, studies, seed=4, of=of)
    sums = [cluster_sums(arm, cluster) for arm in made]
    found = [p_values(sums[a] - sums[b], size == 1) for a, b in combinations(range(ARMS), 2)]
    families = list(zip(*found, strict=True))
    false = [min(p for p in holm(family) if p is not None) < ERROR for family in families]
    return float(np.mean([p < ERROR for p in found[0]])), float(np.mean(false))


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=str(cell), marks=() if cell == QUICK[0] else pytest.mark.slow)
        for cell in CELLS
    ],
)
def test_no_more_than_5_of_100_studies_of_equal_arms_find_a_difference(cell):
    single, family = errors(cell, 2000)
    assert single <= ERROR + CHANCE
    assert family <= ERROR + CHANCE


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [10, 30, 100])
@pytest.mark.parametrize("proportion", [0.5, 0.9])
def test_mcnemar_finds_no_more_differences_than_it_may_where_every_question_stands_alone(
    clusters, proportion
):
    single, family = errors(Cell(clusters, proportion, 0.0), 2000, size=1)
    assert single <= ERROR + CHANCE
    assert family <= ERROR + CHANCE


def test_ignoring_the_clusters_would_claim_too_much():
    cell = Cell(30, 0.5, 0.2)
    (first, _), cluster = marks(cell, 2, 1000, seed=1)
    every = mean_intervals(first, np.arange(len(cluster)), 0.0, 1.0, RESAMPLES, seed=2)
    assert covered(*ends(every), cell.proportion) < 0.8


@pytest.mark.parametrize("clusters", [2, 3, 5])
def test_intervals_of_very_few_clusters_are_wide_rather_than_wrong(clusters):
    for proportion in (0.5, 0.9):
        cell = Cell(clusters, proportion, 0.2)
        (first, second), cluster = marks(cell, 2, 2000, seed=5)
        means = mean_intervals(first, cluster, 0.0, 1.0, RESAMPLES, seed=2)
        assert covered(*ends(means), cell.proportion) >= 0.93
        differences = difference_intervals(first - second, cluster, -1.0, 1.0, RESAMPLES, seed=2)
        assert covered(*ends(differences), 0.0) >= 0.93
