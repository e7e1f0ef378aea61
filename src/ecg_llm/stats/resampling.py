"""Whole clusters drawn again, or given signs, as weights whose products with sums are resamples."""

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]

BLOCK = 4_000_000
"""Cells of the resampling matrix held at once, about 32 MB."""
EXACT_CLUSTERS = 12
"""Up to this number of clusters all 2^C sign flips are enumerated."""


def cluster_sums(columns: Array, cluster: Index) -> Array:
    """Return the sums of the rows of each cluster, shape (clusters, columns)."""
    order = np.argsort(cluster, kind="stable")
    starts = np.searchsorted(cluster[order], np.arange(cluster.max() + 1))
    return np.add.reduceat(columns[order], starts, axis=0)


def cluster_weights(clusters: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield how often each cluster is drawn, a resample a row, in parts that fit into memory."""
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK // clusters)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, clusters, size=(rows, clusters), dtype=np.int64)
        drawn += np.arange(rows)[:, None] * clusters
        weights = np.bincount(drawn.ravel(), minlength=rows * clusters)
        yield weights.reshape(rows, clusters).astype(float)


def bootstrap_means(columns: Array, cluster: Index, resamples: int, seed: int) -> Array:
    """Return ratio means of each column over clusters drawn with replacement.

    Shape (resamples, columns). How often each cluster is drawn is a row of weights, so that all
    sums of a block are one matrix product.
    """
    known = ~np.isnan(columns)
    sums = cluster_sums(np.where(known, columns, 0.0), cluster)
    counts = cluster_sums(known.astype(float), cluster)
    counts, which = np.unique(counts, axis=1, return_inverse=True)
    made = []
    for weights in cluster_weights(len(sums), resamples, seed):
        denominators = (weights @ counts)[:, which.ravel()]
        # Only a column of very few clusters can be missed by a whole draw, and those use t.
        made.append((weights @ sums) / np.maximum(denominators, 1.0))
    return np.concatenate(made)


def every_sign(clusters: int) -> Array:
    """Return all ways to give each cluster a sign, shape (2 ** clusters, clusters)."""
    signs = np.array(list(product((1.0, -1.0), repeat=clusters)))
    return signs.reshape(2**clusters, clusters)


def cluster_signs(clusters: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield random signs of each cluster, a resample a row, in parts that fit into memory."""
    rng = np.random.default_rng([seed, 1])
    step = max(1, BLOCK // clusters)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        yield 2 * rng.integers(0, 2, size=(rows, clusters), dtype=np.int8).astype(float) - 1
