import numpy as np

from ecg_llm.contracts import NO_ANSWER, Scorer
from ecg_llm.embed import SentenceEmbedder
from ecg_llm.records import GRADES, METRICS, Answer, Question
from ecg_llm.score.similarity import SimilarityGrader

QUESTION = Question(
    question_id="q1",
    set="hand",
    kind="open",
    question="What defines first-degree AV block?",
    reference="A PR interval above 200 ms.",
)


def answer(text="A PR interval above 200 ms.", arm="arm", **columns):
    return Answer(question_id="q1", arm=arm, text=text, **columns)


class Letters:
    """A small embedder: counts of letters, unit length."""

    name = "letters"

    def embed(self, texts):
        counts = np.array(
            [[text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
        )
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]


def test_the_similarity_grader_with_the_real_embedder():
    texts = ["The PR interval is longer than 200 ms.", "The T wave shows repolarization."]
    items = [(QUESTION, answer(text, arm=str(i))) for i, text in enumerate(texts)]
    near, beside = SimilarityGrader(SentenceEmbedder("minilm")).score(items)
    assert near.value > beside.value


def test_the_similarity_grader_says_that_it_is_no_judge():
    grader = SimilarityGrader(Letters())
    assert isinstance(grader, Scorer)
    assert all(METRICS[metric].kind == "open" for metric in grader.metrics)
    items = [
        (QUESTION, answer(QUESTION.reference, arm="same")),
        (QUESTION, answer(QUESTION.reference + " [1]", arm="cited")),
        (QUESTION, answer("zzz", arm="other")),
        (QUESTION, answer("", arm="empty")),
        (QUESTION, answer(NO_ANSWER, arm="abstained")),
        (QUESTION, answer("", arm="failed", status="error", reason="timeout")),
    ]
    scores = {score.arm: score for score in grader.score(items)}
    assert (scores["same"].value, scores["same"].label) == (1.0, "correct")
    assert scores["cited"].value == 1.0
    assert (scores["other"].value, scores["other"].label) == (0.0, "incorrect")
    assert scores["other"].note.startswith("no judge model: cosine 0.000, thresholds 0.85, ")
    assert (scores["empty"].value, scores["empty"].note) == (0.0, "empty answer")
    assert scores["abstained"].note.endswith("abstained")
    assert scores["failed"].status == "error"
    assert all(
        score.value == GRADES[score.label] for score in scores.values() if score.status == "scored"
    )
    assert grader.score([]) == []
