import math
import random

import pytest
import sacrebleu
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from ecg_llm.records import Answer, Question
from ecg_llm.score.overlap import bleu_counts
from ecg_llm.stats.corpus import bleu_estimates
from ecg_llm.stats.significance import holm

REFERENCE = "The PR interval is prolonged to more than 200 ms in first-degree AV block."


def item(text, reference=REFERENCE, number=0, **columns):
    question = Question(
        question_id=f"q{number}", set="hand", kind="open", question="What?", reference=reference
    )
    return question, Answer(question_id=f"q{number}", arm="arm", text=text, **columns)


def estimated(items, subsets, clusters, resamples, seed, comparisons=()):
    return bleu_estimates(*bleu_counts(items), subsets, clusters, comparisons, resamples, seed)


def arms_of(rows):
    return [row for row in rows if not row.against]


WORDS = REFERENCE.split()


def corpus(arms, questions, per_cluster, seed=0):
    """Make answers of several arms, each with some words of its reference, and their clusters."""
    rng = random.Random(seed)
    items, subsets, clusters = [], {}, {}
    for number in range(questions):
        reference = " ".join(rng.choices(WORDS, k=rng.randint(8, 20)))
        subsets[f"q{number}"] = ("hand/test",)
        clusters[f"q{number}"] = f"document {number // per_cluster}"
        for arm in range(arms):
            kept = [word for word in reference.split() if rng.random() > 0.05 * (arm + 1)]
            question, answer = item(" ".join(kept), reference, number)
            items.append((question, answer.model_copy(update={"arm": f"arm {arm:02}"})))
    return items, subsets, clusters


def test_corpus_bleu_is_the_librarys_of_all_answers_of_an_arm():
    items, subsets, clusters = corpus(3, 80, 2)
    found = arms_of(estimated(items, subsets, clusters, 1000, 1))
    assert [row.arm for row in found] == ["arm 00", "arm 01", "arm 02"]
    for row in found:
        own = [(answer.text, q.reference) for q, answer in items if answer.arm == row.arm]
        library = sacrebleu.corpus_bleu([a for a, _ in own], [[r for _, r in own]])
        assert row.value == pytest.approx(library.score / 100, abs=1e-9)
        assert row.low < row.value < row.high
        assert (row.metric, row.subset) == ("bleu_corpus", "hand/test")
        assert (row.questions, row.clusters, row.missing) == (80, 40, 0)
        assert row.method.startswith("corpus/cluster_bootstrap nrefs:1|case:mixed|eff:no|tok:13a|")
        assert f"version:{sacrebleu.__version__}" in row.method
    assert found[0].value > found[1].value > found[2].value


@pytest.mark.parametrize(
    "answer", ["", "?", "PR", "PR interval", "PR wave interval is", "no match"]
)
def test_corpus_bleu_is_the_librarys_where_orders_have_no_match(answer):
    pairs = [item(answer, number=1), item(answer, REFERENCE + " PR", number=2)]
    subsets = {"q1": ("s/test",), "q2": ("s/test",)}
    (row,) = estimated(pairs, subsets, {}, 100, 1)
    library = sacrebleu.corpus_bleu([answer] * 2, [[q.reference for q, _ in pairs]])
    assert row.value == pytest.approx(library.score / 100, abs=1e-9)


def test_what_an_arm_did_not_say_costs_its_corpus_bleu():
    """Paper, 3.4 no. 5: a failed answer left the denominator."""
    items, subsets, clusters = corpus(1, 40, 4)
    (whole,) = estimated(items, subsets, clusters, 100, 1)
    broken = [(question, answer.model_copy()) for question, answer in items]
    for place, (text, status) in enumerate([("x", "error"), ("No.", "refused"), (" [1]", "ok")]):
        question, answer = broken[place]
        columns = {"text": text, "status": status}
        broken[place] = (question, answer.model_copy(update=columns))
    (less,) = estimated(broken, subsets, clusters, 100, 1)
    hypotheses = ["", "", "", *(answer.text for _, answer in items[3:])]
    library = sacrebleu.corpus_bleu(hypotheses, [[question.reference for question, _ in items]])
    assert less.value == pytest.approx(library.score / 100, abs=1e-9)
    assert less.value < whole.value
    assert (less.questions, less.missing, less.missing_as) == (40, 2, "an empty answer")


def test_corpus_bleu_counts_a_question_in_all_its_subsets_and_in_no_other():
    items, subsets, clusters = corpus(1, 12, 1)
    subsets = {"q0": ("a/test", "b/test"), "q1": ("a/test",)}
    found = estimated(items, subsets, clusters, 100, 1)
    assert [(row.subset, row.questions) for row in found] == [("a/test", 2), ("b/test", 1)]
    without = (items[1][0].model_copy(update={"reference": " "}), items[1][1])
    (a, _) = estimated([items[0], without], subsets, clusters, 100, 1)
    assert a.questions == 1


