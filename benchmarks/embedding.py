"""Embedding measured: passages a second and vectors beside plain sentence-transformers.

    python benchmarks/embedding.py ../shared

The passages are a seeded sample of those of the bundled handbook and, where the folder named has
them, of its literature/. Ours, plain `SentenceTransformer.encode` with its defaults and ours in
float32 (what is left where a processor has no bf16) take turns on the same portions; ratios are
medians over the portions. Prints a table and writes it to benchmarks/results/embedding.md; exit
code 1 if a target is missed.
"""

import argparse
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import torch
from corpus import Figure, at_least
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from ecg_llm import config, demo, embed
from ecg_llm.corpus import passages

RESULTS = Path(__file__).parent / "results" / "embedding.md"
NEAREST = 10
Rows = NDArray[np.float32]
Way = Callable[[Sequence[str]], Rows]


def main() -> None:
    """Print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("shared", type=Path, nargs="?", default=Path("../shared"))
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--portions", type=int, default=5)
    parser.add_argument("--seed", type=int, default=6)
    given = parser.parse_args()
    texts = sample(given.shared, given.passages, given.seed)
    ways = {"ours": ours("auto"), "plain": plain(), "ours, float32": ours("float32")}
    before = os.getloadavg()[0]
    seconds, rows = in_turns(ways, texts, given.portions)
    lines = [
        f"# Embedding {len(texts):,} passages\n",
        f"{embed.SentenceEmbedder().name}, torch {torch.__version__}, {torch.get_num_threads()} "
        f"threads, {platform.machine()}; {given.portions} portions in turns; load {before:.1f} "
        f"before, {os.getloadavg()[0]:.1f} after.\n",
        "| measured | value | target | |",
        "|---|---:|---|---|",
    ]
    figures = list(compared(seconds, rows, len(texts)))
    for one in figures:
        missed = "" if one.met else "missed"
        print(f"{one.what:<52}{one.value:>9.4f}  {one.target:<8}{one.note} {missed}")
        lines.append(f"| {one.what} | {one.value:.4g} | {one.target} | {one.note} {missed} |")
    RESULTS.write_text("\n".join(lines) + "\n", "utf-8")
    sys.exit(not all(one.met for one in figures))


def sample(shared: Path, number: int, seed: int) -> list[str]:
    """Return so many passages of the handbook and the shared literature, of mixed lengths."""
    files = sorted((Path(demo.__file__).parent / "handbook").glob("*.pdf"))
    files += sorted((shared / "literature").glob("*.pdf"))
    count = embed.SentenceEmbedder().count_tokens
    found: dict[str, None] = {}
    for file in files:
        if "SCAN" not in file.name:
            read = corpus.read(file)
            for one in passages.cut(read.row, read.text, count, config.Passages()):
                found[one.text] = None
    return random.Random(seed).sample(list(found), min(number, len(found)))


def ours(dtype: str) -> Way:
    """Return the embedder, in the number format that it chooses ("auto") or in another."""
    chosen = embed._dtype
    if dtype != "auto":
        embed._dtype = lambda: dtype
    embedder = embed.SentenceEmbedder()
    embedder.embed(["warm"])
    embed._dtype = chosen
    return embedder.embed


def plain() -> Way:
    """Return sentence-transformers as its documentation uses it."""
    model = SentenceTransformer(
        embed.model_source(embed.PACKAGED), model_kwargs={"dtype": "float32"}
    )

    def encode(texts: Sequence[str]) -> Rows:
        made: Any = model.encode(list(texts), show_progress_bar=False)
        return np.asarray(made, dtype=np.float32)

    encode(["warm"])
    return encode


def in_turns(
    ways: dict[str, Way], texts: Sequence[str], portions: int
) -> tuple[dict[str, list[float]], dict[str, Rows]]:
    """Return the seconds of each portion and the rows of all texts, by way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    rows: dict[str, list[Rows]] = {name: [] for name in ways}
    size = -(-len(texts) // portions)
    for turn in range(portions):
        part = texts[turn * size : (turn + 1) * size]
        order = list(ways) if turn % 2 else list(ways)[::-1]
        for name in order:
            started = time.perf_counter()
            rows[name].append(ways[name](part))
            seconds[name].append(time.perf_counter() - started)
    return seconds, {name: np.concatenate(parts) for name, parts in rows.items()}


def compared(
    seconds: dict[str, list[float]], rows: dict[str, Rows], number: int
) -> Iterator[Figure]:
    """Compare speed and vectors."""
    for name, taken in seconds.items():
        yield Figure(f"passages a second, {name}", number / sum(taken), "", met=True)
    for name, target in (("ours", 2.0), ("ours, float32", 1.0)):
        ratios = [one / two for one, two in zip(seconds["plain"], seconds[name], strict=True)]
        note = f"{min(ratios):.2f} to {max(ratios):.2f}"
        yield at_least(f"times plain, {name}", statistics.median(ratios), target, note)
    cosines = (rows["ours"] * rows["plain"]).sum(axis=1)
    yield at_least("least cosine with plain", float(cosines.min()), 0.99)
    yield at_least("mean cosine with plain", float(cosines.mean()), 0.99)
    same = [
        len(set(one) & set(two)) / NEAREST
        for one, two in zip(nearest(rows["ours"]), nearest(rows["plain"]), strict=True)
    ]
    yield at_least(f"overlap of the {NEAREST} nearest", statistics.mean(same), 0.95)


def nearest(rows: Rows) -> list[list[int]]:
    """Return the places of the nearest other passages of each."""
    scores = rows @ rows.T
    np.fill_diagonal(scores, -1)
    found: list[list[int]] = np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST].tolist()
    return found


if __name__ == "__main__":
    main()
