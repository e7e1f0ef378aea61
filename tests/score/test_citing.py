import pytest

from ecg_llm.contracts import NO_ANSWER, Scorer
from ecg_llm.embed import SentenceEmbedder
from ecg_llm.records import METRICS, Answer, Citation, Question
from ecg_llm.score.citing import CitationScorer
from ecg_llm.testing import passage

PR = passage("The normal PR interval of adults lasts 120 to 200 ms.")
DRUG = passage("Amiodarone prolongs the QT interval.", doc_id="e" * 16)
SHOWN = tuple(Citation(passage_id=row.passage_id, score=1.0) for row in (PR, DRUG))


@pytest.fixture(scope="module")
def scorer():
    return CitationScorer(SentenceEmbedder(), {row.passage_id: row for row in (PR, DRUG)})


def item(text, number=0, kind="open", shown=SHOWN, **columns):
    question = Question(question_id=f"q{number}", set="s", kind=kind, question="What is known?")
    return question, Answer(
        question_id=f"q{number}", arm="arm", text=text, passages=shown, **columns
    )


def scores(scorer, *items):
    return {(row.question_id, row.metric): row for row in scorer.score(items)}


def values(scorer, *args, **columns):
    found = scores(scorer, item(*args, **columns))
    return {metric: row.value for (_, metric), row in found.items()}


def test_it_is_a_scorer_of_known_metrics_for_open_questions(scorer):
    assert isinstance(scorer, Scorer)
    assert all(METRICS[metric].kind == "open" for metric in scorer.metrics)
    assert scorer.score([]) == []
    assert scorer.score([item("B", kind="choice")]) == []


def test_an_answer_is_scored_by_what_it_cites(scorer):
    text = (
        "The normal PR interval of adults lasts 120 to 200 ms [1]. Amiodarone prolongs the QT "
        "interval [7]. Amiodarone shortens the QT interval [2]. Bread needs flour."
    )
    found = scores(scorer, item(text))
    assert {metric: row.value for (_, metric), row in found.items()} == {
        "abstained": 0,
        "claims_cited": 0.5,
        "citation_recall": 0.25,
        "citation_precision": pytest.approx(1 / 3),
        "keys_not_given": 1,
    }
    assert found["q0", "keys_not_given"].note == "[7]"
    note = found["q0", "citation_recall"].note
    assert note.startswith("1 of 4, lexical and by embedding, no model; ")
    assert "the other way round: shortens: 'Amiodarone shortens" in note
    assert "no passage cited: 'Bread needs flour.'" in note


def test_an_abstention_claims_nothing(scorer):
    found = scores(scorer, item(NO_ANSWER))
    assert found["q0", "abstained"].value == 1
    assert found["q0", "abstained"].label == "abstained"
    assert found["q0", "keys_not_given"].value == 0
    for metric in ("claims_cited", "citation_recall", "citation_precision"):
        assert (found["q0", metric].status, found["q0", metric].note) == (
            "not_applicable",
            "no claims",
        )


@pytest.mark.parametrize(
    ("text", "recall", "precision", "note"),
    [
        ("The normal PR interval of adults lasts 120 to 200 ms [1].", 1, 1, "1 of 1"),
        ("The normal PR interval of adults lasts 120 to 200 ms [1, 2].", 1, 0.5, "1 of 2"),
        ("The normal PR interval of adults lasts 120 to 200 ms [1, 9].", 1, 0.5, "1 of 2"),
        ("The normal PR interval of adults lasts 120 to 200 ms [2].", 0, 0, "0 of 1"),
        ("The normal PR interval of adults lasts 120 to 200 ms [9].", 0, 0, "0 of 1"),
        (
            "The normal PR interval of adults lasts 120 to 200 ms [1]. Bread needs flour. "
            "Amiodarone prolongs the QT interval [2].",
            2 / 3,
            1,
            "2 of 2",
        ),
        (
            "The normal PR interval of adults lasts 120 to 200 ms [1]. Amiodarone prolongs the QT "
            "interval [1][2].",
            1,
            2 / 3,
            "2 of 3",
        ),
    ],
)
def test_precision_counts_citations_and_recall_counts_claims(scorer, text, recall, precision, note):
    found = scores(scorer, item(text))
    assert found["q0", "citation_recall"].value == pytest.approx(recall)
    assert found["q0", "citation_precision"].value == pytest.approx(precision)
    assert found["q0", "citation_precision"].note == f"{note}, lexical and by embedding, no model"


def test_without_citations_there_is_no_precision(scorer):
    found = scores(scorer, item("The normal PR interval of adults lasts 120 to 200 ms."))
    assert found["q0", "citation_recall"].value == 0
    score = found["q0", "citation_precision"]
    assert (score.status, score.note) == ("not_applicable", "no citations")


def test_the_head_of_a_chat_turn_claims_nothing(scorer):
    """Paper, 3.4 no. 2: every local answer began with the word "assistant"."""
    said = "Amiodarone prolongs the QT interval [2]."
    assert values(scorer, f"assistant\n\n{said}") == values(scorer, said)
    assert values(scorer, said)["claims_cited"] == 1


def test_an_abstention_with_a_claim_is_both(scorer):
    found = values(scorer, f"Amiodarone prolongs the QT interval [2]. {NO_ANSWER}")
    assert (found["abstained"], found["citation_recall"]) == (1, 1)


def test_an_arm_without_passages_can_only_abstain(scorer):
    found = scores(scorer, item("Amiodarone prolongs the QT interval [1].", shown=()))
    assert found["q0", "abstained"].value == 0
    others = {row.status for (_, metric), row in found.items() if metric != "abstained"}
    assert others == {"not_applicable"}


def test_an_empty_answer_neither_abstains_nor_claims(scorer):
    found = scores(scorer, item(" "))
    assert (found["q0", "abstained"].value, found["q0", "abstained"].note) == (0, "empty answer")
    assert found["q0", "citation_recall"].status == "not_applicable"


def test_failed_and_refused_answers_keep_their_reason(scorer):
    gone = (Citation(passage_id="gone", score=1.0),)
    found = scores(
        scorer,
        item("", 0, status="error", reason="no memory"),
        item("", 1, status="refused", reason="filter"),
        item("A claim is made [1].", 2, shown=gone),
        item("Amiodarone prolongs the QT interval [2].", 3, status="truncated"),
    )
    assert len(found) == 20
    assert {(r.status, r.note) for (q, _), r in found.items() if q == "q0"} == {
        ("error", "no memory")
    }
    assert {(r.status, r.note) for (q, _), r in found.items() if q == "q1"} == {
        ("unparsed", "refused: filter")
    }
    assert {(r.status, r.note) for (q, _), r in found.items() if q == "q2"} == {
        ("error", "passage gone is not in passages.jsonl")
    }
    assert found["q3", "citation_recall"].value == 1


def test_repeats_and_arms_keep_apart(scorer):
    rows = scorer.score([item("Amiodarone prolongs the QT interval [2].", repeat=2)])
    assert {(row.arm, row.repeat) for row in rows} == {("arm", 2)}
    assert len({row.key for row in rows}) == len(rows) == 5
