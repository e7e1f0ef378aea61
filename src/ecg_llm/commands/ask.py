"""One question to one arm, and retrieval alone, with citations down to the page."""

import textwrap
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ecg_llm import config, pipeline, steps
from ecg_llm.contracts import StepError, UsageError, outdated
from ecg_llm.records import Document, Passage
from ecg_llm.registry import suggestion

if TYPE_CHECKING:
    from ecg_llm.citing import Quote


class FoundPassage(TypedDict):
    """A passage found, as `search --json` prints it."""

    passage_id: str
    doc_id: str
    path: str
    page_from: int
    score: float
    text: str


class Cited(TypedDict):
    """What a cited passage says, as `ask --json` prints it."""

    key: int
    doc_id: str
    path: str
    page_from: int
    page_to: int
    section: str
    text: str
    """The sentences closest to what is cited for, in the document's own characters."""
    claim: str
    """What the answer cites it for."""
    supports: bool
    """Whether the sentences bear the claim out, by their words, numbers and vectors."""


class Unsupported(TypedDict):
    """A claim that nothing cited bears out, as `ask --json` prints it."""

    claim: str
    why: str


class Reply(TypedDict):
    """What `ask --json` prints."""

    question: str
    arm: str
    answer: str
    answered: bool
    citations: list[Cited]
    unsupported: list[Unsupported]
    keys_not_given: list[int]
    """Keys in the answer that no passage has."""
    passages: int
    """How many the arm was shown."""
    cut: bool
    """Whether the answer ends at answers.max_tokens_open."""
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


def ask(
    study: config.Study,
    folder: Path,
    arm: str,
    question: str,
    say: Callable[[str], None] | None = None,
) -> Reply:
    """Return one arm's answer to a question, with what the passages it cites say.

    Args:
        study: The settings.
        folder: Of the study.
        arm: Name of the arm.
        question: What is asked.
        say: Called with each piece of the answer as it is written, if the model can.

    Raises:
        UsageError: there is no question.
        StepError: the arm's model failed, refused or wrote nothing; says why.
    """
    from ecg_llm import citing
    from ecg_llm.answer import arms

    question = question.encode("utf-8", "replace").decode("utf-8")  # a terminal's broken bytes
    if not question.strip():
        raise UsageError("There is no question; put it into quotes behind ask.")
    started = time.monotonic()
    models = pipeline.Models(study, folder)
    answerer, count = models.answerer(arm, say)
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
    text = answer.text.strip()
    if answer.status in ("error", "refused") or not text:
        reason = answer.reason or "its model wrote nothing"
        raise StepError(f"Arm {arm} did not answer ({reason}); ask again, or another arm.")
    shown = [passages[found.passage_id] for found in answer.passages]
    reply = citing.Reply(text, question, shown)
    claims = citing.checked([reply], models.embedder)[0] if retrieves else []
    documents = _documents(folder) if retrieves else {}
    return {
        "question": question,
        "arm": arm,
        "answer": text,
        "answered": not citing.abstains(text) or any(claim.supported for claim in claims),
        "citations": [
            _cited(quote, checked.claim.text, documents[quote.passage.doc_id])
            for checked in claims
            for quote in checked.quotes
        ],
        "unsupported": [
            {"claim": checked.claim.text, "why": checked.problem}
            for checked in claims
            if not checked.supported
        ],
        "keys_not_given": citing.keys(text, len(shown))[1] if retrieves else [],
        "passages": len(shown),
        "cut": answer.status == "truncated",
        "seconds": round(time.monotonic() - started, 3),
    }


def _cited(quote: "Quote", claim: str, document: Document) -> Cited:
    passage = quote.passage
    first, last = passage.page_from, passage.page_to
    if document.page_starts:
        # page_starts holds the offset of each page: the last one that is not behind.
        start, end = passage.start + quote.start, passage.start + quote.end - 1
        first = max(1, bisect_right(document.page_starts, start))
        last = max(first, bisect_right(document.page_starts, end))
    return {
        "key": quote.key,
        "doc_id": passage.doc_id,
        "path": document.path,
        "page_from": first,
        "page_to": last,
        "section": passage.section,
        "text": quote.text,
        "claim": claim,
        "supports": quote.supports,
    }


def search(
    study: config.Study, folder: Path, queries: Sequence[str], k: int
) -> list[list[FoundPassage]]:
    """Return the best `k` passages of each query, best first."""
    if k < 1:
        raise UsageError(f"-k takes a number of at least 1, not {k}.")
    passages = _passages(folder)
    paths = {key: row.path for key, row in _documents(folder).items()}
    found = pipeline.Models(study, folder).index().search(queries, k)
    for hits in found:
        for hit in hits:
            if hit.passage_id not in passages:
                raise outdated(hit.passage_id)
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


def story(reply: Reply) -> list[str]:
    """Return what stands below an answer: the sentences cited with their places, and what lacks."""
    lines = []
    told = set()
    for cited in reply["citations"]:
        place = (cited["key"], cited["text"])
        if place not in told:
            told.add(place)
            section = f": {cited['section']}" if cited["section"] else ""
            pages = page(cited["page_from"], cited["page_to"])
            lines.append(f"\n[{cited['key']}] {cited['path']}{pages}{section}")
            lines.append(indented(cited["text"]))
    if reply["cut"]:
        lines.append("\nThe answer is cut off; answers.max_tokens_open gives it room.")
    for lacking in reply["unsupported"]:
        lines.append(f"\nCheck this yourself ({lacking['why']}): {lacking['claim']}")
    if reply["keys_not_given"]:
        keys = ", ".join(f"[{key}]" for key in reply["keys_not_given"])
        lines.append(f"\nNo passage has the key {keys}.")
    return lines


def page(first: int, last: int = 0) -> str:
    """Return ", page 3" or ", pages 3-4"; nothing where the page is not known."""
    if not first:
        return ""
    return f", page {first}" if last in (0, first) else f", pages {first}-{last}"


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


def _documents(folder: Path) -> dict[str, Document]:
    rows = steps.read_table(folder / "documents.jsonl", Document)
    return {row.doc_id: row for row in reversed(rows) if row.status in ("ok", "partial")}
