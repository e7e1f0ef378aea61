"""Open answers graded on the experts' scale: by a judge model, and by similarity without one."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from ecg_llm.citing import abstains
from ecg_llm.config import Judge
from ecg_llm.contracts import ChatModel, Decoding, Embedder, Message, Progress, Reply
from ecg_llm.prompt import prompt_sha, quoted, render
from ecg_llm.records import GRADES, Answer, Judgement, Passage, Question, Score, digest
from ecg_llm.score.choice import json_objects
from ecg_llm.score.overlap import blank, comparable, without_citations

HARMS = ("none", "possible", "severe")
THRESHOLDS: tuple[tuple[str, float], ...] = (
    ("correct", 0.85),
    ("correct but incomplete", 0.75),
    ("partially incorrect", 0.55),
    ("incorrect", -1.0),
)
"""Least cosine of each grade, with all-MiniLM-L6-v2. A convention, not a calibration: on 372
answers that the paper's experts rated, compared with answers of Claude that they rated correct,
the median cosine is .65 for incorrect, .83 for partially incorrect, .83 for correct but
incomplete and .86 for correct ones: it finds what is beside the point, and little else."""
BATCH = 16
"""Answers sent to the judge before any of its replies is stored."""
SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "quote": {"type": "string"},
        "verdict": {"type": "string", "enum": list(GRADES)},
        "harm": {"type": "string", "enum": list(HARMS)},
    },
    "required": ["reason", "quote", "verdict", "harm"],
    "additionalProperties": False,
}
"""The reason comes first, so that the verdict follows from it."""
NOT_SHOWN = "empty answer, not shown to the judge"


class SimilarityGrader:
    """Open answers graded by the cosine of their embedding with that of the reference.

    No judge: what is near the reference in topic can still be wrong. It stands in where no
    judge model is at hand.
    """

    metrics: tuple[str, ...] = ("reference_similarity",)

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def score(self, items: Sequence[tuple[Question, Answer]]) -> list[Score]:
        """Return one score for every answer to an open question; the label is the grade."""
        found, scores = comparable(self.metrics, items)
        texts = sorted({text for item in found for text in (item.text, item.reference) if text})
        vectors = dict(zip(texts, self.embedder.embed(texts), strict=True)) if texts else {}
        limits = ", ".join(f"{limit:g}" for _, limit in THRESHOLDS[:-1])
        for item in found:
            cosine = float(vectors[item.text] @ vectors[item.reference]) if item.text else -1.0
            grade = next(grade for grade, limit in THRESHOLDS if cosine >= limit or limit < 0)
            note = f"no judge model: cosine {cosine:.3f}, thresholds {limits}"
            if abstains(item.text):
                note += "; abstained"
            scores.append(item.scored(self.metrics[0], GRADES[grade], note, grade))
        return scores


def verdicts(
    judge_name: str,
    model: ChatModel,
    items: Sequence[tuple[Question, Answer]],
    passages: Mapping[str, Passage],
    settings: Judge,
    done: Collection[str] = (),
    progress: Progress = lambda done, total: None,
) -> Iterator[Judgement]:
    """Yield the judge's verdict on each open answer, one answer a call, reply as it came.

    The judge sees question, reference, the passage behind it and the answer without citation
    keys; never the arm. Failed and refused answers are not shown to it and yield a judgement
    that says so. Batches are the same whether or not some of their judgements are done.

    Args:
        judge_name: Name of the judge in study.yaml.
        model: The judge.
        items: Questions with their answers; those to choice questions are left out.
        passages: Passages by passage_id.
        settings: Length and temperature of the replies.
        done: The judgement_ids that need not be made again.
        progress: Called with (done, total) after each batch.

    Raises:
        ServerError: the judge cannot be reached; what was yielded before is good.
    """
    wanted = sorted(
        (item for item in items if item[0].kind == "open"), key=lambda item: item[1].key
    )
    decoding = Decoding(max_tokens=settings.max_tokens, temperature=settings.temperature)
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start : start + BATCH]
        ids = [judgement_id(judge_name, answer) for _, answer in batch]
        if not all(made in done for made in ids):
            shown = [item for item in batch if _unshown(item[1]) is None]
            prompts = [verdict_messages(q, a, passages.get(q.passage_id)) for q, a in shown]
            replies = iter(model.generate(prompts, decoding, SCHEMA) if prompts else [])
            shas = map(prompt_sha, prompts)
            for (_, answer), made in zip(batch, ids, strict=True):
                reply = _unshown(answer)
                sha = "" if reply else next(shas)
                reply = reply or next(replies)
                if made not in done:
                    yield _judgement(made, judge_name, model.name, answer, reply, sha)
        progress(min(start + BATCH, len(wanted)), len(wanted))


def judgement_id(judge_name: str, answer: Answer) -> str:
    """Return the key of this judge's verdict on this answer."""
    order = [answer.arm]
    return digest(
        judge_name, answer.question_id, "verdict", order, answer.repeat, answer.permutation
    )


