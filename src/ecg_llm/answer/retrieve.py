"""Hybrid retrieval: BM25 and embeddings side by side in one LanceDB table, mixed and reranked.

The question is the whole query: never its options, never its answer. The mix of min-max normalised
scores is the convex combination of Bruch, Gai and Ingber (2023, "An Analysis of Fusion Functions
for Hybrid Retrieval"). Which share of the dense side is best depends on the corpus.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ecg_llm import config
from ecg_llm.contracts import Embedder, Hit, Progress, StepError
from ecg_llm.embed import CrossEncoderReranker
from ecg_llm.records import Passage, digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
"""Of the table; another number makes it anew."""
BATCH = 256
"""Passages embedded and written at a time: what an interrupted build loses at most."""
EXACT = 50_000
"""From this many passages on, vectors are searched through an approximate index (IVF-PQ)."""
REFINE = 10
"""The approximate search takes this many times more candidates and measures them exactly."""


@runtime_checkable
class QueryEmbedder(Embedder, Protocol):
    """An embedder that treats queries in another way than passages."""

    def embed_queries(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Return one unit-length row a query, shape (len(texts), dimension)."""


@runtime_checkable
class Reranker(Protocol):
    """Reads a query and a passage together and says how well they match."""

    def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Return one score a text; higher is better."""


class HybridIndex:
    """The index of one study, in a folder; a `contracts.Retriever`.

    Each embedder has its own table. Without a reranker a score is the mix, between 0 and 1 and
    relative to the query's own candidates; with one it is the reranker's. Equal scores are ordered
    by passage_id, so a search gives the same result in every process.
    """

    def __init__(
        self,
        folder: Path,
        embedder: Embedder,
        settings: config.Index,
        reranker: Reranker | None = None,
    ) -> None:
        self.folder = folder
        self.embedder = embedder
        self.settings = settings
        self.reranker = reranker
        if reranker is None and settings.reranker:
            self.reranker = CrossEncoderReranker(settings.reranker)
        self._table: Any = None

    def build(
        self, passages: Sequence[Passage], progress: Progress = lambda done, total: None
    ) -> None:
        """Bring the index up to these passages; hidden and blank ones are left out.

        Passages it holds already are not embedded again, vanished ones are removed for good, and
        tables of other embedders are dropped. A build that was interrupted goes on where it was.
        """
        wanted = {
            row.passage_id: row.text for row in passages if not row.hidden and row.text.strip()
        }
        self._table = table = self._create()
        rows = table.search().select(["passage_id", "text"]).to_arrow()
        held = dict(zip(rows["passage_id"].to_pylist(), rows["text"].to_pylist(), strict=True))
        stale = sorted(key for key, text in held.items() if wanted.get(key) != text)
        for start in range(0, len(stale), BATCH):
            quoted = (key.replace("'", "''") for key in stale[start : start + BATCH])
            table.delete("passage_id IN ({})".format(", ".join(f"'{key}'" for key in quoted)))
        kept = len(held) - len(stale)
        new = sorted(key for key in wanted if held.get(key) != wanted[key])
        progress(kept, len(wanted))
        for start in range(0, len(new), BATCH):
            keys = new[start : start + BATCH]
            texts = [wanted[key] for key in keys]
            vectors = self.embedder.embed(texts)
            table.add(
                [
                    {"passage_id": key, "text": text, "vector": vector}
                    for key, text, vector in zip(keys, texts, vectors, strict=True)
                ]
            )
            progress(kept + start + len(keys), len(wanted))
        _index_columns(table)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return the best `k` passages of each query, best first; all characters are plain text.

        Raises:
            StepError: the index has not been built for this embedder.
        """
        if not queries or k < 1:
            return [[] for _ in queries]
        if self._table is None:
            self._table = self._open()
        queries = [query.encode("utf-8", "replace").decode("utf-8") for query in queries]
        depth = max(self.settings.candidates, k)
        weight = self.settings.dense_weight
        texts: dict[str, str] = {}
        nothing: list[dict[str, float]] = [{} for _ in queries]
        dense = self._dense(queries, depth, texts) if weight > 0 else nothing
        lexical = self._lexical(queries, depth, texts) if weight < 1 else nothing
        found = [
            mixed(near, matching, weight) for near, matching in zip(dense, lexical, strict=True)
        ]
        if self.reranker is not None:
            found = [
                self._reranked(self.reranker, query, hits[:depth], texts)
                for query, hits in zip(queries, found, strict=True)
            ]
        return [hits[:k] for hits in found]

    @staticmethod
    def _reranked(
        reranker: Reranker, query: str, hits: Sequence[Hit], texts: Mapping[str, str]
    ) -> list[Hit]:
        scores = reranker.rerank(query, [texts[hit.passage_id] for hit in hits])
        return _ordered(dict(zip((hit.passage_id for hit in hits), scores, strict=True)))

    def _dense(
        self, queries: Sequence[str], depth: int, texts: dict[str, str]
    ) -> list[dict[str, float]]:
        """Return the cosine of each query's nearest passages, and note their texts."""
        embedder = self.embedder
        embed = embedder.embed_queries if isinstance(embedder, QueryEmbedder) else embedder.embed
        rows = (
            self._table.search(embed(queries), vector_column_name="vector")
            .distance_type("cosine")
            .refine_factor(REFINE)
            .select(["passage_id", "text", "_distance"])
            .limit(depth)
            .to_arrow()
        )
        found: list[dict[str, float]] = [{} for _ in queries]
        for row in rows.to_pylist():
            # A single query comes back without its number.
            found[row.get("query_index", 0)][row["passage_id"]] = 1 - row["_distance"]
            texts[row["passage_id"]] = row["text"]
        return found

    def _lexical(
        self, queries: Sequence[str], depth: int, texts: dict[str, str]
    ) -> list[dict[str, float]]:
        """Return the BM25 score of each query's best passages, and note their texts."""
        from lancedb.query import MatchQuery

        found = []
        for query in queries:
            # A match query has no syntax: quotes, colons and AND are words like others.
            rows = self._table.search(MatchQuery(query, "text"), query_type="fts")
            columns = ["passage_id", "text", "_score"]
            listed = rows.select(columns).limit(depth).to_arrow().to_pylist()
            found.append({row["passage_id"]: row["_score"] for row in listed})
            texts.update({row["passage_id"]: row["text"] for row in listed})
        return found

    def _name(self) -> str:
        return f"passages-{digest(FORMAT, self.embedder.name)}"

    def _connect(self) -> Any:
        import lancedb

        # Every search looks for a newer version: a server goes on while its index is rebuilt.
        return lancedb.connect(self.folder, read_consistency_interval=timedelta(0))

    def _create(self) -> Any:
        """Return the table of this embedder, made if it is absent; the only one in the folder."""
        import pyarrow as pa

        self.folder.mkdir(parents=True, exist_ok=True)
        database = self._connect()
        names = database.list_tables().tables
        for name in set(names) - {self._name()}:
            database.drop_table(name)
        if self._name() in names:
            return database.open_table(self._name())
        dimension = self.embedder.embed(["the length of a vector"]).shape[1]
        schema = pa.schema(
            [
                ("passage_id", pa.string()),
                ("text", pa.string()),
                ("vector", pa.list_(pa.float32(), dimension)),
            ]
        )
        return database.create_table(self._name(), schema=schema)

    def _open(self) -> Any:
        if self.folder.is_dir():
            database = self._connect()
            if self._name() in database.list_tables().tables:
                return database.open_table(self._name())
        raise StepError(
            f"{self.folder} holds no index made with {self.embedder.name}; make it with: "
            f"ecg-llm index"
        )


