import time
from itertools import permutations

import numpy as np
import pytest
from rankings import drawn
from statsmodels.discrete.conditional_models import ConditionalLogit
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM

from ecg_llm.contracts import Block
from ecg_llm.stats.strength import fit, strengths


def rows_of(blocks, cluster_of=None, subset="written/test", resamples=2000, seed=3):
    subsets_of = {block.question_id: (subset,) for block in blocks}
    return strengths(blocks, subsets_of, cluster_of or {}, resamples, seed)


def by_arm(rows, metric="ranking_strength"):
    return {row.arm: row for row in rows if row.metric == metric}


def values_of(found):
    return np.array([strength.value for strength in found.strengths])


def test_pairs_are_bradley_terry_with_one_tie_against_an_average_rival():
    blocks, cluster_of = drawn(1, arms=4, size=2, questions=60)
    arms = sorted({arm for block in blocks for arm in block.arms})
    design = np.array(
        [
            [(block.arms[0] == arm) * 1.0 - (block.arms[1] == arm) for arm in arms]
            for block in blocks
        ]
    )
    won = np.array([float(block.places[0] < block.places[1]) for block in blocks])
    expected = GLM(
        np.append(won, [0.5] * 4), np.concatenate([design, np.eye(4)]), family=Binomial()
    ).fit()
    found = fit(blocks, cluster_of, slot=False, length=False)
    assert values_of(found) == pytest.approx(expected.params - expected.params.mean(), abs=1e-6)
    assert found.slot is found.length is None
    assert values_of(found).sum() == pytest.approx(0)


def test_blocks_are_a_conditional_logit_of_one_choice_after_the_other():
    blocks, cluster_of = drawn(2, questions=100, slot=-0.3, length=0.4)
    arms = sorted({arm for block in blocks for arm in block.arms})
    exog, endog = [], []
    for block in blocks:
        order = sorted(range(4), key=lambda slot: block.places[slot])
        for stage in range(3):
            for slot in order[stage:]:
                which = [float(block.arms[slot] == arm) for arm in arms[1:]]
                exog.append([*which, slot, np.log2(block.words[slot])])
                endog.append(slot == order[stage])
    codes = np.repeat(np.arange(len(blocks) * 3), np.tile([4, 3, 2], len(blocks)))
    expected = ConditionalLogit(np.array(endog, dtype=int), np.array(exog), groups=codes).fit(
        disp=0
    )
    found = fit(blocks, cluster_of, slot=True, length=True)
    values = values_of(found)
    assert values[1:] - values[0] == pytest.approx(expected.params[:4], abs=0.02)
    assert found.slot.value == pytest.approx(expected.params[4], abs=0.01)
    assert found.length.value == pytest.approx(expected.params[5], abs=0.01)
    assert found.slot.high - found.slot.low == pytest.approx(4 * expected.bse[4], rel=0.35)


def test_a_tie_counts_as_every_order_to_an_equal_part():
    rest = [Block("q9", "j", ("a", "b", "c"), (1, 2, 3), (5, 6, 7))]
    tied = [Block("q1", "j", ("a", "b", "c"), (1, 1, 1), (5, 6, 7))] * 6
    orders = [
        Block("q1", "j", ("a", "b", "c"), order, (5, 6, 7)) for order in permutations((1, 2, 3))
    ]
    ours, theirs = (fit(rest + some, {}, slot=True, length=True) for some in (tied, orders))
    assert values_of(ours) == pytest.approx(values_of(theirs), abs=1e-7)
    half = [Block("q1", "j", ("a", "b", "c"), (1, 1, 3), (5, 6, 7))] * 2
    both = [Block("q1", "j", ("a", "b", "c"), order, (5, 6, 7)) for order in ((1, 2, 3), (2, 1, 3))]
    ours, theirs = (fit(some, {}, slot=False, length=False) for some in (half, both))
    assert values_of(ours) == pytest.approx(values_of(theirs), abs=1e-7)


def test_places_with_and_without_gaps_say_the_same():
    gaps = [Block("q1", "j", ("a", "b", "c", "d"), (1, 2, 2, 4), (5, 6, 7, 8))]
    dense = [gaps[0]._replace(places=(1, 2, 2, 3))]
    assert values_of(fit(gaps, {}, False, False)).tolist() == (
        values_of(fit(dense, {}, False, False)).tolist()
    )


