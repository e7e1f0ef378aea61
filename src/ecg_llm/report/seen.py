"""Scores on documents that were trained on, and on others: figures, tables and words."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from ecg_llm.config import Study
from ecg_llm.records import Estimate
from ecg_llm.report.counts import CountTable, Part, folded
from ecg_llm.report.figures import (
    LINE,
    PLAIN,
    WIDTH,
    ArmStyle,
    Data,
    blank,
    draw_marker,
    quiet,
    shortened,
    svg,
)
from ecg_llm.report.measures import Figure, Group
from ecg_llm.report.results import (
    ALIKE,
    SIGNIFICANT,
    TOO_FEW,
    Cell,
    interval,
    is_few,
    is_percent,
    listed,
    number,
    ordered,
    p_value,
    turned,
)
from ecg_llm.stats.significance import holm
from ecg_llm.stats.unpaired import Gap, gap

DECIDING: Mapping[str, str] = {
    "accuracy": "Multiple choice",
    "verdict": "Judges' verdict",
    "human": "Experts' rating",
    "reference_similarity": "Similarity (no judge)",
}
"""Metrics that say whether an answer is right, one a layer, with their names here."""
SEEN, UNSEEN = "test_seen", "test"
UNTESTED = "not tested"
OPEN: Mapping[str, str] = {
    TOO_FEW: "there are too few questions to tell whether scores on seen and unseen documents "
    "differ for {}",
    ALIKE: "scores on seen and unseen documents are not distinguishable for {}",
    UNTESTED: "without an interval on both sides, nothing is said of {}",
}
"""What is said of arms without a clear difference, by its reading."""
HEADER = (
    "Reading", "Seen", "Unseen", "Seen − unseen", "p, corrected",
    "Questions (documents): seen; unseen",
)  # fmt: skip
NOTE = (
    "Questions and documents of the two sides are not the same, so the difference is not paired: "
    "its interval is put together from those of the two sides (MOVER, Zou & Donner 2008). p is "
    "corrected with Holm's method over the arms, or the adapters, of one metric."
)


class Sides(NamedTuple):
    """A mean, or a paired difference of two arms, on seen and on unseen documents."""

    seen: Estimate
    unseen: Estimate
    gap: Gap
    """seen - unseen."""
    p_adjusted: float | None
    """Holm's, over the arms or the pairs of one set and metric."""

    @property
    def clear(self) -> bool:
        """Whether the two sides are distinguishable."""
        return self.p_adjusted is not None and self.p_adjusted < SIGNIFICANT


def seen(
    study: Study,
    estimates: Sequence[Estimate],
    styles: Mapping[str, ArmStyle] = MappingProxyType({}),
) -> list[Group]:
    """Return for each set with questions of both kinds how far scores differ between them.

    Args:
        study: its arms, their adapters and the margin of its decision.
        estimates: means, and differences of arms.
        styles: the arms' marks in figures.
    """
    subsets, margin = {row.subset for row in estimates}, study.decision.margin
    made = []
    for name in sorted(subset.removesuffix(f"/{SEEN}") for subset in subsets):
        if not {f"{name}/{SEEN}", f"{name}/{UNSEEN}"} <= subsets:
            continue
        told: list[tuple[str, str]] = []
        figures: list[Figure] = []
        tables: list[CountTable] = []
        lines: list[tuple[str | int | Cell, ...]] = []
        for metric in DECIDING:
            arms = means(estimates, name, metric, list(study.arms))
            if arms:
                pairs = gains(study, estimates, name, metric)
                told += [(metric, words) for words in _of_arms(arms, metric, margin)]
                told += [(metric, words) for words in _of_gains(pairs, metric)]
                figures.append(_figure(name, metric, arms, styles))
                tables.append(_arm_table(arms, metric, margin))
                lines += _gain_lines(pairs, metric, margin)
        if tables:
            header = ("Difference", "Metric", *HEADER)
            gained = CountTable("What adapters add", header, tuple(lines), 3)
            parts = [Part(gained)] if lines else []
            parts += folded(tables, "Scores of the arms", NOTE)
            made.append(Group(name, by_metric(told), figures, parts))
    return made


