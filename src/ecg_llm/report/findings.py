"""What the study found, layer by layer, in short sentences that the numbers bear out.

Of two arms that were tested: one is ahead if p stays below 5 % after correction; else they are not
distinguishable, or, where this design could not find a difference that matters, the questions are
too few to tell. Arms that were only ranked and share a rank are tied.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ecg_llm.records import Estimate
from ecg_llm.report.results import (
    TITLES,
    about,
    interval,
    is_clear,
    is_few,
    is_percent,
    listed,
    number,
    subsets,
    turned,
)

LEADS: Mapping[str, tuple[str, str]] = {
    "accuracy": ("choice", "{value} of {n} questions right"),
    "verdict": ("judge", "mean verdict {value} on {n} open questions"),
    "ranking_strength": (
        "judge", "in the rankings {value} log-odds above the mean of the arms, {n} open questions",
    ),
    "human": ("human", "mean rating {value} on {n} questions"),
    "reference_similarity": ("similarity", "{value} on {n} open questions"),
    "rougeL": ("text", "ROUGE-L {value} on {n} open questions"),
}  # fmt: skip
"""Metrics that are told, in this order: their section, and what is said of the leading arm."""
INSTEAD: Mapping[str, frozenset[str]] = {
    "ranking_strength": frozenset({"verdict"}),
    "reference_similarity": frozenset({"verdict", "ranking_strength", "human"}),
    "rougeL": frozenset({"verdict", "ranking_strength", "human", "reference_similarity"}),
}
"""Metrics that are not told where one of these is."""
NAMED = 4
"""Arms that a sentence names before it counts the rest."""
ONE_DOCUMENT = "All questions come from one document, so nothing can be said beyond it."
SOME_ONE_DOCUMENT = (
    "Figures without an interval come from the questions of one document; nothing can be said "
    "beyond it."
)


class Point(NamedTuple):
    """What one layer says."""

    title: str
    lead: str
    """The arm with the highest value, or several with the same one."""
    value: str
    sentences: tuple[str, ...]
    """How the others stand to it."""


class Finding(NamedTuple):
    """What the study found on one subset."""

    subset: str
    about: str
    points: tuple[Point, ...]
    sentences: tuple[str, ...]
    """What to be careful about."""


def findings(
    estimates: Sequence[Estimate], declared: Sequence[tuple[str, str]], margin: float
) -> list[Finding]:
    """Return a finding a subset, those of documents used in training last.

    Args:
        estimates: of all metrics.
        declared: pairs of arms whose difference is told even without the leading arm.
        margin: the smallest difference that matters, as a share.
    """
    made = []
    for subset in sorted(subsets(estimates), key=lambda name: (name.endswith("_seen"), name)):
        here = [row for row in estimates if row.subset == subset]
        there = {row.metric for row in here if not row.against and row.value is not None}
        told = [m for m in LEADS if m in there and not INSTEAD.get(m, frozenset()) & there]
        points = [
            _point(m, [row for row in here if row.metric == m], declared, margin) for m in told
        ]
        if points:
            alone = [_means(row for row in here if row.metric == m)[0].low is None for m in told]
            careful = [ONE_DOCUMENT] if all(alone) else [SOME_ONE_DOCUMENT] if any(alone) else []
            made.append(Finding(subset, about(subset), tuple(points), tuple(careful)))
    return made


def gap(row: Estimate, *, signed: bool = True) -> str:
    """Return a difference with its unit and interval."""
    unit = " points" if is_percent(row.metric) else ""
    value = number(row.value, row.metric, signed=signed)
    limits = f" ({interval(row, signed=signed)})" if row.low is not None else ""
    return value + unit + limits


def measured(row: Estimate) -> str:
    """Return a mean with its unit and interval."""
    unit = " %" if is_percent(row.metric) else ""
    limits = f" ({interval(row)})" if row.low is not None else ""
    return number(row.value, row.metric) + unit + limits


def named(names: Sequence[str], most: int = NAMED) -> str:
    """Return names as a sentence lists them, the last ones counted where there are many."""
    if len(names) <= most + 1:
        return listed(names)
    return listed([*names[:most], f"{len(names) - most} others"])


def _point(
    metric: str, rows: Sequence[Estimate], declared: Sequence[tuple[str, str]], margin: float
) -> Point:
    """Return what one metric says on one subset."""
    means = _means(rows)
    best = means[0]
    equal = [row.arm for row in means if row.value == best.value]
    layer, words = LEADS[metric]
    value = words.format(value=measured(best), n=best.questions)
    title = TITLES[layer][0]
    if best.low is None:
        return Point(title, named(equal), value, ())
    pairs = _pairs(rows)
    ahead: list[str] = []
    above: list[str] = []
    apart: dict[str, list[str]] = {name: [] for name in ("behind", "tied", "few", "same")}
    for row in means[len(equal) :]:
        pair = pairs.get((best.arm, row.arm))
        if pair is not None and is_clear(pair) and (pair.value or 0) > 0:
            ahead.append(f"{row.arm} by {gap(pair, signed=False)}")
        elif pair is not None and is_clear(pair):
            # The highest mean, but lower where the two can be compared.
            above.append(f"{row.arm} by {gap(turned(pair), signed=False)}")
        elif pair is not None and pair.p_adjusted is not None:
            apart["few" if is_few(pair, margin) else "same"].append(row.arm)
        elif pair is None and _place(row) is not None:
            apart["tied" if _place(row) == _place(best) else "behind"].append(row.arm)
    subject, source, others = (best.arm, best.arm, 0)
    if len(equal) == 1:
        subject, source, others = ("It", "it", len(means) - 1)
    sentences = []
    if above:
        sentences.append(f"On the questions that both have, {source} is behind {named(above)}.")
    if ahead:
        sentences.append(f"{subject} is ahead of {named(ahead)}.")
    if apart["behind"]:
        how = ", uncorrected" if best.rank_adjusted is None else ""
        sentences.append(f"Ranked below{how}: {named(apart['behind'])}.")
    if apart["tied"]:
        sentences.append(f"Tied by rank: {named(apart['tied'])}.")
    if len(apart["same"]) == others > 0:
        sentences.append("No other arm is distinguishable from it.")
    elif apart["same"]:
        sentences.append(f"{subject} is not distinguishable from {named(apart['same'])}.")
    if apart["few"]:
        whom = "any other arm" if len(apart["few"]) == others else named(apart["few"])
        sentences.append(f"Too few questions to tell {source} from {whom}.")
    sentences += _declared(means, rows, declared, margin, {best.arm})
    counts = sorted({row.questions for row in means})
    if len(counts) > 1:
        sentences.append(
            f"Arms have values on different numbers of questions, {counts[0]:,} to "
            f"{counts[-1]:,}; a difference is of those that both have."
        )
    return Point(title, named(equal), value, tuple(sentences))


def _declared(
    means: Sequence[Estimate],
    rows: Sequence[Estimate],
    declared: Sequence[tuple[str, str]],
    margin: float,
    told: set[str],
) -> list[str]:
    """Return a sentence a declared pair that no other sentence is about."""
    pairs, there = _pairs(rows), {row.arm for row in means}
    sentences = []
    for a, b in declared:
        pair = pairs.get((a, b))
        if pair is not None and {a, b} <= there and not {a, b} & told:
            ending = ""
            if pair.p_adjusted is None:
                ending = ", not tested"
            elif not is_clear(pair):
                ending = ", too few to tell" if is_few(pair, margin) else ", not distinguishable"
            sentences.append(f"{a} against {b}: {gap(pair)}{ending}.")
    return sentences


def _pairs(rows: Sequence[Estimate]) -> dict[tuple[str, str], Estimate]:
    """Return the differences, both ways round."""
    pairs = {(row.arm, row.against): row for row in rows if row.against}
    return pairs | {(row.against, row.arm): turned(row) for row in rows if row.against}


def _means(rows: Iterable[Estimate]) -> list[Estimate]:
    """Return the means of one metric on one subset that have a value, highest first."""
    return sorted(
        (row for row in rows if not row.against and row.value is not None),
        key=lambda row: (-(row.value or 0), row.arm),
    )


def _place(row: Estimate) -> int | None:
    """Return the rank after correction, where there is one."""
    return row.rank if row.rank_adjusted is None else row.rank_adjusted
