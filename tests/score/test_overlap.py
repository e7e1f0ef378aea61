import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from ecg_llm.contracts import NO_ANSWER, NgramCounts, Scorer
from ecg_llm.records import METRICS, Answer, Question
from ecg_llm.score.overlap import (
    OverlapScorer,
    bleu_counts,
    compared,
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
    assert bleu_counts([(question, answer)]) == ([], "")


def test_reference_likelihood_is_per_token():
    with_it, without = by_metric(
        OverlapScorer(),
        item("x", reference_logprob=-30.0, reference_tokens=20),
        item("x", number=1),
    )
    assert with_it["reference_likelihood"].value == -1.5
    assert without["reference_likelihood"].status == "not_applicable"


def test_what_corpus_bleu_counts_in_an_answer():
    pairs = [
        item("PR prolonged [1]", "PR is prolonged", 1),
        item("x", number=2, status="error", repeat=1),
        item("No.", number=3, status="refused"),
        item("PR", " ", 4),
    ]
    rows, signature = bleu_counts(pairs)
    assert rows == [
        NgramCounts("q1", "arm", 0, False, (2, 3, 2, 0, 0, 0, 2, 1, 0, 0)),
        NgramCounts("q2", "arm", 1, True, (0, 15, *[0] * 8)),
        NgramCounts("q3", "arm", 0, True, (0, 15, *[0] * 8)),
    ]
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|")
    assert signature.endswith(f"version:{sacrebleu.__version__}")
