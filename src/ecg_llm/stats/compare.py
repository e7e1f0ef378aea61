"""Paired, clustered and corrected statistics for anyone's results, without a study."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from ecg_llm.contracts import Block, Progress, UsageError
from ecg_llm.records import METRICS, Estimate, Score
from ecg_llm.registry import suggestion
from ecg_llm.stats import preferences
from ecg_llm.stats.estimate import estimates
from ecg_llm.stats.logs import Results, read
from ecg_llm.stats.preferences import PREFERENCE

ALL_TASKS = "all tasks"
"""Subset of the items of every task on which a metric was measured."""
LARGEST, SMALLEST = 1e50, 1e-8
"""Sizes within which statistics can be computed: a larger score has no fourth power, and if all of
a metric are smaller, their differences are taken for rounding."""


class Mean(TypedDict):
    """Mean of one system on one metric, or its strength in preferences, in log-odds."""

    system: str
    metric: str
    subset: str
    value: float | None
    low: float | None
    high: float | None
    items: int
    clusters: int
    missing: int
    missing_as: str
    method: str


class Difference(TypedDict):
    """Paired difference a - b on the items both systems have; of strengths on all judgements."""

    a: str
    b: str
    metric: str
    subset: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    test: str
    p_sign: float | None
    wins: int | None
    losses: int | None
    effect: float | None
    detectable: float | None
    detectable_adjusted: float | None
    items: int
    clusters: int
    method: str


class Rank(TypedDict):
    """Rank of one system, ties as ties."""

    system: str
    metric: str
    subset: str
    rank: int
    rank_adjusted: int | None
    rank_low: int | None
    rank_high: int | None
    p_best: float | None


class Comparison(TypedDict):
    """What `ecg-llm compare --json` prints."""

    means: list[Mean]
    differences: list[Difference]
    ranks: list[Rank]
    lower_is_better: list[str]
    """Metrics; their ranks go by it, their differences are a - b all the same."""
    notes: list[str]


class Compared(NamedTuple):
    """The same as rows."""

    estimates: list[Estimate]
    """Means with ranks and differences, ordered by metric and subset; values as they were logged,
    ranks with the best as 1."""
    lower: frozenset[str]
    """Metrics of which less is better."""
    shares: frozenset[str]
    """Metrics whose scores all lie between 0 and 1."""
    marks: frozenset[str]
    """Metrics whose scores are all 0 or 1."""
    ours: frozenset[str]
    """Metrics that mean what records.METRICS says; others may bear the same names."""
    comparisons: tuple[tuple[str, str], ...]
    """Declared pairs; empty: all."""
    notes: tuple[str, ...]
    """What a reader should know about the logs."""


def compare(
    files: Sequence[Path | str],
    comparisons: Sequence[tuple[str, str]] = (),
    resamples: int = 10_000,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    against: str = "",
    metrics: Collection[str] = (),
    lower: Collection[str] = (),
    cluster: str = "",
) -> Comparison:
    """Return means, paired differences and ranks of all systems in these files and folders.

    Args:
        files: what `logs.read` reads; "NAME=PATH" gives the system of that path another name.
        comparisons: declared pairs; empty: all pairs.
        resamples: bootstrap draws and random sign flips.
        seed: of the resampling.
        progress: called with (done, total).
        against: a system that every other is compared with, in place of declared pairs.
        metrics: only these; empty: all.
        lower: metrics of which less is better, besides those whose log says so.
        cluster: what names the source of an item, as for `logs.read`.

    Raises:
        UsageError: a file cannot be used, there is one system only or no shared item, or a
            comparison or metric names what is not there.
    """
    found = compared(
        tables(files, cluster), comparisons, resamples, seed, progress,
        against=against, metrics=metrics, lower=lower,
    )  # fmt: skip
    return shaped(found)


def tables(files: Sequence[Path | str], cluster: str = "") -> dict[str, Results]:
    """Return the results of every run in these files and folders, by name of the run.

    Raises:
        UsageError: a file cannot be used or is given twice, or several systems would get one name.
    """
    found: dict[str, Results] = {}
    for file in files:
        name, path = named_path(file)
        for run, results in read(path, cluster).items():
            if run in found:
                raise UsageError(f"{run} is given twice; name each file or folder once.")
            found[run] = _renamed(results, name, path) if name else results
    return found


def named_path(file: Path | str) -> tuple[str, Path]:
    """Return the name in "NAME=PATH", empty without one, and the path."""
    name, equals, path = str(file).partition("=")
    try:
        whole = not equals or "/" in name or Path(file).exists()
    except OSError:  # too long for a file, but perhaps not what stands behind the name
        whole = False
    if whole:
        return "", Path(file)
    return name.strip(), Path(path)


def compared(
    tables: Mapping[str, Results],
    comparisons: Sequence[tuple[str, str]] = (),
    resamples: int = 10_000,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    against: str = "",
    metrics: Collection[str] = (),
    lower: Collection[str] = (),
) -> Compared:
    """Return the rows of `compare` for results by name of the run, joined by item.

    A system that scores the same item and metric in two runs is two systems, each with what tells
    its runs apart behind its name. A metric measured on several tasks also has the subset
    ALL_TASKS, in which every item weighs the same. A metric is ours, with what METRICS says of it,
    where only results of ours hold it; elsewhere a missing score leaves the mean.

    Raises:
        UsageError: as for `compare`.
    """
    _check_sizes(tables)
    blocks, unsaid = _preferred(tables, metrics)
    scores = _chosen(_joined(tables), bool(blocks), metrics, lower, _unused(tables))
    lower = {*lower, *(metric for results in tables.values() for metric in results.lower)}
    scored = sorted({score.arm for score in scores})
    systems = sorted({*scored, *(arm for block in blocks for arm in block.arms)})
    pairs = _declared(systems, comparisons, against, _unused(tables))
    subsets_of, cluster_of = _places(tables)
    if not blocks:
        _check_shared(scores, systems, subsets_of)
    ours = _ours(tables)
    alias = _aliases({score.metric for score in scores} - ours)
    turn = [
        score.model_copy(update={"metric": alias[score.metric]}) if score.metric in alias else score
        for score in _turned(scores, lower)
    ]
    pooled = _pooled(turn, tables, subsets_of)
    found = estimates(turn, subsets_of, cluster_of, pairs, resamples, seed, progress)
    if pooled:
        places = {score.question_id: (ALL_TASKS,) for score in pooled}
        found += estimates(pooled, places, cluster_of, pairs, resamples, seed, progress)
    strengths, order = preferences.strengths(
        blocks, unsaid, subsets_of, cluster_of, pairs, resamples, seed
    )
    found += strengths
    name_of = {other: metric for metric, other in alias.items()}
    found = [
        row.model_copy(update={"metric": name_of[row.metric]}) if row.metric in name_of else row
        for row in found
    ]
    found.sort(key=lambda row: (row.metric, row.subset == ALL_TASKS, row.subset))
    middle = _middles(scores, lower)
    rows = [_back(row, middle[row.metric]) if row.metric in middle else row for row in found]
    notes = [note for results in tables.values() for note in results.notes]
    notes += [*order, *_mixed(tables, scores), *_lacking(scores, scored, subsets_of)]
    every = {score.metric for score in scores}
    beyond = {s.metric for s in scores if s.value is not None and not 0 <= s.value <= 1}
    graded = {s.metric for s in scores if s.value not in (None, 0, 1)}
    return Compared(
        rows, frozenset(middle), frozenset(every - beyond), frozenset(every - graded),
        frozenset(every & ours | ({PREFERENCE} if blocks else set())), tuple(pairs),
        tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def shaped(found: Compared) -> Comparison:
    """Return the rows in the shape of `compare`."""
    means = [row for row in found.estimates if not row.against]
    return {
        "means": [
            {
                "system": e.arm, "metric": e.metric, "subset": e.subset, "value": e.value,
                "low": e.low, "high": e.high, "items": e.questions, "clusters": e.clusters,
                "missing": e.missing, "missing_as": e.missing_as, "method": e.method,
            }
            for e in means
        ],
        "differences": [
            {
                "a": e.arm, "b": e.against, "metric": e.metric, "subset": e.subset,
                "value": e.value, "low": e.low, "high": e.high, "p": e.p,
                "p_adjusted": e.p_adjusted, "test": e.test, "p_sign": e.p_sign, "wins": e.wins,
                "losses": e.losses, "effect": e.effect, "detectable": e.detectable,
                "detectable_adjusted": e.detectable_adjusted,
                "items": e.questions, "clusters": e.clusters, "method": e.method,
            }
            for e in found.estimates if e.against
        ],
        "ranks": [
            {
                "system": e.arm, "metric": e.metric, "subset": e.subset, "rank": e.rank,
                "rank_adjusted": e.rank_adjusted, "rank_low": e.rank_low,
                "rank_high": e.rank_high, "p_best": e.p_best,
            }
            for e in means if e.rank is not None
        ],
        "lower_is_better": sorted(found.lower),
        "notes": list(found.notes),
    }  # fmt: skip


def _renamed(results: Results, name: str, path: Path) -> Results:
    held = sorted(results.systems)
    if len(held) > 1:
        raise UsageError(f"{path} holds {', '.join(held)}; {name}= can name one system only.")
    scores = [score.model_copy(update={"arm": name}) for score in results.scores]
    return results._replace(scores=scores)


def _joined(tables: Mapping[str, Results]) -> list[Score]:
    """Return the scores of all runs, systems that collide named after their run."""
    held = {
        run: {(score.arm, score.question_id, score.metric) for score in results.scores}
        for run, results in tables.items()
    }
    seen = Counter(key for keys in held.values() for key in keys)
    colliding = {arm for (arm, _, _), runs in seen.items() if runs > 1}
    name_of: dict[tuple[str, str], str] = {}
    for arm in colliding:
        runs = [run for run, keys in held.items() if any(key[0] == arm for key in keys)]
        name_of |= {
            (run, arm): f"{arm} ({apart})"
            for run, apart in zip(runs, _told_apart(runs), strict=True)
        }
    return [
        score.model_copy(update={"arm": name_of[run, score.arm]})
        if score.arm in colliding else score
        for run, results in tables.items()
        for score in results.scores
    ]  # fmt: skip


def _told_apart(paths: Sequence[str]) -> list[str]:
    """Return the first part of each path that differs from that of all others, else the path."""
    parts = [Path(path).parts for path in paths]
    for column in zip(*parts, strict=False):
        if len(set(column)) == len(paths):
            return [str(part) for part in column]
    return list(paths)


def _preferred(
    tables: Mapping[str, Results], metrics: Collection[str]
) -> tuple[list[Block], list[tuple[str, str]]]:
    """Return the preferences of all files, and those that were not said; none unless wanted."""
    if metrics and PREFERENCE not in metrics:
        return [], []
    wanted = tables.values()
    return [b for r in wanted for b in r.blocks], [lost for r in wanted for lost in r.unsaid]


def _check_sizes(tables: Mapping[str, Results]) -> None:
    """Refuse scores too large or too small to compute with."""
    largest: dict[str, float] = defaultdict(float)
    for run, results in tables.items():
        for score in results.scores:
            size = abs(score.value or 0.0)
            if not size <= LARGEST:
                raise UsageError(
                    f"{run}: the {score.metric} of {score.arm} on {score.question_id}, "
                    f"{score.value:g}, is too large to compute with; correct or remove it."
                )
            largest[score.metric] = max(largest[score.metric], size)
    for metric, size in largest.items():
        if 0 < size < SMALLEST:
            raise UsageError(
                f"The metric {metric} is {size:g} at most, too small to compute with; give it in "
                "a smaller unit."
            )


def _unused(tables: Mapping[str, Results]) -> str:
    """Return in words why runs hold nothing to compare; empty where all hold something."""
    told = [
        f"{run} holds no scores that can be used"
        + (f" ({' '.join(results.notes).rstrip('.')})" * bool(results.notes))
        for run, results in tables.items()
        if not results.systems
    ]
    return "; ".join(told)


def _ours(tables: Mapping[str, Results]) -> frozenset[str]:
    """Return the metrics of METRICS that only results of ours hold."""
    held: dict[bool, set[str]] = {True: set(), False: set()}
    for results in tables.values():
        held[results.ours].update(score.metric for score in results.scores)
    return frozenset((held[True] - held[False]) & METRICS.keys())


def _mixed(tables: Mapping[str, Results], scores: Sequence[Score]) -> list[str]:
    """Return in words which metrics of METRICS stand in results of ours and in others."""
    known = {score.metric for score in scores} & METRICS.keys() - _ours(tables)
    held = {score.metric for t in tables.values() if t.ours for score in t.scores}
    return [
        f"{metric} stands in scores of ECG-LLM and of others, so missing ones leave the mean; make "
        "sure that it is the same."
        for metric in sorted(known & held)
    ]


def _aliases(others: Iterable[str]) -> dict[str, str]:
    """Return names for metrics of others that METRICS would take for ours."""
    known, made = set(others), {}
    for metric in sorted(known & METRICS.keys()):
        alias = f"{metric} as logged"
        while alias in known:
            alias += "*"
        made[metric] = alias
    return made


def _chosen(
    scores: Sequence[Score],
    preferred: bool,
    metrics: Collection[str],
    lower: Collection[str],
    unused: str,
) -> list[Score]:
    """Return the scores of these metrics, of all where none is named; there must be all."""
    if not scores and not preferred:
        raise UsageError(
            f"{unused}; compare needs a number an item."
            if unused
            else "There are no scores in these files; compare needs system,item,score."
        )
    known = sorted({score.metric for score in scores})
    if preferred and PREFERENCE in known:
        raise UsageError(f"{PREFERENCE} is what preferences give; name your metric otherwise.")
    for metric in (*metrics, *lower):
        also = [PREFERENCE] if preferred and metric not in lower else []
        if metric not in known + also:
            there = suggestion(metric, known + also)
            raise UsageError(f"No scores of the metric {metric!r}{there}")
    return [score for score in scores if score.metric in metrics or not metrics]


def _declared(
    systems: Sequence[str], comparisons: Sequence[tuple[str, str]], against: str, unused: str
) -> list[tuple[str, str]]:
    """Return the pairs to compare, each once; none: all."""
    if len(systems) < 2:
        raise UsageError(
            f"{unused}, and the rest is of one system only, {systems[0]}."
            if unused
            else f"These files hold one system only, {systems[0]}; give those of another one too."
        )
    for place, pair in enumerate(comparisons):
        if pair[0] == pair[1]:
            raise UsageError(f"{pair[0]} cannot be compared with itself; declare two systems.")
        if set(pair) in map(set, comparisons[:place]):
            raise UsageError(f"{pair[0]} and {pair[1]} are declared twice; declare a pair once.")
    named = {system for pair in comparisons for system in pair} | ({against} if against else set())
    unknown = sorted(named - set(systems))
    if unknown:
        raise UsageError(
            f"No results of {', '.join(unknown)}; the files hold {', '.join(systems)}."
        )
    if against and comparisons:
        raise UsageError("Declare pairs or a system to compare with, not both.")
    if against:
        return [(system, against) for system in systems if system != against]
    return list(comparisons)


def _places(
    tables: Mapping[str, Results],
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the subsets and the cluster of each item."""
    subsets_of: dict[str, tuple[str, ...]] = {}
    cluster_of: dict[str, str] = {}
    for run, results in tables.items():
        subsets_of |= results.subsets_of
        for item, cluster in results.cluster_of.items():
            if cluster and cluster_of.setdefault(item, cluster) != cluster:
                raise UsageError(
                    f"{run}: item {item} comes from {cluster}, elsewhere from "
                    f"{cluster_of[item]}; correct one of them."
                )
        asked = [score.question_id for score in results.scores]
        asked += [block.question_id for block in results.blocks]
        for item in (*asked, *(item for item, _ in results.unsaid)):
            subsets_of.setdefault(item, ("",))
    return subsets_of, cluster_of


