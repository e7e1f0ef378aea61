"""How good retrieval was, and whether it or the model is to blame: figures, tables, sentences."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, quantiles
from typing import NamedTuple

import numpy as np

from ecg_llm.config import Study
from ecg_llm.records import (
    TESTED,
    Answer,
    Document,
    IndexVariant,
    Latency,
    Passage,
    Question,
    Retrieval,
    Score,
)
from ecg_llm.report import blame
from ecg_llm.report.blame_tables import KIND, by_source, count, gains, sentence
from ecg_llm.report.counts import CountTable, Part
from ecg_llm.report.figures import Band, band_plot
from ecg_llm.report.results import Cell
from ecg_llm.retrieve import measure
from ecg_llm.stats.estimate import means
from ecg_llm.stats.intervals import Interval, wilson
from ecg_llm.stats.panels import Panel

HITS = ("hit@1", "hit@5", "hit@20")
GRADED = ("mrr", "ndcg@10", "recall@20")
NEAR = "document@5"
HEADS = {
    "hit@1": "hit@1, %", "hit@5": "hit@5, %", "hit@20": "hit@20, %", "mrr": "MRR",
    "ndcg@10": "nDCG@10", "recall@20": "recall@20", NEAR: "document@5, %",
}  # fmt: skip
WORST = 8
"""Documents shown before the rest is folded away."""
LISTED = 200
"""Documents, and questions without a known source, that are listed at most."""


class RetrievalFigures(NamedTuple):
    """What the report says about retrieval."""

    sentences: list[str]
    plot: str
    found: list[Part]
    """How high the sources come."""
    blames: list[str]
    blamed: list[Part]
    """How answers fared with and without their source."""
    more: list[Part]
    """Sweep and latencies."""


class _Line(NamedTuple):
    """One question that was searched."""

    question: Question
    values: Mapping[str, float]
    """Of `measure.values` and `measure.document_values`."""


def retrieval_figures(
    study: Study,
    documents: Sequence[Document],
    passages: Sequence[Passage],
    questions: Sequence[Question],
    rows: Sequence[Retrieval],
    answers: Sequence[Answer],
    scores: Sequence[Score],
    latencies: Sequence[Latency],
    sweep: Sequence[IndexVariant],
) -> RetrievalFigures | None:
    """Return how good retrieval was and what came of it; None where nothing was measured."""
    tested = {q.question_id: q for q in questions if q.status == "kept" and q.split in TESTED}
    document_of = {passage.passage_id: passage.doc_id for passage in passages}
    lines = [_line(tested[row.question_id], row, document_of)
             for row in rows if row.question_id in tested]  # fmt: skip
    path_of = {row.doc_id: row.path for row in documents if row.status != "duplicate"}
    found, sentences, plot, blames, blamed = [], [], "", [], []
    if lines:
        every = _means(study, lines, _columns())
        sentences = _sentences(lines, every, len(tested))
        plot = _plot(every)
        found = [
            Part(_sets(study, lines)),
            Part(_types(study, lines), "By kind and type of question"),
            *_documents(lines, path_of),
            *_unknown(lines, path_of),
        ]
        marked = blame.marks(study.arms, list(tested.values()), answers, scores, rows)
        counted = blame.blame(study.arms, marked)
        blames = [text for text in map(sentence, counted) if text]
        pairs = blame.pairs(study.arms, marked)
        tables = (by_source(counted), gains(study, pairs, tested))
        blamed = [Part(table) for table in tables if table]
    more = [*_sweep(sweep, study.answers.k), *_latencies(list(study.arms), latencies)]
    made = RetrievalFigures(sentences, plot, found, blames, blamed, more)
    return made if any(made) else None


def _line(question: Question, row: Retrieval, document_of: Mapping[str, str]) -> _Line:
    near = measure.document_values(row, question.doc_id, document_of)
    return _Line(question, {**measure.values(row), **near})


def _columns() -> tuple[str, ...]:
    """Return every right-or-wrong value of a question."""
    return tuple(f"{name}@{k}" for name in ("hit", "document")
                 for k in range(1, measure.DEPTH + 1))  # fmt: skip


def _means(study: Study, lines: Sequence[_Line], columns: Sequence[str]) -> dict[str, Interval]:
    """Return the mean of each column over the questions that have it, clustered by source."""
    values = np.array([[line.values.get(name, np.nan) for name in columns] for line in lines])
    groups = np.array([line.question.group or line.question.question_id for line in lines])
    none = (0,) * len(columns)
    panel = Panel(
        "", "", tuple(columns), values.astype(float),
        np.unique(groups, return_inverse=True)[1].astype(np.intp), none, none, True,
    )  # fmt: skip
    found = means(panel, study.estimates.resamples, study.seed)
    made = dict(zip(columns, found, strict=True))
    for name in ("hit", "document"):
        made |= nested({key: made[key] for key in _columns() if key in made and name in key})
    return made


def nested(found: Mapping[str, Interval]) -> dict[str, Interval]:
    """Return the intervals of hit@k, k rising, as far as one bounds another.

    What is among the first 5 is among the first 20: a lower end for hit@5 is one for hit@20, and an
    upper end for hit@20 one for hit@5.
    """
    made = dict(found)
    low = 0.0
    for key, mean in made.items():
        if mean.low is not None:
            low = max(low, mean.low)
            made[key] = mean._replace(low=low)
    high = 1.0
    for key, mean in reversed(list(made.items())):
        if mean.high is not None:
            high = min(high, mean.high)
            made[key] = mean._replace(high=high)
    return made


def _cell(mean: Interval, name: str) -> Cell:
    return Cell(_number(mean.value, name), _range(mean.low, mean.high, name))


def _range(low: float | None, high: float | None, name: str) -> str:
    """Return an interval as printed, shares in whole percent."""
    if low is None or high is None:
        return ""
    return " to ".join(_number(end, name, digits=0) for end in (low, high))


def _number(value: float | None, name: str, digits: int = 1) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if name in GRADED else f"{100 * value:.{digits}f}"


def _sentences(lines: Sequence[_Line], every: Mapping[str, Interval], tested: int) -> list[str]:
    known = sum("mrr" in line.values for line in lines)
    only = sum("mrr" not in line.values and NEAR in line.values for line in lines)
    rest = len(lines) - known - only
    parts = [f"the source is known for {known:,}"]
    parts += [f"only the document for {only:,}"] if only else []
    parts += [f"neither for {rest:,}"] if rest else []
    told = f"Of {count(len(lines), 'tested question')} {', '.join(parts)}."
    if tested > len(lines):
        told += f" {tested - len(lines):,} more were not searched."
    made = [told]
    first, five = every["hit@1"], every["hit@5"]
    if known:
        made.append(
            f"The source comes first for {_number(first.value, 'hit@1')} % of the {known:,} and "
            f"is among the first 5 for {_number(five.value, 'hit@5')} %{_limits(five)}."
        )
    near = every[NEAR]
    if near.value is not None:
        made.append(
            f"A passage of the right document is among the first 5 for "
            f"{_number(near.value, NEAR)} % of {near.questions:,} questions{_limits(near)}."
        )
    return made


def _limits(mean: Interval) -> str:
    limits = _range(mean.low, mean.high, "hit")
    return f" (95 % interval {limits} %)" if limits else ""


def _plot(every: Mapping[str, Interval]) -> str:
    bands = []
    for name, label in (("hit", "its source"), ("document", "its document")):
        found = [every[f"{name}@{k}"] for k in range(1, measure.DEPTH + 1)]
        values = [mean.value for mean in found if mean.value is not None]
        if values:
            ends = [(mean.low, mean.high) for mean in found]
            title = f"{label} ({count(found[0].questions, 'question')})"
            bands.append(Band(title, values, ends))
    described = "; ".join(
        f"{band.label}: {100 * band.values[0]:.0f} % at 1, {100 * band.values[4]:.0f} % at 5, "
        f"{100 * band.values[-1]:.0f} % at {measure.DEPTH}"
        for band in bands
    )
    description = f"Questions with the wanted passage among the first k found. {described}"
    return band_plot(bands, description, "first k passages") if bands else ""


def _sets(study: Study, lines: Sequence[_Line]) -> CountTable:
    groups: dict[str, list[_Line]] = {"All": list(lines)}
    for line in lines:
        for name in line.question.subsets:
            groups.setdefault(name, []).append(line)
    names = ["All", *sorted(set(groups) - {"All"})]
    rows = [
        _figures(study, name, groups[name]) for name in names if name == "All" or len(names) > 2
    ]
    note = (
        "hit@k: a source is among the first k passages. MRR: mean of 1 / place of the first "
        "source. nDCG@10 and recall@20 look at all sources of a question. document@5: any passage "
        "of the right document is among the first 5. Below each figure stands its 95 % interval "
        "over documents. A question without a known source stands in document@5 only."
    )
    header = ("Set", *_heads())
    return CountTable("How high the source comes", header, tuple(rows), note=note)


def _types(study: Study, lines: Sequence[_Line]) -> CountTable:
    groups: dict[str, list[_Line]] = defaultdict(list)
    for line in lines:
        groups[KIND[line.question.kind]].append(line)
    for line in sorted(lines, key=lambda line: line.question.type or "~"):
        groups[line.question.type or "type not stated"].append(line)
    rows = tuple(_figures(study, name, here) for name, here in groups.items())
    return CountTable("By kind and type of question", ("Questions", *_heads()), rows)


def _heads() -> tuple[str, ...]:
    return ("Questions", *(HEADS[name] for name in (*HITS, *GRADED, NEAR)))


def _figures(study: Study, name: str, lines: Sequence[_Line]) -> tuple[str | Cell, ...]:
    # Apart, since the right-or-wrong ones have an interval of their own.
    found = _means(study, lines, _columns()) | _means(study, lines, GRADED)
    cells = (_cell(found[column], column) for column in (*HITS, *GRADED, NEAR))
    return (name, _number_of(lines), *cells)


def _number_of(lines: Sequence[_Line]) -> Cell:
    """Return how many questions there are, and how many of them have a known source."""
    known = sum("mrr" in line.values for line in lines)
    return Cell(f"{len(lines):,}", f"{known:,} with source" if known < len(lines) else "")


def _documents(lines: Sequence[_Line], path_of: Mapping[str, str]) -> list[Part]:
    """Return the documents, those whose questions miss their source most often first."""
    groups: dict[str, list[_Line]] = defaultdict(list)
    for line in lines:
        if line.question.doc_id:
            groups[line.question.doc_id].append(line)

    def mean(doc_id: str, name: str) -> float | None:
        values = [line.values[name] for line in groups[doc_id] if name in line.values]
        return fmean(values) if values else None

    def place(doc_id: str) -> tuple[float, int, str]:
        five = mean(doc_id, "hit@5")
        if five is None:
            five = mean(doc_id, NEAR)
        return (1.0 if five is None else five, -len(groups[doc_id]), path_of.get(doc_id, doc_id))

    rows: list[tuple[str | Cell, ...]] = []
    for doc_id in sorted(groups, key=place)[:LISTED]:
        known = sum("mrr" in line.values for line in groups[doc_id])
        cells = []
        for name in (*HITS, "mrr", NEAR):
            value = mean(doc_id, name)
            n = known if name == "hit@5" else 0
            low, high = wilson((value or 0) * n, n) if n else (None, None)
            cells.append(Cell(_number(value, name), _range(low, high, name)))
        rows.append((path_of.get(doc_id, doc_id), _number_of(groups[doc_id]), *cells))
    heads = (HEADS[name] for name in (*HITS, "mrr", NEAR))
    header = ("Document", "Questions", *heads)
    rest = len(groups) - LISTED
    note = "Those that miss most at the top; 95 % intervals over the questions of the document."
    if rest > 0:
        note += f" {rest:,} more are not listed."
    parts = []
    if rows:
        parts.append(Part(CountTable("By document", header, tuple(rows[:WORST]), note=note)))
    if rows[WORST:]:
        table = CountTable("Further documents", header, tuple(rows[WORST:]))
        parts.append(Part(table, f"{len(rows) - WORST:,} more documents"))
    return parts


def _unknown(lines: Sequence[_Line], path_of: Mapping[str, str]) -> list[Part]:
    """Return the questions whose source is not known, by name."""
    here = [line.question for line in lines if "mrr" not in line.values]
    rows = tuple(
        (row.question_id, row.subset, path_of.get(row.doc_id, row.doc_id) or "–", row.question)
        for row in here[:LISTED]
    )
    note = f"{len(here) - LISTED:,} more in retrieval.jsonl." if len(here) > LISTED else ""
    header = ("Question", "Set", "Document", "Text")
    table = CountTable("Without a known source", header, rows, 4, note)
    return [Part(table, f"{count(len(here), 'question')} without a known source")] if rows else []


def _sweep(sweep: Sequence[IndexVariant], k: int) -> list[Part]:
    """Return the variants of the index, the one that shows most sources first."""
    settings = list(dict.fromkeys(key for row in sweep for key in row.settings))
    rows: list[tuple[str | int, ...]] = []
    for row in sorted(sweep, key=lambda row: (-row.shown, -row.ndcg_10, row.variant)):
        found = {
            "shown": row.shown, "hit@1": row.hit_1, "hit@5": row.hit_5, "hit@20": row.hit_20,
            "mrr": row.mrr, "ndcg@10": row.ndcg_10,
        }  # fmt: skip
        figures = (_number(x if row.questions else None, name) for name, x in found.items())
        seconds = f"{row.index_seconds:.1f}" if row.index_seconds else "–"
        varied = (_setting(row.settings.get(key)) for key in settings)
        rows.append((*varied, row.passages, *figures, seconds, f"{row.search_ms:.1f}"))
    header = (
        *(key.rpartition(".")[2].replace("_", " ").capitalize() for key in settings), "Passages",
        "Shown, %", *(HEADS[name] for name in (*HITS, "mrr", "ndcg@10")), "Seconds to index",
        "ms a query",
    )  # fmt: skip
    most = max((row.questions for row in sweep), default=0)
    note = (
        f"On {count(most, 'question')} with a known source. Shown: a source is among as many "
        f"passages as an arm is shown, {k} if that is not varied. Sorted by it: these questions "
        f"chose among {count(len(rows), 'variant')}, so the best figure is somewhat too good. No "
        f"seconds stand where another variant has the same index."
    )
    table = CountTable("Settings of retrieval, swept", header, tuple(rows), len(settings), note)
    return [Part(table)] if rows else []


def _setting(value: object) -> str:
    if value == "":
        return "none"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _latencies(order: Sequence[str], latencies: Sequence[Latency]) -> list[Part]:
    """Return how long search and model took, by arm."""
    by_arm: dict[str, list[Latency]] = defaultdict(list)
    for row in latencies:
        by_arm[row.arm].append(row)
    rows = []
    for arm in (name for name in order if name in by_arm):
        own = by_arm[arm]
        searched = [1000 * row.search_seconds for row in own if row.search_seconds]
        written = [row.seconds for row in own if row.seconds]
        times = (*_middle_and_tail(searched, ".1f"), *_middle_and_tail(written, ".2f"))
        together = max(row.together for row in own)
        rows.append((arm, len(own), *times, together, len(own) - len(written)))
    header = (
        "Arm", "Answers", "Search, ms: half within", "95 % within", "Model, s: half within",
        "95 % within", "At once, at most", "Kept replies",
    )  # fmt: skip
    note = (
        "Of answers made together each has its share of the time. Kept replies took none and stand "
        "in no time of the model."
    )
    table = CountTable("How long an answer takes", header, tuple(rows), note=note)
    return [Part(table)] if rows else []


def _middle_and_tail(values: Sequence[float], form: str) -> tuple[str, str]:
    """Return median and 95th percentile as printed."""
    if not values:
        return ("–", "–")
    cuts = quantiles(values, n=20, method="inclusive") if len(values) > 1 else list(values) * 19
    return (format(cuts[9], form), format(cuts[18], form))