def means(
    estimates: Sequence[Estimate], name: str, metric: str, order: Sequence[str] = ()
) -> list[Sides]:
    """Return the means of the arms that have one on both kinds of documents of a set."""
    found = {
        (row.subset, row.arm): row
        for row in estimates
        if row.metric == metric and not row.against and row.value is not None
    }
    both = [
        tuple(found.get((f"{name}/{split}", arm)) for split in (SEEN, UNSEEN))
        for arm in ordered({arm for _, arm in found}, order)
    ]
    return _sides([(first, second) for first, second in both if first and second])


def gains(study: Study, estimates: Sequence[Estimate], name: str, metric: str) -> list[Sides]:
    """Return what adapters gain on both kinds of documents of a set: tuned less untuned arm.

    Only arms that differ in nothing but the adapter are paired, and only where their difference
    was estimated.
    """
    found: dict[tuple[str, str, str], Estimate] = {}
    for row in estimates:
        if row.metric == metric and row.against and row.value is not None:
            found[row.subset, row.arm, row.against] = row
            found[row.subset, row.against, row.arm] = turned(row)
    both = [
        tuple(found.get((f"{name}/{split}", tuned, untuned)) for split in (SEEN, UNSEEN))
        for tuned, arm in study.arms.items()
        for untuned, other in study.arms.items()
        if arm.adapter and arm.model_copy(update={"adapter": ""}) == other
    ]
    return _sides([(first, second) for first, second in both if first and second])


def _sides(both: Sequence[tuple[Estimate, Estimate]]) -> list[Sides]:
    tested = sum(gap(*pair).p is not None for pair in both)
    gaps = [gap(*pair, max(1, tested)) for pair in both]
    adjusted = holm([one.p for one in gaps])
    return [Sides(*pair, one, p) for pair, one, p in zip(both, gaps, adjusted, strict=True)]


def _reading(sides: Sides, margin: float) -> str:
    """Return in two or three words what the difference shows."""
    if sides.p_adjusted is None or sides.gap.value is None:
        return UNTESTED
    if sides.clear:
        return f"{'higher' if sides.gap.value > 0 else 'lower'} on seen"
    return TOO_FEW if is_few(sides.gap, margin) else ALIKE


def by_metric(told: Sequence[tuple[str, str]]) -> list[str]:
    """Return as sentences what is told of metrics of DECIDING; what is told of several, once."""
    metrics: dict[str, list[str]] = defaultdict(list)
    for metric, words in told:
        name = DECIDING[metric]
        metrics[words].append(name[0].lower() + name[1:] if metrics[words] else name)
    return [f"{listed(names)}: {words}." for words, names in metrics.items()]


def _of_arms(arms: Sequence[Sides], metric: str, margin: float) -> Iterator[str]:
    """Yield which arms score higher or lower on seen documents, and of which it is not known."""
    for sides in arms:
        value = sides.gap.value or 0.0
        if sides.clear:
            yield (
                f"{sides.seen.arm} scores {_amount(abs(value), metric)} "
                f"{'higher' if value > 0 else 'lower'} on seen documents than on unseen ones "
                f"(95 % interval {_limits(sides.gap, metric)})"
            )
    for reading, words in OPEN.items():
        names = [sides.seen.arm for sides in arms if _reading(sides, margin) == reading]
        if names:
            yield words.format("any arm" if len(names) == len(arms) > 1 else listed(names))


def _of_gains(pairs: Sequence[Sides], metric: str) -> Iterator[str]:
    """Yield where gains on seen and unseen documents differ, and of which it is not known."""
    for pair in pairs:
        if pair.clear:
            first, second = pair.seen, pair.unseen
            yield (
                f"{first.arm} less {first.against} is {_gain(first, metric)} on seen documents "
                f"and {_gain(second, metric)} on unseen ones; {_carried(pair)}"
            )
    unclear = [f"{pair.seen.arm} adds to {pair.seen.against}" for pair in pairs if not pair.clear]
    if unclear:
        yield (
            f"whether what {listed(unclear)} differs between seen and unseen documents cannot be "
            "told"
        )


