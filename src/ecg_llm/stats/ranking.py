"""The overall ranking: the median of an arm's ranks over the layers of evaluation (paper, table 3).

A layer's rank is the median over its metrics and, where subsets are pooled, over the subsets.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ecg_llm.contracts import Progress
from ecg_llm.records import Estimate, Score, Standing
from ecg_llm.stats.draws import drawn_means, drawn_ranks, first_shares, limits
from ecg_llm.stats.intervals import Interval, difference_intervals
from ecg_llm.stats.panels import Pair, Panel, panels_of
from ecg_llm.stats.resampling import Array

Alternatives = tuple[tuple[str, ...], ...]

LAYERS: Mapping[str, Alternatives] = {
    "choice": (("accuracy",), ("accuracy_likelihood",)),
    "text": (("rouge1", "rougeL", "bleu", "bertscore"),),
    "judge": (("verdict",), ("ranking_strength",), ("reference_similarity",)),
    "human": (("human",),),
}
"""Layer -> sets of metrics, in order of preference; the first set that has ranks is used."""

POOLED = "all unseen subsets"
UNSEEN = ("/test", "/rated")
"""How the names of subsets end whose documents were left out of training."""
DRAWN_AS: Mapping[str, str] = {"ranking_strength": "ranking"}
"""Metrics that are not made of scores -> the scores that are drawn in their place."""

Cell = tuple[str, str]
"""Metric and subset."""
Ranks = Mapping[Cell, Mapping[str, Array]]
"""Of each arm in each cell: one rank a draw, or the one that was found."""


class Decisive(NamedTuple):
    """The least weight of a layer from which on one arm wins, however the rest is weighted."""

    arm: str
    weight: float


class Weightings(NamedTuple):
    """Which arm has the smallest weighted mean of ranks, and how that hangs on the weights.

    Several winners have the same mean.
    """

    layers: tuple[str, ...]
    """Layers weighted: those in which all arms have a rank."""
    left_out: Mapping[str, tuple[str, ...]]
    """Layer in which only some arms have a rank -> the arms without."""
    tried: int
    """Number of weightings; 0 where the arms share no layer."""
    shares: Mapping[str, float]
    """Arm -> share of the weightings that it wins, shared among equals; largest first."""
    equal: tuple[str, ...]
    """Winners where all layers weigh the same."""
    alone: Mapping[str, tuple[str, ...]]
    """Layer -> winners by it alone."""
    without: Mapping[str, tuple[str, ...]]
    """Layer -> winners at equal weights of the others; empty where there is one layer only."""
    decisive: Mapping[str, Decisive]
    """Layer -> the arm that wins from some weight of it on; a tie is no win."""


def standings(
    estimates: Sequence[Estimate],
    scores: Sequence[Score],
    subsets_of: Mapping[str, tuple[str, ...]],
    cluster_of: Mapping[str, str],
    resamples: int,
    seed: int,
    layers: Mapping[str, Alternatives] = LAYERS,
    progress: Progress | None = None,
) -> list[Standing]:
    """Return the overall ranking of each subset, then of all unseen ones pooled if there are two.

    Pooled are sets of documents left out of training; tags, which hold questions of sets again, and
    documents that were trained on have their own tables only.

    Medians and places are those of the ranks in `estimates`. Their intervals show how far they
    would move with other documents like these: in each draw of `draws.drawn_means` the 95 %
    interval of every difference moves with the difference drawn and stays as wide as the data's own
    is, arms are ranked as in `estimate.estimates` (1 + the number of arms whose difference lies
    wholly above), and medians and places follow from these ranks. Limits are the 2.5 and 97.5 %
    points, widened where need be to hold the value itself; simulated, they hold what a second study
    of the same size finds in 96 % of cases or more.

    What this cannot say: a rank rests on what the questions can tell apart, so that arms that
    really differ but tie here mostly tie in the draws too; more questions may part them. Draws vary
    the documents, not the choice of metrics and layers (see `weightings`), the judges or experts.
    "ranking_strength" is no mean of scores: the scores of "ranking" are drawn in its place.

    Args:
        estimates: means with ranks of any number of metrics and subsets.
        scores: what they were made of; a table with a metric that is not among them, or that has
            questions of one document only, has no intervals.
        subsets_of: question_id -> every "set/split" it counts in, its own set first.
        cluster_of: question_id -> group; a question without one is a cluster of its own.
        resamples: number of draws.
        seed: of the draws, and of the intervals of the differences.
        layers: layer -> sets of metrics, in order of preference.
        progress: called with (done, total) metrics on subsets.

    Returns:
        Rows ordered by subset, place and name. Arms without any rank have none.
    """
    counted = {metric for some in layers.values() for metrics in some for metric in metrics}
    found: dict[Cell, dict[str, Array]] = {}
    for e in estimates:
        if not e.against and e.rank is not None and e.metric in counted:
            found.setdefault((e.metric, e.subset), {})[e.arm] = np.array([float(e.rank)])
    subsets = sorted({subset for _, subset in found})
    tables = {subset: [subset] for subset in subsets}
    sets = {some[0] for some in subsets_of.values() if some}
    unseen = [subset for subset in subsets if subset in sets and subset.endswith(UNSEEN)]
    if len(unseen) > 1:
        tables[POOLED] = unseen
    used = {(subset, layer): _used(found, subset, layers[layer])
            for subset in subsets for layer in layers}  # fmt: skip
    cells = sorted({(metric, subset) for (subset, _), some in used.items() for metric in some})
    panels = _panels(cells, found, scores, subsets_of, cluster_of)
    drawn: dict[str, list[Array]] = {
        name: []
        for name, some in tables.items()
        if all(cell in panels for cell in cells if cell[1] in some)
    }
    apart = {}
    for done, (cell, panel) in enumerate(panels.items()):
        if progress:
            progress(done, len(panels))
        apart[cell] = _differences(panel, resamples, seed)
    for means in drawn_means(list(panels.values()), cluster_of, resamples if drawn else 0, seed):
        ranks = {
            cell: dict(zip(panel.arms, drawn_ranks(mean, apart[cell]).T, strict=True))
            for (cell, panel), mean in zip(panels.items(), means, strict=True)
        }
        for name in drawn:
            medians = _medians(_by_layer(ranks, tables[name], used, layers))
            drawn[name].append(np.stack(list(medians.values()), axis=1).astype(np.float32))
    if progress:
        progress(len(panels), len(panels))
    return [
        row
        for name, some in tables.items()
        for row in _rows(name, _by_layer(found, some, used, layers), drawn.get(name, []), seed)
    ]


def weightings(
    standings: Sequence[Standing], step: float = 0.1, arms: Sequence[str] = ()
) -> Weightings:
    """Return which arm wins under every weighting of the layers on a grid.

    The winner of a weighting has the smallest weighted mean of its layers' ranks: unlike the
    median, it moves with the weights. With four layers and steps of .1 there are 286 weightings,
    those that give nothing to some layers among them.

    Args:
        standings: rows of one subset.
        step: of the weights; a whole number of steps makes 1.
        arms: those compared; all where none is named. Only layers in which all of them have a rank
            are weighted.
    """
    ranks = {row.arm: row.ranks for row in standings if not arms or row.arm in arms}
    names = sorted(ranks)
    all_layers = list(dict.fromkeys(layer for by_layer in ranks.values() for layer in by_layer))
    lacking = {
        layer: tuple(name for name in names if ranks[name].get(layer) is None)
        for layer in all_layers
    }
    layers = tuple(layer for layer, without in lacking.items() if not without)
    left_out = {layer: some for layer, some in lacking.items() if 0 < len(some) < len(names)}
    if not layers:
        return Weightings((), left_out, 0, {}, (), {}, {}, {})
    table = np.array([[ranks[name][layer] for layer in layers] for name in names], dtype=float)

    def winners(weights: Array) -> tuple[str, ...]:
        means = table @ weights
        return tuple(name for name, mean in zip(names, means, strict=True) if mean == means.min())

    # Weights are whole numbers, so that equal means are equal.
    one = np.eye(len(layers))
    steps = round(1 / step)
    grid = np.array(list(_compositions(steps, len(layers))), dtype=float)
    means = grid @ table.T
    best = means == means.min(axis=1, keepdims=True)
    shares = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    decisive = {}
    for k, layer in enumerate(layers):
        ahead = winners(one[k])
        if len(ahead) == 1:
            j = names.index(ahead[0])
            won = best[:, j] & (best.sum(axis=1) == 1)
            least = grid[~won, k].max() + 1 if not won.all() else 0
            decisive[layer] = Decisive(ahead[0], float(least / steps))
    order = sorted(range(len(names)), key=lambda j: (-shares[j], names[j]))
    return Weightings(
        layers,
        left_out,
        len(grid),
        shares={names[j]: float(shares[j]) for j in order},
        equal=winners(one.sum(axis=0)),
        alone={layer: winners(one[k]) for k, layer in enumerate(layers)},
        without={
            layer: winners(1 - one[k]) for k, layer in enumerate(layers) if len(layers) > 1
        },
        decisive=decisive,
    )  # fmt: skip


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Yield all ways to write a number as a sum of this many parts, zeros included."""
    for bars in combinations(range(total + parts - 1), parts - 1):
        ends = (-1, *bars, total + parts - 1)
        yield tuple(ends[i + 1] - ends[i] - 1 for i in range(parts))


