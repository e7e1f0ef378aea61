"""How often intervals hold the truth and tests find what is not there, and how long that takes.

    OMP_NUM_THREADS=1 python benchmarks/estimates.py
    OMP_NUM_THREADS=1 python benchmarks/estimates.py --studies 2000 --rounds 1

Studies of equal arms are simulated (tests/simulated.py): clusters of unequal size, mean 10
questions, marks alike within them, arms right together on half of the questions. Beside what the
program does by default stand the percentile bootstrap of clusters, t on C-1 degrees with the
cluster-robust error of statsmodels, and the intervals that know of no clusters: Wilson's of
statsmodels for means, the paired t of scipy for differences. Widths are means.

The speed is that of one metric of 13 arms on 1,000 questions from its scores on: means, all 78
differences with intervals and p-values, and ranks, from 10,000 resamples. scipy.stats.bootstrap,
which knows no clusters, gives as many intervals column by column, and no more.

Prints the tables, writes results/estimates.{json,md}; exit code 1 if a target is missed, as a few
hundred studies may by chance.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import statsmodels
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint
from training import Figure, at_least, at_most, figures_table, keep, table

from ecg_llm.records import Score
from ecg_llm.stats.estimate import estimates
from ecg_llm.stats.intervals import difference_intervals, mean_intervals, wilson
from ecg_llm.stats.resampling import Array, Index, bootstrap_means, cluster_sums
from ecg_llm.stats.significance import holm, sign_flip, sign_test

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from simulated import CELLS, PROPORTIONS, Cell, covered, ends, marks, sizes

SEED = 20261126
RESAMPLES = 1000
PART = 1000
"""Studies simulated at once."""
ARMS = 5
FEW = (2, 3, 5, 8)
LOWEST, HIGHEST, ERROR = 0.93, 0.97, 0.05
SECONDS = 2.0

Ends = tuple[Array, Array]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    machine = {
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "statsmodels": statsmodels.__version__,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "load_before": round(os.getloadavg()[0], 1),
    }
    agree_with_statsmodels()
    cells = {str(cell): of_cell(cell, given.studies) for cell in CELLS}
    few = [Cell(count, p, 0.2) for count in FEW for p in PROPORTIONS]
    scarce = {str(cell): of_cell(cell, given.studies) for cell in few}
    false = {str(cell): errors(cell, given.studies) for cell in CELLS}
    apart = {f"{n} questions, p {p}": alone(n, p) for n in (10, 30, 100) for p in PROPORTIONS}
    speeds = speed(given.rounds)
    figures = judged(cells, false, given.studies, speeds)
    text = report(machine, given.studies, cells, scarce, false, apart, speeds, figures)
    keep(
        "estimates",
        {
            "machine": machine,
            "studies": given.studies,
            "cells": cells,
            "few_clusters": scarce,
            "errors": false,
            "single_questions": apart,
            "speed": speeds,
            "figures": [one._asdict() for one in figures],
        },
        text,
    )
    print(text)
    sys.exit(not all(figure.met for figure in figures))


def parts(cell: Cell, arms: int, studies: int) -> Iterator[tuple[Array, Index]]:
    """Yield simulated studies, some at a time."""
    for number, start in enumerate(range(0, studies, PART)):
        yield marks(cell, arms, min(PART, studies - start), SEED + number)


def of_cell(cell: Cell, studies: int) -> dict[str, dict[str, list[float]]]:
    """Return coverage and mean width of every method, of means and of differences."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {"mean": {}, "difference": {}}
    for (first, second), cluster in parts(cell, 2, studies):
        for kind, columns, truth, methods in (
            ("mean", first, cell.proportion, of_means(first, cluster)),
            ("difference", first - second, 0.0, of_differences(first - second, cluster)),
        ):
            least = 0.0 if kind == "mean" else -1.0
            for name, (low, high) in methods.items():
                low, high = np.clip(low, least, 1.0), np.clip(high, least, 1.0)
                share = covered(low, high, truth)
                weight = columns.shape[1] / studies
                found[kind].setdefault(name, []).append(
                    (weight * share, weight * float((high - low).mean()))
                )
    return {
        kind: {
            name: [sum(part) for part in zip(*values, strict=True)] for name, values in by.items()
        }
        for kind, by in found.items()
    }


