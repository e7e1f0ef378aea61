import math
import random

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from ecg_llm.contracts import NO_ANSWER, Scorer
from ecg_llm.records import METRICS, Answer, Question
from ecg_llm.score.overlap import (
    OverlapScorer,
    compared,
    corpus_bleu_estimates,
    without_citations,
)

REFERENCE = "The PR interval is prolonged to more than 200 ms in first-degree AV block."
ANSWERS = [
    "The PR interval is longer than 200 ms.",
    "First-degree AV block prolongs the PR interval beyond 200 ms; every P wave is conducted.",
    "Ventricular fibrillation needs defibrillation.",
    REFERENCE,
    "PR",
    "Das PR-Intervall ist verlängert: über 200 ms (AV-Block I°).",
    "- **PR** > 200 ms\n- every P wave, 1:1\n\n| a | b |\n|---|---|",
    "PR 延长 200 毫秒 — первая степень 🫀 ½ µV²",
    "?!... --- ()",
    "PR interval " * 300,
    "the THE the, The. PR-interval's pr_interval 0.20s 200ms",
]


def item(text, reference=REFERENCE, number=0, **columns):
    question = Question(
        question_id=f"q{number}", set="hand", kind="open", question="What?", reference=reference
    )
    return question, Answer(question_id=f"q{number}", arm="arm", text=text, **columns)


def by_metric(scorer, *items):
    return [
        {s.metric: s for s in scorer.score(items) if s.question_id == question.question_id}
        for question, _ in items
    ]


def test_the_scorer_keeps_the_contract_and_names_known_metrics():
    assert isinstance(OverlapScorer(), Scorer)
    assert all(METRICS[metric].kind == "open" for metric in OverlapScorer.metrics)


@pytest.mark.parametrize("reference", [REFERENCE, ANSWERS[5], ANSWERS[7], "PR"])
def test_rouge_and_bleu_are_those_of_their_libraries(reference):
    library = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    items = [item(text, reference, number) for number, text in enumerate(ANSWERS)]
    for text, found in zip(ANSWERS, by_metric(OverlapScorer(), *items), strict=True):
        for name, wanted in library.score(reference, text).items():
            assert found[f"{name}_precision"].value == pytest.approx(wanted.precision, abs=1e-6)
            assert found[f"{name}_recall"].value == pytest.approx(wanted.recall, abs=1e-6)
            assert found[name].value == pytest.approx(wanted.fmeasure, abs=1e-6)
        bleu = sacrebleu.sentence_bleu(text, [reference], smooth_method="exp")
        assert found["bleu"].value == pytest.approx(bleu.score / 100, abs=1e-6)


def test_a_perfect_three_word_answer_has_bleu_one():
    """Paper, 3.4 no. 4: without smoothing it had 1e-77."""
    (found,) = by_metric(OverlapScorer(), item("Normal sinus rhythm", "Normal sinus rhythm"))
    assert found["bleu"].value == 1.0
    assert "smooth:exp" in found["bleu"].note
    assert "version:" in found["bleu"].note


def test_bleu_counts_words_not_characters():
    (found,) = by_metric(OverlapScorer(), item("prolonging intervals", "prolonged interval"))
    assert found["bleu"].value == 0


def test_precision_and_recall_stand_in_their_own_columns():
    (found,) = by_metric(OverlapScorer(), item("The PR interval is prolonged"))
    assert found["rouge1_precision"].value == 1.0
    assert found["rouge1_recall"].value < 0.5
    assert found["rouge1_recall"].value < found["rouge1"].value < 1.0


def test_citation_keys_are_no_words_of_an_answer():
    assert without_citations("It is long [1]. See [2, 3] and [12][4].") == ("It is long. See and.")
    assert without_citations("QT of [440] ms, [a], ST [0.1]") == "QT of [440] ms, [a], ST [0.1]"
    plain, cited = by_metric(
        OverlapScorer(), item("It is prolonged."), item("It is prolonged [1][2].", number=1)
    )
    assert plain["words"].value == cited["words"].value == 3
    assert plain["rouge1"].value == cited["rouge1"].value


@pytest.mark.parametrize(
    "head",
    [
        "assistant\n\n",
        " Assistant: ",
        "assistant:\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|im_start|>assistant\n",
        "<|assistant|>\n",
        "model\n",
    ],
)
def test_the_head_of_a_chat_turn_is_no_word_of_an_answer(head):
    """Paper, 3.4 no. 2: every local answer began with the word "assistant"."""
    said = "The PR interval is longer than 200 ms."
    plain, headed = by_metric(OverlapScorer(), item(said), item(head + said + " [1]", number=1))
    assert {name: score.value for name, score in plain.items()} == {
        name: score.value for name, score in headed.items()
    }
    assert compared(head) == ""


def test_an_assistant_that_an_answer_speaks_of_is_kept():
    for text in ("Assistant nurses record it.", "The assistant:\nshe records it.", "model of it"):
        assert compared(text) == text


