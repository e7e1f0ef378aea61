import time
from itertools import product

import numpy as np
import pytest
from scipy import stats

from ecg_llm.records import Estimate, Score, Standing
from ecg_llm.stats.draws import drawn_means
from ecg_llm.stats.estimate import estimates
from ecg_llm.stats.panels import panels_of
from ecg_llm.stats.ranking import POOLED, Decisive, standings, weightings

# Ranks as the paper prints them (table 1, table 2, figures 2 and 3), by subset of our naming.
PAPER = {
    "70B FT": ((1, 1, 1), 1, 2, (4, 5)),
    "Claude": ((5, 4, 5), 4, 1, (1, 1)),
    "70B RAG": ((2, 2, 2), 7, 3, (1, 1)),
    "70B": ((6, 5, 6), 3, 3, (5, 1)),
    "8B RAG": ((3, 3, 3), 6, 5, (1, 1)),
    "8B FT": ((3, 6, 4), 2, 5, (6, 5)),
    "8B": ((7, 7, 7), 5, 7, (6, 5)),
}
CHOICE = ("special/test", "full/test", "checked/test")
RATED = ("ten/rated", "forty/rated")
TEXT = ("rouge1", "rougeL", "bleu", "bertscore")


def mean(metric, subset, arm, rank):
    return Estimate(metric=metric, subset=subset, arm=arm, method="mean/wilson", rank=rank)


def paper_estimates():
    rows = []
    for arm, (choice, text, judge, human) in PAPER.items():
        for subset, rank in zip(CHOICE, choice, strict=True):
            rows.append(mean("accuracy", subset, arm, rank))
        rows += [mean(m, "open/test", arm, text) for m in TEXT]
        rows.append(mean("verdict", "open/test", arm, judge))
        for subset, rank in zip(RATED, human, strict=True):
            rows.append(mean("human", subset, arm, rank))
    return rows


def ranked(rows, tags=()):
    """Standings of ranks alone, without scores to draw; each subset is a set but for the tags."""
    subsets_of = {row.subset: (row.subset,) for row in rows if row.subset not in tags}
    return standings(rows, [], subsets_of, {}, 1000, 0)


def study(skills, documents=40, per_document=3, seed=0, spread=1.0):
    """Scores of arms with these skills by metric: {metric: {arm: skill}}; same documents for all.

    Returns scores, subsets and clusters of the questions.
    """
    rng = np.random.default_rng(seed)
    scores, subsets_of, cluster_of = [], {}, {}
    of_document = rng.normal(size=documents) * 0.5
    for metric, by_arm in skills.items():
        kind = "choice" if metric == "accuracy" else "open"
        for document, number in product(range(documents), range(per_document)):
            question = f"{kind} {document:03} {number}"
            subsets_of[question], cluster_of[question] = ("s/test",), f"document {document}"
            for arm, skill in by_arm.items():
                quality = of_document[document] + skill + rng.normal() * spread
                value = float(quality > 0) if kind == "choice" else 1 / (1 + np.exp(-quality))
                scores.append(Score(question_id=question, arm=arm, metric=metric, value=value))
    return scores, subsets_of, cluster_of


def table_of(made, resamples=1000, seed=3):
    rows = estimates(*made, (), resamples, seed)
    return rows, standings(rows, *made, resamples, seed)


def standing(arm, **ranks):
    return Standing(subset="s", arm=arm, ranks=ranks, median=1, place=1)


def test_the_papers_ranks_give_its_table_3_without_the_slips():
    pooled = {row.arm: row for row in ranked(paper_estimates()) if row.subset == POOLED}
    assert {arm: row.median for arm, row in pooled.items()} == {
        "70B FT": 1.5, "Claude": 2.5, "70B RAG": 2.5, "70B": 3, "8B RAG": 4, "8B FT": 4.5,
        "8B": 6.25,  # printed as 6
    }  # fmt: skip
    assert pooled["70B FT"].ranks == {"choice": 1, "text": 1, "judge": 2, "human": 4.5}
    assert [row.place for row in pooled.values()] == [1, 2, 2, 4, 5, 6, 7]


def test_ranks_without_scores_have_no_intervals():
    for row in ranked(paper_estimates()):
        assert (row.median_low, row.place_high, row.p_first) == (None, None, None)


