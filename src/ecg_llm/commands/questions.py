"""Questions before, after and beside the run: a preview, what was made, the way out and back in."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ecg_llm import config, pipeline, steps, store
from ecg_llm.chat import Usage
from ecg_llm.contracts import UsageError, Window
from ecg_llm.records import (
    LETTERS,
    Check,
    Document,
    Draft,
    Overlap,
    Passage,
    Placement,
    Question,
    Revision,
)

if TYPE_CHECKING:
    from ecg_llm.questions.exchange.revise import Outcome


class Preview(NamedTuple):
    """What a few windows give, and what all would take."""

    samples: list[tuple[Window, list[Draft], list[Question]]]
    windows: int
    """Of the whole study."""
    requests: int
    """To the writers."""
    check_requests: int
    """To the checking model, which the estimates below leave out."""
    tokens: int
    """Of the whole study, estimated from the sample; 0 where no server is asked."""
    cost: float
    seconds: float
    """0 where the sample came from the cache and so tells no time."""


def preview(folder: Path, study: config.Study, models: pipeline.Models, count: int) -> Preview:
    """Return what the writers make of `count` windows, one a document in turn; nothing is kept.

    Replies go to the cache, so that the run itself does not pay for them again.
    """
    from ecg_llm.questions.checking import verify
    from ecg_llm.questions.writing import generate, windows

    passages = pipeline.usable(steps.read_table(folder / "passages.jsonl", Passage), study)
    made = windows.windows(passages, study.questions, study.seed)
    few = study.questions.model_copy(update={"limit": min(count, len(made))})
    chosen = windows.windows(passages, few, study.seed)
    drafts: dict[tuple[str, ...], list[Draft]] = defaultdict(list)
    for draft in generate.write_together(models.writers(passages), chosen):
        drafts[draft.passage_ids].append(draft)
    samples = []
    for window in chosen:
        own = sorted(drafts[tuple(p.passage_id for p in window.passages)], key=lambda d: d.kind)
        rows = verify.questions(own, window.passages, study.questions, study.seed, models.embedder)
        samples.append((window, own, rows))
    times = len(made) / max(1, len(chosen))
    written = [draft for _, own, _ in samples for draft in own]
    requests = sum(draft.attempts for draft in written)
    used = models.usages()
    return Preview(
        samples,
        len(made),
        round(times * requests) if used else 0,
        round(times * sum(_check_requests(row, study) for _, _, rows in samples for row in rows)),
        round(times * sum(draft.tokens_in + draft.tokens_out for draft in written)),
        times * _cost(study, written),
        max((_seconds(study, *pair, times * requests) for pair in used.items()), default=0.0),
    )


def _check_requests(row: Question, study: config.Study) -> int:
    """Return how often the checking model is asked about a question."""
    checks = study.questions.checks
    if not checks.model or row.status != "kept":
        return 0
    return sum(1 if name == "grounded" else len(row.options) for name in checks.passes)


def _cost(study: config.Study, rows: Sequence[Draft | Check]) -> float:
    """Return what these replies cost by the prices of the models that gave them."""
    prices: dict[str, tuple[float, float]] = {}
    for name in (*study.questions.writers, study.questions.checks.model):
        server = study.models.get(name)
        if isinstance(server, config.ApiModelConfig):
            prices.setdefault(server.name, (server.price_in, server.price_out))
    total = 0.0
    for row in rows:
        price_in, price_out = prices.get(row.model, (0.0, 0.0))
        total += row.tokens_in * price_in + row.tokens_out * price_out
    return total / 1e6


def _seconds(study: config.Study, name: str, usage: Usage, requests: float) -> float:
    """Return how long a server takes for its share of these requests, all its hands at work."""
    server = study.models[name]
    if not usage.requests or not isinstance(server, config.ApiModelConfig):
        return 0.0
    share = requests / len(study.questions.writers)
    return usage.seconds / usage.requests * share / server.concurrency


def story(found: Preview) -> Iterator[str]:
    """Yield the preview as lines for a person."""
    for window, drafts, rows in found.samples:
        first, last = window.passages[0], window.passages[-1]
        pages = f"page {first.page_from}" + (
            f"-{last.page_to}" if last.page_to != first.page_from else ""
        )
        both = " and elsewhere (joined)" if window.joined else ""
        yield f"── {first.section or 'no section'}, {pages}{both}"
        for draft in drafts:
            if draft.status != "ok" or draft.reason:
                yield f"   {draft.kind}: {draft.status} {draft.reason}".rstrip()
        for row in rows:
            yield from _card(row)
        if not rows:
            yield "   no question"
        yield ""


def preview_figures(found: Preview) -> dict[str, Any]:
    """Return the preview as JSON takes it."""
    return {
        "samples": [
            {
                "passages": [p.passage_id for p in window.passages],
                "joined": window.joined,
                "drafts": [draft.model_dump(mode="json") for draft in drafts],
                "questions": [row.model_dump(mode="json") for row in rows],
            }
            for window, drafts, rows in found.samples
        ],
        **{name: value for name, value in found._asdict().items() if name != "samples"},
    }


def _card(row: Question) -> Iterator[str]:
    fate = "kept" if row.status == "kept" else f"dropped, {row.reason}: {row.note}".rstrip(": ")
    kind = ", ".join(filter(None, (row.kind, row.type, row.difficulty)))
    yield f"   [{kind}; {fate}] {row.question}"
    for letter, option in zip(LETTERS, row.options, strict=False):
        yield f"      {'*' if letter == row.answer else ' '} {letter}) {option}"
    if row.kind == "open":
        yield f"      answer: {row.reference}"
    yield f"      evidence: {row.evidence}"
    for span in row.joined:
        yield f"      and: {span.text}"


def summary(folder: Path, study: config.Study) -> dict[str, Any]:
    """Return what the questions step made, in figures."""
    from ecg_llm.questions.checking import sets
    from ecg_llm.questions.splitting import contamination, placing

    rows = steps.read_table(folder / "questions.jsonl", Question)
    checked = steps.read_table(folder / "checks.jsonl", Check)
    drafts = steps.read_table(folder / "drafts.jsonl", Draft)
    asked: list[Draft | Check] = [*drafts, *checked]
    placements = steps.read_table(folder / "splits.jsonl", Placement)
    overlaps = steps.read_table(folder / "contamination.jsonl", Overlap)
    return {
        "questions": len(rows),
        "status": _counts(row.status for row in rows),
        "reason": _counts(row.reason for row in rows if row.status == "dropped"),
        "flags": _counts(flag for row in rows for flag in row.flags),
        "drafts": _counts(draft.status for draft in drafts),
        "checks": _counts(f"{check.check} {check.status}" for check in checked),
        "tokens": sum(row.tokens_in + row.tokens_out for row in asked),
        "cost": round(_cost(study, asked), 4),
        "shares": [row._asdict() for row in placing.shares(placements, study.questions.split)],
        "sets": [line._asdict() for line in sets.table(rows)],
        "contamination": [line._asdict() for line in contamination.summary(rows, overlaps)],
    }


def _counts(values: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def export(
    folder: Path, study: config.Study, target: Path, form: str, where: Sequence[str]
) -> list[str]:
    """Write the questions for people (a sheet) or for other tools; return a sentence a file."""
    from ecg_llm.commands import show
    from ecg_llm.questions.exchange import export as exporting
    from ecg_llm.questions.exchange import sheets

    found = show.find(folder, "questions", "", where)
    questions = [row for row in found if isinstance(row, Question)]
    documents = steps.read_table(folder / "documents.jsonl", Document)
    if not questions:
        raise UsageError("No question is of that kind; change --where.")
    if form:
        made = exporting.export(questions, documents, target, form, study.title)
        return [
            f"{file.path}: {file.rows:,} questions" if file.rows else str(file.path)
            for file in made
        ]
    if target.suffix.lower() not in (".csv", ".xlsx"):
        raise UsageError(
            f"{target} is no sheet; name a file that ends in .xlsx or .csv, or say --form "
            f"({', '.join(exporting.FORMS)})."
        )
    if target.exists():
        raise UsageError(f"{target} is there already; name another file, or delete it first.")
    target.parent.mkdir(parents=True, exist_ok=True)
    sheets.write(target, questions, documents, steps.read_table(folder / "passages.jsonl", Passage))
    return [f"{target}: {len(questions):,} questions"]


def bring_back(folder: Path, file: Path, by: str) -> "Outcome":
    """Keep the changes that a person made in a sheet, and return them with what is refused.

    The changes lie in revisions/<name of the person>.jsonl, an input of the questions.
    """
    from ecg_llm.questions.exchange import revise, sheets

    if not by.strip():
        raise UsageError("--by names who made the changes; it goes into the trail.")
    study = config.load(folder)
    place = folder / "revisions" / f"{revise.file_name(by)}.jsonl"
    files = pipeline.files_of(folder, study.questions.revisions)
    if place not in files and not any(place.match(glob) for glob in study.questions.revisions):
        raise UsageError(
            f"questions.revisions in study.yaml does not take in {place}; add revisions/*.jsonl."
        )
    earlier = {path: steps.read_table(path, Revision) for path in files}
    outcome = revise.revisions(
        sheets.read(file),
        steps.read_table(folder / "questions.jsonl", Question),
        by,
        datetime.now(UTC).isoformat(timespec="seconds"),
        [row for rows in earlier.values() for row in rows],
        steps.read_table(folder / "passages.jsonl", Passage),
    )
    if outcome.revisions:
        store.write(place, [*earlier.get(place, []), *outcome.revisions])
    return outcome
