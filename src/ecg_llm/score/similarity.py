"""Open answers graded by their similarity to the reference, where no judge model is at hand."""

from collections.abc import Sequence

from ecg_llm.citing import abstains
from ecg_llm.contracts import Embedder
from ecg_llm.records import GRADES, Answer, Question, Score
from ecg_llm.score.overlap import comparable

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
