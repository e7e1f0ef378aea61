"""How good retrieval is: which passages hold each question's evidence, and how high they come."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from math import log2
from statistics import fmean
from typing import NamedTuple

from ecg_llm.contracts import Hit, Progress, Retriever, outdated
from ecg_llm.records import Citation, Passage, Question, Retrieval

DEPTH = 20
"""Passages looked at for each question."""
NDCG = 10
"""Passages that nDCG looks at."""
FEWEST = 3
"""Words of a quote that tells where it stands in a whole document."""
BATCH = 64
"""Questions searched together."""


class _Place(NamedTuple):
    """A stretch of a document's text."""

    doc_id: str
    start: int
    end: int


def sources(
    questions: Sequence[Question],
    searched: Sequence[Passage],
    originals: Sequence[Passage] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Return question_id -> passage_ids of the searched passages that hold its evidence.

    The evidence, and each span of a question that joins several, is located in the passage that the
    question names, else by its words in the question's document; where a named
    passage does not quote it, the whole passage is the evidence. A searched passage of the same
    document is a source if it holds at least half of such a stretch; where none does, if it holds
    half of what the best one holds. Empty where nothing of this is known, as for an imported
    question that names a document at most.

    Args:
        questions: What is asked.
        searched: What the index holds; hidden and blank ones are left out of it.
        originals: The passages that the questions were written from, if another cut of the same
            documents is searched.
    """
    written = searched if originals is None else originals
    named = {row.passage_id: row for row in written}
    origins, targets = _by_document(written), _by_document(searched)
    text_of = cache(lambda doc_id: _text(origins.get(doc_id, ())))
    return {
        question.question_id: tuple(
            dict.fromkeys(
                passage.passage_id
                for place in _places(question, named, text_of)
                for passage in _holders(place, targets.get(place.doc_id, ()))
            )
        )
        for question in questions
    }


def measured(
    questions: Sequence[Question],
    searched: Sequence[Passage],
    retriever: Retriever,
    depth: int = DEPTH,
    originals: Sequence[Passage] | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Retrieval]:
    """Return what retrieval finds for every question by its text alone, one row each, in order.

    `searched` and `originals` are those of `sources`; a row without sources is kept.

    Raises:
        StepError: the index holds a passage that is not in `searched`.
    """
    known = sources(questions, searched, originals)
    ids = {passage.passage_id for passage in searched}
    rows = []
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        found = retriever.search([question.question for question in batch], depth)
        for question, hits in zip(batch, found, strict=True):
            strange = [hit.passage_id for hit in hits if hit.passage_id not in ids]
            if strange:
                raise outdated(strange[0])
            rows.append(_row(question.question_id, known[question.question_id], hits[:depth]))
        progress(len(rows), len(questions))
    return rows


def values(row: Retrieval) -> dict[str, float]:
    """Return hit@1 to hit@20, mrr, ndcg@10 and recall@20 of one question, each 0 to 1.

    hit: any source is among the first k. mrr: 1 / place of the first source, 0 beyond the hits.
    ndcg@10: binary gains over log2(1 + place), divided by their sum where all sources come first
    (Järvelin and Kekäläinen 2002). recall@20: share of the sources among the first 20. Empty where
    no source is known.
    """
    if not row.sources:
        return {}
    ranks = sorted(rank for rank in row.ranks if rank is not None)
    best = min(NDCG, len(row.sources))
    return {
        **_hits(ranks[0] if ranks else None, "hit"),
        "mrr": 1 / ranks[0] if ranks else 0.0,
        f"ndcg@{NDCG}": _gain([rank for rank in ranks if rank <= NDCG]) / _gain(range(1, best + 1)),
        f"recall@{DEPTH}": sum(rank <= DEPTH for rank in ranks) / len(row.sources),
    }


def document_values(
    row: Retrieval, doc_id: str, document_of: Mapping[str, str]
) -> dict[str, float]:
    """Return document@1 to document@20: whether a passage of the document comes that high.

    Empty where `doc_id`, the question's, is. `document_of` maps passage_id to doc_id.
    """
    if not doc_id:
        return {}
    places = enumerate(row.hits, start=1)
    first = next((n for n, hit in places if document_of.get(hit.passage_id) == doc_id), None)
    return _hits(first, "document")


def means(rows: Sequence[Retrieval]) -> dict[str, float]:
    """Return the means of `values` over the rows whose source is known; empty without any."""
    found = [values(row) for row in rows if row.sources]
    return {name: fmean(one[name] for one in found) for name in found[0]} if found else {}


def _row(question_id: str, known: tuple[str, ...], hits: Sequence[Hit]) -> Retrieval:
    place = {hit.passage_id: n for n, hit in enumerate(hits, start=1)}
    return Retrieval(
        question_id=question_id,
        sources=known,
        hits=tuple(Citation(passage_id=hit.passage_id, score=hit.score) for hit in hits),
        ranks=tuple(map(place.get, known)),
    )


def _hits(first: int | None, name: str) -> dict[str, float]:
    return {f"{name}@{k}": float(first is not None and first <= k) for k in range(1, DEPTH + 1)}


def _gain(ranks: Sequence[int]) -> float:
    return sum(1 / log2(1 + rank) for rank in ranks)


def _by_document(passages: Sequence[Passage]) -> dict[str, list[Passage]]:
    """Return the passages that can be found, by document, in the order of its text."""
    made: dict[str, list[Passage]] = defaultdict(list)
    for row in sorted(passages, key=lambda row: (row.start, row.end)):
        if not row.hidden and row.text.strip():
            made[row.doc_id].append(row)
    return made


def _places(
    question: Question, named: Mapping[str, Passage], text_of: Callable[[str], str]
) -> Iterator[_Place]:
    """Yield where the evidence of a question stands."""
    spans = [(question.passage_id, question.evidence)]
    spans += [(span.passage_id, span.text) for span in question.joined]
    for passage_id, text in spans:
        passage = named.get(passage_id)
        if passage is not None:
            quoted = list(_quoted(text, passage.doc_id, passage.text, passage.start))
            yield from quoted or [_Place(passage.doc_id, passage.start, passage.end)]
        elif len(text.split()) >= FEWEST:
            # Of the whole document, since a quote may go over the end of a passage.
            yield from _quoted(text, question.doc_id, text_of(question.doc_id), 0)


def _quoted(quote: str, doc_id: str, text: str, offset: int) -> Iterator[_Place]:
    """Yield every place where a text says this; case and white space do not count."""
    words = r"\s+".join(map(re.escape, quote.split()))
    for found in re.finditer(words, text, re.IGNORECASE) if words else ():
        yield _Place(doc_id, offset + found.start(), offset + found.end())


def _text(passages: Sequence[Passage]) -> str:
    """Return the text of a document as far as its passages hold it, each at its own offset."""
    made = [" "] * max((row.end for row in passages), default=0)
    for row in passages:
        made[row.start : row.end] = row.text
    return "".join(made)


def _holders(place: _Place, passages: Sequence[Passage]) -> list[Passage]:
    shared = [min(place.end, row.end) - max(place.start, row.start) for row in passages]
    half = (place.end - place.start) / 2
    most = max(shared, default=0)
    least = half if most >= half else most / 2
    return [row for row, size in zip(passages, shared, strict=True) if size > 0 and size >= least]
