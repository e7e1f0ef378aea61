"""Rankings of blocks of answers to strengths of the arms, with intervals clustered by source.

Methods: Plackett-Luce (Luce 1959, Plackett 1975), the rank-ordered logit with covariates (Beggs,
Cardell & Hausman 1981), Bradley-Terry for blocks of two; a tie counts as every order of the tied
answers, each to an equal part, so that for two it is half a win each; cluster-robust covariance by
the one-step jackknife over clusters (CR3: Bell & McCaffrey 2002) with t on C-1 degrees.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats
from scipy.special import expit

from ecg_llm.contracts import Block
from ecg_llm.records import Estimate
from ecg_llm.stats.estimate import Difference, Rank, placed
from ecg_llm.stats.intervals import LEVEL, TINY, Interval
from ecg_llm.stats.panels import Pair, clusters_of
from ecg_llm.stats.resampling import Array, cluster_sums

STEPS = 100
"""Of Newton's method; it takes about six."""
LONGEST = 3.0
"""Most that a step of Newton's method changes a parameter by."""
PRECISION = 1e-8
METHOD = "plackett_luce"
Index = NDArray[np.intp]


class Fit(NamedTuple):
    """Strengths in log-odds with 95 % intervals; their mean over the arms is 0."""

    arms: tuple[str, ...]
    """Sorted by name."""
    strengths: tuple[Interval, ...]
    """Without limits where there is one cluster only."""
    covariance: Array
    """Of the strengths, shape (arms, arms); its rows add up to 0."""
    slot: Interval | None
    """Change of the log-odds of being placed first, a slot further down; without value where slot
    and arm cannot be told apart. None: not asked for."""
    length: Interval | None
    """The same for twice the words."""
    connected: bool
    """Whether every arm was compared with every other, if only through others."""
    questions: int
    clusters: int


class Stages(NamedTuple):
    """Rankings as choices of the best among those not yet placed, one choice a row."""

    block: Index
    """Block of each choice."""
    open: NDArray[np.bool_]
    """Slots that the choice is made from, shape (choices, slots)."""
    weight: Array
    """Part of the choice that counts: tied answers were chosen in every order."""
    chosen: Array
    """Number of choices that each slot won, shape (blocks, slots)."""


def strengths(
    blocks: Sequence[Block],
    subsets_of: Mapping[str, tuple[str, ...]],
    cluster_of: Mapping[str, str],
    resamples: int,
    seed: int,
) -> list[Estimate]:
    """Return the strengths of the arms on every subset, pooled over the judges of the panel.

    "ranking_strength" is freed from the effect of the slot, "ranking_strength_length" from the
    effect of the length too: what the arms would have if their answers were equally long. Both
    are log-odds on a question drawn at random, whose answers need not be as good as their arms.
    Answers that no judge was shown count, as placed last; `missing` says how many. rank is 1 + the
    number of arms whose 95 % difference lies wholly above, rank_adjusted the same by Holm over all
    pairs.

    Args:
        blocks: rankings of any number of judges.
        subsets_of: question_id -> every "set/split" it counts in; blocks of other questions are
            left out.
        cluster_of: question_id -> group; a question without one is a cluster of its own.
        resamples: draws that give the range of the ranks and the chance of being best.
        seed: of the draws.

    Returns:
        Rows ordered by metric and subset. They have no value where there are arms that were not
        compared with all others, not even through others; there is no row without a comparison.
    """
    parts: dict[str, list[Block]] = defaultdict(list)
    for block in blocks:
        for subset in subsets_of.get(block.question_id, ()):
            parts[subset].append(block)
    rows: list[Estimate] = []
    for metric, length in (("ranking_strength", False), ("ranking_strength_length", True)):
        for subset, part in sorted(parts.items()):
            found = fit(part, cluster_of, slot=True, length=length)
            if found is not None:
                rows += _rows(metric, subset, part, found, resamples, seed)
    return rows


