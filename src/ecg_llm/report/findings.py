"""What the study found, in sentences that the numbers bear out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ecg_llm.records import Estimate
from ecg_llm.report.results import (
    about,
    interval,
    is_clear,
    is_percent,
    listed,
    number,
    subsets,
    turned,
)

LEADS: Mapping[str, str] = {
    "accuracy": "{arm} answered {value} of {n} multiple-choice questions correctly",
    "verdict": "{arm} has the highest mean verdict of the judges, {value} on {n} open questions",
    "ranking_strength": "{arm} stands highest in the judges' rankings, {value} log-odds above the "
    "mean of the arms on {n} open questions",
    "reference_similarity": "{arm} comes closest to the reference answers by similarity (no "
    "judge), {value} on {n} open questions",
    "human": "{arm} has the highest mean rating by experts, {value} on {n} questions",
    "rougeL": "{arm} comes closest to the reference's wording, ROUGE-L {value} on {n} open "
    "questions",
}
"""The first sentence about the leading arm, by metric, in the order in which they are told."""


class Finding(NamedTuple):
    """What the study found on one subset, in sentences."""

    subset: str
    about: str
    sentences: tuple[str, ...]


def findings(estimates: Sequence[Estimate], declared: Sequence[tuple[str, str]]) -> list[Finding]:
    """Return the plain-words summary, a finding a subset."""
    made = []
    for subset in subsets(estimates):
        here = [row for row in estimates if row.subset == subset]
        metrics = {row.metric for row in here if not row.against and row.value is not None}
        told = [m for m in LEADS if m in metrics]
        if "verdict" in told and "reference_similarity" in told:
            told.remove("reference_similarity")
        sentences = [
            " ".join(_tell(metric, [row for row in here if row.metric == metric], declared))
            for metric in told
        ]
        if sentences:
            alone = [_means([row for row in here if row.metric == m])[0].low is None for m in told]
            if all(alone):
                sentences.append(
                    "All questions come from one document, so nothing can be said beyond it."
                )
            elif any(alone):
                sentences.append(
                    "Figures without an interval come from the questions of one document; nothing "
                    "can be said beyond it."
                )
            made.append(Finding(subset, about(subset), tuple(sentences)))
    return made


def _tell(metric: str, rows: Sequence[Estimate], declared: Sequence[tuple[str, str]]) -> list[str]:
    """Return the sentences about one metric on one subset."""
    means = _means(rows)
    pairs = {(row.arm, row.against): row for row in rows if row.against}
    pairs |= {(row.against, row.arm): turned(row) for row in rows if row.against}
    best = means[0]
    unit = " %" if is_percent(metric) else ""
    told = LEADS[metric].format(
        arm=best.arm, value=number(best.value, metric) + unit, n=best.questions
    )
    if best.low is None:
        return [f"{told}."]
    sentences = [f"{told} (95 % interval {interval(best)}{unit})."]
    better, tied, behind = [], [], []
    for row in means[1:]:
        pair = pairs.get((best.arm, row.arm))
        if pair is not None and is_clear(pair) and (pair.value or 0) > 0:
            better.append(f"{row.arm} by {_gap(pair, signed=False)}")
        elif pair is not None or _place(row) == 1:
            tied.append(row.arm)
        elif _place(row) is not None:
            behind.append(row.arm)
    if better:
        sentences.append(f"It is ahead of {listed(better)}.")
    if behind:
        how = ", uncorrected" if best.rank_adjusted is None else ""
        sentences.append(f"Ranked below it{how}: {listed(behind)}.")
    if tied and len(tied) == len(means) - 1:
        sentences.append("No other arm is distinguishable from it.")
    elif tied:
        sentences.append(f"It is not distinguishable from {listed(tied)}.")
    for a, b in declared:
        pair = pairs.get((a, b))
        if pair is not None and best.arm not in (a, b):
            ending = "" if is_clear(pair) else ", not distinguishable"
            sentences.append(f"{a} against {b}: {_gap(pair)}{ending}.")
    return sentences


def _means(rows: Sequence[Estimate]) -> list[Estimate]:
    """Return the means of one metric on one subset that have a value, highest first."""
    return sorted(
        (row for row in rows if not row.against and row.value is not None),
        key=lambda row: (-(row.value or 0), row.arm),
    )


def _place(row: Estimate) -> int | None:
    """Return the rank after correction, where there is one."""
    return row.rank if row.rank_adjusted is None else row.rank_adjusted


def _gap(row: Estimate, *, signed: bool = True) -> str:
    unit = " points" if is_percent(row.metric) else ""
    value = number(row.value, row.metric, signed=signed)
    limits = f" ({interval(row, signed=signed)})" if row.low is not None else ""
    return value + unit + limits
