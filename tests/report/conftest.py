"""A made study as large as a real one: 6 arms, 2 subsets, 60 choice and 30 open questions."""

import random

import pytest

from ecg_llm import config
from ecg_llm.records import (
    Answer,
    Citation,
    Document,
    Draft,
    Judgement,
    Passage,
    Question,
    Score,
    Training,
)
from ecg_llm.stats.estimate import estimates

ARMS = ("base", "tuned", "base+rag", "tuned+rag", "frontier-api", "extractive")
ABILITY = {
    "base": 0.48, "tuned": 0.58, "base+rag": 0.76, "tuned+rag": 0.78, "frontier-api": 0.80,
    "extractive": 0.36,
}  # fmt: skip
STEMS = (
    "Which finding is typical of complete left bundle branch block?",
    "What does a delta wave indicate?",
    "Which electrolyte disturbance shortens the QT interval?",
    "How is Mobitz type II told apart from type I?",
    "Which lead is closest to the right ventricular outflow tract?",
)
LETTERS = "ABCD"


def make_study(nano=False):
    base = (
        {"kind": "nano"}
        if nano
        else {"kind": "local", "id": "meta-llama/Llama-3.1-8B-Instruct", "revision": "0e9e39f"}
    )
    return config.parse(
        {
            "title": "Electrocardiography handbook: which adaptation answers best?",
            "models": {
                "llama": base,
                "claude": {
                    "kind": "api", "base_url": "https://gateway.example.org/v1",
                    "model": "claude-sonnet", "price_in": 3.0, "price_out": 15.0,
                },
                "sentences": {"kind": "extractive"},
            },
            "adapters": {"ecg": {"model": "llama", "rank": 256, "alpha": 128}},
            "arms": {
                "base": {"model": "llama"},
                "tuned": {"model": "llama", "adapter": "ecg"},
                "base+rag": {"model": "llama", "retrieve": True},
                "tuned+rag": {"model": "llama", "adapter": "ecg", "retrieve": True},
                "frontier-api": {"model": "claude"},
                "extractive": {"model": "sentences", "retrieve": True},
            },
            "scores": {"judges": {"panel-1": {"model": "claude"}}},
            "estimates": {"resamples": 1000},
        }
    )  # fmt: skip


