"""Scores by type, difficulty and language of the questions: a matrix, a table and words."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, get_args

import numpy as np

from ecg_llm.config import Study
from ecg_llm.records import Difficulty, Question, QuestionType, Score
from ecg_llm.report.counts import CountTable, folded
from ecg_llm.report.figures import ArmStyle, Data
from ecg_llm.report.matrix import Square, matrix_plot
from ecg_llm.report.measures import Figure, Group
from ecg_llm.report.results import (
    SIGNIFICANT,
    Cell,
    is_few,
    is_percent,
    listed,
    number,
    ordered,
)
from ecg_llm.report.seen import DECIDING, by_metric
from ecg_llm.stats.estimate import means
from ecg_llm.stats.intervals import Interval
from ecg_llm.stats.panels import Panel, panels_of
from ecg_llm.stats.significance import holm
from ecg_llm.stats.unpaired import Gap, gap

DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "type": get_args(QuestionType), "difficulty": get_args(Difficulty), "language": (),
}  # fmt: skip
"""What questions are told apart by, with the order of its levels; others follow by name."""
FEW = 5
"""Questions of a kind below which a mean is shown, but nothing is said of it."""
TOO_FEW = "too few"
NOTE = (
    f"{TOO_FEW}: fewer than {FEW} questions, so no interval. Choice and open questions have "
    "metrics of their own."
)


class Slice(NamedTuple):
    """One arm's mean on the questions of one kind, beside its mean on the other questions."""

    dimension: str
    level: str
    arm: str
    mean: Interval
    gap: Gap
    """Less the mean on the other questions; empty where either side has too few."""
    p_adjusted: float | None
    """Holm's, over all that is said of one metric and subset."""

    @property
    def clear(self) -> bool:
        """Whether the questions of this kind are distinguishable from the others."""
        return self.p_adjusted is not None and self.p_adjusted < SIGNIFICANT

    @property
    def few(self) -> bool:
        """Whether there are too few questions to say anything."""
        return self.mean.questions < FEW


def by_type(
    study: Study,
    questions: Sequence[Question],
    scores: Sequence[Score],
    styles: Mapping[str, ArmStyle] = MappingProxyType({}),
) -> list[Group]:
    """Return for each subset how arms fare by kind of question, where there is more than one.

    Args:
        study: its arms, and how often to resample.
        questions: dropped ones are left out.
        scores: of any metrics; those of DECIDING are used.
        styles: the arms' marks in figures.
    """
    kept = {row.question_id: row for row in questions if row.status == "kept"}
    wanted = [row for row in scores if row.metric in DECIDING]
    subsets_of = {name: row.subsets for name, row in kept.items()}
    cluster_of = {name: row.group for name, row in kept.items()}
    panels = {(p.subset, p.metric): p for p in panels_of(wanted, subsets_of, cluster_of)}
    made = []
    for subset in sorted({subset for subset, _ in panels}):
        of_metric = {}
        for metric in DECIDING:
            panel = panels.get((subset, metric))
            found = slices(panel, kept, study.estimates.resamples, study.seed) if panel else []
            if found:
                of_metric[metric] = found
        if of_metric:
            made.append(_group(study, subset, of_metric, styles))
    return made


def _group(
    study: Study,
    subset: str,
    of_metric: Mapping[str, Sequence[Slice]],
    styles: Mapping[str, ArmStyle],
) -> Group:
    """Return what is told of a subset; a matrix is drawn where arms can be compared."""
    told: list[tuple[str, str]] = []
    figures, tables = [], []
    for metric, found in of_metric.items():
        arms = ordered({one.arm for one in found}, list(study.arms))
        told += [(metric, words) for words in _told(found, metric, study.decision.margin)]
        if any(one.gap.p is not None for one in found):
            figures.append(_figure(subset, metric, found, arms, styles))
        tables.append(_table(metric, found, arms))
    parts = folded(tables, "Means with their intervals", NOTE)
    return Group(subset, by_metric(told), figures, parts)


