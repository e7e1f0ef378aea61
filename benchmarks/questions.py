"""The question writers, measured.

    python benchmarks/questions.py
    python benchmarks/questions.py --literature ../shared/literature --draw 50 --seed 20261126

The first: a real HTTP server in a process of its own answers every request after 200 ms. Measured
is the step `drafts` of a study, from reading the passages to the last row on disk, against the time
that the calls need if nothing but the server takes any: calls x 0.2 s / concurrency. Then the same
with the replies in the cache, and with one request in ten going wrong.

The second: how many questions the model-free writer has kept in 1,000 words of this folder, and so
many of them, drawn with the seed, with their passages, for a second reader.
"""

import argparse
import json
import multiprocessing
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ecg_llm import config, pipeline, steps
from ecg_llm.records import LETTERS, Draft, Passage, Question
from ecg_llm.testing import FakeServer, Fault

DELAY = 0.2
FAULTS: tuple[Fault | str, ...] = (
    429, 500, 502, "stall", "cut", "broken", "prose", "schema", "half", "empty",
)  # fmt: skip
"""What one request in ten meets: statuses, no answer, a body that breaks off or is no JSON; replies
that are prose, of another form, cut in the middle, or empty."""
SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "ke",
    "li",
    "mo",
    "nu",
    "pa",
    "re",
    "si",
    "to",
    "vu",
]
STUDY = """
literature: literature
documents: {{near_duplicate: 1}}
questions:
  writer: llm
  model: server
  window: 1
  per_window: 1
models:
  server:
    {{kind: api, base_url: "{url}", model: fake, concurrency: {concurrency}, timeout: {timeout}}}
  extracts: {{kind: extractive}}
arms:
  extractive: {{model: extracts}}
"""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--literature", type=Path)
    parser.add_argument("--draw", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if arguments.literature:
            literature = arguments.literature.resolve()
            (folder / "study.yaml").write_text(json.dumps({"literature": str(literature)}))
            read(folder, arguments.draw, arguments.seed)
            return
        write_literature(folder / "literature", arguments.passages)
        for name, faulty in (("sound", False), ("faulty", True)):
            with Server(faulty) as server:
                url, timeout = server.url, 3 if faulty else 600
                study = STUDY.format(url=url, timeout=timeout, concurrency=arguments.concurrency)
                (folder / "study.yaml").write_text(study)
                measure(folder, name, server, arguments.concurrency)
                if not faulty:
                    (folder / "manifests" / "drafts.json").unlink()
                    before = server.requests()
                    seconds = run(folder, "drafts")
                    print(f"again: {server.requests() - before} requests, {seconds:.1f} s")
            for made in ("cache.sqlite", "drafts.jsonl", "manifests/drafts.json"):
                (folder / made).unlink()
            shutil.rmtree(folder / "partial", ignore_errors=True)


def read(folder: Path, count: int, seed: int) -> None:
    """Have the model-free writer ask about a folder of literature; print its yield and a sample."""
    run(folder, "passages")
    print(f"written in {run(folder, 'drafts'):.0f} s", file=sys.stderr)
    run(folder, "questions")
    settings = config.load(folder)
    passages = {row.passage_id: row for row in steps.read_table(folder / "passages.jsonl", Passage)}
    words = sum(len(row.text.split()) for row in pipeline.usable([*passages.values()], settings))
    rows = steps.read_table(folder / "questions.jsonl", Question)
    kept = [row for row in rows if row.status == "kept"]
    print(
        f"{len(kept):,} of {len(rows):,} kept, {words:,} words: {1000 * len(kept) / words:.2f} in "
        f"1,000; {dict(Counter(row.reason for row in rows))}",
        file=sys.stderr,
    )
    for number, row in enumerate(random.Random(seed).sample(kept, count), start=1):
        passage = passages[row.passage_id]
        print(f"### {number}. {row.question_id} [{row.kind}, {row.type}, {row.difficulty}]")
        print(f"QUESTION: {row.question}")
        for letter, option in zip(LETTERS, row.options, strict=False):
            print(f"  {'*' if letter == row.answer else ' '} {letter}) {option}")
        if row.kind == "open":
            print(f"ANSWER: {row.reference}")
        print(f"EVIDENCE: {row.evidence}\nPASSAGE ({passage.section}): {passage.text}\n")


def measure(folder: Path, name: str, server: "Server", concurrency: int) -> None:
    """Write all drafts and questions of a study, and print what that took and gave."""
    run(folder, "passages")
    seconds = run(folder, "drafts")
    drafts = steps.read_table(folder / "drafts.jsonl", Draft)
    asked = server.requests()
    calls = len(drafts)
    least = calls * DELAY / concurrency
    print(
        f"{name}: {calls} drafts, {asked} requests, {seconds:.1f} s; "
        f"{calls} x {DELAY} s / {concurrency} = {least:.1f} s; ratio {seconds / least:.2f}"
    )
    run(folder, "questions")
    rows = steps.read_table(folder / "questions.jsonl", Question)
    ended = Counter(f"{row.status} {row.reason}".strip() for row in rows)
    statuses = Counter(draft.status for draft in drafts)
    print(f"  drafts: {dict(statuses)}; questions: {dict(ended)}")
    again = sum(draft.attempts > 1 for draft in drafts)
    print(f"  asked more than once: {again} of {calls}")
    assert len({(draft.passage_ids, draft.kind) for draft in drafts}) == calls
    assert all(draft.status == "ok" or draft.reason for draft in drafts)
    assert all(row.status == "kept" or row.reason for row in rows)
    assert len(rows) == calls, f"{len(rows)} rows of {calls} drafts with one question each"


def run(folder: Path, name: str) -> float:
    """Bring a step and what it needs up to date, and return the seconds that it itself took."""
    settings = config.load(folder)
    models = pipeline.Models(settings, folder)
    bound = steps.bind(folder, pipeline.study_steps(settings, folder, models))
    for needed in steps.needed(bound, name):
        started = time.monotonic()
        steps.run(bound, needed)
    return time.monotonic() - started


class Server:
    """A FakeServer in a process of its own."""

    def __init__(self, faulty: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._counter = context.Value("i", 0)
        address = context.Queue()
        self._process = context.Process(
            target=serve, args=(faulty, address, self._counter), daemon=True
        )
        self._process.start()
        self.url = address.get()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.join()

    def requests(self) -> int:
        """Return how many chat requests have come."""
        return self._counter.value


def serve(faulty: bool, address: Any, counter: Any) -> None:
    """Answer until terminated."""

    def trouble(number: int) -> Fault | str:
        rng = random.Random(number)
        return rng.choice(FAULTS) if faulty and rng.random() < 0.1 else ""

    def fault(number: int, body: dict[str, Any]) -> Fault:
        with counter.get_lock():
            counter.value += 1
        body["trouble"] = found = trouble(number)
        return found if found not in ("prose", "schema", "half", "empty") else ""

    with FakeServer(reply, delay=DELAY, fault=fault) as server:
        address.put(server.base_url)
        time.sleep(10**6)


def reply(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
    """Return one question on the passage in the prompt, as a model would, or what goes wrong."""
    prompt = messages[0]["content"]
    sentence = re.search(r"The \w+ wave of the \w+ lead lasts \d+ ms\.", prompt)[0]
    subject, _, value = sentence.removesuffix(" ms.").rpartition(" lasts ")
    item = {
        "type": "threshold", "difficulty": "easy",
        "question": f"How long does {subject.lower()} last?",
        "answer": f"{value} ms",
        "evidence": sentence,
    }  # fmt: skip
    if "distractors" in prompt:
        item["distractors"] = [f"{int(value) + 13 * i} ms" for i in (1, 2, 3)]
    else:
        item["answer"] = sentence
    good = json.dumps({"questions": [item]})
    trouble = {"prose": f"Certainly! {good}", "schema": json.dumps([item]),
               "half": good[: len(good) // 2], "empty": ""}  # fmt: skip
    return trouble.get(body["trouble"], good)


def write_literature(folder: Path, passages: int) -> None:
    """Write Markdown files of 50 sections, one passage each, that state one fact each."""
    folder.mkdir()
    rng = random.Random(1)
    names = [f"{a}{b}{c}{d}".capitalize() for a in SYLLABLES for b in SYLLABLES
             for c in SYLLABLES[:5] for d in SYLLABLES[:5]]  # fmt: skip
    rng.shuffle(names)
    for start in range(0, passages, 50):
        sections = [
            f"# {name} wave\n\nThe {name} wave of the {other} lead lasts {100 + n % 400} ms.\n"
            for n, (name, other) in enumerate(
                zip(names[start : start + 50], names[-start - 51 : -start - 1], strict=True), start
            )
        ][: passages - start]
        (folder / f"{start:05d}.md").write_text("\n".join(sections))


if __name__ == "__main__":
    main()
