"""One question to one arm, and retrieval alone, with citations down to the page."""

import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from ecg_llm import config, pipeline, steps
from ecg_llm.contracts import StepError, UsageError
from ecg_llm.records import Document, Passage
from ecg_llm.registry import suggestion


class FoundPassage(TypedDict):
    """A passage found, as `search --json` prints it."""

    passage_id: str
    doc_id: str
    path: str
    page_from: int
    score: float
    text: str


class Cited(TypedDict):
    """A passage cited, as `ask --json` prints it."""

    key: int
    doc_id: str
    path: str
    page_from: int
    page_to: int
    section: str
    text: str


class Reply(TypedDict):
    """What `ask --json` prints."""

    question: str
    arm: str
    answer: str
    answered: bool
    citations: list[Cited]
    seconds: float


def choose_arm(study: config.Study, name: str) -> str:
    """Return the arm that `ask` uses: the one named, else the first that retrieves.

    Arms whose words can be trusted come first: nano models only exercise the chain.

    Raises:
        UsageError: no such arm, or the study has none.
    """
    if name:
        if name not in study.arms:
            raise UsageError(f"There is no arm {name!r}{suggestion(name, list(study.arms))}")
        return name
    if not study.arms:
        raise UsageError(
            "study.yaml has no arms; add one, for example: arms: {base: {model: base}}."
        )
    ranked = sorted(study.arms, key=lambda arm: (is_nano(study, arm), not study.arms[arm].retrieve))
    return ranked[0]


def is_nano(study: config.Study, arm: str) -> bool:
    """Return whether this arm is a nano model."""
    return study.models[study.arms[arm].model].kind == "nano"


def needs(study: config.Study, name: str) -> list[str]:
    """Return the steps that must be up to date before this arm can be asked."""
    arm = study.arms[name]
    trained = [arm.adapter] if arm.adapter else [arm.model] if is_nano(study, name) else []
    return [*(["index"] if arm.retrieve else []), *(f"training/{made}" for made in trained)]


def ask(study: config.Study, folder: Path, arm: str, question: str) -> Reply:
    """Return one arm's answer to a question, with the passages it cites.

    Raises:
        StepError: the arm's model failed; says why.
    """
    from ecg_llm.answer import arms
    from ecg_llm.contracts import NO_ANSWER

    started = time.monotonic()
    models = pipeline.Models(study, folder)
    answerer, count = models.answerer(arm)
    retrieves = study.arms[arm].retrieve
    passages = _passages(folder) if retrieves else {}
    answer = arms.ask(
        question,
        arm,
        answerer,
        models.index() if retrieves else None,
        passages,
        study.answers,
        count=count,
    )
    if answer.status == "error":
        raise StepError(f"Arm {arm} could not answer: {answer.reason}.")
    paths = _paths(folder) if retrieves else {}
    cited: list[Cited] = [
        {
            "key": key,
            "doc_id": passage.doc_id,
            "path": paths[passage.doc_id],
            "page_from": passage.page_from,
            "page_to": passage.page_to,
            "section": passage.section,
            "text": passage.text,
        }
        for key, passage in arms.cited(answer, passages)
    ]
    text = answer.text.strip()
    return {
        "question": question,
        "arm": arm,
        "answer": text or NO_ANSWER,
        "answered": bool(text) and NO_ANSWER not in text,
        "citations": cited,
        "seconds": round(time.monotonic() - started, 3),
    }


def search(
    study: config.Study, folder: Path, queries: Sequence[str], k: int
) -> list[list[FoundPassage]]:
    """Return the best `k` passages of each query, best first."""
    if k < 1:
        raise UsageError(f"-k takes a number of at least 1, not {k}.")
    passages, paths = _passages(folder), _paths(folder)
    found = pipeline.Models(study, folder).index().search(queries, k)
    return [
        [
            {
                "passage_id": hit.passage_id,
                "doc_id": passages[hit.passage_id].doc_id,
                "path": paths[passages[hit.passage_id].doc_id],
                "page_from": passages[hit.passage_id].page_from,
                "score": round(hit.score, 6),
                "text": passages[hit.passage_id].text,
            }
            for hit in hits
        ]
        for hits in found
    ]


def pages(cited: Cited) -> str:
    """Return "page 3" or "pages 3-4"."""
    first, last = cited["page_from"], cited["page_to"]
    return f"page {first}" if first == last else f"pages {first}-{last}"


def indented(text: str, width: int = 96) -> str:
    """Return text wrapped and indented for the terminal."""
    return "\n".join(
        textwrap.fill(line, width, initial_indent="    ", subsequent_indent="    ")
        for line in text.splitlines()
        if line.strip()
    )


def _passages(folder: Path) -> dict[str, Passage]:
    rows = steps.read_table(folder / "passages.jsonl", Passage)
    return {row.passage_id: row for row in rows}


def _paths(folder: Path) -> dict[str, str]:
    rows = steps.read_table(folder / "documents.jsonl", Document)
    return {row.doc_id: row.path for row in reversed(rows) if row.status in ("ok", "partial")}