def test_each_subset_has_its_own_table_and_names_what_was_not_measured():
    rows = [row for row in ranked(paper_estimates()) if row.subset == "ten/rated"]
    assert len(rows) == 7
    assert rows[0].ranks == {"choice": None, "text": None, "judge": None, "human": 1}


def test_the_judge_layer_uses_the_grader_without_a_model_only_where_no_judge_gave_verdicts():
    rows = [mean("reference_similarity", "s", "a", 2), mean("reference_similarity", "s", "b", 1)]
    assert [row.arm for row in ranked(rows)] == ["b", "a"]
    rows += [mean("verdict", "s", "a", 1), mean("verdict", "s", "b", 2)]
    assert [row.arm for row in ranked(rows)] == ["a", "b"]


def test_precision_recall_and_lengths_do_not_enter_the_ranking():
    rows = [mean(m, "s", "a", 3) for m in ("rouge1_recall", "rouge2", "words")]
    assert ranked(rows) == []


def test_one_subset_needs_no_pooled_table():
    assert {row.subset for row in ranked([mean("accuracy", "s", "a", 1)])} == {"s"}


def test_documents_trained_on_and_tags_are_not_pooled():
    def of(*subsets):
        return {
            row.arm: row
            for row in ranked(
                [
                    mean("accuracy", subset, arm, rank)
                    for subset, ranks in subsets
                    for arm, rank in zip("ab", ranks, strict=True)
                ],
                tags=("hard/test",),
            )
            if row.subset == POOLED
        }

    unseen = ("hand/test", (1, 2)), ("rated/rated", (1, 2))
    others = ("hand/test_seen", (2, 1)), ("hard/test", (2, 1)), ("more/test_seen", (2, 1))
    assert of(*unseen, *others) == of(*unseen)
    assert [of(*unseen, *others)[arm].median for arm in "ab"] == [1, 2]
    assert of(unseen[0], *others) == {}


def test_a_question_with_many_tags_counts_once_in_the_pool():
    scores, subsets_of, cluster_of = study({"accuracy": {"a": 0.3, "b": 0}})
    some = {q: (f"{q[-1]}/test",) for q in subsets_of}
    tagged = {q: (*own, "x/test", "y/test") if "0" in q[-3] else own for q, own in some.items()}
    pools = [
        [row for row in table_of((scores, where, cluster_of))[1] if row.subset == POOLED]
        for where in (some, tagged)
    ]
    assert [(row.arm, row.median, row.place) for row in pools[0]] == [
        (row.arm, row.median, row.place) for row in pools[1]
    ]


def test_an_arm_that_no_judge_judged_keeps_the_others_from_no_interval():
    far = {"a": 2, "b": 0, "c": -2}
    scores, *where = study({"accuracy": far, "verdict": far})
    failed = {"value": None, "status": "unjudged"}
    scores = [
        score.model_copy(update=failed if (score.metric, score.arm) == ("verdict", "c") else {})
        for score in scores
    ]
    _, rows = table_of((scores, *where))
    assert [(row.arm, row.ranks["judge"]) for row in rows] == [("a", 1), ("b", 2), ("c", None)]
    assert [row.p_first for row in rows] == [1, 0, 0]


def test_arms_that_are_far_apart_keep_their_places():
    far = {"a": 2, "b": 0, "c": -2}
    _, rows = table_of(study({"accuracy": far, "verdict": far, "rouge1": far}))
    assert [(row.arm, row.place, row.place_low, row.place_high) for row in rows] == [
        ("a", 1, 1, 1), ("b", 2, 2, 2), ("c", 3, 3, 3)
    ]  # fmt: skip
    assert [row.p_first for row in rows] == [1, 0, 0]


def test_arms_that_are_alike_share_the_chance_of_being_first():
    alike = dict.fromkeys("abcd", 0.0)
    _, rows = table_of(study({"accuracy": alike, "verdict": alike}))
    assert sum(row.p_first for row in rows) == pytest.approx(1)
    assert all(0.02 < row.p_first < 0.6 for row in rows)
    assert all(row.place_low == 1 and row.place_high > 1 for row in rows)


