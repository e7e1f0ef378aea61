"""Retrieval, measured: against plain peers, the published retriever, and at 100,000 passages.

    pip install --group bench
    python benchmarks/retrieval.py --shared ../shared
    python benchmarks/retrieval.py --shared ../shared --only bioasq

`bioasq`: yes/no questions of BioASQ; gold are a question's own snippets of 40 or more characters,
searched among all snippets and the abstracts of PubMedQA, through `ecg-llm index --from` and
`ecg-llm search` by default settings, beside plain BM25 and plain MiniLM. The settings were chosen
on one half of the questions (by the digest of their id), so the other half is told apart.

`sources`: the bundled handbook's expert questions and the questions written from it: is the passage
that holds the evidence found? One `ecg-llm index --sweep` over the cut, the number shown, the mix
and the lexicon.

`published`: questions written from the documents in literature/, asked of ours and of a stand-in
for the published retriever: recursive chunks of 1,024 characters with 100 of overlap, Chroma with
its default distance, the 20 nearest, no reranker, the same encoder. End to end, embedding included.

`scale`: 100,000 passages; see retrieval_scale.py. `embedding`: see embedding.py.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from ecg_llm import config, console, pipeline, steps
from ecg_llm.corpus import passages
from ecg_llm.embed import model_source
from ecg_llm.records import Document, Passage, Question
from ecg_llm.retrieve import measure

PARTS = ("bioasq", "sources", "published", "embedding", "scale")
SHORTEST = 40
"""Characters of the shortest snippet that is a passage."""
RESAMPLES = 10_000
ASKED = 400
"""Questions asked of ours and of the published retriever, at most."""
SWEEP = [
    {"passages.tokens": [64, 128, 256, 512], "answers.k": 5},
    {"answers.k": [3, 10, 20]},
    {"index.dense_weight": [0, 0.5, 1]},
    {"index.lexicon": ""},
]


def main() -> None:
    """Run the parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder of public inputs")
    parser.add_argument("--only", action="append", choices=PARTS, help="may be repeated")
    parser.add_argument("--out", type=Path, help="folder for retrieval.json")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": f"{os.cpu_count()} cores"}
    with tempfile.TemporaryDirectory() as scratch:
        for part in arguments.only or PARTS:
            started = time.monotonic()
            found[part] = globals()[part](arguments.shared, Path(scratch))
            print(f"{part}: {time.monotonic() - started:.0f} s\n", flush=True)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "retrieval.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def bioasq(shared: Path, scratch: Path) -> dict[str, Any]:
    """Compare ours with plain BM25 and plain MiniLM on public questions."""
    corpus, queries, gold = bioasq_rows(shared / "questions" / "all_mcq.jsonl")
    ids = {text: f"p{n:05d}" for n, text in enumerate(corpus)}
    folder = scratch / "bioasq"
    file, asked = scratch / "corpus.jsonl", scratch / "queries.txt"
    rows = [{"passage_id": ids[text], "text": text} for text in corpus]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    asked.write_text("".join(" ".join(query.split()) + "\n" for query in queries.values()), "utf-8")
    started = time.monotonic()
    command("index", "--from", file, "-C", folder)
    indexed = time.monotonic() - started
    started = time.monotonic()
    lines = command("search", "--file", asked, "-k", 20, "-C", folder).splitlines()
    searched = time.monotonic() - started
    ours = [[hit["passage_id"] for hit in json.loads(line)["hits"]] for line in lines]
    systems = {
        "BM25, words as they are": plain_bm25(corpus, list(queries.values()), stemmed=False),
        "BM25, stemmed": plain_bm25(corpus, list(queries.values()), stemmed=True),
        "MiniLM": plain_minilm(corpus, list(queries.values())),
    }
    ranked = {
        name: [[ids[corpus[n]] for n in row] for row in places] for name, places in systems.items()
    }
    ranked["ours, by default"] = ours
    wanted = [{ids[text] for text in gold[name]} for name in queries]
    scores = {name: [quality(*pair) for pair in zip(rows, wanted, strict=True)]
              for name, rows in ranked.items()}  # fmt: skip
    reported = [n for n, name in enumerate(queries) if not chosen_on(name)]
    parts = {"all": list(range(len(queries))), "half not chosen on": reported}
    table, figures = [], {}
    for label, places in parts.items():
        for name in ranked:
            means = np.mean([scores[name][n] for n in places], axis=0)
            gain = [
                interval([scores[name][n][m] - scores["MiniLM"][n][m] for n in places])
                for m in (0, 1)
            ]
            shown = [f"{g[0]:+.3f} ({g[1]:+.3f} to {g[2]:+.3f})" for g in gain]
            table.append((label, name, f"{means[0]:.3f}", f"{means[1]:.3f}", *shown))
            figures[f"{label}: {name}"] = {
                "ndcg@10": means[0], "recall@20": means[1], "over MiniLM": gain,
            }  # fmt: skip
    heads = (
        "questions",
        "system",
        "nDCG@10",
        "recall@20",
        "nDCG over MiniLM",
        "recall over MiniLM",
    )
    console.table(heads, table, title=f"BioASQ: {len(queries)} questions, {len(corpus):,} texts")
    print(f"index {indexed:.1f} s, {len(queries)} searches {searched:.1f} s, whole commands")
    return figures


