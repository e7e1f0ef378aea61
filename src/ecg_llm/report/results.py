"""Estimates to what a reader sees: sentences, tables, figures and differences."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import NamedTuple

from ecg_llm.records import METRICS, Estimate, Question
from ecg_llm.report.figures import ArmStyle, Panel, Point, interval_plot
from ecg_llm.stats.unpaired import Gap

SIGNIFICANT = 0.05
ALIKE, TOO_FEW = "not distinguishable", "too few questions to tell"
"""What is said of a difference that does not stand."""
FATES = ("left out", "placed last")
"""What became of missing answers, where they counted as no value."""
SECTIONS: Mapping[str, str] = {
    "unread": "choice",
    "unread_strict": "choice",
    "harm": "judge",
    "fact_recall": "content",
    "facts_contradicted": "content",
    "abstained": "content",
    "claims_cited": "content",
    "citation_recall": "content",
    "citation_precision": "content",
    "keys_not_given": "content",
    "words": "content",
}
"""Sections of the metrics that do not stand with their layer."""
TITLES: Mapping[str, tuple[str, str]] = {
    "choice": ("Multiple choice", "The share of questions whose right option the arm named."),
    "judge": (
        "LLM judge",
        "What language models made of the open answers, having read question, reference and "
        "source. These are opinions of models, not of people.",
    ),
    "similarity": (
        "Similarity to the reference (no judge)",
        "How close an open answer comes to the reference by the cosine of their embeddings, put on "
        "the experts' scale. No judge read it: what is near in topic can still be wrong.",
    ),
    "human": ("Experts' ratings", "What people who know the subject made of the answers."),
    "text": (
        "Wording",
        "How much of the reference's wording an open answer shares. This shows style as much as "
        "knowledge: a right answer in other words scores low.",
    ),
    "content": (
        "Facts, citations and length",
        "What open answers state, how far what they cite bears it out, and how long they are.",
    ),
    "other": ("Further figures", "Neither better nor worse when higher, and not ranked."),
}
"""Sections of the report with their headings and first sentences."""
SHOWN: Mapping[str, tuple[str, ...]] = {
    "choice": (
        "accuracy", "accuracy_strict", "accuracy_circular", "consistency", "accuracy_likelihood",
        "accuracy_likelihood_per_token",
    ),
    "judge": (
        "verdict", "verdict_correct", "ranking_strength", "ranking_strength_length", "ranking",
    ),
    "similarity": ("reference_similarity",),
    "human": ("human",),
    "text": ("rouge1", "rougeL", "bleu_corpus", "bertscore"),
    "content": (
        "fact_recall", "facts_contradicted", "citation_recall", "citation_precision", "abstained",
        "words",
    ),
    "other": ("reference_likelihood",),
}  # fmt: skip
"""Metrics of a section that have a column; the others stand in the full list below the table."""
RANKED = {
    "accuracy", "accuracy_likelihood", "accuracy_likelihood_per_token", "verdict",
    "ranking_strength", "reference_similarity", "human", "rouge1", "rougeL", "bleu",
    "bleu_corpus", "bertscore",
}  # fmt: skip
"""Metrics whose ranks and differences are shown; the full list has the ranks of the others."""
PLOTTED: Mapping[str, tuple[str, ...]] = {
    "choice": ("accuracy",),
    "judge": ("verdict", "ranking_strength", "ranking_strength_length"),
    "similarity": ("reference_similarity",),
    "human": ("human",),
    "text": ("rouge1", "rougeL", "bleu_corpus", "bertscore"),
}
STRENGTHS = ("ranking_strength", "ranking_strength_length")
UNKNOWN: Mapping[str, str] = {
    "ranking_strength": "the rankings do not link all arms there, not even through a third",
    "ranking_strength_length": "length and arm cannot be told apart there",
}
"""Why a metric may be without a value for every arm, and is then left out of the table."""
SPLITS: Mapping[str, str] = {
    "test": "documents left out of training",
    "test_seen": "new questions on documents used in training",
    "rated": "questions that experts rated",
}
SHORT: Mapping[str, str] = {
    "accuracy": "Letter written",
    "accuracy_strict": "Letter as asked for",
    "accuracy_circular": "Right in all orders",
    "consistency": "Same option in two orders",
    "accuracy_likelihood": "Likeliest option",
    "accuracy_likelihood_per_token": "Likeliest option per token",
    "verdict": "Judges' verdict",
    "verdict_correct": "Judged correct",
    "ranking": "Rivals placed below",
    "ranking_strength": "Strength in rankings",
    "ranking_strength_length": "Strength at equal length",
    "reference_similarity": "Similarity to the reference (no judge)",
    "human": "Experts' rating",
    "bleu": "BLEU, sentence",
    "bleu_corpus": "BLEU, corpus",
    "fact_recall": "Key facts stated",
    "facts_contradicted": "Key facts contradicted",
    "citation_recall": "Statements borne out by their citation",
    "citation_precision": "Citations that bear out",
    "abstained": "Abstained",
    "reference_likelihood": "Log-likelihood of the reference",
    "words": "Words",
}
"""Names of metrics where the heading above says the rest."""


class Cell(NamedTuple):
    """A value as printed, with its interval and rank."""

    value: str = "–"
    interval: str = ""
    rank: str = ""
    adjusted: str = ""
    """The rank after correction."""
    tied_best: bool = False


class ArmRow(NamedTuple):
    """One arm of a table of results."""

    arm: str
    cells: tuple[Cell, ...]
    questions: str
    clusters: str
    missing: str
    """The fewest and the most over the metrics of the section."""


class SubsetTable(NamedTuple):
    """The arms on one subset in one section."""

    subset: str
    figure: str
    caption: str
    key: tuple[str, ...]
    """Sentences on how the figure is drawn."""
    metrics: tuple[str, ...]
    ranked: frozenset[str]
    """Those of the metrics that have a column of ranks."""
    adjusted: bool
    """Whether ranks after correction stand below them."""
    rows: tuple[ArmRow, ...]


class FullRow(NamedTuple):
    """Everything about one mean."""

    subset: str
    metric: str
    arm: str
    value: str
    interval: str
    rank: str
    adjusted: str
    places: str
    best: str
    questions: int
    clusters: int
    missing: str
    method: str


class Layer(NamedTuple):
    """One section of results."""

    name: str
    title: str
    lead: str
    tables: tuple[SubsetTable, ...]
    key: str
    """How its figures are drawn, said once."""
    notes: tuple[str, ...]
    """Sentences below the tables."""
    full: tuple[FullRow, ...]


class DifferenceRow(NamedTuple):
    """One paired difference."""

    a: str
    b: str
    value: str
    interval: str
    p: str
    p_adjusted: str
    p_sign: str
    """Of the sign test over documents."""
    better: str
    """Questions on which `a` scored higher than `b`, and below, lower; empty where not counted."""
    worse: str
    effect: str
    """In standard deviations of the questions' differences."""
    detectable: str
    """By one test at 5 %; the other one after correction."""
    detectable_adjusted: str
    questions: int
    verdict: str