def test_what_happened_to_an_answer_is_in_its_status():
    items = [
        item("", number=0),
        item("[1]", number=1),
        item("", number=2, status="error", reason="timeout"),
        item("I will not.", number=3, status="refused", reason="filter"),
        item("The PR", number=4, status="truncated"),
        item("The PR", reference="", number=5),
        item(NO_ANSWER, number=6),
    ]
    wanted = ["scored", "scored", "error", "unparsed", "scored", "not_applicable", "scored"]
    scorer = OverlapScorer()
    found = [scores["bleu"] for scores in by_metric(scorer, *items)]
    assert [score.status for score in found] == wanted
    assert (found[0].value, found[0].note) == (0, "empty answer")
    assert (found[1].value, found[1].note) == (0, "empty answer")
    assert found[2].note == "timeout"
    assert found[6].label == "abstained"
    assert {score.label for score in found[:6]} == {""}
    every = scorer.score(items)
    assert len(every) == len(items) * len(scorer.metrics)
    assert len({score.key for score in every}) == len(every)


def test_choice_questions_are_not_scored():
    question = Question(
        question_id="q", set="hand", kind="choice", question="?", options=("a", "b"), answer="A"
    )
    answer = Answer(question_id="q", arm="arm", text="A")
    assert OverlapScorer().score([(question, answer)]) == []
    assert corpus_bleu_estimates([(question, answer)], {"q": ("s/test",)}, {}, 100, 1) == []


def test_reference_likelihood_is_per_token():
    with_it, without = by_metric(
        OverlapScorer(),
        item("x", reference_logprob=-30.0, reference_tokens=20),
        item("x", number=1),
    )
    assert with_it["reference_likelihood"].value == -1.5
    assert without["reference_likelihood"].status == "not_applicable"


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
    found = corpus_bleu_estimates(items, subsets, clusters, 1000, 1)
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
    (row,) = corpus_bleu_estimates(pairs, subsets, {}, 100, 1)
    library = sacrebleu.corpus_bleu([answer] * 2, [[q.reference for q, _ in pairs]])
    assert row.value == pytest.approx(library.score / 100, abs=1e-9)


def test_what_an_arm_did_not_say_costs_its_corpus_bleu():
    """Paper, 3.4 no. 5: a failed answer left the denominator."""
    items, subsets, clusters = corpus(1, 40, 4)
    (whole,) = corpus_bleu_estimates(items, subsets, clusters, 100, 1)
    broken = [(question, answer.model_copy()) for question, answer in items]
    for place, (text, status) in enumerate([("x", "error"), ("No.", "refused"), (" [1]", "ok")]):
        question, answer = broken[place]
        columns = {"text": text, "status": status}
        broken[place] = (question, answer.model_copy(update=columns))
    (less,) = corpus_bleu_estimates(broken, subsets, clusters, 100, 1)
    hypotheses = ["", "", "", *(answer.text for _, answer in items[3:])]
    library = sacrebleu.corpus_bleu(hypotheses, [[question.reference for question, _ in items]])
    assert less.value == pytest.approx(library.score / 100, abs=1e-9)
    assert less.value < whole.value
    assert (less.questions, less.missing, less.missing_as) == (40, 2, "an empty answer")


def test_corpus_bleu_counts_a_question_in_all_its_subsets_and_in_no_other():
    items, subsets, clusters = corpus(1, 12, 1)
    subsets = {"q0": ("a/test", "b/test"), "q1": ("a/test",)}
    found = corpus_bleu_estimates(items, subsets, clusters, 100, 1)
    assert [(row.subset, row.questions) for row in found] == [("a/test", 2), ("b/test", 1)]
    without = (items[1][0].model_copy(update={"reference": " "}), items[1][1])
    (a, _) = corpus_bleu_estimates([items[0], without], subsets, clusters, 100, 1)
    assert a.questions == 1


def test_one_document_has_no_interval_and_a_few_have_a_wide_one():
    items, subsets, clusters = corpus(1, 12, 12)
    (one,) = corpus_bleu_estimates(items, subsets, clusters, 500, 1)
    assert (one.low, one.high, one.clusters) == (None, None, 1)
    assert one.method.startswith("corpus/none ")
    (few,) = corpus_bleu_estimates(items, subsets, {}, 500, 1)
    assert few.method.startswith("corpus/cluster_jackknife ")
    assert 0 <= few.low < few.value < few.high <= 1
    same = [item(REFERENCE, number=number) for number in range(40)]
    subsets = {f"q{number}": ("s/test",) for number in range(40)}
    (perfect,) = corpus_bleu_estimates(same, subsets, {}, 100, 1)
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
    (once,) = corpus_bleu_estimates(items, subsets, {}, 2000, 1)
    (clustered,) = corpus_bleu_estimates(twice, both, clusters, 2000, 1)
    (loose,) = corpus_bleu_estimates(twice, both, {}, 2000, 1)
    assert clustered.low == pytest.approx(once.low, abs=1e-9)
    assert clustered.high == pytest.approx(once.high, abs=1e-9)
    assert loose.high - loose.low < 0.85 * (once.high - once.low)
    assert corpus_bleu_estimates(items, subsets, {}, 2000, 2)[0].low != once.low


def test_intervals_of_corpus_bleu_hold_the_truth_as_often_as_they_say():
    """The truth is the BLEU of a large text; the others are drawn the same way."""
    (truth,) = corpus_bleu_estimates(*corpus(1, 4000, 1, seed=99), 1, 1)
    for clusters in (12, 40):
        made = [corpus_bleu_estimates(*corpus(1, clusters, 1, seed=n), 400, n) for n in range(60)]
        held = sum(row.low <= truth.value <= row.high for (row,) in made)
        assert held >= 60 * 0.95 - 3 * math.sqrt(60 * 0.95 * 0.05)