def _used(ranks: Ranks, subset: str, alternatives: Alternatives) -> tuple[str, ...]:
    """Return the metrics of a layer that count on a subset."""
    for metrics in alternatives:
        if some := tuple(metric for metric in metrics if (metric, subset) in ranks):
            return some
    return ()


def _by_layer(
    ranks: Ranks,
    subsets: Sequence[str],
    used: Mapping[tuple[str, str], tuple[str, ...]],
    layers: Mapping[str, Alternatives],
) -> dict[str, dict[str, Array]]:
    """Return the ranks of each arm in each layer: of its metrics, then of the subsets."""
    found: dict[str, dict[str, Array]] = {}
    for layer in layers:
        over_subsets: dict[str, list[Array]] = {}
        for subset in subsets:
            over_metrics: dict[str, list[Array]] = {}
            for metric in used[subset, layer]:
                for arm, rank in ranks[metric, subset].items():
                    over_metrics.setdefault(arm, []).append(rank)
            for arm, some in over_metrics.items():
                over_subsets.setdefault(arm, []).append(np.median(some, axis=0))
        found[layer] = {arm: np.median(some, axis=0) for arm, some in over_subsets.items()}
    return found


def _medians(by_layer: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Return the median rank of each arm over the layers that it has, by name."""
    arms = sorted({arm for column in by_layer.values() for arm in column})
    return {
        arm: np.median([column[arm] for column in by_layer.values() if arm in column], axis=0)
        for arm in arms
    }


def _places(medians: Array) -> Array:
    """Return 1 + the number of arms with a smaller median, draw by draw."""
    return np.stack([1 + (medians < medians[:, [j]]).sum(1) for j in range(medians.shape[1])], 1)


def _rows(
    subset: str, by_layer: Mapping[str, Mapping[str, Array]], drawn: Sequence[Array], seed: int
) -> Iterator[Standing]:
    medians = _medians(by_layer)
    values = np.stack(list(medians.values()), axis=1)
    places = _places(values)
    bounds: list[dict[str, float | None]] = [{} for _ in medians]
    if drawn:
        draws = np.concatenate(drawn)
        p_first = first_shares(-draws)
        median_limits = limits(values[0], draws)
        place_limits = limits(places[0], _places(draws))
        bounds = [
            {
                "median_low": median_limits[0, j], "median_high": median_limits[1, j],
                "place_low": place_limits[0, j], "place_high": place_limits[1, j],
                "p_first": p_first[j],
            }
            for j in range(len(medians))
        ]  # fmt: skip
    for j in sorted(range(len(medians)), key=lambda j: (values[0, j], j)):
        arm = list(medians)[j]
        yield Standing.model_validate({
            "subset": subset, "arm": arm,
            "ranks": {
                layer: float(column[arm][0]) if arm in column else None
                for layer, column in by_layer.items()
            },
            "median": float(values[0, j]), "place": int(places[0, j]), "seed": seed, **bounds[j],
        })  # fmt: skip


def _panels(
    cells: Sequence[Cell],
    found: Ranks,
    scores: Sequence[Score],
    subsets_of: Mapping[str, tuple[str, ...]],
    cluster_of: Mapping[str, str],
) -> dict[Cell, Panel]:
    """Return the scores that can be drawn, on the questions that all arms with any value share."""
    drawn_as = {
        (DRAWN_AS.get(metric, metric), subset): (metric, subset) for metric, subset in cells
    }
    metrics = {metric for metric, _ in drawn_as}
    some = [score for score in scores if score.metric in metrics]
    panels = {}
    for panel in panels_of(some, subsets_of, cluster_of):
        cell = drawn_as.get((panel.metric, panel.subset))
        shared = panel.shared()
        clusters = len(set(shared.cluster.tolist()))
        if cell and set(found[cell]) == set(shared.arms) and clusters > 1:
            panels[cell] = shared
    return panels


def _differences(panel: Panel, resamples: int, seed: int) -> dict[Pair, Interval]:
    """Return the difference of each two arms with its interval."""
    pairs = list(combinations(range(len(panel.arms)), 2))
    if not pairs:
        return {}
    columns, reach = panel.differences(pairs), panel.reach
    intervals = difference_intervals(columns, panel.cluster, -reach, reach, resamples, seed)
    return dict(zip(pairs, intervals, strict=True))
