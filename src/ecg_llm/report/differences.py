"""Paired differences as a reader sees them: a matrix and a table for each metric and subset."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from ecg_llm.records import METRICS, Estimate
from ecg_llm.report.figures import ArmStyle, Data
from ecg_llm.report.matrix import Square, matrix_plot
from ecg_llm.report.results import (
    ALIKE,
    RANKED,
    SIGNIFICANT,
    STRENGTHS,
    TITLES,
    TOO_FEW,
    DifferenceRow,
    apart,
    difference_row,
    is_clear,
    is_percent,
    label,
    ordered,
    reading,
    section,
    subsets,
    turned,
)

DRAWN = ("accuracy", "verdict", "ranking_strength", "reference_similarity", "human", "rougeL")
"""Metrics whose differences are drawn as a matrix, where there are three arms or more."""
TESTS: Mapping[str, str] = {
    "mcnemar": "the exact McNemar test",
    "sign_flip": "flipping the signs of whole documents (a paired permutation test)",
}
"""How p was computed, by the name that rows carry; others are shown as they are."""


class Family(NamedTuple):
    """The differences that are corrected together: one metric on one subset."""

    metric: str
    subset: str
    figure: str
    """The matrix; empty where there is none."""
    caption: str
    open: bool
    """Whether it is shown at once: the first matrix of each metric."""
    rows: tuple[DifferenceRow, ...]
    distinguishable: int
    signs: bool
    """Whether some row has a sign test; the same of the two below."""
    counted: bool
    detectable: bool
    apart: bool
    """Whether every question is its own cluster."""
    note: str
    """How p was computed."""


def families(
    estimates: Sequence[Estimate],
    declared: Sequence[tuple[str, str]],
    margin: float,
    order: Sequence[str],
    styles: Mapping[str, ArmStyle],
) -> list[Family]:
    """Return the paired differences of the ranked metrics.

    Args:
        estimates: of all metrics.
        declared: comparisons declared before the run, which keep their sense; others are shown
            in positive sense.
        margin: the smallest difference that would matter, as a share.
        order: of the arms in a matrix.
        styles: their marks.
    """
    wanted = [m for name in TITLES for m in METRICS if m in RANKED and section(m) == name]
    made = []
    for metric in wanted:
        here = [row for row in estimates if row.against and row.metric == metric]
        drawn = False
        for subset in subsets(here):
            pairs = [row for row in here if row.subset == subset]
            arms = ordered({arm for row in pairs for arm in (row.arm, row.against)}, order)
            plotted = metric in DRAWN and len(arms) > 2
            made.append(
                Family(
                    metric, subset,
                    difference_matrix(pairs, arms, styles) if plotted else "",
                    _caption(pairs, len(arms), margin) if plotted else "",
                    open=plotted and not drawn,
                    rows=tuple(difference_row(row, tuple(declared), margin) for row in pairs),
                    distinguishable=sum(map(is_clear, pairs)),
                    signs=any(row.p_sign is not None for row in pairs),
                    counted=any(row.wins is not None for row in pairs),
                    detectable=any(row.detectable is not None for row in pairs),
                    apart=apart(pairs),
                    note=_note(pairs),
                )
            )  # fmt: skip
            drawn = drawn or plotted
    return made


def difference_matrix(
    pairs: Sequence[Estimate],
    arms: Sequence[str],
    styles: Mapping[str, ArmStyle],
    name: str = "",
    brief: Callable[[float], str] | None = None,
) -> str:
    """Return the SVG of arms x arms, row minus column, of one metric on one subset.

    Bold on colour: stands after correction. Pale: only before it. Grey: not distinguishable.
    Empty: not compared.

    Args:
        pairs: the differences.
        arms: in the order of the rows and columns.
        styles: their marks.
        name: of metric and subset; empty: as the report calls them.
        brief: prints a difference; none: `compact`.
    """
    every = {(row.arm, row.against): row for row in pairs}
    every |= {(row.against, row.arm): turned(row) for row in pairs}
    metric, subset = pairs[0].metric, pairs[0].subset
    shown = brief or (lambda value: compact(value, metric))
    squares = [[_square(every.get((a, b)), shown) for b in arms] for a in arms]
    rows = [
        (row.arm, row.against, row.value, row.low, row.high, row.p, row.p_adjusted) for row in pairs
    ]
    return matrix_plot(
        arms, arms, squares,
        f"Differences in {name or f'{label(metric)} on {subset}'}, row minus column",
        styles=styles,
        data=Data(("arm", "against", "difference", "low", "high", "p", "p corrected"), rows),
    )  # fmt: skip


def _square(row: Estimate | None, shown: Callable[[float], str]) -> Square | None:
    if row is None or row.value is None:
        return None
    return Square(row.value, shown(row.value), _weight(row))


def _weight(row: Estimate) -> Literal["strong", "weak", "none"]:
    if is_clear(row):
        return "strong"
    return "weak" if row.p is not None and row.p < SIGNIFICANT else "none"


def compact(value: float, metric: str) -> str:
    """Return a difference in at most five characters, with its sign: +12, −3.4, +.05, −1.2."""
    if is_percent(metric):
        points = 100 * value
        text = f"{points:+.0f}" if abs(points) >= 9.95 else f"{points:+.1f}"
    elif metric in STRENGTHS:
        text = f"{value:+.1f}"
    else:
        text = f"{value:+.2f}".replace("0.", ".", 1)
    return text.replace("-", "−") if float(text) else text[1:]


def _caption(pairs: Sequence[Estimate], arms: int, margin: float) -> str:
    """Return how to read the matrix, with how many pairs came to what."""
    known = [row for row in pairs if row.value is not None]
    found = Counter(_weight(row) for row in known)
    open_ = Counter(reading(row, margin) for row in known if _weight(row) == "none")
    unit = "points" if is_percent(pairs[0].metric) else "units of the metric"
    parts = [f"Row minus column, in {unit}."]
    if found["strong"]:
        parts.append(f"Bold on colour: stands after correction ({found['strong']}).")
    if found["weak"]:
        parts.append(f"Pale: only before correction ({found['weak']}).")
    if found["none"]:
        words = [f"{words} ({open_[words]})" for words in (ALIKE, TOO_FEW, "not tested")
                 if open_[words]]  # fmt: skip
        parts.append(f"Framed: {', '.join(words)}.")
    if len(known) < arms * (arms - 1) // 2:
        parts.append("Empty: not compared.")
    return " ".join(parts)


def _note(pairs: Sequence[Estimate]) -> str:
    names = sorted({row.test for row in pairs if row.test})
    told = f"p by {' and '.join(TESTS.get(name, name) for name in names)}." if names else ""
    return told.replace("whole documents", "questions") if apart(pairs) else told
