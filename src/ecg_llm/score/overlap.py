"""Open answers against their reference: BLEU and ROUGE by their libraries."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from ecg_llm.citing import abstains
from ecg_llm.records import Answer, Estimate, Question, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CITATIONS = re.compile(r"[^\S\n]*\[\d{1,2}(?:\s*[,;]\s*\d{1,2})*\]")
"""Citation keys as prompts ask for them: [1], [2, 3]."""
ROLE = re.compile(
    r"\A\s*(?:<\|\w+\|>\s*)*"
    r"(?:(?:assistant|model)\s*(?:<\|\w+\|>|:?\s*\n|:?\s*\Z)|assistant\s*:)?\s*",
    re.IGNORECASE,
)
"""The head of a chat turn, as a server with the wrong template lets it through."""
ROUGE = ("rouge1", "rouge2", "rougeL")
FEW_CLUSTERS = 30
"""Below this number of clusters the bootstrap is too narrow and the jackknife takes its place."""
LEVEL = 0.95
BLOCK = 4_000_000
"""Cells of the resampling matrix held at once, about 32 MB."""


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


def corpus_bleu_estimates(
    items: Sequence[tuple[Question, Answer]],
    subsets_of: Mapping[str, tuple[str, ...]],
    cluster_of: Mapping[str, str],
    resamples: int,
    seed: int,
) -> list[Estimate]:
    """Return sacrebleu's corpus BLEU, from 0 to 1, of every arm's open answers in every subset.

    The answers of an arm to the questions of a subset are one text, repeats included. A failed,
    refused or empty answer is an empty line of it, so that it costs what it leaves out; failed and
    refused ones are counted in `missing`. Questions without a reference are left out. `method`
    holds how the interval was made, and sacrebleu's signature.

    Intervals are those of whole clusters: drawn with replacement, on the n-gram counts that BLEU
    is computed from (Koehn 2004, by document), the same draws for all arms; with fewer than 30
    clusters by the jackknife and Student's t. There is none without variation between clusters.

    Args:
        items: any number of arms.
        subsets_of: question_id -> every "set/split" it counts in; others are left out.
        cluster_of: question_id -> group; a question without one is a cluster of its own.
        resamples: number of bootstrap draws.
        seed: of the draws.
    """
    import numpy as np
    from sacrebleu.metrics import BLEU

    items = [pair for pair in items if pair[0].kind == "open" and pair[0].reference.strip()]
    references = list(dict.fromkeys(question.reference for question, _ in items))
    if not references:
        return []
    bleu = BLEU(references=[references])
    read = dict(zip(references, bleu._ref_cache, strict=True))
    parts: defaultdict[str, list[_Counted]] = defaultdict(list)
    for question, answer in items:
        missing = answer.status in ("error", "refused")
        said = bleu._preprocess_segment("" if missing else compared(answer.text))
        counts = bleu._compute_segment_statistics(said, read[question.reference])
        cluster = cluster_of.get(answer.question_id) or f"question {answer.question_id}"
        row = _Counted(answer.arm, answer.question_id, cluster, missing, counts)
        for subset in subsets_of.get(answer.question_id, ()):
            parts[subset].append(row)
    made = []
    for subset, rows in sorted(parts.items()):
        arms = sorted({row.arm for row in rows})
        clusters = sorted({row.cluster for row in rows})
        arm_of = {arm: place for place, arm in enumerate(arms)}
        place_of = {cluster: place for place, cluster in enumerate(clusters)}
        sums = np.zeros((len(clusters), len(arms), len(rows[0].counts)))
        for row in rows:
            sums[place_of[row.cluster], arm_of[row.arm]] += row.counts
        drawn = _drawn(sums, resamples, seed) if len(clusters) >= FEW_CLUSTERS else None
        for place, arm in enumerate(arms):
            own = [row for row in rows if row.arm == arm]
            held = sorted({place_of[row.cluster] for row in own})
            limits, method = _limits(sums[held, place], None if drawn is None else drawn[:, place])
            made.append(
                Estimate(
                    metric="bleu_corpus", subset=subset, arm=arm,
                    method=f"corpus/{method} {bleu.get_signature()}",
                    value=float(_bleu(sums[:, place].sum(axis=0))), low=limits[0], high=limits[1],
                    questions=len({row.question_id for row in own}), clusters=len(held),
                    missing=sum(row.missing for row in own), missing_as="an empty answer",
                    seed=seed,
                )
            )  # fmt: skip
    return made


class _Counted(NamedTuple):
    """An answer by what BLEU counts in it."""

    arm: str
    question_id: str
    cluster: str
    missing: bool
    counts: list[int]
    """Length of the answer and of the reference, then for n of 1 to 4 the n-grams in common, and
    those of the answer."""


def _bleu(counts: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return BLEU, from 0 to 1, of counts along the last axis: sacrebleu's compute_bleu, for many.

    Exponential smoothing, four orders; 0 where an order has no n-gram at all.
    """
    import numpy as np

    length, wanted = counts[..., 0], counts[..., 1]
    common, total = np.split(counts[..., 2:], 2, axis=-1)
    none = common == 0
    halvings = 2.0 ** np.cumsum(none, axis=-1)
    precision = np.where(none, 1 / halvings, common) / np.maximum(total, 1)
    brevity = np.exp(np.minimum(0.0, 1 - wanted / np.maximum(length, 1)))
    value = brevity * np.exp(np.log(precision).mean(axis=-1))
    return np.where((total > 0).all(axis=-1) & ~none.all(axis=-1), np.minimum(value, 1.0), 0.0)


def _drawn(sums: "NDArray[np.float64]", resamples: int, seed: int) -> "NDArray[np.float64]":
    """Return BLEU over clusters drawn with replacement, shape (resamples, arms).

    `sums` are the counts of each cluster and arm. How often a cluster is drawn is a row of weights,
    so that all sums of a block are one matrix product.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    clusters, arms, width = sums.shape
    flat = sums.reshape(clusters, arms * width)
    made = np.empty((resamples, arms))
    step = max(1, BLOCK // max(clusters, arms * width))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, clusters, size=(rows, clusters), dtype=np.int64)
        drawn += np.arange(rows)[:, None] * clusters
        weights = np.bincount(drawn.ravel(), minlength=rows * clusters)
        weights = weights.reshape(rows, clusters).astype(float)
        made[start : start + rows] = _bleu((weights @ flat).reshape(rows, arms, width))
    return made


def _limits(
    sums: "NDArray[np.float64]", drawn: "NDArray[np.float64] | None"
) -> tuple[tuple[float | None, float | None], str]:
    """Return the interval of an arm's BLEU and how it was made, from the counts of its clusters."""
    import numpy as np
    from scipy import stats

    clusters = len(sums)
    without = _bleu(sums.sum(axis=0) - sums)
    if clusters < 2 or np.ptp(without) < 1e-12:
        return (None, None), "none"
    if drawn is not None and clusters >= FEW_CLUSTERS:
        tail = 50 * (1 - LEVEL)
        low, high = np.percentile(drawn, [tail, 100 - tail])
        return (float(low), float(high)), "cluster_bootstrap"
    value = float(_bleu(sums.sum(axis=0)))
    error = np.sqrt((clusters - 1) / clusters * ((without - without.mean()) ** 2).sum())
    half = float(stats.t.ppf(0.5 + LEVEL / 2, clusters - 1) * error)
    return (max(0.0, value - half), min(1.0, value + half)), "cluster_jackknife"
