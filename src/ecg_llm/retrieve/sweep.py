"""One variant of an index: built, searched and measured."""

import time
from collections.abc import Mapping, Sequence

from ecg_llm.records import IndexVariant, Passage, Question
from ecg_llm.retrieve import measure
from ecg_llm.retrieve.hybrid import HybridIndex

TIMED = 100
"""Questions that are asked alone for the time of a search, at most."""


def variant(
    name: str,
    settings: Mapping[str, str | int | float],
    questions: Sequence[Question],
    originals: Sequence[Passage],
    searched: Sequence[Passage],
    languages: Mapping[str, str],
    index: HybridIndex,
    k: int,
) -> IndexVariant:
    """Return how an index of these passages does; it is built if it does not hold them yet.

    Args:
        name: Of the variant.
        settings: What is varied, for the row.
        questions: Tested ones; those without a known source are left out of the figures.
        originals: The passages that the questions were written from.
        searched: The passages of this variant.
        languages: doc_id -> language.
        index: Its index.
        k: Passages that an arm is shown.
    """
    index.embedder.embed(["The model is loaded before the clock starts."])
    started = time.monotonic()
    built = index.build(searched, languages)
    took = time.monotonic() - started
    rows = measure.measured(questions, searched, index, max(k, measure.DEPTH), originals)
    alone = [question.question for question in questions[:TIMED]]
    started = time.monotonic()
    for query in alone:
        index.search([query], measure.DEPTH)
    search_ms = (time.monotonic() - started) * 1000 / max(1, len(alone))
    known = [row for row in rows if row.sources]
    means = measure.means(known)
    shown = [any(rank is not None and rank <= k for rank in row.ranks) for row in known]
    return IndexVariant(
        variant=name,
        settings=dict(settings),
        passages=len(searched),
        questions=len(known),
        shown=sum(shown) / max(1, len(shown)),
        hit_1=means.get("hit@1", 0.0),
        hit_5=means.get("hit@5", 0.0),
        hit_20=means.get("hit@20", 0.0),
        mrr=means.get("mrr", 0.0),
        ndcg_10=means.get("ndcg@10", 0.0),
        recall_20=means.get("recall@20", 0.0),
        index_seconds=round(took, 3) if built.embedded else 0.0,
        search_ms=round(search_ms, 2),
    )
