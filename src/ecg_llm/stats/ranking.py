"""The overall ranking: the median of an arm's ranks over the layers of evaluation (paper, table 3).

A layer's rank is the median over its metrics and, where subsets are pooled, over the subsets.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from ecg_llm.records import Estimate

Alternatives = tuple[tuple[str, ...], ...]

LAYERS: Mapping[str, Alternatives] = {
    "choice": (("accuracy",), ("accuracy_likelihood",)),
    "text": (("rouge1", "rougeL", "bleu", "bertscore"),),
    "judge": (("verdict",), ("ranking_strength",), ("reference_similarity",)),
    "human": (("human",),),
}
"""Layer -> sets of metrics, in order of preference; the first set that has ranks is used."""

POOLED = "all subsets"


class OverallRank(NamedTuple):
    """An arm's rank in each layer, their median and its place; None where not measured."""

    subset: str
    """A subset, or POOLED."""
    arm: str
    ranks: Mapping[str, float | None]
    """Layer -> median rank."""
    median: float
    place: int
    """1 + the number of arms with a smaller median; equal medians share a place."""


def overall(
    estimates: Sequence[Estimate], layers: Mapping[str, Alternatives] = LAYERS
) -> list[OverallRank]:
    """Return the overall ranking of each subset, then of all subsets pooled if there are several.

    Rows are ordered by place, then by name. Arms without any rank have no row.
    """
    ranked = [e for e in estimates if not e.against and e.rank is not None]
    subsets = list(dict.fromkeys(e.subset for e in sorted(ranked, key=lambda e: e.subset)))
    rows = [row for subset in subsets for row in _table(subset, ranked, [subset], layers)]
    if len(subsets) > 1:
        rows += _table(POOLED, ranked, subsets, layers)
    return rows


def _table(
    name: str,
    ranked: Sequence[Estimate],
    subsets: Sequence[str],
    layers: Mapping[str, Alternatives],
) -> list[OverallRank]:
    here = [e for e in ranked if e.subset in subsets]
    columns = {layer: _layer_ranks(here, subsets, wanted) for layer, wanted in layers.items()}
    medians: dict[str, float] = {}
    for arm in sorted({arm for column in columns.values() for arm in column}):
        medians[arm] = median(column[arm] for column in columns.values() if arm in column)
    return [
        OverallRank(
            name, arm,
            ranks={layer: column.get(arm) for layer, column in columns.items()},
            median=value,
            place=1 + sum(other < value for other in medians.values()),
        )
        for arm, value in sorted(medians.items(), key=lambda item: (item[1], item[0]))
    ]  # fmt: skip


def _layer_ranks(
    ranked: Sequence[Estimate], subsets: Sequence[str], alternatives: Alternatives
) -> dict[str, float]:
    """Return each arm's median over subsets of its median over the metrics of the layer."""
    over_subsets: dict[str, list[float]] = {}
    for subset in subsets:
        for metrics in alternatives:
            over_metrics: dict[str, list[int]] = {}
            for e in ranked:
                if e.subset == subset and e.metric in metrics and e.rank is not None:
                    over_metrics.setdefault(e.arm, []).append(e.rank)
            if over_metrics:
                for arm, ranks in over_metrics.items():
                    over_subsets.setdefault(arm, []).append(median(ranks))
                break
    return {arm: median(ranks) for arm, ranks in over_subsets.items()}
