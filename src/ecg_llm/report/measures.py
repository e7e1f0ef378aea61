"""Rows of reliability as a reader sees them: names, numbers, intervals, notes."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ecg_llm.records import MEASURES, Reliability
from ecg_llm.report.counts import Part
from ecg_llm.report.figures import Point
from ecg_llm.report.results import SIGNIFICANT, Cell
from ecg_llm.stats.intervals import LEVEL
from ecg_llm.stats.significance import holm

TRUST = "How far to trust these scores"


class Form(NamedTuple):
    """How the values of a measure are printed."""

    digits: int
    scale: int = 1
    signed: bool = False


POINTS, PERCENT, EFFECT = Form(1, 100, signed=True), Form(1, 100), Form(2, signed=True)
FORMS: Mapping[str, Form] = {
    "place_share": POINTS, "place_recall": PERCENT, "recall_spread": Form(3), "unparsed": PERCENT,
    "asked_again": PERCENT, "swap_consistency": PERCENT, "agreement": PERCENT,
    "slot_effect": EFFECT, "length_effect": EFFECT, "length_slope": EFFECT,
}  # fmt: skip
PLAIN = Form(2)


class Figure(NamedTuple):
    """A figure with what stands below it."""

    svg: str
    caption: str


class Group(NamedTuple):
    """What stands under one heading below the results of a section."""

    title: str
    sentences: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    parts: Sequence[Part] = ()


def quoted(name: str) -> str:
    """Return the name of a judge, or of two, as a sentence shows it."""
    return f"“{name}”"


def shown(value: float | None, measure: str) -> str:
    """Return the value of a measure as printed, shares in percent, with a true minus sign."""
    if value is None:
        return "–"
    form = FORMS.get(measure, PLAIN)
    text = f"{value * form.scale:{'+' if form.signed else ''}.{form.digits}f}"
    return (text.lstrip("+-") if float(text) == 0 else text).replace("-", "−")


def limits(row: Reliability) -> str:
    """Return the 95 % interval as "low to high"; empty where there is none."""
    if row.low is None or row.high is None:
        return ""
    return f"{shown(row.low, row.measure)} to {shown(row.high, row.measure)}"


def clear(row: Reliability) -> bool:
    """Whether the interval leaves out the value without any bias."""
    if row.expected is None or row.low is None or row.high is None:
        return False
    return not row.low <= row.expected <= row.high


def corrected(rows: Sequence[Reliability]) -> list[float | None]:
    """Return Holm's adjusted p-value of "there is no bias" for each row, over all of these rows.

    The standard error is what the interval implies by Student's t over the clusters, so that p is
    0.05 before the correction where the interval ends at the value without bias.
    """
    return holm([_p_value(row) for row in rows])


def _p_value(row: Reliability) -> float | None:
    from scipy import stats

    if row.value is None or row.low is None or row.high is None or row.expected is None:
        return None
    off = row.value - row.expected
    half = row.value - row.low if off > 0 else row.high - row.value
    if half <= 0:
        return float(off == 0)
    law = stats.t(max(row.clusters - 1, 1))
    return float(2 * law.sf(abs(off) / half * law.ppf(0.5 + LEVEL / 2)))


def apart(p: float | None) -> bool:
    """Whether a corrected p-value shows a bias."""
    return p is not None and p < SIGNIFICANT


def named(row: Reliability) -> str:
    """Return the name of what a row measures, with its unit."""
    name, detail = MEASURES.get(row.measure, row.measure), row.detail.replace("_", " ")
    if row.measure == "slot_rank":
        return name.replace("this slot", f"slot {detail}")
    percent = ", %" if FORMS.get(row.measure) is PERCENT else ""
    return f"{name}{percent}{f' ({detail})' if detail else ''}"


def cell(row: Reliability | None) -> Cell:
    """Return a row as a cell of a table; a dash where there is none."""
    return Cell() if row is None else Cell(shown(row.value, row.measure), limits(row))


def span(rows: Iterable[Reliability], column: str) -> str:
    """Return the smallest and largest of a column of counts, or the one that all have."""
    numbers = sorted({int(getattr(row, column)) for row in rows})
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,}–{numbers[-1]:,}"


def notes(rows: Iterable[Reliability], about: Callable[[Reliability], str]) -> str:
    """Return what rows say of themselves, each note once, after what `about` calls its rows."""
    said: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.note:
            said[row.note.rstrip(".")].append(about(row))
    return " ".join(f"{'; '.join(dict.fromkeys(of))}: {note}." for note, of in said.items())


def unbounded(rows: Iterable[Reliability]) -> str:
    """Return in a sentence why values of one document have no interval; empty where none does."""
    alone = any(row.value is not None and row.low is None and row.clusters < 2 for row in rows)
    return "Without an interval: the questions come from one document." if alone else ""


def point(name: str, row: Reliability | None) -> Point:
    """Return a row as a point of a figure, filled where its interval leaves out no bias."""
    if row is None:
        return Point(name, None, None, None, False)
    return Point(name, row.value, row.low, row.high, clear(row))


def ends(rows: Iterable[Reliability]) -> tuple[float, float]:
    """Return the smallest and the largest end of these intervals."""
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
    return (min(ends), max(ends))


def by_instrument(rows: Iterable[Reliability]) -> dict[str, list[Reliability]]:
    """Return the rows of each arm or judge."""
    found: dict[str, list[Reliability]] = defaultdict(list)
    for row in rows:
        found[row.instrument].append(row)
    return found
