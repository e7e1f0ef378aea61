"""Documents that say nearly the same: found by MinHash over sequences of words."""

import re
import zlib
from collections.abc import Sequence

from ecg_llm.records import Document

PERMUTATIONS = 128
SEED = 1
SCHEME = "affine32"
LENGTH = 5
"""Words of a sequence."""
FEWEST = 50
"""Sequences from which on a text can be compared; shorter ones are alike by chance."""
BATCH = 8192

Sketch = tuple[int, ...]
"""A MinHash signature (Broder 1997)."""


def sketch(text: str) -> Sketch:
    """Return the signature of a text's word sequences; empty for a text of too few words."""
    from datasketch import MinHash

    words = re.findall(r"\w+", text.lower())
    sequences = [
        " ".join(words[index : index + LENGTH]).encode() for index in range(len(words) - LENGTH + 1)
    ]
    if len(sequences) < FEWEST:
        return ()
    made = MinHash(num_perm=PERMUTATIONS, seed=SEED, hashfunc=zlib.crc32, scheme=SCHEME)
    for start in range(0, len(sequences), BATCH):
        made.update_batch(sequences[start : start + BATCH])
    return tuple(int(value) for value in made.hashvalues)


def alike(one: Sketch, other: Sketch) -> float:
    """Return the share of word sequences that two texts have in common (Jaccard), estimated."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / PERMUTATIONS


def marked(documents: Sequence[tuple[Document, Sketch]], duplicate: float) -> list[Document]:
    """Return the rows that change: of near duplicates the one with the best text stays.

    They share one group, so that a question that names the one left out follows the other.

    Args:
        documents: Rows with their signatures, in order of their paths.
        duplicate: Share of common sequences from which on a document is a duplicate; 1: never.
    """
    rows = {row.path: row for row, _ in documents}
    pairs = _pairs([(row, found) for row, found in documents if found], duplicate)
    groups = {row.group: row.group for row in rows.values()}
    ids = {row.doc_id for row in rows.values()}  # a group that the user named keeps its name

    def first(group: str) -> str:
        while groups[group] != group:
            group = groups[group]
        return group

    for one, other, _ in pairs:
        names = (first(rows[one].group), first(rows[other].group))
        low, high = sorted(names, key=lambda name: (name in ids, name))
        groups[high] = low
    made = {path: row.model_copy(update={"group": first(row.group)}) for path, row in rows.items()}
    for one, other, share in sorted(pairs, key=lambda pair: (-pair[2], pair[:2])):
        best, worse = sorted((made[one], made[other]), key=_by_content)
        if "duplicate" not in (best.status, worse.status):
            made[worse.path] = worse.model_copy(
                update={
                    "status": "duplicate",
                    "reason": "near_duplicate",
                    "note": f"{share:.0%} the same as {best.path}.",
                }
            )
    return [row for path, row in made.items() if row != rows[path]]


def _by_content(row: Document) -> tuple[int, int, bool, int, str]:
    """Return what sorts the best text first: most pages, fewest by OCR, whole, most characters."""
    pages, characters = row.quality.get("pages_read", 0), row.quality.get("characters", 0)
    recognised = row.quality.get("ocr_pages", ())
    assert isinstance(pages, int)
    assert isinstance(characters, int)
    assert isinstance(recognised, tuple)
    return -pages, len(recognised), "damaged" in row.note, -characters, row.path


def _pairs(
    documents: Sequence[tuple[Document, Sketch]], least: float
) -> list[tuple[str, str, float]]:
    """Return (path, path, share) of the pairs that have at least this share in common."""
    from datasketch import MinHash, MinHashLSH

    if least >= 1 or len(documents) < 2:
        return []
    index = MinHashLSH(threshold=0.8 * least, num_perm=PERMUTATIONS)
    of_path = {row.path: found for row, found in documents}
    found: list[tuple[str, str, float]] = []
    for path, signature in of_path.items():
        made = MinHash(num_perm=PERMUTATIONS, seed=SEED, hashvalues=list(signature), scheme=SCHEME)
        for other in sorted(index.query(made)):
            share = alike(signature, of_path[other])
            if share >= least:
                found.append((other, path, share))
        index.insert(path, made)
    return found