def make_tables(arms=ARMS):
    rng = random.Random(3)
    documents = [
        Document(
            path=f"{i:02}-chapter.pdf", doc_id=f"{i:016x}", title=f"Chapter {i}", pages=12,
            group=f"group{i}", status="ok",
        )
        for i in range(10)
    ]  # fmt: skip
    documents += [
        Document(path="scans/old-atlas.pdf", doc_id="f" * 16, pages=40, status="unreadable",
                 reason="scanned", note="Install ocrmypdf and run again."),
        Document(path="photo.pdf", doc_id="e" * 16, status="unreadable", reason="not_a_pdf"),
        Document(path="copy-of-03-chapter.pdf", doc_id=f"{3:016x}", status="duplicate",
                 reason="same_content", note="same as 03-chapter.pdf"),
        Document(path="05-part-two.pdf", doc_id="d" * 16, pages=30, status="partial",
                 reason="unread_pages", note="Pages 7 and 8 are scanned."),
    ]  # fmt: skip
    passages = [
        Passage(
            passage_id=f"p{i}-{k}", doc_id=f"{i:016x}", start=k * 900, end=k * 900 + 880,
            page_from=k + 1, page_to=k + 1 + k % 2, kind=("body", "table", "caption")[k % 7 % 3],
            text="The QRS complex is wide. " * 8, tokens=180 + k,
        )
        for i in range(10)
        for k in range(14)
    ]  # fmt: skip
    drafts = [
        Draft(draft_id=f"d{i}", passage_ids=(p.passage_id,), kind="choice" if i % 2 else "open",
              reply="{}", status="ok" if i % 9 else "truncated")
        for i, p in enumerate(passages)
    ]  # fmt: skip
    questions = []
    for i in range(90):
        choice, group = i < 60, i // 2 % 10
        questions.append(
            Question(
                question_id=f"q{i:03}", set="handbook", kind="choice" if choice else "open",
                question=STEMS[i % 5],
                options=("Broad notched R in I and V6", "Short PR", "Delta wave", "U wave")
                if choice else (),
                answer=LETTERS[i % 4] if choice else "",
                reference="" if choice else "A broad, notched R wave in the lateral leads.",
                evidence="The QRS complex is wide.", passage_id=f"p{group}-{i % 14}",
                doc_id=f"{group:016x}", group=f"group{group}",
                split="test" if i % 2 else "test_seen",
            )
        )  # fmt: skip
    dropped = (("duplicate", 11), ("not_self_contained", 7), ("no_evidence", 4))
    questions += [
        Question(question_id=f"x{reason}{i}", set="written", kind="open", question="In this study?",
                 status="dropped", reason=reason)
        for reason, count in dropped
        for i in range(count)
    ]  # fmt: skip
    answers, scores = [], []
    for question in questions[:90]:
        hard = rng.gauss(0, 0.05) + (int(question.group[5:]) - 5) * 0.03
        for arm in arms:
            right = rng.random() < ABILITY[arm] - hard
            failed = arm == "frontier-api" and rng.random() < 0.02
            shown = tuple(
                Citation(passage_id=p, score=0.5)
                for p in dict.fromkeys(
                    (f"p{rng.randrange(10)}-2", question.passage_id if right else "p1-1")
                )
            )
            letter = question.answer if right else LETTERS[(LETTERS.find(question.answer) + 1) % 4]
            text = (
                f"The correct answer is {letter}."
                if question.kind == "choice"
                else (
                    "A broad, notched R wave in I, aVL, V5 and V6 with a QRS of at least 120 ms."
                    if right
                    else "It shows a short PR interval."
                )
            )
            answers.append(
                Answer(
                    question_id=question.question_id, arm=arm, text="" if failed else text,
                    status="error" if failed else "ok", reason="timeout" if failed else "",
                    passages=shown if "rag" in arm or arm == "extractive" else (),
                    model=f"{arm}@1", tokens_in=120 + 900 * ("rag" in arm), tokens_out=24,
                )
            )  # fmt: skip
            scores += _scores(question, arm, right, failed, letter, rng)
    judgements = [
        Judgement(judgement_id=f"j{i}", judge="panel-1", question_id=a.question_id,
                  mode="verdict", order=(a.arm,), reply="{}")
        for i, a in enumerate(answers)
        if a.question_id >= "q060"
    ]  # fmt: skip
    training = [
        Training(
            adapter="ecg", phase="tune", step=step, loss=1.1 + 2.2 / (1 + step / 60),
            eval_loss=1.35 + 1.7 / (1 + step / 50) if step % 100 == 0 else None,
            eval_choice=0.5 + step / 4000 if step % 100 == 0 else None, tokens=step * 4096,
        )
        for step in range(10, 610, 10)
    ]  # fmt: skip
    kept = [q for q in questions if q.status == "kept"]
    subsets_of = {q.question_id: q.subsets for q in kept}
    cluster_of = {q.question_id: q.group for q in kept}
    return {
        "documents": documents,
        "passages": passages,
        "drafts": drafts,
        "questions": questions,
        "training": training,
        "answers": answers,
        "judgements": judgements,
        "scores": scores,
        "estimates": estimates(scores, subsets_of, cluster_of, (), 1000, 5),
    }


def _scores(question, arm, right, failed, letter, rng):
    def made(metric, value, label=""):
        return Score(
            question_id=question.question_id, arm=arm, metric=metric, label=label,
            value=None if failed else value, status="error" if failed else "scored",
        )  # fmt: skip

    if question.kind == "choice":
        yield made("accuracy", float(right), letter)
        if arm in ("base", "tuned", "base+rag", "tuned+rag"):
            yield made("accuracy_likelihood", float(right or rng.random() < 0.1))
        return
    quality = min(0.99, max(0.02, rng.gauss(0.5 if right else 0.25, 0.1)))
    tuned = 0.12 if "tuned" in arm else 0.0
    for metric in ("rouge1", "rouge1_precision", "rouge1_recall", "rougeL", "bleu", "bertscore"):
        yield made(metric, min(0.99, quality * (0.4 if metric == "bleu" else 0.8) + tuned))
    yield made("verdict", (0.75 if rng.random() < 0.3 else 1.0) if right else 0.25)
    yield made("reference_similarity", min(0.99, quality + 0.2))
    yield made("words", float(rng.randint(12, 40)))


@pytest.fixture(scope="session")
def tables():
    """The tables of the made study; rows are frozen, so tests may share them."""
    return make_tables()


@pytest.fixture(scope="session")
def study():
    return make_study()
