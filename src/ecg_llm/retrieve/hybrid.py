"""Hybrid retrieval: BM25 and embeddings side by side, mixed, fed back once, and reranked.

The question is the whole query: never its options, never its answer. What was tried, on which
questions, and what each step gives stands in docs/decisions/0014-search.md.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ecg_llm import config
from ecg_llm.contracts import Embedder, Hit, Progress, QueryEmbedder, Reranker
from ecg_llm.records import Passage, digest
from ecg_llm.retrieve import terms
from ecg_llm.retrieve.lexicon import Expansion, Lexicon, expansion_terms
from ecg_llm.retrieve.stores import Entry, Store, open_store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
"""Of the search; another one makes what rests on it anew."""
BATCH = 256
"""Passages embedded and written at a time: what an interrupted build loses at most."""
QUERIES = 64
"""Queries searched at a time: each holds the candidates of both sides."""
PROBE = "the length of a vector"
SPREAD = 100
"""A side's scores are standardised by the mean and the deviation of so many of its best."""
NUMBER_FORMAT = re.compile(r"-(?:float32|float16|bfloat16)$")


class Built(NamedTuple):
    """What an index holds, and what was done for it."""

    passages: int
    embedded: int
    removed: int
    embedder: str
    content: str
    """Digest of what it holds."""

    @property
    def held(self) -> dict[str, str | int]:
        """What a search can find."""
        return {"passages": self.passages, "embedder": self.embedder, "content": self.content}


