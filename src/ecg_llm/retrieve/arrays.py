"""Search in memory-mapped arrays: vectors lie by cluster, BM25 scores by term.

LanceDB's own indexes took 9 to 14 ms for a search by vector among 100,000 passages at a recall@20
of .91 to .97, and 32 ms for 30 weighted terms; these arrays take 3 ms each at a recall of .996, and
their scores do not depend on the order in which the entries came.
"""

import bisect
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecg_llm import store
from ecg_llm.retrieve.stores import COPY, K1, NEIGHBOURS, B, Entry

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

FORMAT = 1
"""Of the files."""
DIGESTS = "digests.json"
"""Of all files, written last."""
EXACT = 20_000
"""From this many entries on, vectors lie in clusters, and a search reads the nearest ones only."""
PROBES = 64
"""Clusters read; there are as many as the square root of the number of entries."""
AROUND = 8
"""Clusters that an entry's neighbours are looked for in, to tell how crowded it lies."""
CHOICE = 10
"""A search reads clusters that hold this many times the entries asked for, at least."""
SAMPLE = 100
"""Entries a cluster that its centre is learnt from."""
ROUNDS = 8
"""Of k-means."""
SEED = 20261126
TOLD = 100_000
"""Entries found whose rows are kept at hand."""
SLACK = 1e-5
"""A product of float32 vectors may differ by this much with the place where the vector lies."""


