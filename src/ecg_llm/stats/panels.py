"""Scores to panels: one metric on one subset, a question a row and an arm a column."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_llm.records import METRICS, Score
from ecg_llm.stats.resampling import Array, Index

Pair = tuple[int, int]


class Panel(NamedTuple):
    """One metric on one subset: a question a row, an arm a column, NaN where there is no value."""

    metric: str
    subset: str
    arms: tuple[str, ...]
    values: Array
    cluster: Index
    """Cluster number of each question, 0-based without gaps."""
    missing: tuple[int, ...]
    """Unparsed, failed and unjudged answers of each arm."""
    unjudged: tuple[int, ...]
    """Those among them that no judge gave a usable reply to."""
    single: bool
    """Every value is one score, not a mean over repeats, permutations or raters."""
    questions: tuple[str, ...] = ()
    """By row."""

    @property
    def counts_apart(self) -> bool:
        """Whether values are single right-or-wrong marks, each question its own cluster."""
        known = self.values[~np.isnan(self.values)]
        return (
            self.single
            and (self.metric not in METRICS or METRICS[self.metric].binary)
            and bool(np.isin(known, (0.0, 1.0)).all())
            and len(np.unique(self.cluster)) == len(self.cluster)
        )

    @property
    def reach(self) -> float:
        """Largest difference there can be: 1 where all values lie within 0 and 1, else infinite."""
        known = self.values[~np.isnan(self.values)]
        return 1.0 if bool(((known >= 0) & (known <= 1 + 1e-6)).all()) else np.inf

    def shared(self) -> "Panel":
        """Return the arms that have any value, on the questions that all of those have."""
        arms = np.flatnonzero(~np.isnan(self.values).all(axis=0))
        rows = ~np.isnan(self.values[:, arms]).any(axis=1)
        return self._replace(
            arms=tuple(self.arms[j] for j in arms),
            values=self.values[rows][:, arms],
            cluster=np.unique(self.cluster[rows], return_inverse=True)[1],
            missing=tuple(self.missing[j] for j in arms),
            unjudged=tuple(self.unjudged[j] for j in arms),
            questions=tuple(self.questions[i] for i in np.flatnonzero(rows)),
        )

    def differences(self, pairs: Sequence[Pair]) -> Array:
        """Return the paired differences of pairs of columns, shape (questions, pairs)."""
        first, second = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
        return self.values[:, first] - self.values[:, second]


def panels_of(
    scores: Sequence[Score],
    subsets_of: Mapping[str, tuple[str, ...]],
    cluster_of: Mapping[str, str],
) -> Iterator[Panel]:
    """Yield the panels of these scores, sorted by metric and subset.

    Scores of one question and arm are averaged over repeats, permutations and raters. An unparsed
    or failed answer counts as the metric's `missing_as`, or leaves the mean where that is None; one
    that the judge left unjudged always leaves it. Not-applicable scores never count.
    """
    cells: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = defaultdict(dict)
    missing: dict[tuple[str, str, str], int] = defaultdict(int)
    unjudged: dict[tuple[str, str, str], int] = defaultdict(int)
    for score in scores:
        if score.status == "not_applicable":
            continue
        value = score.value
        if score.status in ("unparsed", "error"):
            value = METRICS[score.metric].missing_as if score.metric in METRICS else None
        for subset in subsets_of.get(score.question_id, ()):
            # An arm whose answers all failed keeps its (empty) column.
            values = cells[score.metric, subset].setdefault((score.question_id, score.arm), [])
            if score.status != "scored":
                missing[score.metric, subset, score.arm] += 1
                unjudged[score.metric, subset, score.arm] += score.status == "unjudged"
            if value is not None:
                values.append(value)
    for (metric, subset), cell in sorted(cells.items()):
        questions = sorted({question for question, _ in cell})
        arms = tuple(sorted({arm for _, arm in cell}))
        row_of = {question: i for i, question in enumerate(questions)}
        column_of = {arm: j for j, arm in enumerate(arms)}
        matrix = np.full((len(questions), len(arms)), np.nan)
        for (question, arm), values in cell.items():
            if values:
                matrix[row_of[question], column_of[arm]] = sum(values) / len(values)
        yield Panel(
            metric, subset, arms, matrix, clusters_of(questions, cluster_of),
            missing=tuple(missing[metric, subset, arm] for arm in arms),
            unjudged=tuple(unjudged[metric, subset, arm] for arm in arms),
            single=all(len(values) <= 1 for values in cell.values()),
            questions=tuple(questions),
        )  # fmt: skip


def clusters_of(questions: Sequence[str], cluster_of: Mapping[str, str]) -> NDArray[np.intp]:
    """Return the cluster number of each question, 0-based without gaps.

    A question without a group is a cluster of its own.
    """
    groups = [cluster_of.get(question) or f"question {question}" for question in questions]
    return np.unique(np.array(groups, dtype=object), return_inverse=True)[1].astype(np.intp)


def pairs_of(arms: Sequence[str], comparisons: Sequence[tuple[str, str]]) -> list[Pair]:
    """Return the places of the declared pairs among the arms, each pair once.

    All pairs where none is declared, or none of the declared names is an arm here, as with raters'
    own names of the systems.
    """
    place = {arm: j for j, arm in enumerate(arms)}
    if not any(arm in place for pair in comparisons for arm in pair):
        return list(combinations(range(len(arms)), 2))
    declared: dict[frozenset[int], Pair] = {}
    for a, b in comparisons:
        if a in place and b in place and a != b:
            declared.setdefault(frozenset((place[a], place[b])), (place[a], place[b]))
    return list(declared.values())
