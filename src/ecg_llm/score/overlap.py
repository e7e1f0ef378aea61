"""Open answers against their reference: BLEU and ROUGE by their libraries."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import metadata
from typing import Any, NamedTuple

from ecg_llm.citing import abstains
from ecg_llm.contracts import NgramCounts
from ecg_llm.records import Answer, Question, Score

CITATIONS = re.compile(r"[^\S\n]*\[\d{1,2}(?:\s*[,;]\s*\d{1,2})*\]")
"""Citation keys as prompts ask for them: [1], [2, 3]."""
ROLE = re.compile(
    r"\A\s*(?:<\|\w+\|>\s*)*"
    r"(?:(?:assistant|model)\s*(?:<\|\w+\|>|:?\s*\n|:?\s*\Z)|assistant\s*:)?\s*",
    re.IGNORECASE,
)
"""The head of a chat turn, as a server with the wrong template lets it through."""
ROUGE = ("rouge1", "rouge2", "rougeL")


def without_citations(text: str) -> str:
    """Return an answer's text without citation keys, which no reference has."""
    return CITATIONS.sub("", text).strip()


def without_role(text: str) -> str:
    """Return an answer's text without the head of a chat turn ("assistant") before it."""
    return ROLE.sub("", text)


def compared(text: str) -> str:
    """Return what of an answer is compared: no citation keys, no head of a chat turn."""
    return without_citations(without_role(text))


class Item(NamedTuple):
    """An open answer that can be compared with its reference."""

    answer: Answer
    text: str
    """What of the answer is compared; may be empty."""
    reference: str
    abstains: bool

    def scored(self, metric: str, value: float, note: str, label: str = "") -> Score:
        """Return this answer's score; an empty answer's is 0, whatever the library says."""
        if not self.text:
            value, note = 0.0, "empty answer"
        label = label or ("abstained" if self.abstains else "")
        return Score(**_key(self.answer), metric=metric, value=float(value), label=label, note=note)


def blank(metric: str, answer: Answer) -> Score:
    """Return the score of an answer whose value is not known."""
    return Score(**_key(answer), metric=metric, status="unparsed")


def _key(answer: Answer) -> dict[str, Any]:
    return {name: getattr(answer, name) for name in Answer.key_columns}


def comparable(
    metrics: Sequence[str], items: Sequence[tuple[Question, Answer]]
) -> tuple[list[Item], list[Score]]:
    """Return the open answers that can be compared, and the scores of those that cannot.

    A failed answer scores "error", a refused one "unparsed"; without a reference there is
    nothing to compare with, which is "not_applicable". Answers to choice questions give nothing.
    """
    found, others = [], []
    for question, answer in items:
        if question.kind != "open":
            continue
        if answer.status == "error":
            outcome = {"status": "error", "note": answer.reason}
        elif not question.reference.strip():
            outcome = {"status": "not_applicable", "note": "no reference"}
        elif answer.status == "refused":
            outcome = {"note": f"refused: {answer.reason}"}
        else:
            said = compared(answer.text)
            found.append(Item(answer, said, question.reference, abstains(said)))
            continue
        others += [blank(metric, answer).model_copy(update=outcome) for metric in metrics]
    return found, others


class OverlapScorer:
    """BLEU, ROUGE-1/2/L with stemming, words, and the likelihood of the reference.

    Sentence BLEU is sacrebleu's with effective order and exponential smoothing, from 0 to 1.
    ROUGE is rouge-score's, whose tokenizer knows a to z only: it splits German words at umlauts.
    Citation keys and a leading "assistant" are taken out of the answers first. An empty answer has
    0; the sentence with which an arm abstains is scored as any text, with the label "abstained".
    """

    metrics: tuple[str, ...] = (
        "bleu",
        *(f"{rouge}{part}" for rouge in ROUGE for part in ("_precision", "_recall", "")),
        "words",
        "reference_likelihood",
    )

    def score(self, items: Sequence[tuple[Question, Answer]]) -> list[Score]:
        """Return twelve scores for every answer to an open question."""
        from sacrebleu.metrics import BLEU

        bleu = BLEU(smooth_method="exp", effective_order=True)
        rouge = _rouge()
        rouge_note = f"rouge-score {metadata.version('rouge-score')}, stemmed"
        found, scores = comparable(self.metrics[:-1], items)
        for item in found:
            value = min(1.0, bleu.sentence_score(item.text, [item.reference]).score / 100)
            scores.append(item.scored("bleu", value, str(bleu.get_signature())))
            for name, parts in rouge.score(item.reference, item.text).items():
                scores.append(item.scored(f"{name}_precision", parts.precision, rouge_note))
                scores.append(item.scored(f"{name}_recall", parts.recall, rouge_note))
                scores.append(item.scored(name, parts.fmeasure, rouge_note))
            scores.append(item.scored("words", len(item.text.split()), "without citation keys"))
        return scores + list(_reference_likelihoods(items))


def _rouge() -> Any:
    """Return rouge-score's scorer with its own tokenizer and stemmer, which stems a word once."""
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    tokenizer = DefaultTokenizer(use_stemmer=True)
    tokenizer._stemmer.stem = lru_cache(100_000)(tokenizer._stemmer.stem)
    return RougeScorer(ROUGE, tokenizer=tokenizer)


def _reference_likelihoods(items: Sequence[tuple[Question, Answer]]) -> Iterator[Score]:
    for question, answer in items:
        if question.kind != "open":
            continue
        score = blank("reference_likelihood", answer)
        if answer.reference_logprob is None or not answer.reference_tokens:
            yield score.model_copy(update={"status": "not_applicable", "note": "no likelihoods"})
        else:
            value = answer.reference_logprob / answer.reference_tokens
            update = {"value": value, "status": "scored", "note": "nats per token"}
            yield score.model_copy(update=update)


def bleu_counts(items: Sequence[tuple[Question, Answer]]) -> tuple[list[NgramCounts], str]:
    """Return what sacrebleu's corpus BLEU counts in each open answer, and sacrebleu's signature.

    A failed or refused answer counts as an empty one. Questions without a reference are left out.
    """
    from sacrebleu.metrics import BLEU

    items = [pair for pair in items if pair[0].kind == "open" and pair[0].reference.strip()]
    references = list(dict.fromkeys(question.reference for question, _ in items))
    if not references:
        return [], ""
    bleu = BLEU(references=[references])
    read = dict(zip(references, bleu._ref_cache, strict=True))
    rows = []
    for question, answer in items:
        missing = answer.status in ("error", "refused")
        said = bleu._preprocess_segment("" if missing else compared(answer.text))
        counts = bleu._compute_segment_statistics(said, read[question.reference])
        key = answer.question_id, answer.arm, answer.repeat
        rows.append(NgramCounts(*key, missing, tuple(counts)))
    return rows, str(bleu.get_signature())