def bioasq_rows(file: Path) -> tuple[list[str], dict[str, str], dict[str, set[str]]]:
    """Return the texts, the questions by id, and the texts that answer each."""
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    queries, gold, texts = {}, {}, {}
    for row in rows:
        if row["source"] == "BioASQ-Y/N":
            found = [text.strip() for text in row["context"].split("\n")]
            gold[row["id"]] = {text for text in found if len(text) >= SHORTEST}
            queries[row["id"]] = row["question"]
            texts |= dict.fromkeys(text for text in found if len(text) >= SHORTEST)
        elif row["source"].startswith("PubMedQA"):
            texts[row["context"].strip()] = None
    return list(texts), queries, gold


def chosen_on(name: str) -> bool:
    """Return whether settings were chosen on this question."""
    return not hashlib.sha256(name.encode()).digest()[-1] & 2


def quality(found: Sequence[str], wanted: set[str]) -> tuple[float, float]:
    """Return nDCG@10 with binary gains, and recall@20."""
    gains = [1 / np.log2(n + 2) for n, one in enumerate(found[:10]) if one in wanted]
    best = sum(1 / np.log2(n + 2) for n in range(min(10, len(wanted))))
    return sum(gains) / best, len(wanted.intersection(found[:20])) / len(wanted)


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of paired differences with its 95 % bootstrap interval."""
    values = np.array(differences)
    drawn = np.random.default_rng(1).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def plain_bm25(corpus: Sequence[str], queries: Sequence[str], *, stemmed: bool) -> list[list[int]]:
    """Return the 20 best texts of each query by the library bm25s."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english") if stemmed else None

    def tokens(texts: Sequence[str]) -> Any:
        return bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, show_progress=False)

    index = bm25s.BM25()
    index.index(tokens(corpus), show_progress=False)
    found, _ = index.retrieve(tokens(queries), k=20, show_progress=False)
    return [list(map(int, row)) for row in found]


def plain_minilm(corpus: Sequence[str], queries: Sequence[str]) -> list[list[int]]:
    """Return the 20 nearest texts of each query by the packaged encoder, in float32."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(model_source("minilm"), device="cpu")
    vectors = model.encode(list(corpus), normalize_embeddings=True, show_progress_bar=False)
    asked = model.encode(list(queries), normalize_embeddings=True, show_progress_bar=False)
    return [list(map(int, row)) for row in np.argsort(-(asked @ vectors.T), axis=1)[:, :20]]


def sources(shared: Path, scratch: Path) -> dict[str, Any]:
    """Sweep the index over the bundled handbook."""
    folder = scratch / "handbook"
    from ecg_llm.commands import init

    init.make_demo(folder)
    settings = yaml.safe_load((folder / config.FILE).read_text("utf-8"))
    settings["index"] = {**settings.get("index", {}), "sweep": SWEEP}
    (folder / config.FILE).write_text(yaml.safe_dump(settings), "utf-8")
    print(command("index", "--sweep", "-C", folder))
    print(command("retrieval", "-C", folder))
    return {row["variant"]: row for row in json.loads(command("index", "--sweep", "--json", "-C", folder))["sweep"]}  # fmt: skip # noqa: E501


class System(NamedTuple):
    """A retriever, how long it took to index, and what it searches."""

    seconds: float
    passages: Sequence[Passage]
    search: Callable[[str], list[str]]


def published(shared: Path, scratch: Path) -> dict[str, Any]:
    """Compare ours with a stand-in for the published retriever on real documents."""
    folder = scratch / "literature"
    folder.mkdir()
    (folder / config.FILE).write_text(
        yaml.safe_dump({"literature": str((shared / "literature").resolve())}), "utf-8"
    )
    command("questions", "-C", folder)
    rows = steps.read_table(folder / "questions.jsonl", Question)
    kept = [row for row in rows if row.status == "kept" and row.kind == "open"]
    questions = random.Random(1).sample(kept, min(ASKED, len(kept)))
    originals = steps.read_table(folder / "passages.jsonl", Passage)
    systems = {
        "published, stand-in": stand_in(folder, scratch / "chroma"),
        "ours, by default": ours_on(folder),
    }
    known = {
        name: measure.sources(questions, system.passages, originals)
        for name, system in systems.items()
    }
    hits: dict[str, list[float]] = {name: [] for name in systems}
    times: dict[str, list[float]] = {name: [] for name in systems}
    for row in questions:  # in turn, so that both meet the same machine
        for name, system in systems.items():
            started = time.monotonic()
            ids = system.search(row.question)
            times[name].append((time.monotonic() - started) * 1000)
            hits[name].append(float(bool(set(ids[:5]) & set(known[name][row.question_id]))))
    table, figures = [], {}
    for name, system in systems.items():
        mean, ms = float(np.mean(hits[name])), float(np.median(times[name]))
        table.append((name, f"{len(system.passages):,}", f"{system.seconds:.1f}", f"{ms:.1f}",
                      f"{mean:.3f}"))  # fmt: skip
        figures[name] = {"index_seconds": system.seconds, "query_ms": ms, "hit@5": mean}
    first, second = hits.values()
    gain = interval([b - a for a, b in zip(first, second, strict=True)])
    console.table(
        ("retriever", "passages", "index s", "ms a query, median", "hit@5"),
        table,
        title=f"literature/: {len(questions)} questions written from it",
    )
    print(f"hit@5, ours - published: {gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})")
    return {**figures, "difference": gain}


def ours_on(folder: Path) -> System:
    """Return our index of a study's texts, cut and made anew."""
    settings = config.load(folder)
    models = pipeline.Models(settings, folder)
    documents = [row for row in steps.read_table(folder / "documents.jsonl", Document)
                 if row.status in ("ok", "partial")]  # fmt: skip
    languages = {row.doc_id: row.language for row in documents}
    models.embedder.embed(["warm"])
    shutil.rmtree(folder / "index", ignore_errors=True)
    started = time.monotonic()
    cut = [
        passage
        for row in documents
        for passage in passages.cut(
            row, pipeline.read_text(folder, row), models.embedder.count_tokens, settings.passages
        )
    ]
    usable = pipeline.usable(cut, settings)
    index = models.index()
    index.build(usable, languages)
    seconds = time.monotonic() - started
    return System(
        seconds, usable, lambda query: [hit.passage_id for hit in index.search([query], 20)[0]]
    )