def test_layers_that_contradict_each_other_leave_the_place_open():
    up, down = {"a": 1, "b": 0}, {"a": 0, "b": 1}
    _, rows = table_of(study({"accuracy": up, "verdict": down}))
    assert [(row.place, row.median) for row in rows] == [(1, 1.5), (1, 1.5)]
    assert rows[0].p_first == pytest.approx(0.5)


@pytest.mark.parametrize("documents", [3, 9, 40])
def test_intervals_hold_the_values_and_medians_are_those_of_the_estimates(documents):
    near = {"a": 0.3, "b": 0.0, "c": 0.1, "d": -0.2}
    estimated, rows = table_of(study({"accuracy": near, "verdict": near}, documents))
    ranks = {(row.metric, row.arm): row.rank for row in estimated if not row.against}
    for row in rows:
        assert row.ranks["choice"] == ranks["accuracy", row.arm]
        assert row.ranks["judge"] == ranks["verdict", row.arm]
        assert row.median_low <= row.median <= row.median_high
        assert row.place_low <= row.place <= row.place_high


def test_few_documents_leave_places_wider_than_many():
    near = {"a": 0.5, "b": 0.0, "c": -0.5}
    skills = {"accuracy": near, "verdict": near}
    widths = [
        sum(row.place_high - row.place_low for row in table_of(study(skills, documents))[1])
        for documents in (5, 20, 200)
    ]
    assert widths[0] > widths[1] > widths[2] == 0


def test_one_document_has_no_ranks_and_so_no_table():
    assert table_of(study({"accuracy": {"a": 1, "b": 0}}, documents=1))[1] == []


def test_one_arm_is_first():
    _, [row] = table_of(study({"accuracy": {"a": 1}}))
    assert (row.place, row.place_low, row.place_high, row.p_first) == (1, 1, 1, 1)


def test_a_subset_whose_scores_are_not_given_has_no_interval_nor_has_the_pool():
    made = study({"accuracy": {"a": 2, "b": 0}})
    rows = estimates(*made, (), 1000, 0)
    rows += [mean("accuracy", "other/test", "a", 1), mean("accuracy", "other/test", "b", 1)]
    made[1]["unasked"] = ("other/test",)
    found = {(row.subset, row.arm): row for row in standings(rows, *made, 1000, 0)}
    assert found["s/test", "a"].p_first == 1
    assert found["other/test", "a"].p_first is found[POOLED, "a"].p_first is None


def test_strengths_in_rankings_are_drawn_by_the_shares_of_rivals_beaten():
    scores, *where = study({"ranking": {"a": 2, "b": 0, "c": 0}})
    ranks = {"a": 1, "b": 2, "c": 2}
    rows = [mean("ranking_strength", "s/test", arm, rank) for arm, rank in ranks.items()]
    found = standings(rows, scores, *where, 1000, 0)
    assert [(row.arm, row.place) for row in found] == [("a", 1), ("b", 2), ("c", 2)]
    assert (found[0].p_first, found[0].place_high) == (1, 1)


def test_subsets_are_pooled_by_documents_that_they_share():
    scores, subsets_of, cluster_of = study({"accuracy": {"a": 0.15, "b": 0}})
    parts = {question: (f"{question[-1]}/test",) for question in subsets_of}
    _, rows = table_of((scores, parts, cluster_of))
    assert {row.subset for row in rows} == {"0/test", "1/test", "2/test", POOLED}
    assert all(row.p_first is not None for row in rows)


def test_the_same_seed_gives_the_same_table_in_any_order_of_scores():
    made = study({"accuracy": {"a": 0.2, "b": 0}, "verdict": {"a": 0, "b": 0.2}})
    _, rows = table_of(made)
    assert table_of((made[0][::-1], *made[1:]))[1] == rows
    assert rows != table_of(made, seed=4)[1]