class Arrays:
    """What `write` wrote, opened for search; nothing is read before it is needed.

    A score is a function of the entry and of all that is held, never of an order: equal entries tie
    exactly, and ties are ordered by passage_id.

    Args:
        folder: Which `write` wrote.
        whole: Compare every byte with what was written, not the files' sizes and ends alone.

    Raises:
        OSError, ValueError: a file is absent or broken.
    """

    def __init__(self, folder: Path, whole: bool = False) -> None:
        written = store.read_json(folder / DIGESTS) or {}
        if written.get(_kind(whole)) != _digest(folder, whole):
            raise ValueError(f"the files in {folder} are not as they were written")
        self._ids = _Strings(folder, "ids")
        self._versions = _Strings(folder, "versions")
        self._texts = _Strings(folder, "texts")
        self._terms = _Strings(folder, "terms")
        self._words = _Strings(folder, "words")
        self._by_id = _load(folder, "by_id")
        self._vectors = _load(folder, "vectors")
        self._crowding = _load(folder, "crowding")
        self._told: dict[str, int] = {}  # rows of what was found: it is asked for next
        self._centres = _load(folder, "centres")
        self._clusters = _load(folder, "clusters")
        self._postings = _load(folder, "postings")
        self._posting_scores = _load(folder, "posting_scores")
        self._posting_ends = _load(folder, "posting_ends")
        if not (
            len(self._ids) == len(self._by_id) == len(self._vectors) == self._clusters[-1]
            and len(self._crowding) == len(self._ids)
            and len(self._postings) == len(self._posting_scores) == self._posting_ends[-1]
        ):
            raise ValueError(f"the files in {folder} do not belong together")

    @property
    def dimension(self) -> int:
        """Of the vectors."""
        return int(self._vectors.shape[1])

    def entries(self, passage_ids: Sequence[str]) -> dict[str, Entry]:
        """Return these entries by passage_id; one that is not held is left out."""
        rows = zip(passage_ids, map(self._row, passage_ids), strict=True)
        return {key: self._entry(row) for key, row in rows if row is not None}

    def vectors(
        self, passage_ids: Sequence[str]
    ) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """Return (vector, crowding) of these entries, one row each; 0 for one that is not held."""
        import numpy as np

        found = [self._row(key) for key in passage_ids]
        held = [place for place, row in enumerate(found) if row is not None]
        rows = [row for row in found if row is not None]
        vectors = np.zeros((len(found), self.dimension), np.float32)
        crowding = np.zeros(len(found), np.float32)
        vectors[held], crowding[held] = self._vectors[rows], self._crowding[rows]
        return vectors, crowding

    def nearest(self, vectors: "NDArray[np.float32]", k: int) -> list[dict[str, float]]:
        """Return passage_id -> cosine of the k nearest entries of each row, best first."""
        return [self._nearest(vector, k) for vector in vectors]

    def matching(self, queries: Sequence[Mapping[str, float]], k: int) -> list[dict[str, float]]:
        """Return passage_id -> weighted BM25 score of each query's k best entries, best first."""
        return [self._matching(query, k) for query in queries]

    def _row(self, passage_id: str) -> int | None:
        told = self._told.get(passage_id)  # not in two steps: another thread may clear it
        if told is not None:
            return told
        count = len(self._by_id)
        place = _place(passage_id, lambda at: self._ids.raw(self._by_id[at]), count)
        return None if place is None else int(self._by_id[place])

    def _nearest(self, vector: "NDArray[np.float32]", k: int) -> dict[str, float]:
        import numpy as np

        parts = [slice(*self._clusters[at : at + 2]) for at in self._near_clusters(vector, k)]
        scores = np.concatenate([self._vectors[part] @ vector for part in parts])
        rows = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        rows = rows[_best(scores, k, SLACK)]
        # The same digits wherever an entry lies: only so do equal entries tie.
        cosines = (self._vectors[rows] * vector.astype(np.float64)).sum(axis=1)
        return self._ordered(rows, cosines, k)

    def _near_clusters(self, vector: "NDArray[np.float32]", k: int) -> "NDArray[np.intp]":
        import numpy as np

        nearest = np.argsort(-(self._centres @ vector), kind="stable")
        held = np.cumsum(np.diff(self._clusters)[nearest])
        return nearest[: max(PROBES, int(np.searchsorted(held, CHOICE * k)) + 1)]

    def _matching(self, query: Mapping[str, float], k: int) -> dict[str, float]:
        import numpy as np

        scores = np.zeros(len(self._ids), np.float32)
        for term, weight in sorted(query.items()):
            place = _place(term, self._words.raw, len(self._words))
            if place is not None and weight > 0:
                part = slice(*self._posting_ends[place : place + 2])
                scores[self._postings[part]] += np.float32(weight) * self._posting_scores[part]
        rows = np.flatnonzero(scores)
        rows = rows[_best(scores[rows], k)]
        return self._ordered(rows, scores[rows], k)

    def _ordered(
        self, rows: "NDArray[np.intp]", scores: "NDArray[Any]", k: int
    ) -> dict[str, float]:
        ids = [self._ids[row] for row in rows]
        if len(self._told) > TOLD:
            self._told.clear()
        self._told.update(zip(ids, map(int, rows), strict=True))
        pairs = zip(ids, map(float, scores), strict=True)
        return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:k])

    def _entry(self, row: int) -> Entry:
        import numpy as np

        terms = self._terms[row]
        return Entry(
            self._ids[row],
            self._versions[row],
            self._texts[row],
            tuple(terms.split(" ")) if terms else (),
            np.array(self._vectors[row]),
        )