def test_one_document_has_no_interval_and_a_few_have_a_wide_one():
    items, subsets, clusters = corpus(1, 9, 9)
    (one,) = estimated(items, subsets, clusters, 500, 1)
    assert (one.low, one.high, one.clusters) == (None, None, 1)
    assert one.method.startswith("corpus/none ")
    (few,) = estimated(items, subsets, {}, 500, 1)
    assert few.method.startswith("corpus/cluster_jackknife ")
    assert 0 <= few.low < few.value < few.high <= 1
    same = [item(REFERENCE, number=number) for number in range(40)]
    subsets = {f"q{number}": ("s/test",) for number in range(40)}
    (perfect,) = estimated(same, subsets, {}, 100, 1)
    assert (perfect.value, perfect.low) == (1.0, None)


def test_the_interval_of_corpus_bleu_draws_whole_documents():
    """Twice the same question in a document is no more evidence than once."""
    items, subsets, _ = corpus(1, 40, 1)
    twice = [
        (q.model_copy(update={"question_id": name}), a.model_copy(update={"question_id": name}))
        for q, a in items
        for name in (q.question_id, f"{q.question_id} again")
    ]
    clusters = {q.question_id: q.question_id.split()[0] for q, _ in twice}
    both = {q.question_id: ("hand/test",) for q, _ in twice}
    (once,) = estimated(items, subsets, {}, 2000, 1)
    (clustered,) = estimated(twice, both, clusters, 2000, 1)
    (loose,) = estimated(twice, both, {}, 2000, 1)
    assert clustered.low == pytest.approx(once.low, abs=1e-9)
    assert clustered.high == pytest.approx(once.high, abs=1e-9)
    assert loose.high - loose.low < 0.85 * (once.high - once.low)
    assert estimated(items, subsets, {}, 2000, 2)[0].low != once.low


@pytest.mark.slow
def test_intervals_of_corpus_bleu_hold_the_truth_as_often_as_they_say():
    """The truth is the BLEU of a large text; the others are drawn the same way."""
    (truth,) = estimated(*corpus(1, 4000, 1, seed=99), 1, 1)
    for clusters in (12, 40):
        made = [estimated(*corpus(1, clusters, 1, seed=n), 400, n) for n in range(60)]
        held = sum(row.low <= truth.value <= row.high for (row,) in made)
        assert held >= 60 * 0.95 - 3 * math.sqrt(60 * 0.95 * 0.05)


def pairs_of(rows):
    return {(row.arm, row.against): row for row in rows if row.against}


def test_arms_are_compared_on_the_same_documents_and_ranked():
    items, subsets, clusters = corpus(4, 120, 3)
    # The last arm says what the second one says.
    items = [
        (q, items[place - 2][1].model_copy(update={"arm": "arm 03"}) if place % 4 == 3 else answer)
        for place, (q, answer) in enumerate(items)
    ]
    found = estimated(items, subsets, clusters, 1000, 1)
    assert found == estimated(items[::-1], subsets, clusters, 1000, 1)
    assert len({row.key for row in found}) == len(found) == 4 + 6
    means = {row.arm: row for row in arms_of(found)}
    assert {arm: row.rank for arm, row in means.items()} == {
        "arm 00": 1, "arm 01": 2, "arm 02": 4, "arm 03": 2,
    }  # fmt: skip
    assert [row.rank_adjusted for row in means.values()] == [1, 2, 4, 2]
    assert sum(row.p_best for row in means.values()) == pytest.approx(1)
    differences = pairs_of(found)
    apart = differences["arm 00", "arm 02"]
    assert (apart.method, apart.test) == ("difference/cluster_bootstrap", "randomisation")
    assert apart.value == pytest.approx(means["arm 00"].value - means["arm 02"].value)
    assert 0 < apart.low < apart.value < apart.high
    same = differences["arm 01", "arm 03"]
    assert (same.value, same.low, same.p) == (0, None, 1)
    assert [row.p_adjusted for row in differences.values()] == holm(
        [row.p for row in differences.values()]
    )
    declared = estimated(items, subsets, clusters, 1000, 1, [("arm 02", "arm 00")])
    assert list(pairs_of(declared)) == [("arm 02", "arm 00")]
    assert pairs_of(declared)["arm 02", "arm 00"].p == apart.p == 1 / 1001