def test_draws_of_two_metrics_move_together_and_spread_like_t():
    skills = {"rouge1": {"a": 0}, "verdict": {"a": 0}}
    scores, subsets_of, cluster_of = study(skills, 12, spread=0.2)
    twin = [score.model_copy(update={"metric": "bleu"}) for score in scores if
            score.metric == "rouge1"]  # fmt: skip
    panels = list(panels_of([*scores, *twin], subsets_of, cluster_of))
    parts = list(drawn_means(panels, cluster_of, 20_000, 0))
    bleu, rouge, verdict = (np.concatenate([part[i][:, 0] for part in parts]) for i in range(3))
    assert (bleu == rouge).all()
    assert np.corrcoef(bleu, verdict)[0, 1] > 0.8  # the documents' difficulty is shared
    of_document = panels[0].values[:, 0].reshape(12, -1).mean(axis=1)
    error = of_document.std(ddof=1) / 12**0.5
    assert bleu.mean() == pytest.approx(of_document.mean(), abs=0.05 * error)
    wanted = error * stats.t.ppf(0.975, 11) / stats.norm.ppf(0.975)
    assert bleu.std() == pytest.approx(wanted, rel=0.03)


@pytest.mark.slow
def test_thirteen_arms_and_a_thousand_questions_take_seconds():
    skills = {f"arm {i:02}": i / 20 for i in range(13)}
    metrics = ("accuracy", "verdict", "human", "rouge1")
    made = study(dict.fromkeys(metrics, skills), documents=1000, per_document=1)
    rows = [mean(m, "s/test", arm, 1) for m in metrics for arm in skills]
    start = time.process_time()
    found = standings(rows, *made, 10_000, 0)
    assert time.process_time() - start < 6
    assert len(found) == 13


def test_weightings_of_two_layers_by_hand():
    rows = [standing("rag", choice=1, judge=3), standing("tuned", choice=2, judge=1.5)]
    found = weightings(rows)
    # rag: w + 3(1 - w) < 2w + 1.5(1 - w) from w > .6 on, a tie at .6
    assert found.shares == pytest.approx({"tuned": 6.5 / 11, "rag": 4.5 / 11})
    assert list(found.shares) == ["tuned", "rag"]
    assert (found.tried, found.equal) == (11, ("tuned",))
    assert found.alone == {"choice": ("rag",), "judge": ("tuned",)}
    assert found.without == {"choice": ("tuned",), "judge": ("rag",)}
    assert found.decisive == {"choice": Decisive("rag", 0.7), "judge": Decisive("tuned", 0.5)}


def test_four_layers_have_286_weightings_and_an_arm_that_leads_all_wins_all():
    ranks = {"choice": 1, "text": 1, "judge": 1, "human": 1}
    found = weightings([standing("a", **ranks), standing("b", **dict.fromkeys(ranks, 2))])
    assert (found.tried, found.shares) == (286, {"a": 1, "b": 0})
    assert set(found.decisive.values()) == {Decisive("a", 0)}


def test_winners_that_are_equal_are_all_named_and_decide_nothing():
    found = weightings([standing("b", choice=1, text=2), standing("a", choice=1, text=2)])
    assert found.shares == {"a": 0.5, "b": 0.5}
    assert found.equal == found.alone["choice"] == ("a", "b")
    assert found.decisive == {}


def test_layers_that_some_arm_lacks_are_left_out_and_named():
    rows = [
        standing("a", choice=1, text=None, human=2),
        standing("b", choice=2, text=None, human=1),
        standing("api", choice=3, text=None, human=None),
    ]
    found = weightings(rows)
    assert found.layers == ("choice",)
    assert found.left_out == {"human": ("api",)}
    assert (found.tried, found.equal, found.without) == (1, ("a",), {})
    assert weightings(rows, arms=("a", "b")).layers == ("choice", "human")


def test_arms_without_a_common_layer_are_not_weighted():
    found = weightings([standing("a", choice=1, text=None), standing("b", choice=None, text=1)])
    assert (found.layers, found.tried, found.shares, found.equal) == ((), 0, {}, ())
    assert found.left_out == {"choice": ("b",), "text": ("a",)}


@pytest.mark.slow
@pytest.mark.parametrize("documents", [5, 12, 40])
def test_a_second_study_finds_places_within_the_intervals(documents):
    near = {"a": 0.0, "b": 0.2, "c": 0.4, "d": 0.8}
    skills = dict.fromkeys(("accuracy", "verdict", "rouge1"), near)
    held = []
    for seed in range(20):
        first, second = (
            {row.arm: row for row in table_of(study(skills, documents, seed=number))[1]}
            for number in (seed, 1000 + seed)
        )
        held += [first[a].place_low <= second[a].place <= first[a].place_high for a in near]
    assert np.mean(held) > 0.9