def write(folder: Path, rows: "pa.Table") -> None:
    """Write the arrays of these rows into a folder, which appears when all of it is written.

    One process at a time may write a folder; what lies there already is replaced.

    The rows have the columns passage_id, version and text (strings), terms (lists of strings) and
    vector (lists of float32, of one length); every passage_id once.
    """
    import numpy as np
    import pyarrow.compute as pc

    # What is written is to depend on the rows alone, not on the order in which they came.
    rows = rows.take(pc.sort_indices(rows["passage_id"]))
    vectors = _whole(pc.list_flatten(rows["vector"])).to_numpy()
    vectors = vectors.reshape(len(rows), rows["vector"].type.list_size)
    centres, cluster = _clusters(vectors)
    order = np.argsort(cluster, kind="stable")
    rows, vectors = rows.take(order), vectors[order]
    clusters = _ends(np.bincount(cluster, minlength=len(centres)))
    words, tokens, counts = _encoded(rows["terms"])
    postings, scores, found = _scored(tokens, counts, len(words))
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, column in (
        ("ids", rows["passage_id"]),
        ("versions", rows["version"]),
        ("texts", rows["text"]),
        ("terms", pc.binary_join(rows["terms"], " ")),
        ("words", words),
    ):
        _write_strings(temporary, name, column)
    for name, array in (
        ("by_id", np.argsort(order).astype(np.int32)),
        ("vectors", vectors),
        ("crowding", _crowding(vectors, centres, clusters)),
        ("centres", centres),
        ("clusters", clusters),
        ("postings", postings),
        ("posting_scores", scores),
        ("posting_ends", _ends(found)),
    ):
        np.save(temporary / f"{name}.npy", array)
    store.write_json(
        temporary / DIGESTS, {_kind(whole): _digest(temporary, whole) for whole in (False, True)}
    )
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def crowding(vectors: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Return the crowding of each vector among these (`Store.vectors`)."""
    import numpy as np

    centres, cluster = _clusters(vectors)
    order = np.argsort(cluster, kind="stable")
    clusters = _ends(np.bincount(cluster, minlength=len(centres)))
    found = np.empty(len(vectors), np.float32)
    found[order] = _crowding(vectors[order], centres, clusters)
    return found


def _clusters(
    vectors: "NDArray[np.float32]",
) -> "tuple[NDArray[np.float32], NDArray[np.int64]]":
    """Return the centres of clusters by spherical k-means and each vector's number among them."""
    import numpy as np

    count = len(vectors)
    if count < EXACT:
        return np.zeros((1, vectors.shape[1]), np.float32), np.zeros(count, np.int64)
    random = np.random.default_rng(SEED)
    number = round(count**0.5)
    sample = vectors[random.permutation(count)[: number * SAMPLE]]
    centres = sample[:number].copy()
    for _ in range(ROUNDS):
        nearest = _nearest_centre(sample, centres)
        order = np.argsort(nearest, kind="stable")
        held, starts = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(sample[order], starts, axis=0)
        centres[held] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return centres, _nearest_centre(vectors, centres)


def _nearest_centre(
    vectors: "NDArray[np.float32]", centres: "NDArray[np.float32]", block: int = 8192
) -> "NDArray[np.int64]":
    import numpy as np

    blocks = (vectors[start : start + block] for start in range(0, len(vectors), block))
    return np.concatenate([(one @ centres.T).argmax(axis=1) for one in blocks])


def _crowding(
    vectors: "NDArray[np.float32]",
    centres: "NDArray[np.float32]",
    clusters: "NDArray[np.int64]",
    block: int = 1024,
) -> "NDArray[np.float32]":
    """Return the crowding of vectors that lie by cluster: the neighbours of nearby clusters."""
    import numpy as np

    found = np.zeros(len(vectors), np.float32)
    parts = [slice(*clusters[at : at + 2]) for at in range(len(centres))]
    for part, centre in zip(parts, centres, strict=True):
        around = np.argsort(-(centres @ centre), kind="stable")[:AROUND]
        others = np.concatenate([vectors[parts[at]] for at in around])
        for start in range(part.start, part.stop, block):
            rows = slice(start, min(start + block, part.stop))
            cosines = vectors[rows] @ others.T
            cosines[cosines >= COPY] = -1  # the entry itself among them
            near = np.partition(cosines, -min(NEIGHBOURS, len(others)), axis=1)[:, -NEIGHBOURS:]
            counted = near > -1
            found[rows] = np.sum(near, axis=1, where=counted) / np.maximum(counted.sum(axis=1), 1)
    return found


def _encoded(
    lists: "pa.ChunkedArray",
) -> "tuple[pa.Array, NDArray[np.int32], NDArray[np.int64]]":
    """Return (sorted distinct terms, all terms as numbers of these, how many each list holds)."""
    import numpy as np
    import pyarrow.compute as pc

    counts = pc.list_value_length(lists).to_numpy()
    terms = _whole(pc.list_flatten(lists)).dictionary_encode()
    order = pc.sort_indices(terms.dictionary).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return terms.dictionary.take(order), rank[terms.indices.to_numpy()], counts.astype(np.int64)


def _scored(
    tokens: "NDArray[np.int32]", counts: "NDArray[np.int64]", words: int
) -> "tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]":
    """Return (rows by term, their BM25 scores, how many rows each term has)."""
    import numpy as np

    rows = len(counts)
    pairs = tokens * np.int64(rows) + np.repeat(np.arange(rows), counts)
    pairs.sort()
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    often = np.diff(starts, append=len(pairs))
    term, row = np.divmod(pairs[starts], max(rows, 1))
    found = np.bincount(term, minlength=words)
    rarity = np.log1p((rows - found + 0.5) / (found + 0.5))
    length = counts[row] / max(len(tokens) / max(rows, 1), 1e-12)
    scores = rarity[term] * often * (K1 + 1) / (often + K1 * (1 - B + B * length))
    return row.astype(np.int32), scores.astype(np.float32), found


class _Strings:
    """Strings in one file, by number."""

    def __init__(self, folder: Path, name: str) -> None:
        self._bytes = _load(folder, name)
        self._ends = _load(folder, f"{name}_ends")
        if len(self._bytes) != self._ends[-1]:
            raise ValueError(f"{name} in {folder} is cut off")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, place: int) -> str:
        return self.raw(place).decode("utf-8")

    def raw(self, place: int) -> bytes:
        """Return the string in UTF-8."""
        return bytes(self._bytes[slice(*self._ends[place : place + 2])])