@pytest.mark.parametrize("questions", [11, 60])
def test_p_values_are_those_of_the_library_where_a_question_is_a_document(questions):
    items, subsets, _ = corpus(2, questions, 1, seed=3)
    rng = random.Random(1)
    # The worse arm is the better one now and then.
    for place in range(0, len(items), 2):
        if rng.random() < 0.4:
            (q, first), (_, second) = items[place : place + 2]
            items[place] = q, first.model_copy(update={"text": second.text})
            items[place + 1] = q, second.model_copy(update={"text": first.text})
    (row,) = pairs_of(estimated(items, subsets, {}, 5000, 1)).values()
    told = {
        arm: [answer.text for _, answer in items if answer.arm == arm]
        for arm in ("arm 00", "arm 01")
    }
    references = [question.reference for question, _ in items[::2]]
    _, scores = PairedTest(
        list(told.items()), {"BLEU": BLEU(references=[references])}, None, n_samples=5000
    )()
    assert 0.03 < row.p < 0.9
    assert row.p == pytest.approx(scores["BLEU"][1].p_value, abs=0.03)
    if questions == 11:
        assert (row.p * 2**11).is_integer()  # each of the exchanges was made once


def test_arms_that_fail_on_the_same_documents_differ_for_sure():
    items, subsets, clusters = corpus(1, 120, 3)
    items += [
        (q, a.model_copy(update={"arm": "short", "text": a.text.rsplit(maxsplit=1)[0]}))
        for q, a in items
    ]
    found = estimated(items, subsets, clusters, 1000, 1)
    (row,) = pairs_of(found).values()
    assert 0 < row.low < row.value < row.high
    assert all(row.high - row.low < (arm.high - arm.low) / 2 for arm in arms_of(found))


def test_a_difference_of_corpora_is_paired_on_the_questions_that_both_arms_have():
    items, subsets, clusters = corpus(3, 40, 1)
    whole = estimated(items, subsets, clusters, 500, 1)
    without = [(q, a) for q, a in items if (q.question_id, a.arm) != ("q7", "arm 01")]
    found = estimated(without, subsets, clusters, 500, 1)
    assert [row.questions for row in arms_of(found)] == [40, 39, 40]
    counts = {pair: row.questions for pair, row in pairs_of(found).items()}
    assert counts == {
        ("arm 00", "arm 01"): 39, ("arm 00", "arm 02"): 40, ("arm 01", "arm 02"): 39,
    }  # fmt: skip
    pair = "arm 00", "arm 02"
    assert pairs_of(found)[pair] == pairs_of(whole)[pair].model_copy(
        update={"p_adjusted": pairs_of(found)[pair].p_adjusted}
    )
    fewer = [(q, a) for q, a in without if q.question_id != "q7"]
    pair = "arm 00", "arm 01"
    assert pairs_of(estimated(fewer, subsets, clusters, 500, 1))[pair].value == (
        pairs_of(found)[pair].value
    )


def test_arms_without_a_common_question_or_with_one_document_are_not_compared():
    items, subsets, _ = corpus(2, 8, 1)
    apart = [(q, a) for q, a in items if (int(q.question_id[1:]) < 4) == (a.arm == "arm 00")]
    for rows in (
        estimated(apart, subsets, {}, 200, 1),
        estimated(items, subsets, dict.fromkeys(subsets, "one"), 200, 1),
    ):
        (row,) = pairs_of(rows).values()
        assert (row.low, row.high, row.p) == (None, None, None)
        assert {row.rank for row in rows} == {None}
        assert all(row.value is not None for row in arms_of(rows))


def test_repeats_are_one_text():
    items, subsets, _ = corpus(1, 10, 1)
    again = [(q, a.model_copy(update={"repeat": 1, "text": "PR"})) for q, a in items]
    (row,) = estimated(items + again, subsets, {}, 100, 1)
    hypotheses = [answer.text for _, answer in items + again]
    library = sacrebleu.corpus_bleu(hypotheses, [[q.reference for q, _ in items + again]])
    assert (row.value, row.questions) == (pytest.approx(library.score / 100, abs=1e-9), 10)


def test_arms_that_are_equally_good_are_rarely_told_apart():
    told, found = 0, 0
    for seed in range(120):
        items, subsets, clusters = corpus(1, 16, 1, seed=seed)
        rng = random.Random(seed)
        items += [
            (q, a.model_copy(update={
                "arm": "twin",
                "text": " ".join(word for word in q.reference.split() if rng.random() > 0.05),
            }))
            for q, a in items
        ]  # fmt: skip
        (row,) = pairs_of(estimated(items, subsets, clusters, 300, seed)).values()
        found += row.p < 0.05
        told += row.low > 0 or row.high < 0
    assert found <= 120 * 0.05 + 3 * math.sqrt(120 * 0.05 * 0.95)
    assert told <= 120 * 0.05 + 3 * math.sqrt(120 * 0.05 * 0.95)