def fit(
    blocks: Sequence[Block], cluster_of: Mapping[str, str], slot: bool, length: bool
) -> Fit | None:
    """Return the strengths that make these rankings likeliest; None without a comparison.

    The utility of an answer is the strength of its arm [+ effect x slot] [+ effect x log2(words)];
    one that was not shown has the mean slot and length of its block. Every arm, slot and doubling
    also ties once with an average rival, so that an arm that always wins has a finite strength.

    Args:
        blocks: rankings; those of fewer than two answers say nothing.
        cluster_of: question_id -> group; a question without one is a cluster of its own.
        slot: estimate the effect of the slot.
        length: estimate the effect of the length.
    """
    blocks = [block for block in blocks if len(block.arms) > 1]
    arms = tuple(sorted({arm for block in blocks for arm in block.arms}))
    if len(arms) < 2:
        return None
    questions = [block.question_id for block in blocks]
    cluster = clusters_of(questions, cluster_of)
    design, told = _design(blocks, arms, slot, length)
    values, covariance = _maximum(design, _stages([block.places for block in blocks]), cluster)
    centre = np.eye(len(values))
    centre[: len(arms), : len(arms)] -= 1 / len(arms)
    values, covariance = centre @ values, centre @ covariance @ centre.T
    clusters = int(cluster.max()) + 1
    counts = len(set(questions)), clusters

    def interval(j: int) -> Interval:
        return t_interval(float(values[j]), float(covariance[j, j]), METHOD, *counts)

    none = Interval(None, None, None, "none", *counts)
    effects = iter(range(len(arms), len(values)))
    found = [interval(next(effects)) if known else none for known in told]
    return Fit(
        arms,
        tuple(interval(j) for j in range(len(arms))),
        covariance[: len(arms), : len(arms)],
        found[0] if slot else None,
        found[1] if length else None,
        _connected(blocks, arms),
        *counts,
    )


def shown(block: Block) -> Block:
    """Return a block with no more than the answers that the judge was shown."""
    slots = [slot for slot, words in enumerate(block.words) if words]
    if len(slots) == len(block.words):
        return block
    return block._replace(
        arms=tuple(block.arms[slot] for slot in slots),
        places=tuple(block.places[slot] for slot in slots),
        words=tuple(block.words[slot] for slot in slots),
    )


def _rows(
    metric: str, subset: str, blocks: Sequence[Block], found: Fit, resamples: int, seed: int
) -> Iterator[Estimate]:
    asked: dict[str, set[str]] = defaultdict(set)
    unshown: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for block in blocks:
        for arm, words in zip(block.arms, block.words, strict=True):
            asked[arm].add(block.question_id)
            if not words:
                unshown[arm].add((block.question_id, block.repeat))
    none = Interval(None, None, None, "none", found.questions, found.clusters)
    told = found.connected and (found.length is None or found.length.value is not None)
    ranks = ranked(found, resamples, seed) if told else [Rank() for _ in found.arms]
    for arm, strength, rank in zip(found.arms, found.strengths, ranks, strict=True):
        interval = strength if told else none
        yield Estimate(
            metric=metric, subset=subset, arm=arm, method=f"strength/{METHOD}",
            value=interval.value, low=interval.low, high=interval.high, **rank._asdict(),
            questions=len(asked[arm]), clusters=found.clusters, missing=len(unshown[arm]),
            missing_as="placed last", seed=seed,
        )  # fmt: skip


def differences(found: Fit, pairs: Sequence[Pair]) -> dict[Pair, Difference]:
    """Return the differences a - b of pairs of strengths, in log-odds; without p for one cluster.

    p goes by t on C-1 degrees ("t").
    """
    values = np.array([strength.value for strength in found.strengths], dtype=float)
    v, freedom = found.covariance, found.clusters - 1
    made = {}
    for a, b in pairs:
        value, variance = float(values[a] - values[b]), float(v[a, a] + v[b, b] - 2 * v[a, b])
        interval = t_interval(value, variance, METHOD, found.questions, found.clusters)
        error = max(variance, TINY) ** 0.5
        made[a, b] = (
            Difference(
                interval, 2 * float(stats.t.sf(abs(value) / error, freedom)), "t",
                error=error, freedom=freedom,
            )
            if freedom
            else Difference(interval, None)
        )  # fmt: skip
    return made