def slices(
    panel: Panel, questions: Mapping[str, Question], resamples: int, seed: int
) -> list[Slice]:
    """Return the means of a panel's arms by kind of question; none where all are of one kind.

    A mean is compared with that on the arm's other questions. The two are taken as independent;
    where documents have questions of both kinds this makes intervals too wide, not too narrow.

    Args:
        panel: one metric on one subset.
        questions: by question_id.
        resamples: bootstrap draws of the intervals.
        seed: of the draws.
    """
    kinds: list[tuple[str, str]] = []
    masks = []
    for dimension, order in DIMENSIONS.items():
        levels = np.array([
            getattr(questions[name], dimension) or f"{dimension} not stated"
            for name in panel.questions
        ])  # fmt: skip
        names = ordered(set(levels.tolist()), order)
        if len(names) > 1:
            kinds += [(dimension, name) for name in names]
            masks += [levels == name for name in names]
    if not kinds:
        return []
    inside = [np.where(mask[:, None], panel.values, np.nan) for mask in masks]
    outside = [np.where(mask[:, None], np.nan, panel.values) for mask in masks]
    wide = panel._replace(values=np.concatenate([*inside, *outside], axis=1))
    found = means(wide, resamples, seed)
    arms, half = len(panel.arms), len(found) // 2
    # Of two levels the second says what the first does, the other way round: that is one test.
    sizes = Counter(dimension for dimension, _ in kinds)
    mirrors = [
        place > 0 and sizes[dimension] == 2 and kinds[place - 1][0] == dimension
        for place, (dimension, _) in enumerate(kinds)
    ]
    test_of = [place - arms * mirrors[place // arms] for place in range(half)]

    def gaps(comparisons: int) -> list[Gap]:
        return [
            gap(a, b, comparisons) if min(a.questions, b.questions) >= FEW else Gap()
            for a, b in zip(found[:half], found[half:], strict=True)
        ]

    p_of = {test: one.p for test, one in zip(test_of, gaps(1), strict=True)}
    adjusted = dict(zip(p_of, holm(list(p_of.values())), strict=True))
    tested = sum(p is not None for p in p_of.values())
    names_of = [(*kind, arm) for kind in kinds for arm in panel.arms]
    return [
        Slice(*name, mean, one, adjusted[test])
        for name, mean, one, test in zip(
            names_of, found[:half], gaps(max(1, tested)), test_of, strict=True
        )
    ]


def _told(found: Sequence[Slice], metric: str, margin: float) -> Iterator[str]:
    """Yield on which kinds of questions arms do clearly worse or better than on the others.

    Where they do on none, what is told is whether there were questions enough to find one.
    """
    clear = [one for one in found if one.clear]
    for dimension, level in dict.fromkeys((one.dimension, one.level) for one in clear):
        for word, sign in (("lower", -1), ("higher", 1)):
            arms = [
                f"{one.arm} ({_signed(one.gap.value, metric)}, 95 % interval "
                f"{_signed(one.gap.low, metric)} to {_signed(one.gap.high, metric)})"
                for one in clear
                if (one.dimension, one.level) == (dimension, level)
                and sign * (one.gap.value or 0.0) > 0
            ]
            if arms:
                yield f"{word} on questions of {dimension} “{level}” than on others: {listed(arms)}"
    few = [is_few(one.gap, margin) for one in found if one.gap.p is not None]
    if not clear and all(few):
        yield (
            "too few questions to tell whether an arm does better on some kinds of questions than "
            "on others"
        )
    elif not clear:
        some = "; of some kinds there are too few questions to tell" if any(few) else ""
        yield f"for no arm is a kind of question distinguishable from the others{some}"


def _signed(value: float | None, metric: str) -> str:
    return number(value, metric, signed=True)


def _table(metric: str, found: Sequence[Slice], arms: Sequence[str]) -> CountTable:
    """Return a line a kind of question, a column an arm."""
    cells = {(one.dimension, one.level, one.arm): one for one in found}
    lines: list[tuple[str | int | Cell, ...]] = []
    for kind in dict.fromkeys((one.dimension, one.level) for one in found):
        own = [cells[*kind, arm] for arm in arms]
        asked = max(own, key=lambda one: one.mean.questions).mean
        lines.append((
            *kind, f"{asked.questions:,} ({asked.clusters:,})",
            *(_cell(one, metric) for one in own),
        ))  # fmt: skip
    title = DECIDING[metric] + (", %" if is_percent(metric) else "")
    header = ("By", "Questions of", "Number (documents)", *arms)
    return CountTable(title, header, tuple(lines), 2)


def _cell(one: Slice, metric: str) -> Cell:
    value, low, high = one.mean.value, one.mean.low, one.mean.high
    if value is None:
        return Cell()
    if one.few:
        return Cell(number(value, metric), TOO_FEW)
    ends = "" if low is None else f"{number(low, metric)} to {number(high, metric)}"
    return Cell(number(value, metric), ends, tied_best=one.clear)


def _figure(
    subset: str,
    metric: str,
    found: Sequence[Slice],
    arms: Sequence[str],
    styles: Mapping[str, ArmStyle],
) -> Figure:
    """Return a matrix of arms by kinds of question."""
    cells = {(one.dimension, one.level, one.arm): one for one in found}
    kinds: list[tuple[str, str]] = []
    for one in found:
        if kinds and one.dimension != kinds[-1][0]:
            kinds.append((one.dimension, ""))  # an empty column between what does not belong
        if (one.dimension, one.level) not in kinds:
            kinds.append((one.dimension, one.level))
    squares = [
        [_square(cells[*kind, arm], metric) if kind[1] else None for kind in kinds] for arm in arms
    ]
    data = Data(
        (
            "arm", "by", "questions of", "mean", "low", "high", "questions", "clusters",
            "less others",
        ),
        [
            (
                one.arm, one.dimension, one.level, one.mean.value,
                *((None, None) if one.few else (one.mean.low, one.mean.high)),
                one.mean.questions, one.mean.clusters, one.gap.value,
            )
            for one in found
        ],
    )  # fmt: skip
    title = f"{DECIDING[metric]}, {subset}"
    drawn = matrix_plot(
        arms, [level for _, level in kinds], squares,
        f"{title}: means of the arms by kind of question", styles=styles, data=data,
    )  # fmt: skip
    return Figure(
        drawn,
        f"{title}{', %' if is_percent(metric) else ''}. Blue: higher than on the arm’s other "
        "questions; orange: lower; bold: distinguishable from them after correction; grey: too few "
        "questions to compare.",
    )


def _square(one: Slice, metric: str) -> Square | None:
    if one.mean.value is None:
        return None
    if is_percent(metric):
        text = f"{100 * one.mean.value:.0f}"
    else:
        text = f"{one.mean.value:.2f}".replace("0.", ".", 1)
    if one.gap.p is None:
        return Square(None, text, "none")
    return Square(one.gap.value, text, "strong" if one.clear else "weak")
