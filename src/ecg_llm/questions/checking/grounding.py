"""Is an answer supported by the passages that its writer saw? By numbers, words and vectors."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from ecg_llm.contracts import Embedder
from ecg_llm.questions.checking.twins import Vectors
from ecg_llm.records import Passage, Question
from ecg_llm.words import language_of, numbers, support

SUPPORT = 0.5
"""Least share of the answer's content words that the passages must hold."""
UNIT = re.compile(r"(?<=[.!?])\s+(?=[^\W\d_a-zäöü]|\d|\()|\n\s*\n|\n(?=\s*(?:[-*+•|#]|\d+[.)]))")
"""Where a sentence, paragraph, list item or row of a table ends."""


def lexical_problem(row: Question, passages: Sequence[Passage]) -> str:
    """Return what the answer says that the passages do not, by its numbers and words, or "".

    An answer in another language than its source shares no words with it: its numbers decide.
    """
    text = " ".join(part for p in passages for part in (p.section, p.text))
    missing = numbers(row.reference) - numbers(text) - numbers(row.question)
    if missing:
        return f"numbers not in the text: {', '.join(sorted(missing))}"
    if _translated(row, text):
        return ""
    share = support(row.reference, text, row.question)
    return f"{share:.0%} of the answer's words are in the text" if share < SUPPORT else ""


def distant(
    rows: Sequence[Question],
    passages: Mapping[str, Sequence[Passage]],
    embedder: Embedder,
    similarity: float,
) -> dict[str, float]:
    """Return the best cosine of each question whose answer is far from all that its writer saw.

    Question and answer are compared with the quoted evidence, then with every sentence and pair of
    adjacent sentences of `passages[question_id]`; those below `similarity` come back. An answer in
    another language than its source cannot be judged so and never does.
    """
    claims = {row.question_id: f"{row.question} {row.reference}" for row in rows}
    quoted = {
        row.question_id: " ".join((row.evidence, *(span.text for span in row.joined)))
        for row in rows
    }
    vectors = Vectors.of(embedder, (*claims.values(), *quoted.values()))
    best = {name: float(vectors[claims[name]] @ vectors[quoted[name]]) for name in claims}
    far = [
        row
        for row in rows
        if best[row.question_id] < similarity
        and not _translated(row, " ".join(p.text for p in passages[row.question_id]))
    ]
    # Most answers are close to the evidence they quote, so few whole windows are embedded.
    units = {row.question_id: list(_units(passages[row.question_id])) for row in far}
    texts = Vectors.of(embedder, (unit for found in units.values() for unit in found))
    for name, found in units.items():
        claim = vectors[claims[name]]
        best[name] = max((best[name], *(float(texts[unit] @ claim) for unit in found)))
    return {name: best[name] for name in units if best[name] < similarity}


def _translated(row: Question, text: str) -> bool:
    return language_of(row.reference or row.question) not in ("", language_of(text))


def _units(passages: Sequence[Passage]) -> Iterator[str]:
    for passage in passages:
        parts = [" ".join(part.split()) for part in UNIT.split(passage.text)]
        parts = [part for part in parts if part]
        yield from parts
        yield from (f"{a} {b}" for a, b in pairwise(parts))
