"""Simulated studies whose truth is known: equal arms, unequal clusters of questions alike."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_llm.stats.intervals import Interval
from ecg_llm.stats.resampling import Array, Index

CLUSTERS = (10, 30, 100)
PROPORTIONS = (0.5, 0.9)
LIKENESS = (0.0, 0.05, 0.2)
"""Intra-cluster correlations of an arm's marks."""
QUESTIONS = 10
"""Mean size of a cluster."""
SHARED_LUCK = 0.5
"""Part of the questions on which two arms are right or wrong together."""


class Cell(NamedTuple):
    """What the studies of one simulation have in common."""

    clusters: int
    proportion: float
    likeness: float

    def __str__(self) -> str:
        return f"{self.clusters} clusters, p {self.proportion}, ICC {self.likeness}"


CELLS = [Cell(c, p, icc) for c in CLUSTERS for p in PROPORTIONS for icc in LIKENESS]


def sizes(clusters: int) -> Index:
    """Return sizes of clusters as of an exponential distribution, 1 and more, mean QUESTIONS."""
    middle = (np.arange(clusters) + 0.5) / clusters
    return (1 + np.floor(0.5 - (QUESTIONS - 1) * np.log(1 - middle))).astype(np.intp)


def marks(
    cell: Cell, arms: int, studies: int, seed: int, of: Index | None = None
) -> tuple[Array, Index]:
    """Return marks of 0 or 1, shape (arms, questions, studies), and each question's cluster.

    All arms are equally good, and each has documents of its own that it finds hard: a cluster's
    share of right answers is drawn from a beta distribution for every arm.

    Args:
        cell: clusters, share of right answers, intra-cluster correlation.
        arms: their number.
        studies: their number.
        seed: of the draws.
        of: sizes of the clusters; those of `sizes` where None.
    """
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(cell.clusters), sizes(cell.clusters) if of is None else of)
    shape = (len(cluster), studies)
    luck = rng.random(shape, dtype=np.float32)
    together = rng.random(shape, dtype=np.float32) < SHARED_LUCK
    made = np.empty((arms, *shape))
    for arm in range(arms):
        chance = _shares(cell, studies, rng)[cluster]
        own = rng.random(shape, dtype=np.float32)
        made[arm] = np.where(together, luck, own) < chance
    return made, cluster


def _shares(cell: Cell, studies: int, rng: np.random.Generator) -> Array:
    if not cell.likeness:
        return np.full((cell.clusters, studies), cell.proportion)
    spread = (1 - cell.likeness) / cell.likeness
    a, b = cell.proportion * spread, (1 - cell.proportion) * spread
    return rng.beta(a, b, size=(cell.clusters, studies))


def ends(intervals: Sequence[Interval]) -> tuple[Array, Array]:
    """Return the lower and upper ends of intervals; those without one reach everywhere."""
    low = [-np.inf if one.low is None else one.low for one in intervals]
    high = [np.inf if one.high is None else one.high for one in intervals]
    return np.array(low), np.array(high)


def covered(low: Array, high: Array, truth: float) -> float:
    """Return the share of intervals that hold the truth."""
    inside: NDArray[np.bool_] = (low <= truth + 1e-9) & (high >= truth - 1e-9)
    return float(inside.mean())