def mixed(
    dense: Mapping[str, float], lexical: Mapping[str, float], dense_weight: float
) -> list[Hit]:
    """Return the passages of both sides by the mix of their normalised scores, best first.

    Each side is scaled to 0-1 over its own candidates; a passage that a side did not find has 0
    there, as the worst that it found has. So it does not matter which of several equally bad
    passages stood last in a side's list.
    """
    sides = ((dense_weight, _normalised(dense)), (1 - dense_weight, _normalised(lexical)))
    return _ordered(
        {
            key: round(sum(weight * side.get(key, 0.0) for weight, side in sides), 6)
            for key in {*dense, *lexical}
        }
    )


def _normalised(scores: Mapping[str, float]) -> dict[str, float]:
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    if high == low:
        return dict.fromkeys(scores, 1.0)
    return {key: (score - low) / (high - low) for key, score in scores.items()}


def _ordered(scores: Mapping[str, float]) -> list[Hit]:
    hits = [Hit(key, float(score)) for key, score in scores.items()]
    return sorted(hits, key=lambda hit: (-hit.score, hit.passage_id))


def _index_columns(table: Any) -> None:
    """Make the indexes of a table's columns and remove what it held before from the disk."""
    from lancedb.index import FTS, IvfPq

    table.optimize(cleanup_older_than=timedelta(milliseconds=1))
    table.create_index("text", config=FTS(stem=True, language="English"), replace=True)
    if table.count_rows() >= EXACT:
        table.create_index("vector", config=IvfPq(distance_type="cosine"), replace=True)
    table.optimize(cleanup_older_than=timedelta(milliseconds=1))