def test_the_order_of_the_blocks_does_not_matter():
    blocks, cluster_of = drawn(3, ties=1.0)
    ahead, behind = (rows_of(some, cluster_of) for some in (blocks, blocks[::-1]))
    assert [row.arm for row in ahead] == [row.arm for row in behind]
    for one, other in zip(ahead, behind, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-7)
        assert one.low == pytest.approx(other.low, abs=1e-6)


def test_a_slot_bias_does_not_leak_into_the_strength_of_an_arm_often_shown_first():
    blocks, cluster_of = drawn(4, questions=120, arms=4, strengths=[0, 0, 0, 0], slot=-0.8)
    # The blocks that show arm00 last are lost.
    blocks = [block for block in blocks if block.arms[3] != "arm00"]
    assert fit(blocks, cluster_of, slot=False, length=False).strengths[0].low > 0.1
    row = by_arm(rows_of(blocks, cluster_of))["arm00"]
    assert row.low < 0 < row.high


def test_strength_at_equal_length_takes_the_words_off():
    blocks, cluster_of = drawn(5, questions=120, arms=3)
    rng = np.random.default_rng(0)
    longer = []
    for block in blocks:
        # arm02 owes all its strength to answers eight times as long.
        words = [
            count * 8 if arm == "arm02" else count
            for arm, count in zip(block.arms, block.words, strict=True)
        ]
        utility = 0.5 * np.log2(words) + rng.gumbel(size=3)
        places = tuple(int(1 + (utility > mine).sum()) for mine in utility)
        longer.append(block._replace(words=tuple(words), places=places))
    rows = rows_of(longer, cluster_of)
    as_shown, at_equal_length = by_arm(rows), by_arm(rows, "ranking_strength_length")
    assert as_shown["arm02"].low > 0.5
    assert (as_shown["arm02"].rank, as_shown["arm00"].rank) == (1, 2)
    assert at_equal_length["arm02"].low < 0 < at_equal_length["arm02"].high
    assert {row.rank for row in at_equal_length.values()} == {1}


def test_rows_say_how_they_came_about_and_who_is_best():
    blocks, cluster_of = drawn(6, questions=150, documents=50, arms=3, strengths=[-1, 0.9, 1])
    rows = rows_of(blocks, cluster_of, seed=11)
    assert [(row.metric, row.arm) for row in rows] == [
        (metric, arm)
        for metric in ("ranking_strength", "ranking_strength_length")
        for arm in ("arm00", "arm01", "arm02")
    ]
    found = by_arm(rows)
    assert {row.method for row in rows} == {"strength/plackett_luce"}
    assert {(row.questions, row.clusters, row.seed) for row in rows} == {(150, 50, 11)}
    assert found["arm00"].rank == found["arm00"].rank_adjusted == 3
    assert (found["arm00"].rank_low, found["arm00"].rank_high) == (3, 3)
    assert found["arm00"].p_best == 0
    assert found["arm01"].p_best + found["arm02"].p_best == pytest.approx(1)
    assert sum(row.value for row in found.values()) == pytest.approx(0)
    assert rows == rows_of(blocks, cluster_of, seed=11)


def test_subsets_and_judges():
    blocks, cluster_of = drawn(7, questions=40)
    others, _ = drawn(8, questions=40, judge="other")
    subsets_of = {f"q{q:04}": ("a/test", "b/test") if q < 20 else ("a/test",) for q in range(39)}
    rows = strengths(blocks + others, subsets_of, cluster_of, 1000, 0)
    assert {(row.subset, row.questions) for row in rows} == {("a/test", 39), ("b/test", 20)}
    alone = strengths(blocks, subsets_of, cluster_of, 1000, 0)
    widths = [row.high - row.low for row in (rows[0], alone[0])]
    assert widths[0] < widths[1]
    assert rows[0].value != alone[0].value


def test_an_arm_that_always_wins_has_a_finite_strength_that_is_not_sure():
    blocks, cluster_of = drawn(9, arms=3, strengths=[0, 0, 0])
    blocks = [
        block._replace(
            places=tuple(
                1 if arm == "arm02" else place + 1
                for arm, place in zip(block.arms, block.places, strict=True)
            )
        )
        for block in blocks
    ]
    best = by_arm(rows_of(blocks, cluster_of))["arm02"]
    assert 2 < best.low < best.value < best.high < 9
    assert best.high - best.low > 1
    assert (best.rank, best.p_best) == (1, 1.0)