def ranked(found: Fit, resamples: int, seed: int) -> list[Rank]:
    """Return the ranks of the arms by their differences; empty ones for one cluster."""
    count = len(found.arms)
    if found.clusters < 2:
        return [Rank() for _ in range(count)]
    values = np.array([strength.value for strength in found.strengths], dtype=float)
    rng = np.random.default_rng(seed)
    size, vectors = np.linalg.eigh(found.covariance)
    noise = rng.standard_normal((resamples, count)) @ (vectors * np.sqrt(np.maximum(size, 0))).T
    freedom = found.clusters - 1
    scale = np.sqrt(rng.chisquare(freedom, size=(resamples, 1)) / freedom)
    pairs = list(combinations(range(count), 2))
    drawn = values + noise / scale
    return placed(count, differences(found, pairs), drawn, found.questions)


def t_interval(
    value: float, variance: float, method: str, questions: int, clusters: int
) -> Interval:
    """Return the 95 % interval of a value by t on C-1 degrees; without limits for one cluster."""
    if clusters < 2:
        return Interval(value, None, None, method, questions, clusters)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, clusters - 1)) * max(variance, 0.0) ** 0.5
    return Interval(value, value - half, value + half, method, questions, clusters)


def _connected(blocks: Sequence[Block], arms: Sequence[str]) -> bool:
    number = {arm: j for j, arm in enumerate(arms)}
    pairs = {(number[block.arms[0]], number[arm]) for block in blocks for arm in block.arms}
    first, second = np.array(sorted(pairs)).T
    graph = sparse.coo_array((np.ones(len(first)), (first, second)), shape=(len(arms),) * 2)
    return bool(sparse.csgraph.connected_components(graph, directed=False)[0] == 1)


def _design(
    blocks: Sequence[Block], arms: Sequence[str], slot: bool, length: bool
) -> tuple[Array, tuple[bool, bool]]:
    """Return the columns arms [+ slot] [+ length], shape (blocks, slots, columns).

    And whether slot and length are among them: asked for, and told apart from what stands before.
    """
    number = {arm: j for j, arm in enumerate(arms)}
    most = max(len(block.arms) for block in blocks)
    design = np.zeros((len(blocks), most, len(arms)))
    filled = np.zeros((len(blocks), most), dtype=bool)
    words = np.zeros((len(blocks), most))
    for i, block in enumerate(blocks):
        k = len(block.arms)
        design[i, np.arange(k), [number[arm] for arm in block.arms]] = 1.0
        filled[i, :k] = True
        words[i, :k] = block.words
    told = []
    seen = words > 0
    slots = seen.cumsum(axis=1, dtype=float)
    for asked, values in ((slot, slots), (length, np.log2(np.maximum(words, 1.0)))):
        known = False
        if asked:
            column = _centred(values[..., None], seen)
            before = _centred(design, filled).reshape(filled.size, -1)
            known = told_apart(column.reshape(filled.size), before)
            if known:
                design = np.concatenate([design, column], axis=2)
        told.append(known)
    return design, (told[0], told[1])


def told_apart(column: Array, others: Array) -> bool:
    """Return whether a column of a design is more than a sum of multiples of the others."""
    solved = np.linalg.lstsq(others.T @ others, others.T @ column, rcond=1e-9)[0]
    rest = column - others @ solved
    return float((rest**2).sum()) > 1e-6 * max(float((column**2).sum()), 1.0)


def _centred(columns: Array, part: NDArray[np.bool_]) -> Array:
    """Return the columns less their means over the slots of each block in this part, 0 beyond."""
    inside = part[..., None]
    count = np.maximum(inside.sum(axis=1, keepdims=True), 1)
    mean = (columns * inside).sum(axis=1, keepdims=True) / count
    return np.where(inside, columns - mean, 0.0)


