"""100,000 passages in an index, measured: build, disk, memory, latency, recall, small changes.

    python benchmarks/retrieval_scale.py
    python benchmarks/retrieval_scale.py --postgres postgresql://user@host/database
    python benchmarks/retrieval_scale.py --count 5000 --out /tmp/results

The passages are made by rule from a seed. Words follow Zipf's law after its first ranks, which are
stop words, and a third of a document's are its own; vectors have 384 dimensions, with the spectrum
of variances, the common direction and the cosines of neighbours that MiniLM gives to abstracts of
PubMed. Passages stand in documents of 40, and these in topics. A query is a passage's vector with
noise (cosine .7) and some of its words.

A fresh process searches as `ecg-llm search` does, one query at a time and embedding apart: lexicon,
both sides, mix, crowding and feedback. Recall is the share of the exact 20 nearest passages that
the 20 found by the vectors hold.

Prints the table, writes results/retrieval_scale.{json,md}; exit code 1 if a target is missed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ecg_llm import config
from ecg_llm.retrieve.hybrid import HybridIndex, index_name
from ecg_llm.retrieve.lexicon import BUNDLED, Lexicon
from ecg_llm.retrieve.stores import Entry, Store, open_store

SEED = 20261126
DIMENSION = 384
VOCABULARY = 60_000
STOP_WORDS = 60
"""Ranks that no term has."""
BATCH = 256
QUERIES = 300
WARM = 20
"""Queries before the clock counts: the first read the files."""
WORDS = 8
"""Of a query."""
NEAREST = 20
CHANGED = 100
RESULTS = Path(__file__).parent / "results"

Words = list[tuple[str, ...]]
Matrix = np.ndarray[Any, np.dtype[np.float32]]


class Planted:
    """An embedder that knows its texts."""

    name = "planted"

    def __init__(self, vectors: Mapping[str, Matrix]) -> None:
        self.vectors = vectors

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return the vectors of these texts."""
        return np.stack([self.vectors[text] for text in texts])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the words of each text."""
        return [len(text.split()) for text in texts]


NAME = index_name(Planted.name)


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    value: float
    wanted: str = ""
    met: bool = True


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=100_000, help="passages")
    parser.add_argument("--postgres", metavar="ADDRESS", help="measure a server as well")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--search", nargs=2, metavar=("PLACE", "FOLDER"), help="in itself")
    given = parser.parse_args()
    if given.search:
        print(json.dumps(search(given.search[0], Path(given.search[1]))))
        return
    found: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        vectors, words = passages(given.count + CHANGED)
        queries(folder, vectors[: given.count], words)
        for place in ("index", *filter(None, [given.postgres])):
            found[place.partition(":")[0]] = measure(place, folder, vectors, words)
    found["machine"]["load_after"] = round(os.getloadavg()[0], 1)
    figures = {place: list(judged(found[place])) for place in found if place != "machine"}
    text = report(given.count, found["machine"], figures)
    print(text)
    given.out.mkdir(parents=True, exist_ok=True)
    name = "retrieval_scale" if given.count == 100_000 else f"retrieval_scale_{given.count}"
    (given.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (given.out / f"{name}.md").write_text(text, "utf-8")
    sys.exit(not all(figure.met for figure in figures["index"]))


def passages(count: int) -> tuple[Matrix, Words]:
    """Return the vectors of this many passages, one a row, and their terms."""
    chance = np.random.default_rng(SEED)
    documents = max(count // 40, 2)
    document = chance.integers(documents, size=count)
    topics = directions(chance, max(documents // 25, 2))
    centres = 0.8 * topics[chance.integers(len(topics), size=documents)]
    centres += 0.7 * directions(chance, documents)
    vectors = centres[document] + 0.8 * directions(chance, count)
    vectors[:, -1] += 0.33 * np.linalg.norm(vectors, axis=1).mean()
    vectors = unit(vectors)
    lengths = np.clip(chance.normal(110, 45, count), 8, 260).astype(int)
    total = int(lengths.sum())
    zipf = np.cumsum(1 / (np.arange(VOCABULARY) + STOP_WORDS))
    numbers = np.searchsorted(zipf, chance.random(total) * zipf[-1]).astype(np.int64)
    owner = np.repeat(document, lengths)
    special = (chance.random(total) ** 3 * 80).astype(np.int64)
    special = 200 + (owner * 7919 + special * 104_729) % (VOCABULARY - 200)
    numbers = np.where(chance.random(total) < 0.35, special, numbers)
    ends = np.cumsum(lengths)
    terms = [f"w{number}" for number in range(VOCABULARY + 1)]
    words = [
        tuple(terms[number] for number in numbers[end - length : end])
        for end, length in zip(ends, lengths, strict=True)
    ]
    return vectors, words


def directions(chance: np.random.Generator, count: int) -> Matrix:
    """Return random vectors whose variances fall as those of a sentence encoder's do."""
    variances = (1 + np.arange(DIMENSION) / 3) ** -1.2
    made: Matrix = chance.standard_normal((count, DIMENSION), np.float32)
    return made * np.sqrt(variances).astype(np.float32)