def label(metric: str) -> str:
    """Return the metric's name for readers."""
    return METRICS[metric].label if metric in METRICS else metric


def short_label(metric: str) -> str:
    """Return the metric's name for the head of a column or panel."""
    return SHORT.get(metric, label(metric))


def is_percent(metric: str) -> bool:
    """Whether the metric is a share of right answers, shown in percent."""
    return metric in METRICS and METRICS[metric].binary


def number(value: float | None, metric: str, *, signed: bool = False) -> str:
    """Return a value as the report prints it, with a true minus sign."""
    if value is None:
        return "–"
    digits = 1 if is_percent(metric) or metric == "words" else 2 if metric in STRENGTHS else 3
    text = f"{value * (100 if is_percent(metric) else 1):{'+' if signed else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def interval(row: Estimate, *, signed: bool = False) -> str:
    """Return the 95 % interval as "low to high"; empty where there is none."""
    if row.low is None or row.high is None:
        return ""
    return " to ".join(number(x, row.metric, signed=signed) for x in (row.low, row.high))


def p_value(p: float | None) -> str:
    """Return a p-value as printed."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def layers(
    estimates: Sequence[Estimate],
    questions: Sequence[Question],
    order: Sequence[str],
    also: Collection[str] = (),
    styles: Mapping[str, ArmStyle] = MappingProxyType({}),
) -> list[Layer]:
    """Return the sections that were measured, each with a table and a figure a subset.

    Args:
        estimates: of all metrics.
        questions: give the level of guessing.
        order: the study's arms, in its own order; others follow by name.
        also: keys of TITLES that have a section even without any estimate.
        styles: the arms' marks in figures.
    """
    means = [row for row in estimates if not row.against]
    made = []
    for name, (title, lead) in TITLES.items():
        rows = [row for row in means if section(row.metric) == name]
        if not rows and name not in also:
            continue
        limits = {metric: _limits(rows, metric) for metric in {row.metric for row in rows}}
        tables = [
            _subset_table(
                name,
                subset,
                [r for r in rows if r.subset == subset],
                questions,
                order,
                limits,
                styles,
            )
            for subset in subsets(rows)
        ]
        full = tuple(
            _full_row(row) for row in sorted(rows, key=lambda row: (row.subset, row.metric))
        )
        key = " ".join(dict.fromkeys(words for table in tables for words in table.key))
        notes = (*_left_out(name, rows), *_missing(tables, rows), *_ranked_on(name, rows))
        made.append(Layer(name, title, lead, tuple(tables), key, notes, full))
    return made


def subsets(rows: Sequence[Estimate]) -> list[str]:
    """Return the names of the subsets, sorted."""
    return sorted({row.subset for row in rows})


def ordered(found: set[str], order: Sequence[str]) -> list[str]:
    """Return the names in this order; those it does not have follow by name."""
    return [name for name in order if name in found] + sorted(found - set(order))


def about(subset: str) -> str:
    """Return what the split of this subset means."""
    return SPLITS.get(subset.rpartition("/")[2], "")


def section(metric: str) -> str:
    """Return the key of TITLES that the metric stands under."""
    return SECTIONS.get(metric, METRICS[metric].layer if metric in METRICS else "other")


def _subset_table(
    layer: str,
    subset: str,
    rows: Sequence[Estimate],
    questions: Sequence[Question],
    order: Sequence[str],
    limits: Mapping[str, tuple[float, float]],
    styles: Mapping[str, ArmStyle],
) -> SubsetTable:
    """Return the table and figure of one subset; `limits` are the ends of the axes, by metric."""
    by_metric = {m: {row.arm: row for row in rows if row.metric == m} for m in SHOWN[layer]}
    metrics = tuple(m for m, column in by_metric.items() if column and not _unknown(m, column))
    arms = ordered({row.arm for row in rows}, order)
    table = []
    for arm in arms:
        own = [row for row in rows if row.arm == arm]
        cells = tuple(_cell(by_metric[m].get(arm)) for m in metrics)
        table.append(
            ArmRow(
                arm, cells, _range(row.questions for row in own), _range(r.clusters for r in own),
                _range(row.missing for row in own),
            )
        )  # fmt: skip
    plotted = [
        metric
        for metric in PLOTTED.get(layer, ())
        if any(row.value is not None for row in by_metric.get(metric, {}).values())
    ]
    guessing = _guessing(questions, subset) if layer == "choice" else None
    figure, caption, key = "", "", []
    if plotted:
        single = len(plotted) == 1
        panels = [
            Panel(
                subset if single else short_label(metric),
                [_point(arm, by_metric[metric].get(arm)) for arm in arms],
                limits[metric],
                is_percent(metric),
                0.0 if metric in STRENGTHS else guessing,
            )
            for metric in plotted
        ]
        names = ", ".join(label(metric) for metric in plotted)
        described = f"{names} on {subset}: each arm with its 95 % interval"
        figure = interval_plot(panels, described, styles)
        caption = f"{label(plotted[0])}." if single else f"{subset}."
        if about(subset):
            caption += f" {about(subset).capitalize()}."
        if guessing is not None:
            key.append("Dashed: guessing.")
        if set(plotted) & set(STRENGTHS):
            key.append("Strengths in log-odds; dashed: the mean of the arms.")
        if any(point.filled for panel in panels for point in panel.points):
            key.append("Filled: no other arm is above it by an uncorrected 95 % interval.")
    ranked = frozenset(row.metric for row in rows if row.metric in RANKED and row.rank is not None)
    adjusted = any(row.rank_adjusted is not None for row in rows if row.metric in ranked)
    return SubsetTable(
        subset, figure, caption, tuple(key), metrics, ranked, adjusted, tuple(table)
    )  # fmt: skip


def _unknown(metric: str, column: Mapping[str, Estimate]) -> bool:
    """Whether a metric that may be left out has no value for any arm of a subset."""
    return metric in UNKNOWN and all(row.value is None for row in column.values())


def _left_out(layer: str, rows: Sequence[Estimate]) -> list[str]:
    """Return in a sentence each why the tables of a section lack a metric.

    Where there is no strength at all, nothing more is said of that at equal length.
    """
    told: list[str] = []
    silent: set[str] = set()
    for metric in (metric for metric in SHOWN[layer] if metric in UNKNOWN):
        own = [row for row in rows if row.metric == metric]
        lacking = [
            subset for subset in subsets(own)
            if subset not in silent
            and all(row.value is None for row in own if row.subset == subset)
        ]  # fmt: skip
        silent.update(lacking)
        if lacking:
            told.append(
                f"“{short_label(metric)}” is left out for {listed(lacking)}: {UNKNOWN[metric]}."
            )
    return told


def _missing(tables: Sequence[SubsetTable], rows: Sequence[Estimate]) -> list[str]:
    """Return what the column of missing answers holds and what these counted as, if any are."""
    counts = [row.missing for table in tables for row in table.rows if row.missing != "0"]
    if not counts:
        return []
    told = ["Missing: answers that failed, or that could not be read or judged."]
    told += _counted_as([row for row in rows if row.missing])
    if spread := next((count for count in counts if "–" in count), ""):
        told.append(f"Where figures of one line differ, the fewest and the most are given, as "
                    f"{spread}.")  # fmt: skip
    return [" ".join(told)]


def _ranked_on(layer: str, rows: Sequence[Estimate]) -> list[str]:
    """Return where ranks rest on fewer questions than arms have, as all arms must have them."""
    shown = [row for row in rows if row.metric in SHOWN[layer] and row.metric in RANKED]
    fewer = {
        (row.metric, row.subset): row.rank_questions
        for row in shown
        if row.rank_questions is not None and row.rank_questions < row.questions
    }
    if not fewer:
        return []
    where = [f"“{short_label(metric)}” on {subset}: {n:,}" for (metric, subset), n in fewer.items()]
    return [f"Ranks rest on the questions that all arms have. In {'; '.join(where)}."]


def _counted_as(rows: Sequence[Estimate]) -> list[str]:
    """Return what missing answers counted as, in a sentence for each fate."""
    shown = {metric for metrics in SHOWN.values() for metric in metrics}
    metrics: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: list(METRICS).index(row.metric)
                      if row.metric in METRICS else len(METRICS)):  # fmt: skip
        name = short_label(row.metric)
        fate = row.missing_as.partition(";")[0]
        if row.metric in shown and name not in metrics.setdefault(fate, []):
            metrics[fate].append(name)
    told = []
    for fate, names in metrics.items():
        if not names:
            continue
        where = f" in “{listed(names, '”, “', '” and “')}”" if len(metrics) > 1 else ""
        told.append(f"They {'are' if fate in FATES else 'count as'} {fate}{where}.")
    if any("unjudged" in row.missing_as for row in rows):
        told.append("Answers that a judge failed on are always left out.")
    return told


def _limits(rows: Sequence[Estimate], metric: str) -> tuple[float, float]:
    """Return the smallest and largest end of an interval, the same for every subset."""
    ends = [
        end
        for row in rows
        if row.metric == metric
        for end in (row.value, row.low, row.high)
        if end is not None
    ]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _range(numbers: Iterable[int]) -> str:
    values = sorted(set(numbers))
    return f"{values[0]}" if len(values) == 1 else f"{values[0]}–{values[-1]}"


def _cell(row: Estimate | None) -> Cell:
    if row is None or row.value is None:
        return Cell()
    rank = "" if row.rank is None else str(row.rank)
    adjusted = "" if row.rank_adjusted is None else str(row.rank_adjusted)
    best = row.rank == 1 and row.metric in RANKED
    return Cell(number(row.value, row.metric), interval(row), rank, adjusted, best)


def _point(arm: str, row: Estimate | None) -> Point:
    if row is None:
        return Point(arm, None, None, None, False)
    return Point(arm, row.value, row.low, row.high, row.rank == 1)


def _guessing(questions: Sequence[Question], subset: str) -> float | None:
    """Return the accuracy that guessing would reach on this subset."""
    options = [
        len(question.options)
        for question in questions
        if question.subset == subset and question.status == "kept" and question.kind == "choice"
    ]
    return sum(1 / n for n in options if n) / len(options) if options else None


def _full_row(row: Estimate) -> FullRow:
    places = "" if row.rank_low is None else f"{row.rank_low}–{row.rank_high}"
    return FullRow(
        row.subset, label(row.metric), row.arm, number(row.value, row.metric), interval(row),
        "" if row.rank is None else str(row.rank),
        "" if row.rank_adjusted is None else str(row.rank_adjusted),
        places, "" if row.p_best is None else f"{row.p_best:.2f}",
        row.questions, row.clusters,
        f"{row.missing}, {'' if row.missing_as in FATES else 'as '}{row.missing_as}"
        if row.missing else "0",
        row.method.partition("/")[2].partition(" ")[0].replace("_", " "),
    )  # fmt: skip


def is_clear(row: Estimate) -> bool:
    """Whether a difference stands after correction."""
    return row.p_adjusted is not None and row.p_adjusted < SIGNIFICANT


def is_few(row: Estimate | Gap, margin: float) -> bool:
    """Whether the questions are too few to find a difference of this size after correction.

    Where it is not known what can be found, as where no p could be small enough or two arms never
    differ, the end of the interval that is farther from 0 stands for it.
    """
    if row.detectable_adjusted is not None:
        return row.detectable_adjusted > margin
    return max((abs(end) for end in (row.low, row.high) if end is not None), default=1.0) > margin


def apart(rows: Iterable[Estimate]) -> bool:
    """Whether every question is its own cluster, as where ratings name no document."""
    return all(row.clusters == row.questions for row in rows)


def turned(row: Estimate) -> Estimate:
    """Return the same difference, seen from the other arm."""
    turn: dict[str, str | float | None] = {
        "arm": row.against, "against": row.arm, "wins": row.losses, "losses": row.wins,
    }  # fmt: skip
    signs = {"value": row.value, "low": row.high, "high": row.low, "effect": row.effect}
    turn |= {name: None if source is None else -source for name, source in signs.items()}
    return row.model_copy(update=turn)


def reading(row: Estimate, margin: float = inf) -> str:
    """Return in words what a difference shows.

    Args:
        row: a difference.
        margin: the smallest difference that would matter; where the questions are too few to find
            it, a difference that is not clear does not show that there is none.
    """
    if row.p_adjusted is None:
        return "not tested"
    if is_clear(row):
        return f"{row.arm if (row.value or 0) > 0 else row.against} higher"
    return TOO_FEW if is_few(row, margin) else ALIKE


def difference_row(
    row: Estimate, declared: Sequence[tuple[str, str]], margin: float = inf
) -> DifferenceRow:
    """Return a difference as printed and read; an undeclared one in positive sense."""
    if (row.arm, row.against) not in declared and (row.value or 0) < 0:
        row = turned(row)
    wins, losses = ("" if n is None else str(n) for n in (row.wins, row.losses))
    effect = "–" if row.effect is None else f"{round(row.effect, 2) or 0:+.2f}".replace("-", "−")
    return DifferenceRow(
        row.arm, row.against, number(row.value, row.metric, signed=True),
        interval(row, signed=True), p_value(row.p), p_value(row.p_adjusted), p_value(row.p_sign),
        wins, losses, effect, number(row.detectable, row.metric),
        number(row.detectable_adjusted, row.metric), row.questions, reading(row, margin),
    )  # fmt: skip


def listed(names: Sequence[str], comma: str = ", ", last: str = " and ") -> str:
    """Return names as a sentence lists them; those that hold commas apart by semicolons."""
    if any("," in name for name in names):
        comma = comma.replace(",", ";")
    return names[0] if len(names) == 1 else f"{comma.join(names[:-1])}{last}{names[-1]}"