class HybridIndex:
    """The index of one study; a `contracts.Retriever`.

    Each embedder and each analysis of terms has an index of its own. Without a reranker a score
    is relative to the query's own candidates, in standard deviations; with one it is the
    reranker's. Equal scores are ordered by passage_id, so a search gives the same result in every
    process.
    """

    def __init__(
        self,
        folder: Path,
        embedder: Embedder,
        settings: config.Index,
        lexicon: Lexicon,
        reranker: Reranker | None = None,
    ) -> None:
        self.folder = folder
        self.embedder = embedder
        self.settings = settings
        self.lexicon = lexicon
        self.reranker = reranker
        self._store: Store | None = None

    def build(
        self,
        passages: Sequence[Passage],
        languages: Mapping[str, str],
        progress: Progress = lambda done, total: None,
    ) -> Built:
        """Bring the index up to these passages.

        Hidden and blank passages are left out, those it holds already are not embedded again,
        vanished ones are removed for good. A build that was interrupted goes on where it was.

        Args:
            passages: All that are to be found.
            languages: doc_id -> language, which decides the stems.
            progress: Called with (passages held, passages wanted).
        """
        wanted = {row.passage_id: row for row in passages if not row.hidden and row.text.strip()}
        versions = {
            key: digest(row.text, row.section, languages.get(row.doc_id, ""))
            for key, row in wanted.items()
        }
        store = self._opened(self.embedder.embed([PROBE]).shape[1])
        held = store.held()
        stale = sorted(key for key, version in held.items() if versions.get(key) != version)
        new = sorted(key for key in wanted if held.get(key) != versions[key])
        kept = len(held) - len(stale)
        progress(kept, len(wanted))
        for start in range(0, len(stale), BATCH):
            store.remove(stale[start : start + BATCH])
        for start in range(0, len(new), BATCH):
            keys = new[start : start + BATCH]
            texts = [indexed_text(wanted[key]) for key in keys]
            store.add(
                [
                    Entry(
                        key,
                        versions[key],
                        text,
                        terms.terms(text, languages.get(wanted[key].doc_id, "")),
                        vector,
                    )
                    for key, text, vector in zip(
                        keys, texts, self.embedder.embed(texts), strict=True
                    )
                ]
            )
            progress(kept + start + len(keys), len(wanted))
        store.finish()
        gone = sum(key not in wanted for key in stale)
        return Built(
            len(wanted), len(new), gone, self.embedder.name, digest(sorted(versions.items()))
        )

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return the best `k` passages of each query, best first; all characters are plain text.

        Raises:
            StepError: the index has not been built for this embedder.
        """
        if k < 1:
            return [[] for _ in queries]
        parts = range(0, len(queries), QUERIES)
        return [hits for at in parts for hits in self._searched(queries[at : at + QUERIES], k)]

    def _searched(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        queries = [query.encode("utf-8", "replace").decode("utf-8") for query in queries]
        expansions = [self.lexicon.expand(query) for query in queries]
        vectors = self._embedded(
            [named(query, found) for query, found in zip(queries, expansions, strict=True)]
        )
        store = self._opened(vectors.shape[1])
        depth = max(self.settings.candidates, k)
        weight = self.settings.dense_weight
        nothing: list[dict[str, float]] = [{} for _ in queries]
        near = store.nearest(vectors, depth) if weight > 0 else nothing
        weighted = [
            {**expansion_terms(found), **dict.fromkeys(terms.query_terms(query), 1.0)}
            for query, found in zip(queries, expansions, strict=True)
        ]
        matching = store.matching(weighted, depth) if weight < 1 else nothing
        mixed = [
            self._mixed(store, vector, [*{**close, **alike}], alike)
            for vector, close, alike in zip(vectors, near, matching, strict=True)
        ]
        if self.reranker is not None:
            read = max(self.settings.reranked, k)
            mixed = [
                _reranked(self.reranker, query, hits[:read], store)
                for query, hits in zip(queries, mixed, strict=True)
            ]
        return [hits[:k] for hits in mixed]

    def _mixed(
        self,
        store: Store,
        vector: "NDArray[np.float32]",
        candidates: list[str],
        alike: Mapping[str, float],
    ) -> list[Hit]:
        """Return the candidates of both sides by the mix of their scores, best first."""
        import numpy as np

        if not candidates:
            return []
        weight, feedback = self.settings.dense_weight, self.settings.feedback
        lexical = (1 - weight) * standardised(np.array([alike.get(key, 0.0) for key in candidates]))
        if weight == 0:
            return _ordered(candidates, lexical.round(5))
        vectors, crowding = store.vectors(candidates)
        penalty = self.settings.crowding * crowding
        score = weight * standardised(vectors @ vector - penalty) + lexical
        if feedback > 0:
            best = min(range(len(candidates)), key=lambda at: (-score[at], candidates[at]))
            again = (1 - feedback) * vector + feedback * vectors[best]
            again /= max(float(np.linalg.norm(again)), 1e-12)
            score = weight * standardised(vectors @ again - penalty) + lexical
        # Rounded, since sums may differ in their last digits between equal passages.
        return _ordered(candidates, score.round(5))

    def _embedded(self, queries: Sequence[str]) -> "NDArray[np.float32]":
        embedder = self.embedder
        embed = embedder.embed_queries if isinstance(embedder, QueryEmbedder) else embedder.embed
        return embed(queries)

    def _opened(self, dimension: int) -> Store:
        if self._store is None:
            name = index_name(self.embedder.name)
            self._store = open_store(self.settings.store, self.folder, name, dimension)
        return self._store


def index_name(embedder: str) -> str:
    """Return the name of an index in its store: another embedder or analysis has another."""
    # Machines that compute in other number formats share one: their vectors differ by 1e-2 at most.
    return f"passages-{digest(terms.VERSION, NUMBER_FORMAT.sub('', embedder))}"


def indexed_text(passage: Passage) -> str:
    """Return what is embedded and matched of a passage: its headings and its text."""
    return f"{passage.section}\n{passage.text}" if passage.section else passage.text


def named(query: str, expansions: Sequence[Expansion]) -> str:
    """Return a query with the usual English name of what it names otherwise, for the embedder."""
    return " ".join([query, *(found.other[0] for found in expansions if not found.named)])


def standardised(scores: "NDArray[np.floating]") -> "NDArray[np.floating]":
    """Return scores minus the mean of the best of them, by their deviation; 0 if all are equal."""
    import numpy as np

    best = np.sort(scores)[-SPREAD:]
    spread = best.std()
    return (scores - best.mean()) / spread if spread > 1e-6 else np.zeros_like(scores)


def _reranked(reranker: Reranker, query: str, hits: Sequence[Hit], store: Store) -> list[Hit]:
    held = store.entries([hit.passage_id for hit in hits])
    # Another process may have taken a passage out meanwhile.
    ids = [hit.passage_id for hit in hits if hit.passage_id in held]
    scores = reranker.rerank(query, [held[key].text for key in ids])
    return _ordered(ids, scores)


def _ordered(ids: Sequence[str], scores: "Sequence[float] | NDArray[np.floating]") -> list[Hit]:
    hits = [Hit(key, float(score)) for key, score in zip(ids, scores, strict=True)]
    return sorted(hits, key=lambda hit: (-hit.score, hit.passage_id))