def unit(vectors: Matrix) -> Matrix:
    """Return the rows at length 1."""
    made: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return made


def queries(folder: Path, vectors: Matrix, words: Words) -> None:
    """Write queries of these passages, and what an exact search finds for each."""
    chance = np.random.default_rng(SEED + 1)
    rows = chance.integers(len(vectors), size=QUERIES)
    asked = unit(vectors[rows] + 0.95 * unit(directions(chance, QUERIES)))
    exact = np.argsort(-(asked @ vectors.T), axis=1)[:, :NEAREST]
    np.savez(folder / "queries.npz", vectors=asked, exact=exact)
    terms = [[str(word) for word in chance.choice(words[row], WORDS)] for row in rows]
    (folder / "queries.json").write_text(json.dumps(terms))


def entry(number: int, vectors: Matrix, words: Words) -> Entry:
    """Return a passage as a store holds it, its text half as long again as its terms."""
    text = " ".join(words[number]) + " and the of" * (len(words[number]) // 5)
    return Entry(key(number), "1", text, words[number], vectors[number])


def key(number: int) -> str:
    """Return a passage_id; in its order neighbours in a document are far apart."""
    return f"{number * 2_654_435_761 % 2**32:08x}{number:08x}"


def measure(place: str, folder: Path, vectors: Matrix, words: Words) -> dict[str, float]:
    """Build a store, let another process search it, change it, and return the figures."""
    made = len(vectors) - CHANGED

    def batches(first: int, last: int) -> Iterator[list[Entry]]:
        for start in range(first, last, BATCH):
            numbers = range(start, min(start + BATCH, last))
            yield [entry(number, vectors, words) for number in numbers]

    def store() -> Store:
        return open_store(place, folder, NAME, DIMENSION)

    building = store()
    building.remove(list(building.held()))
    found = {"add_s": 0.0}
    for batch in batches(0, made):
        found["add_s"] += seconds(partial(building.add, batch))
    found["finish_s"] = seconds(building.finish)
    found["disk_mb"] = disk(place, folder)
    done = subprocess.run(
        [sys.executable, __file__, "--search", place, str(folder)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found |= json.loads(done.stdout.splitlines()[-1])
    (batch,) = batches(made, made + CHANGED)
    changing = store()

    def add() -> None:
        changing.held()
        changing.add(batch)
        changing.finish()

    def remove() -> None:
        changing.remove([one.passage_id for one in batch])
        changing.finish()

    found["add_100_s"] = seconds(add)
    found["remove_100_s"] = seconds(remove)
    return found


def search(place: str, folder: Path) -> dict[str, float]:
    """Return what a process that only searches measures."""
    started = resident("VmHWM")
    store = open_store(place, folder, NAME, DIMENSION)
    asked = np.load(folder / "queries.npz")
    terms = json.loads((folder / "queries.json").read_text())
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start, used = time.perf_counter(), time.process_time()
        result = work()
        times.setdefault(name, []).append(1000 * (time.perf_counter() - start))
        times.setdefault(f"{name}_cpu", []).append(1000 * (time.process_time() - used))
        return result

    texts = [" ".join(words) for words in terms]
    settings = config.Index(store=place)
    embedder = Planted(dict(zip(texts, asked["vectors"], strict=True)))
    index = HybridIndex(folder, embedder, settings, Lexicon.load(BUNDLED, folder))
    for text, vector, words in zip(texts, asked["vectors"], terms, strict=True):
        timed("hybrid", partial(index.search, [text], NEAREST))
        near = timed("nearest", partial(store.nearest, vector[None], settings.candidates))[0]
        query = [dict.fromkeys(words, 1.0)]
        alike = timed("matching", partial(store.matching, query, settings.candidates))[0]
        timed("vectors", partial(store.vectors, list({**near, **alike})))
    hits = [store.nearest(vector[None], NEAREST)[0] for vector in asked["vectors"]]
    exact = [{key(int(number)) for number in row} for row in asked["exact"]]
    right = sum(len(set(one) & other) for one, other in zip(hits, exact, strict=True))
    found = {"recall": right / (NEAREST * len(hits)), "peak_mb": resident("VmHWM"),
             "before_mb": started}  # fmt: skip
    for name, values in times.items():
        skipped = WARM * len(values) // QUERIES
        for share in (50, 95):
            found[f"{name}_p{share}_ms"] = float(np.percentile(values[skipped:], share))
    return found


def judged(found: Mapping[str, float]) -> Iterator[Figure]:
    """Yield the lines of the table."""
    build = found["add_s"] + found["finish_s"]
    yield Figure("build, embedding apart, s", build)
    yield Figure("  of these to finish, s", found["finish_s"])
    yield Figure("disk, MB", found["disk_mb"])
    yield Figure("peak memory of a searching process, MB", found["peak_mb"])
    yield Figure("  of these before it opened the store, MB", found["before_mb"])
    yield Figure("hybrid search, p50, ms", found["hybrid_p50_ms"])
    value = found["hybrid_p95_ms"]
    yield Figure("hybrid search, p95, ms", value, "<= 25", value <= 25)
    yield Figure("  of processor time alone, p95, ms", found["hybrid_cpu_p95_ms"])
    for name in ("nearest", "matching", "vectors"):
        for share in (50, 95):
            yield Figure(f"  {name} alone: p{share}, ms", found[f"{name}_p{share}_ms"])
    value = found["recall"]
    yield Figure("recall@20 against exact", value, ">= 0.98", value >= 0.98)
    value = found["add_100_s"]
    yield Figure("add 100 passages, s", value, "<= 60", value <= 60)
    yield Figure("remove 100 passages, s", found["remove_100_s"])


def report(
    count: int, machine: Mapping[str, object], figures: Mapping[str, Sequence[Figure]]
) -> str:
    """Return the results in Markdown."""
    said = {True: "met", False: "missed"}
    rows = [("figure", *figures, "wanted", "")]
    for lines in zip(*figures.values(), strict=True):
        first = lines[0]
        verdict = said[first.met] if first.wanted else ""
        values = (f"{one.value:.3g}" if one.value < 100 else f"{one.value:,.0f}" for one in lines)
        rows.append((first.what, *values, first.wanted, verdict))
    stand = ", ".join(f"{name} {value}" for name, value in machine.items())
    table = "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], *rows[1:]))
    head, _, rest = table.partition("\n")
    rule = "|" + "---|" * len(rows[0])
    return (
        f"# An index of {count:,} passages\n\n"
        f"One query at a time; targets are for the folder (index). {stand}.\n\n"
        f"{head}\n{rule}\n{rest}\n"
    )


def seconds(work: Callable[[], object]) -> float:
    """Return how long this takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def disk(place: str, folder: Path) -> float:
    """Return what the store takes on the disk, in MB."""
    if "://" not in place:
        files = [path for path in (folder / place).rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files) / 1e6
    import psycopg

    with psycopg.connect(place) as connection:
        query = "SELECT pg_database_size(current_database())"
        return float(connection.execute(query).fetchall()[0][0]) / 1e6


def resident(name: str) -> float:
    """Return a figure of this process's memory in MB."""
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) * 1024 / 1e6


def machine() -> dict[str, object]:
    """Return what the figures depend on besides the code."""
    import lancedb

    return {
        "cpus": len(os.sched_getaffinity(0)),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "numpy": np.__version__,
        "lancedb": lancedb.__version__,
        "load_before": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    main()