def _write_strings(folder: Path, name: str, column: "pa.Array") -> None:
    import numpy as np
    import pyarrow as pa

    whole = _whole(column.cast(pa.large_binary()))
    _, ends, held = whole.buffers()
    places = np.frombuffer(ends, np.int64)[whole.offset : whole.offset + len(whole) + 1]
    letters = np.frombuffer(held or b"", np.uint8)[places[0] : places[-1]]
    np.save(folder / f"{name}.npy", letters)
    np.save(folder / f"{name}_ends.npy", places - places[0])


def _whole(column: "pa.Array | pa.ChunkedArray") -> "pa.Array":
    import pyarrow as pa

    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _kind(whole: bool) -> str:
    return "whole" if whole else "ends"


def _digest(folder: Path, whole: bool) -> str:
    if whole:
        return store.folder_digest(folder, "*.npy")
    return store.ends_digest(sorted(folder.glob("*.npy")))


def _load(folder: Path, name: str) -> "NDArray[Any]":
    import numpy as np

    try:
        # As a plain array: a memmap's slices cost several times as much.
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))
    except EOFError as error:
        raise ValueError(f"{name} in {folder} is cut off") from error


def _place(key: str, raw: Callable[[int], bytes], count: int) -> int | None:
    """Return where a key stands among `count` sorted ones, or None."""
    wanted = key.encode("utf-8", "replace")
    place = bisect.bisect_left(range(count), wanted, key=raw)
    return place if place < count and raw(place) == wanted else None


def _best(scores: "NDArray[Any]", k: int, slack: float = 0.0) -> "NDArray[np.intp]":
    """Return where the k highest scores are, with all that equal the last or lie `slack` below."""
    import numpy as np

    if len(scores) <= k:
        return np.arange(len(scores))
    return np.flatnonzero(scores >= np.partition(scores, -k)[-k] - slack)


def _ends(counts: "NDArray[Any]") -> "NDArray[np.int64]":
    """Return where each of consecutive parts of these lengths begins, and the last one ends."""
    import numpy as np

    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