def stand_in(folder: Path, place: Path) -> System:
    """Return what the published code does with the same texts (PAPER, sections 2.4 and 3.3)."""
    import chromadb
    from langchain_text_splitters import RecursiveCharacterTextSplitter
    from sentence_transformers import SentenceTransformer

    documents = steps.read_table(folder / "documents.jsonl", Document)
    model = SentenceTransformer(model_source("minilm"), device="cpu")
    model.encode(["warm"])
    splitter = RecursiveCharacterTextSplitter(
        chunk_size=1024, chunk_overlap=100, add_start_index=True
    )
    started = time.monotonic()
    chunks = [
        chunk_of(row.doc_id, piece.metadata["start_index"], piece.page_content)
        for row in documents
        if row.status in ("ok", "partial")
        for piece in splitter.create_documents([pipeline.read_text(folder, row)])
    ]
    vectors = model.encode([chunk.text for chunk in chunks], show_progress_bar=False)
    store = chromadb.PersistentClient(str(place)).create_collection("chunks")
    for start in range(0, len(chunks), 5000):
        part = slice(start, start + 5000)
        store.add(
            ids=[chunk.passage_id for chunk in chunks[part]],
            embeddings=vectors[part],
            documents=[chunk.text for chunk in chunks[part]],
        )
    seconds = time.monotonic() - started

    def search(query: str) -> list[str]:
        asked = model.encode([query], show_progress_bar=False)
        return list(store.query(query_embeddings=asked, n_results=20)["ids"][0])

    return System(seconds, chunks, search)


def chunk_of(doc_id: str, start: int, text: str) -> Passage:
    """Return a chunk as a passage, so that its place in the document is known."""
    return Passage(
        passage_id=Passage.id_for(doc_id, start, start + len(text), text), doc_id=doc_id,
        start=start, end=start + len(text), page_from=1, page_to=1, text=text, tokens=0,
    )  # fmt: skip


def embedding(shared: Path, scratch: Path) -> Any:
    """Time the embedder against its plain library."""
    return script("embedding.py", "--shared", shared)


def scale(shared: Path, scratch: Path) -> Any:
    """Time the index at 100,000 passages."""
    return script("retrieval_scale.py")


def script(name: str, *arguments: object) -> None:
    """Run a benchmark that stands beside this one; it prints its own table."""
    place = Path(__file__).with_name(name)
    subprocess.run([sys.executable, str(place), *map(str, arguments)], check=True)


def command(*arguments: object) -> str:
    """Run ecg-llm and return what it prints."""
    program = Path(sys.executable).with_name("ecg-llm")
    run = subprocess.run([str(program), *map(str, arguments)], stdout=subprocess.PIPE, check=False)
    if run.returncode:
        sys.exit(f"ecg-llm {arguments[0]} ended with {run.returncode}")
    return run.stdout.decode()


if __name__ == "__main__":
    main()
