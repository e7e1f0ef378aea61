"""Where the passages of an index lie: the interface of a store, and the one at a place."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable
from urllib.parse import parse_qs, urlsplit

from ecg_llm.contracts import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OBJECTS = ("s3", "gs", "az", "abfss")
"""Schemes of object storage that LanceDB reads and writes."""
SERVERS = ("postgresql", "postgres")
K1 = 1.2
"""How soon more of the same term in an entry adds less."""
B = 0.75
"""How much longer entries count less."""

NEIGHBOURS = 10
COPY = 0.95
"""Of crowding: see Store.vectors."""


class Entry(NamedTuple):
    """One passage as a store holds it."""

    passage_id: str
    version: str
    """Digest of all that was indexed of the passage: another one is another entry."""
    text: str
    terms: tuple[str, ...]
    """What the lexical side matches, in the order of the text, repeated as there; none is empty or
    holds a blank."""
    vector: "NDArray[np.float32]"
    """Unit length, shape (dimension,)."""


@runtime_checkable
class Store(Protocol):
    """Entries with exact or nearly exact search by vector and BM25 search by terms."""

    def held(self) -> dict[str, str]:
        """Return passage_id -> version of every entry; empty where nothing was built."""

    def remove(self, passage_ids: Sequence[str]) -> None:
        """Remove entries; their text leaves the disk at `finish` at the latest."""

    def add(self, entries: Sequence[Entry]) -> None:
        """Add entries whose passage_id is not held."""

    def finish(self) -> None:
        """Bring the search structures up to the entries."""

    def entries(self, passage_ids: Sequence[str]) -> dict[str, Entry]:
        """Return these entries by passage_id; one that is not held is left out."""

    def vectors(
        self, passage_ids: Sequence[str]
    ) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """Return (vector, crowding) of these entries, one row each; 0 for one that is not held.

        Crowding is the mean cosine of an entry's NEIGHBOURS nearest others at `finish`, copies (a
        cosine of COPY or more) not counted: what lies in a crowd is near to every query.
        """

    def nearest(self, vectors: "NDArray[np.float32]", k: int) -> list[dict[str, float]]:
        """Return passage_id -> cosine of the k nearest entries of each row, best first."""

    def matching(self, queries: Sequence[Mapping[str, float]], k: int) -> list[dict[str, float]]:
        """Return passage_id -> BM25 score of the k best entries of each query, best first.

        A query maps terms to weights; an entry's score is the sum over its terms of weight times
        idf tf (K1 + 1) / (tf + K1 (1 - B + B length / mean length)) with idf =
        ln(1 + (N - n + 1/2) / (n + 1/2)) (Robertson and Zaragoza 2009, "The Probabilistic Relevance
        Framework: BM25 and Beyond"; this idf is never negative). Entries without any of the terms
        are not found.
        """


def open_store(place: str, folder: Path, name: str, dimension: int) -> Store:
    """Return the store at a place; nothing is read or written yet.

    Args:
        place: config.Index.store: a folder, a URI of object storage or of a PostgreSQL server.
        folder: Of the study, which a relative place is relative to.
        name: Of the index within the store, of the form kind-digest: it changes with the embedder
            and the analysis of terms. `finish` drops the store's other indexes of its kind, so two
            studies need two places.
        dimension: Of the vectors.

    Raises:
        UsageError: the place is none of these, or holds a password.
        MissingPackage: PostgreSQL is asked for without its client.
    """
    scheme, found, _ = place.partition("://")
    if not found:
        from ecg_llm.retrieve.lance import LanceStore

        return LanceStore(folder / place, folder / place, name, dimension)
    _refuse_password(place)
    if scheme in OBJECTS:
        from ecg_llm.retrieve.lance import LanceStore

        return LanceStore(place, folder / "index", name, dimension)
    if scheme in SERVERS:
        from ecg_llm.retrieve.postgres import PostgresStore

        return PostgresStore(place, name, dimension)
    raise UsageError(
        f"index.store: {scheme}:// is not known; name a folder, object storage "
        f"({', '.join(f'{one}://' for one in OBJECTS)}) or a server (postgresql://)."
    )


def same_kind(one: str, other: str) -> bool:
    """Return whether two names of indexes differ in their digest alone."""
    return one.rpartition("-")[0] == other.rpartition("-")[0]


def _refuse_password(place: str) -> None:
    try:
        parts = urlsplit(place)
        parameters = parse_qs(parts.query)
    except ValueError:
        raise UsageError("index.store is not a valid address; correct it.") from None
    if parts.password is not None or "password" in parameters:
        raise UsageError(
            "index.store holds a password, and study.yaml is no place for one; for PostgreSQL put "
            "it into PGPASSWORD or a pgpass file, for object storage into its own variables."
        )