def test_what_cannot_be_compared_has_no_value():
    apart = [
        Block("q1", "j", ("a", "b"), (1, 2), (3, 4)),
        Block("q2", "j", ("c", "d"), (1, 2), (3, 4)),
        Block("q3", "j", ("d", "c"), (1, 2), (3, 4)),
    ]
    rows = rows_of(apart)
    assert {row.arm for row in rows} == {"a", "b", "c", "d"}
    assert {(row.value, row.low, row.rank, row.p_best) for row in rows} == {(None,) * 4}
    joined = rows_of([*apart, Block("q4", "j", ("b", "c"), (1, 2), (9, 4))])
    assert all(row.value is not None for row in by_arm(joined).values())


def test_without_a_comparison_there_is_no_row():
    assert rows_of([]) == []
    assert rows_of([Block("q1", "j", ("a",), (1,), (3,))]) == []
    assert strengths([Block("q1", "j", ("a", "b"), (1, 2), (3, 4))], {}, {}, 1000, 0) == []


def test_one_document_gives_values_without_intervals():
    blocks, _ = drawn(10, questions=5)
    rows = rows_of(blocks, {block.question_id: "doc" for block in blocks})
    assert all(row.value is not None and row.clusters == 1 for row in rows)
    assert {(row.low, row.high, row.rank, row.rank_low, row.p_best) for row in rows} == {
        (None,) * 5
    }


def test_a_judge_that_always_ties_finds_all_equal():
    blocks, cluster_of = drawn(11)
    rows = rows_of([block._replace(places=(1, 1, 1, 1)) for block in blocks], cluster_of)
    assert {row.rank for row in rows} == {1}
    assert all(row.value == pytest.approx(0) for row in rows)


def test_slot_and_arm_that_cannot_be_told_apart_give_no_effect():
    blocks, cluster_of = drawn(12, arms=4)
    fixed = [block._replace(arms=("a", "b", "c", "d")) for block in blocks]
    found = fit(fixed, cluster_of, slot=True, length=True)
    assert found.slot.value is None
    assert found.length.value is not None
    equal = [block._replace(words=(30, 30, 30, 30)) for block in blocks]
    assert fit(equal, cluster_of, slot=True, length=True).length.value is None
    rows = rows_of(equal, cluster_of)
    assert {row.value for row in by_arm(rows, "ranking_strength_length").values()} == {None}
    assert None not in {row.value for row in by_arm(rows).values()}


def with_failures(blocks, failed):
    """Return the blocks with these (question_id, arm) behind the others, not shown."""
    found = []
    for block in blocks:
        slots = range(len(block.arms))
        seen = [s for s in slots if (block.question_id, block.arms[s]) not in failed]
        behind = [s for s in slots if s not in seen]
        found.append(
            block._replace(
                arms=tuple(block.arms[s] for s in seen + behind),
                places=(*(block.places[s] for s in seen), *[len(seen) + 1] * len(behind)),
                words=(*(block.words[s] for s in seen), *[0] * len(behind)),
            )
        )
    return found


def test_an_arm_that_answers_only_what_it_likes_falls():
    blocks, cluster_of = drawn(15, questions=60, arms=4, strengths=[0, 0, 0, 0.5])
    whole = by_arm(rows_of(blocks, cluster_of))
    assert (whole["arm03"].rank, whole["arm03"].missing) == (1, 0)
    failed = {(f"q{q:04}", "arm03") for q in range(0, 60, 2)}
    rows = rows_of(with_failures(blocks, failed), cluster_of)
    for metric in ("ranking_strength", "ranking_strength_length"):
        found = by_arm(rows, metric)
        assert found["arm03"].value < 0 < found["arm00"].value
        assert found["arm03"].rank > found["arm00"].rank
        assert (found["arm03"].questions, found["arm03"].missing) == (60, 30)
        assert found["arm03"].missing_as == "placed last"
        assert (found["arm00"].questions, found["arm00"].missing) == (60, 0)


