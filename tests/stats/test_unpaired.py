"""The difference of two estimates on different questions: closed forms, Welch's test, coverage."""

from math import hypot

import numpy as np
import pytest
import scipy.stats

from ecg_llm.records import Estimate
from ecg_llm.stats.intervals import Interval, mean_intervals
from ecg_llm.stats.unpaired import Gap, gap


def estimate(value, low, high, clusters=12):
    return Estimate(metric="accuracy", subset="s", arm="a", method="mean/cluster_t", value=value,
                    low=low, high=high, clusters=clusters)  # fmt: skip


def test_half_widths_towards_each_other_are_added_in_squares():
    found = gap(estimate(0.8, 0.7, 0.85), estimate(0.5, 0.3, 0.6))
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - hypot(0.1, 0.1))
    assert found.high == pytest.approx(0.3 + hypot(0.05, 0.2))


def test_p_is_five_percent_where_the_interval_ends_at_zero():
    half = 0.3 / np.sqrt(2)
    for sign in (1, -1):
        first = estimate(sign * 0.3, sign * 0.3 - half, sign * 0.3 + half)
        assert gap(first, estimate(0, -half, half)).p == pytest.approx(0.05)


def test_many_questions_of_their_own_documents_give_what_welch_gives():
    rng = np.random.default_rng(5)
    first, second = rng.normal(0.6, 0.2, 200), rng.normal(0.54, 0.3, 150)
    sides = [
        mean_intervals(some[:, None], np.arange(len(some)), -9, 9, 4000, 1)[0]
        for some in (first, second)
    ]
    welch = scipy.stats.ttest_ind(first, second, equal_var=False)
    limits = welch.confidence_interval(0.95)
    found = gap(*sides)
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high), abs=0.006)
    assert found.p == pytest.approx(welch.pvalue, abs=0.03)


@pytest.mark.parametrize(("clusters", "others"), [(5, 5), (10, 4), (12, 12)])
def test_nine_in_ten_or_more_intervals_hold_the_truth_with_few_documents(clusters, others):
    rng = np.random.default_rng(7)
    held = []
    for share in (0.5, 0.9):
        sides = []
        for number in (clusters, others):
            cluster = np.repeat(np.arange(number), rng.integers(2, 9, number))
            # Questions of a document are alike: an intra-cluster correlation of 0.1.
            likely = rng.beta(9 * share, 9 * (1 - share), (number, 400))[cluster]
            marks = (rng.random(likely.shape) < likely).astype(float)
            sides.append(mean_intervals(marks, cluster, 0.0, 1.0, 1000, 3))
        found = [gap(a, b) for a, b in zip(*sides, strict=True)]
        held += [one.low <= 0 <= one.high for one in found if one.low is not None]
    assert np.mean(held) > 0.925


def test_a_side_without_interval_leaves_the_difference_alone():
    alone = Interval(0.4, None, None, "none", 9, 1)
    assert gap(estimate(0.5, 0.4, 0.6), alone) == Gap(pytest.approx(0.1))
    assert gap(estimate(None, None, None), alone) == Gap()


def test_the_detectable_difference_is_missed_once_in_five():
    error = 0.05
    half = error * scipy.stats.t(999).ppf(0.975)
    found = gap(estimate(0.5, 0.5 - half, 0.5 + half, 1000), estimate(0.5, 0.5, 0.5, 1000))
    power = scipy.stats.norm.sf(1.96 - found.detectable_adjusted / error)
    assert power == pytest.approx(0.8, abs=0.01)