def _check_shared(
    scores: Sequence[Score], systems: Sequence[str], subsets_of: Mapping[str, tuple[str, ...]]
) -> None:
    """Refuse systems of which no two have an item of one metric in common."""
    holders: dict[tuple[str, str], set[str]] = defaultdict(set)
    for score in scores:
        holders[score.question_id, score.metric].add(score.arm)
    if any(len(arms) > 1 for arms in holders.values()):
        return
    held = []
    for system in systems:
        own = [score for score in scores if score.arm == system]
        tasks = sorted({subset for s in own for subset in subsets_of[s.question_id] if subset})
        metrics = sorted({score.metric for score in own})
        about = f" of {', '.join(tasks)}" if tasks else f" such as {own[0].question_id}"
        held.append(f"{system} has {', '.join(metrics)} on items{about}")
    raise UsageError(
        f"These systems share no item with the same metric: {'; '.join(held)}. Compare logs of "
        "one task, in one version and on the same data."
    )


def _middles(scores: Sequence[Score], lower: Collection[str]) -> dict[str, float]:
    """Return, for each metric of which less is better, what its values and their mirror add up to.

    Shares stay shares.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        if score.metric in lower and score.value is not None:
            values[score.metric].append(score.value)
    return {
        metric: 1.0 if all(0 <= value <= 1 for value in found) else 0.0
        for metric, found in values.items()
    }


def _turned(scores: Sequence[Score], lower: Collection[str]) -> list[Score]:
    """Return the scores with more as better."""
    middle = _middles(scores, lower)
    return [
        score.model_copy(update={"value": middle[score.metric] - score.value})
        if score.metric in middle and score.value is not None else score
        for score in scores
    ]  # fmt: skip


def _back(row: Estimate, middle: float) -> Estimate:
    """Return an estimate on turned scores as one on the scores; ranks stay."""
    middle = 0.0 if row.against else middle
    ends = {"value": row.value, "low": row.high, "high": row.low}
    turn: dict[str, float | int | None] = {
        name: None if end is None else middle - end + 0.0 for name, end in ends.items()
    }
    turn |= {"wins": row.losses, "losses": row.wins}
    turn["effect"] = None if row.effect is None else -row.effect
    return row.model_copy(update=turn)


def _pooled(
    scores: Sequence[Score],
    tables: Mapping[str, Results],
    subsets_of: Mapping[str, tuple[str, ...]],
) -> list[Score]:
    """Return the scores of metrics that stand on several tasks of logs."""
    tasks = {item for results in tables.values() if results.tasks for item in results.subsets_of}
    where: dict[str, set[str]] = defaultdict(set)
    for score in scores:
        if score.question_id in tasks:
            where[score.metric].update(subsets_of[score.question_id])
    return [s for s in scores if s.question_id in tasks and len(where[s.metric]) > 1]


def _lacking(
    scores: Sequence[Score], systems: Sequence[str], subsets_of: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Return in words which systems lack items that others have."""
    items: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for score in scores:
        for subset in subsets_of[score.question_id]:
            items[subset][score.arm].add(score.question_id)
    notes = []
    for subset, held in sorted(items.items()):
        whole = set[str]().union(*held.values())
        lacking: dict[int, list[str]] = defaultdict(list)
        for system in systems:
            lacking[len(whole) - len(held.get(system, ()))].append(system)
        lacking.pop(0, None)
        of = f" of {subset}" if subset else ""
        notes += [
            f"{', '.join(names)} {'lacks' if len(names) == 1 else 'lack'} {count:,} of the "
            f"{len(whole):,} items{of}; pairs are compared on what both have."
            for count, names in sorted(lacking.items())
        ]
    return notes