def test_answers_not_shown_have_the_mean_slot_and_length_of_their_block():
    blocks, cluster_of = drawn(16, questions=150, arms=4, slot=-0.3, length=0.5)
    # Where the mean is that of all blocks, a failure is no more than a defeat.
    even = [
        Block(f"x{n}", "j", ("arm00", "arm01", "arm02"), (1, 1, 2), (8, 32, words))
        for n, words in enumerate([0] * 20)
    ]
    seen = [block._replace(arms=("arm00", "arm01"), places=(1, 1), words=(8, 32)) for block in even]
    alone, with_them = (
        fit(blocks + some, cluster_of, slot=True, length=True) for some in (seen, even)
    )
    assert with_them.slot.value == pytest.approx(alone.slot.value, abs=0.02)
    assert with_them.length.value == pytest.approx(alone.length.value, abs=0.02)
    # Which of the failed ones stands where in the row says nothing.
    swapped = [
        Block("q1", "j", arms, (1, 2, 3, 3), (30, 40, 0, 0))
        for arms in (("a", "b", "c", "d"), ("a", "b", "d", "c"))
    ]
    one, other = (fit([block] * 3, {}, slot=True, length=True) for block in swapped)
    assert values_of(one) == pytest.approx(values_of(other), abs=1e-7)


def test_blocks_in_which_one_or_no_answer_was_shown_count():
    one = [Block(f"q{n}", "j", ("a", "b", "c"), (1, 2, 2), (9, 0, 0)) for n in range(6)]
    none = [Block(f"r{n}", "j", ("a", "b", "c"), (1, 1, 1), (0, 0, 0)) for n in range(6)]
    found = by_arm(rows_of(one))
    assert found["a"].value > found["b"].value == pytest.approx(found["c"].value)
    assert (found["a"].missing, found["b"].missing) == (0, 6)
    equal = by_arm(rows_of(none))
    assert [row.value for row in equal.values()] == pytest.approx([0, 0, 0])
    assert {(row.questions, row.missing) for row in equal.values()} == {(6, 6)}
    both = by_arm(rows_of(one + none))
    assert 0 < both["a"].value < found["a"].value


def test_a_panel_of_judges_counts_a_failed_answer_once():
    block = Block("q1", "j", ("a", "b", "c"), (1, 2, 3), (9, 8, 0))
    some = [block._replace(judge=judge, repeat=repeat) for judge in "jk" for repeat in (0, 1)]
    assert by_arm(rows_of(some))["c"].missing == 2  # of two repeats
    assert by_arm(rows_of(some))["c"].questions == 1


def test_blocks_of_different_sizes_go_together():
    fours, cluster_of = drawn(13, questions=60, arms=7)
    threes, _ = drawn(14, questions=60, arms=7, size=3)
    found = fit(fours + threes, cluster_of, slot=True, length=True)
    assert values_of(found) == pytest.approx(np.linspace(-1, 1, 7), abs=0.45)


@pytest.mark.slow
def test_thirteen_arms_and_a_thousand_questions_take_seconds():
    blocks, cluster_of = drawn(0, questions=1000, documents=150, arms=13, ties=1.0)
    assert len(blocks) == 17_000
    started = time.perf_counter()
    rows = rows_of(blocks, cluster_of, resamples=10_000)
    assert time.perf_counter() - started < 20
    assert len(rows) == 26


@pytest.mark.slow
@pytest.mark.parametrize("arms", [3, 8])
@pytest.mark.parametrize("documents", [10, 30, 100])
@pytest.mark.parametrize("ties", [0.0, 1.5])
def test_intervals_hold_the_truth_about_as_often_as_they_say(arms, documents, ties):
    settings = {"arms": arms, "spread": 0.7, "by_document": 0.5, "slot": 0.2, "ties": ties}
    many, each_its_own = drawn(99, questions=4000, documents=4000, **settings)
    truth = values_of(fit(many, each_its_own, slot=True, length=False))
    held = []
    for seed in range(200):
        some = drawn(seed, questions=documents * 3, documents=documents, **settings)
        found = fit(*some, slot=True, length=False)
        held.append(
            [
                interval.low <= value <= interval.high
                for interval, value in zip(found.strengths, truth, strict=True)
            ]
        )
    assert 0.91 < np.mean(held) < 0.98
