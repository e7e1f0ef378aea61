"""Estimates, standings and agreement as tables for a terminal, and how many questions it takes."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ecg_llm import config, steps
from ecg_llm.contracts import UsageError
from ecg_llm.records import Agreement, Estimate, Standing
from ecg_llm.report import report, results, verdict
from ecg_llm.stats import power

PLANNED = (*chain(*verdict.DECIDING.values()), *chain(*verdict.STAND_IN.values()), "rougeL")
"""Metrics to plan the next study by: those that decide, and one of wording."""


class Shown(NamedTuple):
    """A table."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def estimates(folder: Path, study: config.Study) -> list[Shown]:
    """Return the headline means, and the differences of the same metrics that were tested."""
    rows = steps.read_table(folder / "estimates.jsonl", Estimate)
    summary = report.summary_table(rows, list(study.arms))
    columns = ("metric", "subset", "difference", "value", "95 % interval", "p", "corrected", "n")
    lines = []
    for row in rows:
        if row.against and row.metric in report.HEADLINES:
            told = results.difference_row(row, study.estimates.comparisons, study.decision.margin)
            lines.append(
                (
                    row.metric, row.subset, f"{told.a} - {told.b}", told.value, told.interval,
                    told.p, told.p_adjusted, f"{row.questions:,}",
                )
            )  # fmt: skip
    return [Shown("means", *summary), Shown("differences", columns, lines)]


def standings(folder: Path) -> list[Shown]:
    """Return the rank of every arm in every layer, and over all of them."""
    rows = steps.read_table(folder / "standings.jsonl", Standing)
    layers = [name for name in (rows[0].ranks if rows else ()) if any(r.ranks[name] for r in rows)]
    columns = ("subset", "arm", *layers, "median", "place", "first")
    lines = [
        (
            row.subset,
            row.arm,
            *(_short(row.ranks[name]) for name in layers),
            _short(row.median) + _span(row.median_low, row.median_high),
            str(row.place) + _span(row.place_low, row.place_high),
            "-" if row.p_first is None else f"{row.p_first:.0%}",
        )
        for row in rows
    ]
    return [Shown("", columns, lines)]


def agreement(folder: Path) -> list[Shown]:
    """Return how far metrics, judges and experts say the same."""
    rows = steps.read_table(folder / "agreement.jsonl", Agreement)
    columns = ("subset", "over", "a", "b", "measure", "value", "95 % interval", "n")
    lines = [
        (
            row.subset,
            row.level,
            row.a,
            row.b,
            row.measure.replace("_", " "),
            "-" if row.value is None else f"{row.value:.2f}",
            "" if row.low is None or row.high is None else f"{row.low:.2f} to {row.high:.2f}",
            f"{row.items:,}",
        )
        for row in rows
    ]
    return [Shown("", columns, lines)]


def check_wanted(difference: float) -> None:
    """Refuse a difference to plan for that no two arms can have.

    Raises:
        UsageError: it is no number above 0, or more than a share can differ by.
    """
    power.planned([], difference)
    if difference > 1:
        raise UsageError(
            f"A difference of {difference:g} cannot be planned for: what decides are shares, which "
            "differ by no more than 1; five points are 0.05."
        )


def planned(folder: Path, difference: float) -> list[power.Needed]:
    """Return what each comparison can detect now, and the questions this difference would need.

    Raises:
        UsageError: the difference is no number above 0.
    """
    rows = steps.read_table(folder / "estimates.jsonl", Estimate)
    return power.planned([row for row in rows if row.metric in PLANNED], difference)


def planning(rows: Sequence[power.Needed]) -> Shown:
    """Return planned comparisons as a table, numbers of documents in parentheses."""
    columns = ("metric", "subset", "comparison", "now", "detectable", "needs", "corrected")
    lines = [
        (
            row.metric, row.subset, f"{row.a} - {row.b}", _of(row.questions, row.clusters),
            "-" if row.detectable is None else f"{row.detectable:.3f}",
            _of(row.needed_questions, row.needed_clusters),
            _of(row.needed_questions_adjusted, row.needed_clusters_adjusted),
        )
        for row in rows
    ]  # fmt: skip
    return Shown("", columns, lines)


def _of(questions: int | None, documents: int | None) -> str:
    return "-" if questions is None or documents is None else f"{questions:,} ({documents:,})"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({low:.3g} to {high:.3g})"