def of_means(columns: Array, cluster: Index) -> dict[str, Ends]:
    """Return the ends of every method's intervals of means."""
    n = len(columns)
    naive = proportion_confint(columns.sum(axis=0), n, method="wilson")
    return {
        "ours": ends(mean_intervals(columns, cluster, 0.0, 1.0, RESAMPLES, SEED)),
        "percentile bootstrap": percentiles(columns, cluster),
        "t on C-1": by_t(columns, cluster),
        "no clusters": (np.asarray(naive[0]), np.asarray(naive[1])),
    }


def of_differences(columns: Array, cluster: Index) -> dict[str, Ends]:
    """Return the ends of every method's intervals of differences."""
    mean, error = columns.mean(axis=0), stats.sem(columns, axis=0)
    half = stats.t.ppf(0.975, len(columns) - 1) * error
    return {
        "ours": ends(difference_intervals(columns, cluster, -1.0, 1.0, RESAMPLES, SEED)),
        "percentile bootstrap": percentiles(columns, cluster),
        "t on C-1": by_t(columns, cluster),
        "no clusters": (mean - half, mean + half),
    }


def percentiles(columns: Array, cluster: Index) -> Ends:
    """Return the plain percentiles of the cluster bootstrap."""
    low, high = np.percentile(
        bootstrap_means(columns, cluster, RESAMPLES, SEED), [2.5, 97.5], axis=0
    )
    return low, high


def by_t(columns: Array, cluster: Index) -> Ends:
    """Return t on C-1 degrees with the error of statsmodels' OLS, clusters corrected for."""
    clusters, mean = int(cluster.max()) + 1, columns.mean(axis=0)
    residuals = cluster_sums(columns - mean, cluster)
    error = np.sqrt((residuals**2).sum(axis=0) * clusters / (clusters - 1)) / len(columns)
    half = stats.t.ppf(0.975, clusters - 1) * error
    return mean - half, mean + half


def agree_with_statsmodels() -> None:
    """Stop unless `by_t` is what statsmodels gives."""
    (only,), cluster = marks(Cell(10, 0.5, 0.2), 1, 5, SEED)
    low, high = by_t(only, cluster)
    for j, y in enumerate(only.T):
        fit = OLS(y, np.ones(len(y))).fit(
            cov_type="cluster", cov_kwds={"groups": cluster}, use_t=True
        )
        assert np.allclose(fit.conf_int(0.05)[0], (low[j], high[j]))


def errors(cell: Cell, studies: int) -> dict[str, float]:
    """Return how often equal arms are told apart: two of them, and any of five after Holm."""
    single, family = [], []
    for made, cluster in parts(cell, ARMS, studies):
        sums = [cluster_sums(arm, cluster) for arm in made]
        found = [
            sign_flip(sums[a] - sums[b], RESAMPLES, SEED) for a, b in combinations(range(ARMS), 2)
        ]
        single += [p < ERROR for p in found[0]]
        for ps in zip(*found, strict=True):
            family.append(min(p for p in holm(ps) if p is not None) < ERROR)
    return {"one pair": float(np.mean(single)), "ten pairs, Holm": float(np.mean(family))}


def alone(questions: int, proportion: float) -> dict[str, float]:
    """Return coverage of Wilson's interval, and the error of McNemar's test, by all outcomes."""
    counts = np.arange(questions + 1)
    chances = stats.binom.pmf(counts, questions, proportion)
    low, high = np.array([wilson(float(count), questions) for count in counts]).T
    inside = (low <= proportion) & (high >= proportion)
    share = proportion * (1 - proportion)  # of questions that two independent arms differ on
    error = 0.0
    for wins in range(questions + 1):
        for losses in range(questions + 1 - wins):
            if sign_test(wins, losses) < ERROR:
                rest = questions - wins - losses
                outcome = stats.multinomial.pmf(
                    [wins, losses, rest], questions, [share, share, 1 - 2 * share]
                )
                error += float(outcome)
    # The shares that intervals of counts could have at best: counts from one to another.
    reach = np.concatenate([[0.0], np.cumsum(chances)])
    best = min(
        (abs(float(reach[j] - reach[i]) - 0.95), float(reach[j] - reach[i]))
        for i, j in combinations(range(len(reach)), 2)
    )[1]
    return {"Wilson": float(chances[inside].sum()), "nearest possible": best, "McNemar": error}