def _unshown(answer: Answer) -> Reply | None:
    """Return what stands for the judge's reply to an answer that it need not see."""
    if answer.status == "error":
        return Reply("", "error", f"the answer failed: {answer.reason}")
    if answer.status == "refused":
        return Reply("", "refused", f"the answer was refused: {answer.reason}")
    return None if without_citations(answer.text) else Reply("", "ok", NOT_SHOWN)


def _judgement(
    made: str, judge_name: str, model: str, answer: Answer, reply: Reply, sha: str
) -> Judgement:
    return Judgement(
        judgement_id=made,
        judge=judge_name,
        question_id=answer.question_id,
        mode="verdict",
        order=(answer.arm,),
        repeat=answer.repeat,
        reply=reply.text,
        status=reply.status,
        reason=reply.reason,
        model=model,
        prompt_sha=sha,
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
    )


def verdict_messages(question: Question, answer: Answer, passage: Passage | None) -> list[Message]:
    """Return the chat that asks for a verdict on one answer.

    The answer stands between two lines that its author could not foresee. Citation keys are
    taken out, since they would tell which arms looked into the literature.
    """
    text = without_citations(answer.text)
    evidence = [part for part in (question.evidence, passage.text if passage else "") if part]
    if passage and question.evidence in passage.text:
        evidence = [passage.text]
    asked = f"{question.question}\n\n{question.context}" if question.context else question.question
    values = {
        "question": quoted(asked),
        "reference": quoted(question.reference) or "(none given)",
        "evidence": "\n\n".join(evidence) or "(none given)",
        "answer": text,
        "fence": f"=== {digest(question.question_id, text, length=12)} ===",
    }
    return [{"role": "user", "content": render("verdict", values)}]


class Verdict(NamedTuple):
    """What a judge's reply says."""

    grade: str
    harm: str
    reason: str


def read_verdict(reply: str) -> Verdict | None:
    """Return the verdict of the JSON object that ends a reply, None if it ends otherwise."""
    objects = json_objects(reply)
    # What stands further up may be quoted from the answer.
    if not objects or re.search(r"\w", reply[objects[-1][1] :]):
        return None
    last = objects[-1][0]
    grade = " ".join(str(last.get("verdict", "")).lower().replace("_", " ").split())
    if grade not in GRADES:
        return None
    harm = str(last.get("harm", "")).strip().lower()
    return Verdict(grade, harm if harm in HARMS else "not stated", str(last.get("reason", "")))


def verdict_scores(judgements: Sequence[Judgement], answers: Sequence[Answer]) -> list[Score]:
    """Return the score of each verdict; the label is the grade, the note harm and reason.

    A reply without a verdict is "unparsed", a failed answer or call an "error".
    """
    by_id = {
        judgement_id(judge, answer): answer
        for judge in {judgement.judge for judgement in judgements}
        for answer in answers
    }
    scores = []
    for judgement in judgements:
        answer = by_id.get(judgement.judgement_id)
        if judgement.mode == "verdict" and answer is not None:
            scores.append(_verdict_score(judgement, answer))
    return scores


def _verdict_score(judgement: Judgement, answer: Answer) -> Score:
    score = blank("verdict", answer).model_copy(update={"rater": judgement.judge})
    if judgement.reason == NOT_SHOWN:
        update = {"value": 0.0, "label": "incorrect", "note": "empty answer", "status": "scored"}
        return score.model_copy(update=update)
    if judgement.status == "error":
        return score.model_copy(update={"status": "error", "note": judgement.reason})
    verdict = read_verdict(judgement.reply)
    if verdict is None:
        what = judgement.reason or "no JSON object with a verdict at the end of the reply"
        return score.model_copy(update={"note": f"{judgement.status}: {what}"})
    return score.model_copy(
        update={
            "value": GRADES[verdict.grade],
            "label": verdict.grade,
            "note": f"harm {verdict.harm}: {verdict.reason}",
            "status": "scored",
        }
    )
