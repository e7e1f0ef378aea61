"""How far slot and length sway a judge that ranks: their effects between answers of one quality.

A mixed logit over the pairs of answers that were shown side by side. What sets two answers apart
besides arm, slot and length is normal and the same whenever they meet again, so that an effect is
not watered down by the quality differing from question to question; integrated by Gauss-Hermite
quadrature. Answers tie where their utilities are less than a threshold apart (Rao & Kupper 1967).
Pairs of a block are not independent: the likelihood is a composite one (Varin, Reid & Firth 2011),
its covariance the cluster-robust one of `strength`.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit, roots_hermitenorm

from ecg_llm.contracts import Block
from ecg_llm.stats.intervals import Interval
from ecg_llm.stats.panels import clusters_of
from ecg_llm.stats.resampling import Array, cluster_sums
from ecg_llm.stats.strength import (
    LONGEST,
    PRECISION,
    STEPS,
    clustered_covariance,
    shown,
    t_interval,
    tie_prior,
    told_apart,
)

NODES = 21
"""Of the quadrature."""
MORE_NODES = 61
WIDE = 2.0
"""Spread from which on it takes more nodes."""
NONE = 0.05
"""Spread up to which answers are as good as their arm."""
METHOD = "mixed_logit"


class Effects(NamedTuple):
    """Changes of the log-odds of being placed before a rival; no value where not told apart."""

    slot: Interval
    """For a slot further down."""
    length: Interval
    """For twice the words."""


class Pairs(NamedTuple):
    """Two answers side by side in a block, as logits; rows in the order of `pair`.

    A win is one at odds less the threshold, a defeat one at odds plus the threshold; a tie is
    neither, which makes two rows: a win at odds plus and a defeat at odds less the threshold.
    """

    pair: NDArray[np.intp]
    """Number of the two answers; the same wherever they meet."""
    won: Array
    """By the first one: 1 or 0."""
    apart: Array
    """Slots that the first one stood further down."""
    side: Array
    """Whether the threshold is added, 1, or taken off, -1."""
    design: Array
    """Of each two answers: which arms, and how many doublings the first one is longer."""
    ties: Array
    """Of each two answers."""
    cluster: NDArray[np.intp]
    """Of each two answers."""


def effects(blocks: Sequence[Block], cluster_of: Mapping[str, str]) -> Effects | None:
    """Return the effects of slot and length on these rankings; None without a comparison.

    Args:
        blocks: rankings of one judge; answers that it was not shown are left out.
        cluster_of: question_id -> group; a question without one is a cluster of its own.
    """
    blocks = [block for block in map(shown, blocks) if len(block.arms) > 1]
    if not blocks:
        return None
    pairs = _pairs(blocks, cluster_of)
    values, covariance = _maximum(pairs)
    rows = np.column_stack([pairs.design[pairs.pair], pairs.apart])
    questions = len({block.question_id for block in blocks})
    clusters = int(pairs.cluster.max()) + 1
    found = []
    for place in (rows.shape[1] - 1, rows.shape[1] - 2):  # slot, length
        if told_apart(rows[:, place], np.delete(rows, place, axis=1)):
            value, variance = float(values[place]), float(covariance[place, place])
            found.append(t_interval(value, variance, METHOD, questions, clusters))
        else:
            found.append(Interval(None, None, None, "none", questions, clusters))
    return Effects(*found)


def _pairs(blocks: Sequence[Block], cluster_of: Mapping[str, str]) -> Pairs:
    arms = sorted({arm for block in blocks for arm in block.arms})
    number = {arm: j for j, arm in enumerate(arms)}
    numbers: dict[tuple[tuple[str, int], tuple[int, int], tuple[int, int]], int] = {}
    rows = []
    for block in blocks:
        answers = [(number[arm], words) for arm, words in zip(block.arms, block.words, strict=True)]
        for s, t in combinations(range(len(answers)), 2):
            a, b = (s, t) if answers[s] <= answers[t] else (t, s)
            asked = (block.question_id, block.repeat)
            both = numbers.setdefault((asked, answers[a], answers[b]), len(numbers))
            ahead = int(np.sign(block.places[b] - block.places[a]))
            for side in (-1, 1):
                if ahead != side:  # one of the two tells all of a win or a defeat
                    rows.append((both, 2 * ahead + side > 0, a - b, side))
    design = np.zeros((len(numbers), len(arms) + 1))
    for i, (_, (a, words_a), (b, words_b)) in enumerate(numbers):
        design[i, a] += 1.0
        design[i, b] -= 1.0
        design[i, -1] = np.log2(words_a / words_b)
    cluster = clusters_of([question for (question, _), _, _ in numbers], cluster_of)
    table = np.array(sorted(rows), dtype=float)
    won, apart, side = table[:, 1:].T
    pair = table[:, 0].astype(np.intp)
    ties = np.zeros(len(numbers))
    np.add.at(ties, pair, (won == 1) & (side == 1))
    return Pairs(pair, won, apart, side, design, ties, cluster)


def _maximum(pairs: Pairs) -> tuple[Array, Array]:
    """Return arms, length and slot at the peak of the likelihood, and their covariance."""
    count = pairs.design.shape[1] + 1
    # The spread, and the logarithm of the threshold where there is one.
    values = np.concatenate([np.zeros(count), [1.0], [-1.0] * bool(pairs.ties.any())])
    shape = np.zeros((len(pairs.design), len(values) - count + 2, len(values)))
    shape[:, 0, : count - 1] = pairs.design
    shape[:, np.arange(1, shape.shape[1]), np.arange(count - 1, len(values))] = 1.0
    for nodes in (NODES, MORE_NODES):
        values, slopes, bends = _climbed(values, pairs, shape, nodes)
        spread = values[count]
        if abs(spread) < WIDE:
            break
    if abs(spread) < NONE:
        slopes, bends = np.delete(slopes, 2, 1), np.delete(np.delete(bends, 2, 1), 2, 2)
        values, shape = np.delete(values, count), np.delete(np.delete(shape, 2, 1), count, 2)
    else:
        # By the variance: along the spread the likelihood is flat at 0, and steps go astray.
        bends[:, 2, 2] += slopes[:, 2] / spread
        slopes[:, 2] /= 2 * spread
        bends[:, 2] /= 2 * spread
        bends[:, :, 2] /= 2 * spread
        values[count] = spread**2
    scores, bent = np.einsum("gi,gip->gp", slopes, shape), bends @ shape
    order = np.argsort(pairs.cluster, kind="stable")
    ends = np.searchsorted(pairs.cluster[order], np.arange(1, pairs.cluster.max() + 1))
    curvatures = np.stack([
        np.tensordot(shape[some], bent[some], axes=((0, 1), (0, 1)))
        for some in np.split(order, ends)
    ])  # fmt: skip
    covariance = clustered_covariance(cluster_sums(scores, pairs.cluster), curvatures, values)
    return values[:count], covariance[:count, :count]


def _climbed(start: Array, pairs: Pairs, shape: Array, nodes: int) -> tuple[Array, Array, Array]:
    """Return the peak that is reached from here, and the slopes and curvatures there."""
    likelihood, values, step = -np.inf, start, np.zeros(len(start))
    for _ in range(STEPS):
        found, slopes, bends = _likelihood(values + step, pairs, nodes)
        if found < likelihood - PRECISION:
            step /= 2
            continue
        values, likelihood = values + step, found
        slope, prior = tie_prior(values)
        slope += np.einsum("gi,gip->p", slopes, shape)
        whole = np.tensordot(shape, bends @ shape, axes=((0, 1), (0, 1))) + np.diag(prior)
        # Far from the peak the likelihood may bend upwards along the spread: the step still climbs.
        size, vectors = np.linalg.eigh(whole)
        step = vectors @ (vectors.T @ slope / np.abs(size))
        step *= min(1.0, LONGEST / max(np.abs(step).max(), PRECISION))
        if np.abs(step).max() < PRECISION:
            break
    return values, slopes, bends


def _likelihood(values: Array, pairs: Pairs, nodes: int) -> tuple[float, Array, Array]:
    """Return the log-likelihood with its prior, and for each two answers its slopes and curvature.

    Those are by the log-odds, the effect of the slot, the spread and, with ties, the logarithm of
    the threshold: shapes (pairs, 3 or 4) and (pairs, 3 or 4, 3 or 4), the latter minus the second
    derivatives.
    """
    node, weight = roots_hermitenorm(nodes)
    slot, spread, *logarithm = values[pairs.design.shape[1] :]
    threshold = float(np.exp(logarithm[0])) if logarithm else 0.0
    odds = (pairs.design @ values[: pairs.design.shape[1]])[pairs.pair] + slot * pairs.apart
    odds = (odds + threshold * pairs.side)[:, None] + spread * node
    ends = np.searchsorted(pairs.pair, np.arange(len(pairs.design) + 1))

    def summed(rows: Array, columns: Array) -> Array:
        """Return the sums over the rows of each two answers, each row so many times."""
        made: Array = sparse.csr_array((rows, np.arange(len(rows)), ends)) @ columns
        return made

    ones = np.ones(len(odds))
    joint = summed(ones, pairs.won[:, None] * odds - np.logaddexp(0.0, odds)) + np.log(weight)
    most = joint.max(axis=1, keepdims=True)
    part = np.exp(joint - most)
    total = part.sum(axis=1, keepdims=True)
    part /= total
    chance = expit(odds)
    more, noise = pairs.won[:, None] - chance, chance * (1 - chance)
    # What a row's log-odds change by; by the spread they change with the node.
    changes = [(ones, 1), (pairs.apart, 1), (ones, node), (threshold * pairs.side, 1)]
    changes = changes[: 3 + len(logarithm)]
    slopes = [summed(rows, more) * by for rows, by in changes]
    mean = np.stack([(slope * part).sum(axis=1) for slope in slopes], axis=1)
    bends = mean[:, :, None] * mean[:, None, :]
    for i, (rows, by) in enumerate(changes):
        for j, (others, also) in enumerate(changes[: i + 1]):
            inner = summed(rows * others, noise) * by * also
            bends[:, i, j] += ((inner - slopes[i] * slopes[j]) * part).sum(axis=1)
            bends[:, j, i] = bends[:, i, j]
    likelihood = float((most + np.log(total)).sum())
    likelihood -= float((np.logaddexp(0.0, values) + np.logaddexp(0.0, -values)).sum()) / 2
    if logarithm:
        # A tie has the chance of both its rows times 1 - exp(-2 threshold).
        likelihood += pairs.ties.sum() * np.log(-np.expm1(-2 * threshold))
        slope = 2 * threshold / np.expm1(2 * threshold)
        bends[:, 3, 3] -= mean[:, 3] + pairs.ties * slope * (1 - slope * np.exp(2 * threshold))
        mean[:, 3] += pairs.ties * slope
    return likelihood, mean, bends
