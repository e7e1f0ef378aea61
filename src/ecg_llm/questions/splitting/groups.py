"""Documents to groups: what shares text, or a name, never stands on both sides of a split."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ecg_llm.questions.splitting.shingles import Vocabulary, runs
from ecg_llm.records import Document, Passage

if TYPE_CHECKING:
    from ecg_llm.questions.splitting.shingles import Numbers

LENGTH = 8
"""Words of a shingle."""
FEWEST = 50
"""Common shingles below which documents are not related, unless they say just the same: a licence
notice fills a fifth of a short abstract."""


def groups_of(
    documents: Sequence[Document], passages: Sequence[Passage], related: float
) -> dict[str, str]:
    """Return the group of every doc_id, whatever the order of documents and passages.

    Documents are in one group when they have one `group` in their rows, or when at least `related`
    of the distinct shingles of the shorter one occur in the other (containment, Broder 1997), or
    by way of further documents. A group bears the name that a person gave, else its first doc_id,
    of those with words if there are any.

    Args:
        documents: All, read or not.
        passages: Those whose words count.
        related: Share from which on documents are related; 1: never.
    """
    ids = {document.doc_id for document in documents if document.doc_id}
    joined = _Joined()
    for document in documents:
        if document.doc_id:
            joined.join(document.doc_id, document.group or document.doc_id)
    shingles = {name: found for name, found in _shingles(passages).items() if name in ids}
    names = sorted(shingles)
    for one, other in _related([shingles[name] for name in names], related):
        joined.join(names[one], names[other])
    members = defaultdict(list)
    for name in {*ids, *(document.group for document in documents if document.doc_id)} - {""}:
        members[joined.first(name)].append(name)
    named = {
        first: min(found, key=lambda name: (name in ids, name not in shingles, name))
        for first, found in members.items()
    }
    return {doc_id: named[joined.first(doc_id)] for doc_id in ids}


class _Joined:
    """Names that were joined directly or by way of others (union-find)."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def first(self, name: str) -> str:
        while (above := self._above.get(name, name)) != name:
            self._above[name] = self._above.get(above, above)
            name = above
        return name

    def join(self, one: str, other: str) -> None:
        low, high = sorted((self.first(one), self.first(other)))
        self._above[high] = low


def _shingles(passages: Sequence[Passage]) -> Mapping[str, "Numbers"]:
    """Return the distinct shingles of each document; a shorter text is one shingle."""
    import numpy as np

    parts: dict[str, list[str]] = defaultdict(list)
    ends: dict[str, int] = {}
    for passage in sorted(passages, key=lambda row: (row.doc_id, row.start, row.end)):
        end = ends.get(passage.doc_id, 0)
        repeated = max(end - passage.start, 0)
        parts[passage.doc_id].append(" " * (passage.start > end) + passage.text[repeated:])
        ends[passage.doc_id] = max(end, passage.end)
    vocabulary = Vocabulary()
    texts = ((name, vocabulary.numbers("".join(found))) for name, found in parts.items())
    return {
        name: np.unique(runs(text, min(LENGTH, len(text)))) for name, text in texts if len(text)
    }


def _related(sets: Sequence["Numbers"], related: float) -> Iterator[tuple[int, int]]:
    """Yield the places of related sets of shingles; what is shared is counted, not estimated."""
    import numpy as np
    from scipy.sparse import csr_array, triu

    if related >= 1 or len(sets) < 2:
        return
    sizes = np.array([len(found) for found in sets])
    shingles = np.concatenate(sets)
    order = np.argsort(shingles, kind="stable")
    owners = np.repeat(np.arange(len(sets), dtype=np.int32), sizes)[order]
    shingles = shingles[order]
    starts = np.flatnonzero(np.r_[True, shingles[1:] != shingles[:-1]])
    counts = np.diff(np.r_[starts, len(shingles)])
    # Shingles of the very same documents count together: a hundred copies of a book have one
    # such set of documents, not a hundred thousand.
    marks = np.random.default_rng(1).integers(2**63, size=len(sets), dtype=np.uint64)
    _, first, weights = np.unique(
        np.add.reduceat(marks[owners], starts), return_index=True, return_counts=True
    )
    weight = np.zeros(len(starts), dtype=np.int64)
    weight[first] = weights
    chosen = (weight > 0) & (counts > 1)
    held, lengths = owners[np.repeat(chosen, counts)], counts[chosen]
    edges = np.r_[0, np.cumsum(lengths)]
    shape = (len(lengths), len(sets))
    once = csr_array((np.ones(len(held), dtype=np.int64), held, edges), shape=shape)
    often = csr_array((np.repeat(weight[chosen], lengths), held, edges), shape=shape)
    shared = triu(once.T @ often, k=1).tocoo()
    for one, other, count in zip(shared.row, shared.col, shared.data, strict=True):
        shorter, longer = sorted((sizes[one], sizes[other]))
        if count >= related * shorter and (count >= FEWEST or count == longer):
            yield int(one), int(other)