def _carried(pair: Sides) -> str:
    """Return in words how a gain on seen documents and a different one on unseen ones compare."""
    if (pair.gap.value or 0.0) < 0:
        return "it is higher on documents that were not trained on"
    if (pair.unseen.low or 0.0) > 0:
        return "a part of what is gained on seen documents carries over"
    return "more is gained on seen documents, and no gain is shown on unseen ones"


def _gain(row: Estimate, metric: str) -> str:
    ends = interval(row, signed=True)
    return _amount(row.value, metric, signed=True) + (f" ({ends})" if ends else "")


def _amount(value: float | None, metric: str, *, signed: bool = False) -> str:
    """Return a difference with its unit."""
    return number(value, metric, signed=signed) + (" points" if is_percent(metric) else "")


def _limits(found: Gap, metric: str) -> str:
    return " to ".join(number(end, metric, signed=True) for end in (found.low, found.high))


def _arm_table(arms: Sequence[Sides], metric: str, margin: float) -> CountTable:
    lines = tuple((one.seen.arm, *_cells(one, metric, margin)) for one in arms)
    return CountTable(_unit(metric), ("Arm", *HEADER), lines, 2)


def _gain_lines(
    pairs: Sequence[Sides], metric: str, margin: float
) -> Iterator[tuple[str | int | Cell, ...]]:
    for one in pairs:
        cells = _cells(one, metric, margin, signed=True)
        yield (f"{one.seen.arm} − {one.seen.against}", _unit(metric), *cells)


def _unit(metric: str) -> str:
    return DECIDING[metric] + (", %" if is_percent(metric) else "")


def _cells(
    sides: Sides, metric: str, margin: float, *, signed: bool = False
) -> tuple[str | int | Cell, ...]:
    found, rows = sides.gap, (sides.seen, sides.unseen)
    ends = "" if found.low is None else _limits(found, metric)
    return (
        _reading(sides, margin),
        *(
            Cell(number(row.value, metric, signed=signed), interval(row, signed=signed))
            for row in rows
        ),
        Cell(number(found.value, metric, signed=True), ends),
        p_value(sides.p_adjusted),
        "; ".join(f"{row.questions:,} ({row.clusters:,})" for row in rows),
    )


def _figure(
    name: str, metric: str, arms: Sequence[Sides], styles: Mapping[str, ArmStyle]
) -> Figure:
    """Return a line an arm, with its mean on seen documents above that on unseen ones."""
    scale = 100 if is_percent(metric) else 1
    figure = blank()
    figure.set_size_inches(WIDTH, 0.6 + 0.3 * len(arms))
    axes = figure.subplots()
    for height, sides in enumerate(arms):
        style = styles.get(sides.seen.arm, PLAIN)
        rows = ((sides.seen, height - 0.17), (sides.unseen, height + 0.17))
        values = [scale * (row.value or 0.0) for row, _ in rows]
        axes.plot(values, [place for _, place in rows], color=LINE, linewidth=1.2)
        for value, (row, place) in zip(values, rows, strict=True):
            if row.low is not None and row.high is not None:
                ends = [scale * row.low, scale * row.high]
                axes.plot(ends, [place, place], color=style.colour, linewidth=1.4)
            draw_marker(axes, value, place, style, filled=row is sides.seen)
    names = shortened(sides.seen.arm for sides in arms)
    axes.set_yticks(range(len(arms)), [names[s.seen.arm] for s in arms], parse_math=False)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.locator_params(axis="x", nbins=5)
    if is_percent(metric):
        axes.xaxis.set_major_formatter("{x:g} %")
    quiet(axes)
    data = Data(
        ("arm", "documents", "mean", "low", "high", "questions", "clusters"),
        [
            (row.arm, kind, row.value, row.low, row.high, row.questions, row.clusters)
            for sides in arms
            for kind, row in (("seen", sides.seen), ("unseen", sides.unseen))
        ],
    )
    title = f"{DECIDING[metric]}, {name}"
    described = f"{title}: each arm on seen and on unseen documents, with 95 % intervals"
    caption = f"{title}. Filled: documents that were trained on; hollow: others."
    return Figure(svg(figure, described, data), caption)