def speed(rounds: int) -> dict[str, dict[str, float]]:
    """Return the seconds of one metric, and of scipy's bootstrap of as many columns."""
    rng = np.random.default_rng(SEED)
    values = rng.random((1000, 13))
    found = {}
    for clusters in (1000, 100):
        for name, table_of in (("marks", (values < 0.7).astype(float)), ("grades", values)):
            scores = [
                Score(question_id=f"q{i:04}", arm=f"arm{j:02}", metric=name, value=float(value))
                for i, row in enumerate(table_of)
                for j, value in enumerate(row)
            ]
            subsets_of = {f"q{i:04}": ("s/test",) for i in range(1000)}
            cluster_of = {f"q{i:04}": f"d{i % clusters}" for i in range(1000)}
            clock, processor = [], []
            for _ in range(rounds):
                start, begun = time.perf_counter(), time.process_time()
                rows = estimates(scores, subsets_of, cluster_of, (), 10_000, SEED)
                clock.append(time.perf_counter() - start)
                processor.append(time.process_time() - begun)
                assert len(rows) == 13 + 78
            found[f"{name}, {clusters} clusters"] = {
                "clock": statistics.median(clock),
                "processor": statistics.median(processor),
            }
    start, begun = time.perf_counter(), time.process_time()
    timed = 5
    for column in values.T[:timed]:
        stats.bootstrap((column,), np.mean, n_resamples=10_000, method="percentile", batch=1000)
    scale = (13 + 78) / timed
    found["scipy.stats.bootstrap, 91 columns (5 timed)"] = {
        "clock": (time.perf_counter() - start) * scale,
        "processor": (time.process_time() - begun) * scale,
    }
    return found


def judged(
    cells: dict[str, Any],
    false: dict[str, dict[str, float]],
    studies: int,
    speeds: dict[str, dict[str, float]],
) -> list[Figure]:
    """Return what was measured beside what is wanted."""
    made = []
    for kind in ("mean", "difference"):
        shares = [cell[kind]["ours"][0] for cell in cells.values()]
        made.append(at_least(f"lowest coverage of a {kind}", min(shares), LOWEST))
        made.append(at_most(f"highest coverage of a {kind}", max(shares), HIGHEST))
    chance = 2 * (ERROR * (1 - ERROR) / studies) ** 0.5
    for name in ("one pair", "ten pairs, Holm"):
        largest = max(cell[name] for cell in false.values())
        made.append(at_most(f"largest error, {name}", largest, round(ERROR + chance, 4)))
    ours = [one["processor"] for name, one in speeds.items() if "scipy" not in name]
    made.append(at_most("slowest metric, processor s", max(ours), SECONDS))
    return made


def report(
    machine: dict[str, Any],
    studies: int,
    cells: dict[str, Any],
    scarce: dict[str, Any],
    false: dict[str, dict[str, float]],
    apart: dict[str, dict[str, float]],
    speeds: dict[str, dict[str, float]],
    figures: Sequence[Figure],
) -> str:
    """Return all tables as Markdown."""
    said = ", ".join(f"{name} {value}" for name, value in machine.items())
    biggest = int(sizes(100).max())
    out = [
        "# Estimates",
        f"{studies:,} simulated studies a cell, {RESAMPLES:,} resamples each; clusters of 1 to "
        f"{biggest} questions. {said}.",
        figures_table(figures),
    ]
    for title, some in (("", cells), (" of few clusters", scarce)):
        for kind in ("mean", "difference"):
            names = list(next(iter(some.values()))[kind])
            rows = [(f"coverage, % (width): {kind}s{title}", *names)]
            for cell, by in some.items():
                values = (f"{100 * share:.1f} ({width:.3f})" for share, width in by[kind].values())
                rows.append((cell, *values))
            out.append(table(rows))
    for title, some in (("false findings, %", false), ("every question its own cluster, %", apart)):
        names = list(next(iter(some.values())))
        rows = [(title, *names)]
        rows += [(cell, *(f"{100 * by[name]:.1f}" for name in names)) for cell, by in some.items()]
        out.append(table(rows))
    rows = [
        (
            "seconds of one metric, 13 arms x 1,000 questions x 10,000 resamples",
            "clock",
            "processor",
        )
    ]
    rows += [
        (name, f"{one['clock']:.2f}", f"{one['processor']:.2f}") for name, one in speeds.items()
    ]
    out.append(table(rows))
    return "\n\n".join(out) + "\n"


if __name__ == "__main__":
    main()