def _stages(places: Sequence[tuple[int, ...]]) -> Stages:
    """Return the choices that these rankings are made of; blocks may differ in size."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, ranking in enumerate(places):
        alike[ranking].append(i)
    most = max(len(ranking) for ranking in places)
    chosen = np.zeros((len(places), most))
    block, opened, weight = [], [], []
    for ranking, indices in alike.items():
        masks, weights = _choices(ranking)
        chosen[indices, : len(ranking)] = 1.0
        block.append(np.repeat(indices, len(masks)))
        opened.append(np.tile(np.pad(masks, ((0, 0), (0, most - len(ranking)))), (len(indices), 1)))
        weight.append(np.tile(weights, len(indices)))
    return Stages(
        np.concatenate(block).astype(np.intp), np.concatenate(opened), np.concatenate(weight),
        chosen,
    )  # fmt: skip


@cache
def _choices(places: tuple[int, ...]) -> tuple[NDArray[np.bool_], Array]:
    """Return the slots open at each choice of a ranking, and the weight of the choice.

    Of d tied answers each subset of l is chosen first in an equal part of all orders.
    """
    masks, weights = [], []
    for place in sorted(set(places)):
        tied = [slot for slot, other in enumerate(places) if other == place]
        for count in range(len(tied)):
            before = list(combinations(tied, count))
            for gone in before:
                masks.append([
                    other >= place and slot not in gone for slot, other in enumerate(places)
                ])  # fmt: skip
                weights.append(1 / len(before))
    return np.array(masks), np.array(weights)


def _maximum(design: Array, stages: Stages, cluster: Index) -> tuple[Array, Array]:
    """Return the parameters of the greatest likelihood and their cluster-robust covariance."""
    values = np.zeros(design.shape[2])
    for _ in range(STEPS):
        won, expected, mean = _expected(design @ values, design, stages)
        scores = np.einsum("bs,bsp->bp", won, design)
        flat = design.reshape(-1, len(values))
        curvature = flat.T @ (flat * expected.reshape(-1, 1))
        curvature -= mean.T @ (mean * stages.weight[:, None])
        slope, prior = tie_prior(values)
        step = np.linalg.solve(curvature + np.diag(prior), scores.sum(axis=0) + slope)
        values = values + step * min(1.0, LONGEST / max(np.abs(step).max(), PRECISION))
        if np.abs(step).max() < PRECISION:
            break
    order, choices = np.argsort(cluster, kind="stable"), cluster[stages.block]
    by_choice = np.argsort(choices, kind="stable")
    ends = np.arange(1, cluster.max() + 1)
    curvatures = np.stack([
        np.einsum("bs,bsp,bsr->pr", expected[some], design[some], design[some], optimize=True)
        - mean[made].T @ (mean[made] * stages.weight[made, None])
        for some, made in zip(
            np.split(order, np.searchsorted(cluster[order], ends)),
            np.split(by_choice, np.searchsorted(choices[by_choice], ends)),
            strict=True,
        )
    ])  # fmt: skip
    covariance = clustered_covariance(cluster_sums(scores, cluster), curvatures, values)
    return values, covariance


def tie_prior(values: Array) -> tuple[Array, Array]:
    """Return the slope of the logarithm of the prior and minus its second derivative.

    The prior of each parameter is one tie with a rival that differs by it alone.
    """
    return 0.5 - expit(values), expit(values) * expit(-values)


def clustered_covariance(scores: Array, curvatures: Array, values: Array) -> Array:
    """Return the cluster-robust covariance of parameters at the peak of their likelihood.

    Each cluster is left out in one Newton step (CR3); the ties of the prior count as clusters of
    their own, so that an arm that always wins has a wide interval, not a narrow one.

    Args:
        scores: slope of the log-likelihood that each cluster adds, shape (clusters, parameters).
        curvatures: minus its second derivatives, shape (clusters, parameters, parameters).
        values: of the parameters.
    """
    slope, prior = tie_prior(values)
    whole = curvatures.sum(axis=0) + np.diag(prior)
    moved = np.linalg.solve(whole - curvatures, scores[..., None])[..., 0]
    clusters = len(scores)
    inverse = np.linalg.inv(whole)
    covariance = (clusters - 1) / clusters * moved.T @ moved
    return np.asarray(covariance + inverse @ np.diag(slope**2) @ inverse)


def _expected(utility: Array, design: Array, stages: Stages) -> tuple[Array, Array, Array]:
    """Return what each slot won beyond what was expected, and the latter, shape (blocks, slots).

    And the mean columns of the answers at each choice, by their chance to be chosen.
    """
    utility = utility - utility.max(axis=1, keepdims=True)
    odds = np.exp(utility)[stages.block] * stages.open
    chance = odds / odds.sum(axis=1, keepdims=True)
    mean = np.zeros((len(chance), design.shape[2]))
    expected = np.zeros(utility.shape)
    for slot in range(design.shape[1]):
        mean += chance[:, slot, None] * design[stages.block, slot]
        part = stages.weight * chance[:, slot]
        expected[:, slot] = np.bincount(stages.block, part, len(design))
    return stages.chosen - expected, expected, mean
